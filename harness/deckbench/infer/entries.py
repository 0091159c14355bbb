"""A picture's line in the journal: rows and times of what is answered, facts of a server's answers, and the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from deckbench import grade
from deckbench.answer import Answer, Unanswered
from deckbench.dataset import Sample
from deckbench.models.interface import Model
from deckbench.parse import clean, parse
from deckbench.predictions import COLUMNS, STAGES


def entry_of(number: int, samples: Sequence[Sample], answers: Sequence[Answer | Unanswered]) -> dict[str, Any]:
    """A picture's line in the journal: rows and times of what is answered, facts of a server's answers, the rest."""
    pairs = list(zip(samples, answers, strict=True))
    given = [(sample, answer) for sample, answer in pairs if isinstance(answer, Answer)]
    entry: dict[str, Any] = {
        "picture": number,
        "rows": [row_of(sample, answer) for sample, answer in given],
        "times": [times_of(sample, answer, number, len(pairs)) for sample, answer in given],
    }
    if facts := [answer.facts for _, answer in given if answer.facts is not None]:
        entry["facts"] = facts
    if left := [(sample.id, answer.reason) for sample, answer in pairs if isinstance(answer, Unanswered)]:
        entry["unanswered"] = left
        entry["refused"] = [sample.id for sample, given in pairs if isinstance(given, Unanswered) and given.refused]
    return entry


def open_ids(answerer: Model, entry: dict[str, Any]) -> set[str]:
    """The samples of a picture that are to be asked again: what was refused is not, where it may be left out."""
    left = {key for key, _ in entry.get("unanswered", ())}
    return left - set(entry["refused"]) if left and answerer.omits_unanswered else left


def joined(old: dict[str, Any], new: dict[str, Any], samples: Sequence[Sample]) -> dict[str, Any]:
    """A picture's entry out of two, in the order of its samples. new: of those that were open in `old`."""
    place = {sample.id: number for number, sample in enumerate(samples)}
    parts = [part for entry in (old, new) for part in zip(entry["rows"], entry["times"], facts_of(entry), strict=True)]
    parts.sort(key=lambda part: place[part[0][0]])
    entry: dict[str, Any] = {"picture": old["picture"]}
    entry |= {name: [part[number] for part in parts] for number, name in enumerate(("rows", "times"))}
    if facts := [part[2] for part in parts if part[2] is not None]:
        entry["facts"] = facts
    asked = {row[0] for row in new["rows"]} | {key for key, _ in new.get("unanswered", ())}
    left = [*(pair for pair in old["unanswered"] if pair[0] not in asked), *new.get("unanswered", ())]
    if left:
        refused = [*(key for key in old["refused"] if key not in asked), *new.get("refused", ())]
        entry["unanswered"] = sorted(left, key=lambda pair: place[pair[0]])
        entry["refused"] = sorted(refused, key=lambda key: place[key])
    return entry


def facts_of(entry: dict[str, Any]) -> Sequence[Any]:
    """A fact, or None, for each of an entry's rows."""
    return entry.get("facts") or [None] * len(entry["rows"])


def sums_of(entries: Sequence[dict[str, Any]]) -> str:
    """How many questions a server has answered, how many it refused, and how many got no answer for other reasons."""
    answered = sum(len(entry["rows"]) for entry in entries)
    left = sum(len(entry.get("unanswered", ())) for entry in entries)
    refused = sum(len(entry.get("refused", ())) for entry in entries)
    return f"answered: {answered}, refused: {refused}, unanswered: {left - refused}"


def transcript_of(entries: Sequence[dict[str, Any]]) -> str:
    """FILE.transcript.jsonl: what a server sent for each row, before anything was taken off around the answer."""
    lines = []
    for entry in entries:
        for row, fact in zip(entry["rows"], entry.get("facts", ()), strict=False):
            shown = {"id": row[0], "text": fact.get("raw") or row[COLUMNS.index("prediction")]}
            shown |= {key: fact[key] for key in ("ended", "stripped", "dropped", "model", "tries") if fact.get(key)}
            lines.append(json.dumps(shown, ensure_ascii=False) + "\n")
    return "".join(lines)


def share(value: float | None) -> str:
    """A probability in fixed format, so that equal numbers are equal bytes."""
    return "" if value is None else f"{value:.8f}"


def row_of(sample: Sample, answer: Answer) -> list[str]:
    """One row of FILE.csv. p_anomaly is the probability of the option that means anomaly, as it is in the softmax."""
    p_anomaly = None
    if sample.kind == "choice" and sample.anomaly is not None and sample.gold in {"A", "B"}:
        p_anomaly = answer.p_a if (sample.gold == "A") == sample.anomaly else answer.p_b
    text = clean(answer.text)
    options = grade.sample_options(sample.question, sample.option_a, sample.option_b)
    return [
        sample.id,
        sample.pair_id,
        sample.kind,
        sample.question,
        sample.gold,
        text,
        parse(text, sample.kind, options),
        share(answer.p_a),
        share(answer.p_b),
        share(p_anomaly),
        *(str(count) if answer.counted else "" for count in (answer.tokens_in, answer.tokens_out)),
    ]


def times_of(sample: Sample, answer: Answer, picture: int, together: int) -> list[str]:
    """One row of FILE.timings.csv. Questions asked together share the picture's stages."""
    stages = [f"{answer.seconds[stage]:.6f}" if stage in answer.seconds else "" for stage in STAGES]
    return [sample.id, sample.kind, str(picture), str(together), *stages]
