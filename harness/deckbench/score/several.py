"""More than two models on the same samples: every pair tested with Holm's correction, and ranks that models share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from deckbench.errors import InputError
from deckbench.stats import holm

ALPHA = 0.05


def compare_several(files: Sequence[Path], *, data: Path | None = None, seed: int = 0) -> dict[str, Any]:
    """Compare every pair of several prediction files of the same samples.

    Args:
        files: FILE.csv of each model, named by their file names.
        data: the dataset they were made on, for options and groups.
        seed: of the bootstrap.

    Returns:
        `files`: from best to worst the accuracy, and `rank`, which models share that no test tells apart: one more than
        the number of models that are better by the corrected test. `pairs`: as `compare`, with `p_holm` (Holm 1979,
        Scand. J. Statist. 6:65) and `differ`: p_holm below 0.05 and 0 not in the interval of the difference over
        groups.

    Raises:
        InputError: a file is given twice, or as `compare`.
    """
    from deckbench.score.compare import compare

    if len({path.resolve() for path in files}) < len(files):
        raise InputError("a file is given twice", ", ".join(map(str, files)), "name each once")
    pairs = [(a, b, compare(files[a], files[b], data=data, seed=seed)) for a, b in combinations(range(len(files)), 2)]
    corrected = holm([found["mcnemar_p"] for _, _, found in pairs])
    better: dict[int, int] = dict.fromkeys(range(len(files)), 0)
    shown = []
    for (a, b, found), p in zip(pairs, corrected, strict=True):
        within = found["difference_interval"]
        differ = p < ALPHA and within is not None and not within[0] <= 0 <= within[1]
        if differ:
            better[a if found["difference"] > 0 else b] += 1
        names = ("n", "only_a", "only_b", "difference", "difference_interval", "mcnemar_p")
        told = {name: found[name] for name in names}
        shown.append({"a": str(files[a]), "b": str(files[b]), **told, "p_holm": round(p, 10), "differ": differ})
    accuracy = {0: pairs[0][2]["a"]["accuracy"]} | {b: found["b"]["accuracy"] for a, b, found in pairs if a == 0}
    order = sorted(accuracy, key=lambda at: (better[at], -accuracy[at]["value"], str(files[at])))
    return {
        "files": [{"file": str(files[at]), "rank": 1 + better[at], "accuracy": accuracy[at]} for at in order],
        "pairs": shown,
        "alpha": ALPHA,
        "notes": pairs[0][2]["notes"],
    }
