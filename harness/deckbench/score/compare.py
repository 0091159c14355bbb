"""Two prediction files of the same samples, paired: who was right where the other was wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deckbench.errors import InputError
from deckbench.predictions.read import line_of


def compare(a: Path, b: Path, *, data: Path | None = None, seed: int = 0) -> dict[str, Any]:
    """Paired comparison of two prediction files; the difference is B minus A.

    data: the dataset that both were made on, for options and groups; one may be of another dataset with the same
    samples, such as another context level of the same checks. Returns plain JSON types: `n`, `groups`, `group_by`,
    `a` and `b` (accuracy, its intervals, unparsed), `both`, `only_a`, `only_b`, `neither` (samples that were right),
    `difference` with `difference_interval` (95%, resampling groups; None with one group), `mcnemar_p` (exact,
    two-sided, treats samples as independent: with few groups trust the interval) and the same by `kind`.
    Raises InputError for broken files, and when the two do not hold the same samples with the same gold.
    """
    from deckbench import stats
    from deckbench.predictions import is_inferred, read_manifest
    from deckbench.predictions.read import read_predictions
    from deckbench.record import table as tables
    from deckbench.record.answers import groups_of, proportion
    from deckbench.record.metrics_schema import DIGITS

    fields = None if data is None else tables.read_fields(Path(data))
    graded, refused = [], []
    for path in (Path(a), Path(b)):
        table = read_predictions(path)
        manifest = read_manifest(path)
        if data is not None:
            try:
                tables.check_data(manifest, path, Path(data))
            except InputError as error:
                refused.append(error)
        table = tables.grade_table(tables.join(table, path, fields), inferred=is_inferred(manifest))
        table = table[["id", "pair_id", "kind", "gold", "group", "frame", "right", "reason"]].copy()  # frees the texts
        graded.append(table)
    if len(refused) == 2:
        raise refused[0]
    first, second = graded[0], in_order_of(graded[0], graded[1], Path(a), Path(b))
    labels, group_by, notes = groups_of(first)
    notes += [f"{error.where} was made on another dataset that asks the same samples" for error in refused]
    clusters = stats.clusters_of(labels, seed)

    def rounded(value: float | None) -> float | None:
        return None if value is None else round(float(value), DIGITS) + 0.0

    def right_of(table: Any, rows: Any) -> stats.Floats:
        right: stats.Floats = np.asarray(table["right"] == "true", dtype=np.float64)[rows]
        return right

    def side(table: Any, rows: Any) -> dict[str, Any]:
        shown = proportion(right_of(table, rows), clusters, rows).model_dump(mode="json")
        unparsed = ~table["reason"].isin(["", "wrong"]).to_numpy()[rows]
        return {"accuracy": shown, "unparsed": int(unparsed.sum())}

    def pair(rows: Any) -> dict[str, Any]:
        x, y = right_of(first, rows), right_of(second, rows)
        only_a, only_b = int((x * (1 - y)).sum()), int((y * (1 - x)).sum())
        bounds = stats.cluster_bootstrap(y - x, clusters, rows)
        return {
            "n": len(rows),
            "a": side(first, rows),
            "b": side(second, rows),
            "both": int((x * y).sum()),
            "only_a": only_a,
            "only_b": only_b,
            "neither": int(((1 - x) * (1 - y)).sum()),
            "difference": rounded((y - x).mean()),
            "difference_interval": None if bounds is None else [rounded(v) for v in bounds],
            "mcnemar_p": rounded(stats.mcnemar_exact(only_a, only_b)),
        }

    kinds = first["kind"].to_numpy(dtype=object)
    return {
        **pair(np.arange(len(first))),
        "groups": clusters.count,
        "group_by": group_by,
        "by_kind": {kind: pair(np.flatnonzero(kinds == kind)) for kind in sorted(set(kinds))},
        "notes": notes,
    }


def in_order_of(a: pd.DataFrame, b: pd.DataFrame, path_a: Path, path_b: Path) -> pd.DataFrame:
    """The rows of `b` in the order of those of `a`. Raises InputError where the two do not hold the same samples."""
    at = pd.Index(b["id"], dtype=object).get_indexer(pd.Index(a["id"], dtype=object))
    both = int((at >= 0).sum())
    if both < max(len(a), len(b)):
        raise InputError(
            f"the two files do not hold the same samples: {len(a) - both} are only in the first, "
            f"{len(b) - both} only in the second, {both} in both",
            f"{path_a}, {path_b}",
            "infer both models on the same dataset, to the end",
        )
    ordered: pd.DataFrame = b.iloc[at].reset_index(drop=True)
    differ = ((a["kind"] != ordered["kind"]) | (a["gold"] != ordered["gold"])).to_numpy()
    if differ.any():
        row = int(differ.argmax())
        raise InputError(
            f"the sample {a['id'].iloc[row]!r} has another kind or gold answer in {path_b.name}",
            f"{path_a}:{line_of(a, path_a, row)}",
            "the files come from two versions of a dataset; infer again on one",
        )
    return ordered
