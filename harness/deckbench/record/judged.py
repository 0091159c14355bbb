"""What a judge said of answers: `FILE.judge.json` beside the predictions, and in a record. The one owner of the format.

The calls about an answer are letters: `c` correct, `i` incorrect, `u` unclear, `x` no verdict; after a `/` those with
reference and answer the other way round: `ci/cc` was asked twice in each order.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from deckbench import artifact
from deckbench.disk import read_bytes
from deckbench.errors import InputError
from deckbench.predictions import PredictionFiles
from deckbench.progress import say
from deckbench.record.metrics_schema import JudgeRef, Sha256, Strict
from deckbench.record.schema import parse
from deckbench.record.table import predictions_sha256

if TYPE_CHECKING:
    import pandas as pd

VERDICTS = {"c": "correct", "i": "incorrect", "u": "unclear"}
UNGRADED = "ungraded"
MAX_BYTES = 64 << 20
MAX_REASON = 300  # characters
AGAIN = "run `deckbench score --judge` again"


class JudgedAnswer(Strict):
    """One answer. reason: the judge's, of its first call with the verdict that counts."""

    id: str = Field(min_length=1)
    calls: str = Field(pattern=r"^[ciux]{1,99}(/[ciux]{1,99})?$")
    reason: str = Field(default="", max_length=MAX_REASON)


class Judged(Strict):
    """The file. predictions_sha256: as in `ScoreInputs`. answers: in the order of the predictions, each once."""

    schema_version: int = Field(default=1, ge=1, le=1)
    predictions_sha256: Sha256
    judge: JudgeRef
    answers: tuple[JudgedAnswer, ...]

    @model_validator(mode="after")
    def each_once(self) -> Judged:
        if len({answer.id for answer in self.answers}) < len(self.answers):
            raise ValueError("an answer is judged twice")
        calls = self.judge.repeats * (2 if self.judge.swapped else 1)
        for answer in self.answers:
            if len(answer.calls.replace("/", "")) != calls or ("/" in answer.calls) != self.judge.swapped:
                raise ValueError(f"the calls about {answer.id[:40]!r} are not {calls} as the judge was asked")
        return self

    @property
    def content_hash(self) -> str:
        return artifact.hash_json(self.model_dump(mode="json"))


def verdict_of(calls: str) -> str:
    """The verdict that most calls give; `unclear` where two are given equally often, `ungraded` without any."""
    counts = Counter(letter for letter in calls if letter in VERDICTS)
    if not counts:
        return UNGRADED
    (first, most), *others = counts.most_common()
    return "unclear" if others and others[0][1] == most else VERDICTS[first]


def judged_path(predictions: Path) -> Path:
    """`FILE.judge.json` of FILE.csv."""
    return PredictionFiles(predictions).judged


def judged_bytes(judged: Judged) -> str:
    return json.dumps(judged.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def read_judged(path: Path) -> Judged:
    """What a judge said. Raises InputError naming the file and the field."""
    try:
        value = json.loads(read_bytes(path, MAX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"the judge's file cannot be read ({type(error).__name__})", path, AGAIN) from error
    return parse(Judged, value, path)


def find_judged(predictions: Path, table: pd.DataFrame) -> Judged | None:
    """What a judge said of graded predictions, from beside them; None where it was not asked about these.

    Raises InputError for a file that is damaged.
    """
    place = judged_path(predictions)
    if not place.is_file():
        return None
    judged = read_judged(place)
    if judged.predictions_sha256.removeprefix("sha256:") != predictions_sha256(table):
        say(f"{place}: it judges other predictions than these, and is left out; {AGAIN}")
        return None
    return judged


def with_verdicts(table: pd.DataFrame, judged: Judged | None) -> pd.DataFrame:
    """A graded table with the column `judge`: the verdict of each answer, empty where it was not judged."""
    if judged is None:
        return table
    out: Any = table.copy()
    verdicts = {answer.id: verdict_of(answer.calls) for answer in judged.answers}
    out["judge"] = [verdicts.get(key, "") for key in out["id"]]
    found: pd.DataFrame = out
    return found
