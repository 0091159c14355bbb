"""Graded answers as arrays, and the two estimates all metrics are made of: proportions and means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from deckbench import grade, stats
from deckbench.record.metrics_schema import Estimate
from deckbench.record.table import FLAGS, mapped, numbers
from deckbench.stats import Bools, Clusters, Floats, Ints

Terms = Callable[[str | None, str | None], Sequence[str]]  # (step, language) -> names of what is an anomaly then


class Answers:
    """A graded table with its clusters and its columns as arrays; `rows` arguments are positions in it.

    truth: the frame is an anomaly; known: that is known, and a verdict is asked. p, p_a, p_b: NaN where unknown.
    """

    def __init__(self, table: pd.DataFrame, clusters: Clusters, terms: Terms | None = None) -> None:
        self.table = table
        self.clusters = clusters
        self.terms = terms
        self.right = (table["right"] == "true").to_numpy(dtype=np.float64)
        self.wrong = 1 - self.right
        self.substring = (table["substring"] == "true").to_numpy(dtype=np.float64)
        self.parsed = table["reason"].isin(["", "wrong"]).to_numpy(dtype=bool)
        self.kind, self.gold = (table[name].to_numpy(dtype=object) for name in ("kind", "gold"))
        asked = zip(*(table[name].tolist() for name in ("gold", "kind", "anomaly")), strict=True)
        truth = np.array(mapped(lambda row: grade.verdict_truth(row[0], row[1], FLAGS.get(row[2])), asked))
        self.known = truth != None  # noqa: E711
        self.truth = truth == True  # noqa: E712
        self.p, self.p_a, self.p_b = (numbers(table[name]) for name in ("p_anomaly", "p_a", "p_b"))

    def share(self, hits: npt.NDArray[Any], rows: Ints) -> Estimate:
        return proportion(np.asarray(hits, dtype=np.float64)[rows], self.clusters, rows)

    def many(self, rows: Ints) -> bool:
        """Whether the samples are of more than one group."""
        return int((self.clusters.totals(rows) > 0).sum()) > 1

    def unparsed(self, rows: Ints) -> int:
        return int((~self.parsed[rows]).sum())


def proportion(hits: Floats | Bools, clusters: Clusters, rows: Ints) -> Estimate:
    """A share of samples with both intervals. hits: 0/1 of shape (k,), for the samples `rows`."""
    n, k = len(hits), round(float(hits.sum()))
    return Estimate(
        value=k / n if n else None,
        n=n,
        k=k,
        wilson=stats.wilson(k, n),
        cluster=stats.hull(stats.cluster_bootstrap(hits, clusters, rows), stats.cluster_wilson(hits, clusters, rows)),
    )


def mean(values: Floats, clusters: Clusters, rows: Ints) -> Estimate:
    """A mean with its cluster interval."""
    value = float(values.mean()) if len(values) else None
    return Estimate(value=value, n=len(values), cluster=stats.cluster_bootstrap(values, clusters, rows))


def groups_of(table: pd.DataFrame) -> tuple[list[str], str, list[str]]:
    """One cluster label per sample, which column it is, and a note when it is not the group."""
    for column in ("group", "frame"):
        labels = table[column].tolist()
        if all(labels):
            note = [] if column == "group" else ["no groups known: each frame is its own cluster"]
            return labels, column, note
    pairs = [pair or key for pair, key in zip(table["pair_id"], table["id"], strict=True)]
    return pairs, "pair_id", ["no groups or frames known: each pair of twins is its own cluster"]
