"""The two files of a score: score.json (the metrics) and scored.csv (the graded answers) beside it."""

from __future__ import annotations

import json
from pathlib import Path

from deckbench.artifact import hash_file
from deckbench.csvfile import csv_records
from deckbench.disk import read_bytes
from deckbench.errors import InputError
from deckbench.record.metrics_schema import Metrics
from deckbench.record.schema import parse
from deckbench.record.table import SCORED_COLUMNS

AGAIN = "run `deckbench score` again"


def scored_path(score: Path) -> Path:
    """The graded answers of a score: `score.json` -> `scored.csv`, `NAME.json` or any `NAME` -> `NAME.scored.csv`."""
    return score.with_name(
        "scored.csv" if score.name == "score.json" else f"{score.name.removesuffix('.json')}.scored.csv"
    )


def check_score_place(out: Path) -> None:
    """Raises InputError unless the place of a score is free, or holds an older score and nothing else."""
    if out.exists():
        try:
            older = json.loads(read_bytes(out))
        except (OSError, ValueError, RecursionError):
            older = None
        if not isinstance(older, dict) or not {"schema_version", "kinds"} <= older.keys():
            raise InputError("refusing to overwrite a file that is not a DeckBench score", out, "choose another --out")
    scored = scored_path(out)
    for other in {out.with_name(out.name.removesuffix(".json")), out.with_name(f"{out.name}.json")} - {out}:
        if other.is_file() and scored_path(other) == scored:
            what = f"the graded answers would lie where those of {other.name} are"
            raise InputError(what, scored, "choose another --out")
    if scored.exists():
        try:
            with scored.open(encoding="utf-8") as file:
                head = file.readline().strip()
        except (OSError, ValueError):
            head = ""
        if head != ",".join(SCORED_COLUMNS):
            what = "refusing to overwrite a file that is not a table of graded answers"
            raise InputError(what, scored, "choose another --out")


def read_score(path: Path) -> Metrics:
    """The metrics in a score.json. Raises InputError naming the first field that is missing, wrong or unknown."""
    try:
        value = json.loads(read_bytes(path))
    except FileNotFoundError as error:
        raise InputError("not found; a score.json is expected here", path, AGAIN) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"the score cannot be read ({type(error).__name__})", path, AGAIN) from error
    return parse(Metrics, value, path)


def read_scored(score: Path) -> dict[str, dict[str, str]]:
    """The graded answers of a score, by id. Raises InputError when they are missing, or not those of the score."""
    place = scored_path(score)
    rows = {row["id"]: row for _, row in csv_records(place, required=SCORED_COLUMNS)}
    if hash_file(place) != read_score(score).scored_sha256.removeprefix("sha256:"):
        raise InputError("the graded answers are not those of the score", place, AGAIN)
    return rows
