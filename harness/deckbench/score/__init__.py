"""Predictions -> score.json: strict parse, intervals, miss and false-stop rates. See docs/metrics.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.errors import InputError


def score(
    predictions: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    plots: Path | None = None,
    seed: int = 0,
    ontology: Path | None = None,
) -> dict[str, Any]:
    """Score a prediction file; returns what `score.json` holds (`schema.Score`).

    data: the dataset the predictions were made on; it gives options, classes, steps, anomalies and groups. out: where
    score.json is written, whole or not at all; an older score there is replaced. plots: folder for SVG pictures. seed:
    of the bootstrap. ontology: names of anomalies looked for in scene texts, by default those of the published task.
    The same inputs and seed give the same bytes.
    Raises InputError with `file:line` when the predictions are broken, unfinished, or do not fit the dataset, and when
    `out` is something else than a score.
    """
    from deckbench import stats
    from deckbench.record import metrics
    from deckbench.record.terms import find_terms
    from deckbench.score import read, schema

    predictions = Path(predictions)
    check_places(out, plots)
    table = read.read_predictions(predictions)
    manifest = read.read_manifest(predictions)
    data_content = None if data is None else read.check_data(manifest, predictions, Path(data))
    fields = None if data is None else read.read_fields(Path(data))
    table = read.join(table, predictions, fields)
    labels, group_by, notes = groups_of(table)
    clusters = stats.clusters_of(labels, seed)
    scenes = table[table["kind"] == "scene"]
    terms = find_terms(ontology, scenes["task"]) if len(scenes) else None
    judged = metrics.Judged(metrics.judge(table), clusters, terms.at if terms else None)
    kinds = [kind for kind in ("choice", "scene", "open") if (judged.kind == kind).any()]
    if manifest is None:
        notes.append("no manifest beside the predictions: it is unknown what made them")
    if data is None:
        notes.append("no dataset given: no classes and steps; truth only where the file itself says it")
    if clusters.count < 10:
        notes.append(f"only {clusters.count} groups: cluster intervals are too narrow")
    if "scene" in kinds and terms is None:
        notes.append("no ontology found: contradictions in scene texts are not counted")
    if (missing := missing_from(table, fields)) > 0:
        notes.append(f"{missing} test samples of the dataset have no prediction")
    result = schema.Score(
        inputs=schema.Inputs(
            predictions_sha256=artifact.hash_file(predictions),
            predictions_content=manifest["content_hash"] if manifest else None,
            data_content=data_content,
            ontology=terms.content_hash if terms else None,
        ),
        seed=seed,
        resamples=clusters.resamples,
        confidence=stats.CONFIDENCE,
        n=len(table),
        unparsed=int((~judged.parsed).sum()),
        groups=clusters.count,
        group_by=group_by,
        primary=kinds[0],
        metrics=metrics.overall(judged),
        kinds={kind: metrics.block(judged, kind) for kind in kinds},
        notes=notes,
    ).as_dict()
    if plots is not None:
        from deckbench.score.plots import write_plots

        write_plots(result, Path(plots))
    if out is not None:
        artifact.atomic_write(Path(out), json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return result


def check_places(out: Path | None, plots: Path | None) -> None:
    """Raises InputError before anything is written: only an older score is replaced, and plots go to a folder."""
    if plots is not None and Path(plots).is_file():
        raise InputError("the place for plots is a file, a folder is needed", plots, "choose another --plots")
    if out is None or not Path(out).exists():
        return
    try:
        older = json.loads(Path(out).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        older = None
    if not isinstance(older, dict) or not {"schema_version", "kinds"} <= older.keys():
        raise InputError("something is here that is no score; it is not replaced", out, "choose another --out")


def groups_of(table: Any) -> tuple[list[str], str, list[str]]:
    """One cluster label per sample, which column it is, and a note when it is not the group."""
    for column in ("group", "frame"):
        if all(isinstance(value, str) and value for value in table[column]):
            note = [] if column == "group" else ["no groups known: each frame is its own cluster"]
            return [str(value) for value in table[column]], column, note
    pairs = [str(pair or key) for pair, key in zip(table["pair_id"], table["id"], strict=True)]
    return pairs, "pair_id", ["no groups or frames known: each pair of twins is its own cluster"]


def missing_from(table: Any, fields: Any) -> int:
    """How many samples of the asked parts of the dataset have no prediction; 0 without a dataset."""
    if fields is None:
        return 0
    asked = set(fields.loc[list(table["id"]), "split"])
    return int(fields["split"].isin(asked).sum()) - len(table)
