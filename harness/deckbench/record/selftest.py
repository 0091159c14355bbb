"""Does the scorer measure what it should on a dataset? Its gold answers score 1, shuffled ones chance."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pandas as pd

from deckbench import dataset, stats
from deckbench.errors import InputError
from deckbench.predictions import COLUMNS
from deckbench.record.answers import groups_of, proportion
from deckbench.record.table import grade_table, join, mapped, read_fields

CONFIDENCE = 0.9999  # a dataset in ten thousand would be refused by chance alone
MOST = 20_000  # samples that are tested


def check_scorer(data: Path, *, seed: int = 0) -> dict[str, float]:
    """Score a dataset's gold answers, and the same shuffled among its questions of one kind.

    Args:
        data: a dataset folder with a test part.
        seed: of the shuffle.

    Returns:
        `gold` (1.0), `shuffled` and `chance`: accuracies of its choice questions; `chance` follows from how often each
        letter is right.

    Raises:
        InputError: A gold answer is not graded as right, or shuffled answers do not score chance within their interval.
            Nothing that is scored on such a dataset means anything.
    """
    samples = dataset.read_samples(data, "test")[:MOST]
    rows = [dict.fromkeys(COLUMNS, "") | {"id": s.id, "pair_id": s.pair_id, "kind": s.kind} for s in samples]
    for row, sample in zip(rows, samples, strict=True):
        text = sample.gold if sample.kind == "choice" else sample.answer
        row |= {"question": sample.question, "gold": text, "prediction": text}
    table = join(pd.DataFrame(rows, columns=list(COLUMNS), dtype=object), data, read_fields(data))
    graded = grade_table(table, inferred=False)
    wrong = graded[graded["right"] != "true"]
    if len(wrong):
        one = wrong.iloc[0]
        what = f"the gold answer of {one['id']!r} ({one['gold'][:60]!r}) is graded as {one['reason']}"
        raise InputError(f"{what}, {len(wrong)} of {len(graded)} so", data, "build the dataset again, or report a bug")
    choices = graded[graded["kind"] == "choice"].reset_index(drop=True)
    found = {"gold": 1.0}
    if len(choices) < 2:
        return found
    letters = choices["gold"].tolist()
    random.Random(seed).shuffle(letters)
    choices["prediction"] = pd.Series(letters, dtype=object)
    shuffled = grade_table(choices, inferred=False)
    hits = (shuffled["right"] == "true").to_numpy(dtype=float)
    share = sum(mapped(lambda letter: letter == "A", letters)) / len(letters)
    chance = share**2 + (1 - share) ** 2
    clusters = stats.clusters_of(groups_of(choices)[0], seed)
    within = [stats.wilson(hits.sum(), len(hits), CONFIDENCE), proportion(hits, clusters, np.arange(len(hits))).cluster]
    low = min(bounds[0] for bounds in within if bounds is not None)
    high = max(bounds[1] for bounds in within if bounds is not None)
    found |= {"shuffled": float(hits.mean()), "chance": chance}
    if not low <= chance <= high:
        raise InputError(
            f"shuffled gold answers score {hits.mean():.3f} where chance is {chance:.3f}",
            data,
            "the grading of this dataset is broken; report a bug",
        )
    return found
