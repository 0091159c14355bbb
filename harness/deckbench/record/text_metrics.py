"""Metrics of texts: open answers and scene descriptions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from deckbench import grade
from deckbench.parse import description
from deckbench.record.answers import Answers, mean, proportion
from deckbench.record.metrics_schema import Estimate
from deckbench.stats import Ints


def open_metrics(answers: Answers, rows: Ints) -> dict[str, Estimate]:
    """Exact match of the raw text, and token F1; `accuracy` is the match after normalising."""
    pairs = list(zip(answers.table["prediction"].to_numpy(dtype=object)[rows], answers.gold[rows], strict=True))
    exact = np.array([text.strip() == gold.strip() for text, gold in pairs], dtype=np.float64)
    near = np.array([overlap_f1(grade.tokens(text), grade.tokens(gold)) for text, gold in pairs])
    return {
        "exact_match": proportion(exact, answers.clusters, rows),
        "token_f1": mean(near, answers.clusters, rows),
    }


def scene_metrics(answers: Answers, rows: Ints) -> dict[str, Estimate]:
    """How near the description is to the gold one, and whether it contradicts its own verdict."""
    records = answers.table.iloc[rows].to_dict("records")
    words = np.array([overlap_f1(grade.tokens(r["prediction"]), grade.tokens(r["gold"])) for r in records])
    facts = np.array([overlap_f1(statements(r["prediction"]), statements(r["gold"])) for r in records])
    metrics = {
        "token_f1": mean(words, answers.clusters, rows),
        "statement_f1": mean(facts, answers.clusters, rows),
    }
    if answers.terms is not None:
        found = [
            grade.contradiction(r["prediction"], answers.terms(r["step"] or None, r["lang"] or None)) for r in records
        ]
        for name in ("names_anomaly_says_normal", "says_anomaly_names_none"):
            hits = np.array([kind == name for kind in found], dtype=np.float64)
            metrics[name] = proportion(hits, answers.clusters, rows)
        metrics["contradictions"] = proportion(
            np.array([kind is not None for kind in found], dtype=np.float64), answers.clusters, rows
        )
    return metrics


def overlap_f1(predicted: Sequence[str], gold: Sequence[str]) -> float:
    """F1 of two bags (Rajpurkar et al. 2016, SQuAD). Two empty bags agree."""
    if not predicted or not gold:
        return float(not predicted and not gold)
    shared = sum((Counter(predicted) & Counter(gold)).values())
    return 2 * shared / (len(predicted) + len(gold))


def statements(text: str) -> list[str]:
    """The sentences of a scene description without its verdict, each as `plain` text."""
    parts = re.split(r"[.;。;\n]+", description(text))
    return [sentence for part in parts if (sentence := grade.plain(part))]
