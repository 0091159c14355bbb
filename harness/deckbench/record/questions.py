"""The questions that a record's samples answer: the test part of the dataset, as the dataset's manifest hashes it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from deckbench import grade
from deckbench.record.table import cell

MAX_LINE = 1 << 20
# Columns of the samples that the question decides.
FIELDS = (
    *("pair_id", "kind", "frame", "group", "task", "stage", "class", "step", "anomaly", "question", "gold"),
    *("view", "context"),
)


def fields_of(row: Mapping[str, str]) -> tuple[str, ...]:
    """FIELDS of a sample; empty for what an older record does not have."""
    return tuple(row.get(name, "") for name in FIELDS)


class Question(NamedTuple):
    """One line of the test part. fields: FIELDS; options: of a choice, as the samples have them."""

    image: str
    fields: tuple[str, ...]
    options: tuple[str, str]


@lru_cache(maxsize=2)  # records of one dataset come one after the other
def parse_questions(data: bytes) -> Mapping[str, Question]:
    """The test part by id. Raises ValueError for what `deckbench build` does not write."""
    found: dict[str, Question] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if len(line) > MAX_LINE:
            raise ValueError(f"line {number} is longer than {MAX_LINE >> 10} KiB")
        try:
            row = json.loads(line)
            key, question = question_of(row)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"line {number} is no question ({type(error).__name__})") from error
        if key in found:
            raise ValueError(f"the id {key!r} occurs twice")
        found[key] = question
    return found


def question_of(row: Mapping[str, Any]) -> tuple[str, Question]:
    """Id and question of one row of a dataset."""
    asked, answer = row["messages"]
    key, kind, text = str(row["id"]), row.get("kind"), asked["content"]
    letter = answer["content"].strip()
    kind = kind or ("choice" if letter in {"A", "B"} else "open")
    given = {**row, "pair_id": row.get("pair_id") or key, "kind": kind, "question": text}
    given["gold"] = letter if kind == "choice" else answer["content"]
    options = (cell(row.get("option_a")), cell(row.get("option_b")))
    if kind == "choice" and not all(options):
        options = grade.options_of(text) or options
    return key, Question(asked["image"], tuple(cell(given.get(name)) for name in FIELDS), options)


def asked_of(questions: Mapping[str, Question]) -> dict[str, int]:
    """How many questions of each kind there are."""
    return dict(sorted(Counter(question.fields[FIELDS.index("kind")] for question in questions.values()).items()))


def question_differences(rows: Sequence[Mapping[str, str]], questions: Mapping[str, Question]) -> list[str]:
    """Where samples are not the questions of the dataset, one line for each kind of difference."""
    found: dict[str, str] = {}
    for row in rows:
        question = questions.get(row["id"])
        if question is None:
            found.setdefault("id", f"the dataset has no question {row['id']}")
            continue
        told = fields_of(row)
        if told != question.fields:
            for name, mine, theirs in zip(FIELDS, told, question.fields, strict=True):
                if mine != theirs:
                    what = f"the {name} of sample {row['id']} is {mine[:60]!r}, the dataset's is {theirs[:60]!r}"
                    found.setdefault(name, what)
        if (row["option_a"], row["option_b"]) != question.options:
            found.setdefault("options", f"the options of sample {row['id']} are not the dataset's")
    return list(found.values())


def thumbnail_differences(
    rows: Sequence[Mapping[str, str]],
    questions: Mapping[str, Question],
    thumbnails: Mapping[str, str | None],
    images: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Where thumbnails are not of the frames that the samples are about.

    thumbnails: name -> sha256 of the image it says it shows. images: `files` of the dataset's manifest.
    """
    used: set[str] = set()
    for row in rows:
        name = row["thumbnail"]
        if not name or row["id"] not in questions:
            continue
        used.add(name)
        entry = images.get(questions[row["id"]].image)
        if name not in thumbnails:
            return [f"the thumbnail {name} of sample {row['id']} is missing"]
        if entry is None or thumbnails[name] != entry["sha256"]:
            return [f"the thumbnail {name} shows another image than sample {row['id']} is about"]
    return [f"the thumbnail {name} belongs to no sample" for name in sorted({*thumbnails} - used)[:1]]
