"""Metrics of texts: open answers and scene descriptions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import numpy as np

from deckbench import grade
from deckbench.parse import description
from deckbench.record.answers import Answers, mean, proportion
from deckbench.record.metrics_schema import Estimate
from deckbench.record.table import mapped
from deckbench.stats import Ints

_SENTENCES = re.compile(r"[.;。;\n]+")
_plain = lru_cache(maxsize=10_000)(grade.plain)  # models say the same few sentences


def open_metrics(answers: Answers, rows: Ints) -> dict[str, Estimate]:
    """Exact match of the raw text, and token F1; `accuracy` is the match after normalising."""
    pairs = list(zip(answers.table["prediction"].to_numpy(dtype=object)[rows], answers.gold[rows], strict=True))
    exact = np.array(mapped(lambda pair: pair[0].strip() == pair[1].strip(), pairs), dtype=np.float64)
    near = np.array(mapped(lambda pair: text_f1(grade.tokens, *pair), pairs))
    return {
        "exact_match": proportion(exact, answers.clusters, rows),
        "token_f1": mean(near, answers.clusters, rows),
    }


def scene_metrics(answers: Answers, rows: Ints) -> dict[str, Estimate]:
    """How near the description is to the gold one, and whether it contradicts its own verdict."""
    terms = None if answers.terms is None else cache(answers.terms)

    def measured(row: tuple[str, str, str, str]) -> tuple[float, float, str | None]:
        text, gold, step, lang = row
        against = terms and grade.contradiction(text, terms(step or None, lang or None))
        return text_f1(grade.tokens, text, gold), text_f1(statements, text, gold), against

    columns = [answers.table[name].to_numpy(dtype=object)[rows] for name in ("prediction", "gold", "step", "lang")]
    words, facts, found = zip(*mapped(measured, zip(*columns, strict=True)), strict=True)
    metrics = {
        "token_f1": mean(np.array(words), answers.clusters, rows),
        "statement_f1": mean(np.array(facts), answers.clusters, rows),
    }
    if terms is not None:
        for name in ("names_anomaly_says_normal", "says_anomaly_names_none"):
            hits = np.array([kind == name for kind in found], dtype=np.float64)
            metrics[name] = proportion(hits, answers.clusters, rows)
        metrics["contradictions"] = proportion(
            np.array([kind is not None for kind in found], dtype=np.float64), answers.clusters, rows
        )
    return metrics


def text_f1(parts: Callable[[str], Sequence[str]], text: str, gold: str) -> float:
    """F1 of the parts of a text and of its gold text."""
    return 1.0 if text == gold else overlap_f1(parts(text), parts(gold))


def overlap_f1(predicted: Sequence[str], gold: Sequence[str]) -> float:
    """F1 of two bags (Rajpurkar et al. 2016, SQuAD). Two empty bags agree."""
    if not predicted or not gold:
        return float(not predicted and not gold)
    left, shared = Counter(gold), 0
    for part in predicted:
        if left.get(part, 0) > 0:
            left[part] -= 1
            shared += 1
    return 2 * shared / (len(predicted) + len(gold))


def statements(text: str) -> list[str]:
    """The sentences of a scene description without its verdict, each as `plain` text."""
    return [sentence for part in _SENTENCES.split(description(text)) if (sentence := _plain(part))]
