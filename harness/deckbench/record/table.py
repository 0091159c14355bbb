"""The table that scoring reads: predictions joined with what their dataset knows of each sample, every answer graded.

`score` makes it from a prediction file and a dataset, a record from its own samples; metrics are made of nothing else.
All cells are text, empty where nothing is known. Faults of the files have a file, a line and a fix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deckbench import dataset, grade
from deckbench.csvfile import csv_records
from deckbench.errors import InputError
from deckbench.parse import parse_scene
from deckbench.predictions import COLUMNS, csv_bytes

# What the dataset knows of a sample; `anomaly` is true, false or empty.
JOINED = (
    *("option_a", "option_b", "anomaly", "class", "step", "group", "frame"),
    *("stage", "task", "lang", "split", "question_type", "image", "view", "context"),
)
SCORED_COLUMNS = ("id", "parsed", "right", "substring", "judge", "reason")
FLAGS = {"true": True, "false": False}


def check_data(manifest: dict[str, Any] | None, predictions: Path, data: Path) -> str:
    """Refuse a dataset that the predictions were not made on; returns its content hash. Raises InputError."""
    found = dataset.dataset_hash(data)
    made_on = (manifest or {}).get("content", {}).get("inputs", {}).get("data")
    if isinstance(made_on, dict):
        made_on = made_on.get("content_hash") or made_on.get("sha256")
    if isinstance(made_on, str) and made_on != found:
        raise InputError(
            f"the predictions were made on another dataset ({made_on[:12]}, this one is {found[:12]})",
            predictions,
            f"give the dataset they were made on, not {data}",
        )
    return found


def read_fields(data: Path) -> pd.DataFrame:
    """What the dataset knows about each sample: JOINED, by `id`.

    Columns beside these: `golds`, the texts that count as its gold, and `asked`, its kind.
    """
    data = Path(data)
    table = data / "samples.csv"
    rows: dict[str, dict[str, Any]] = {}
    if data.is_dir() and table.is_file():
        for _, record in csv_records(table, required=("id", "gold")):
            row: dict[str, Any] = {name: record.get(name) or "" for name in JOINED}
            flag = row["anomaly"].strip().lower()
            # A scene's gold is its verdict in samples.csv, and its text where it is asked and predicted.
            golds = {record["gold"].strip(), (record.get("answer") or "").strip()}
            kind = record.get("kind") or ""
            rows[record["id"]] = {**row, "anomaly": flag if flag in FLAGS else "", "golds": golds, "asked": kind}
    else:
        for sample in _samples(data):
            row = {name: cell(getattr(sample, "cls" if name == "class" else name, None)) for name in JOINED}
            row["image"] = ""
            rows[sample.id] = {**row, "golds": {sample.gold.strip(), sample.answer.strip()}, "asked": sample.kind}
    fields: pd.DataFrame = pd.DataFrame.from_dict(rows, orient="index", columns=[*JOINED, "golds", "asked"])
    return fields


def _samples(data: Path) -> Iterable[dataset.Sample]:
    if data.is_file():
        return dataset.read_file(data)
    return [sample for split in dataset.splits_of(data) for sample in dataset.read_samples(data, split)]


def join(table: pd.DataFrame, predictions: Path, fields: pd.DataFrame | None) -> pd.DataFrame:
    """The predictions with the columns JOINED. fields: of `read_fields`; None: what the file itself says of them.

    Raises InputError when an id is not in the dataset, or a gold answer is not the dataset's.
    """
    out: pd.DataFrame = table.copy()
    if fields is None:
        return _guess(out)
    golds = fields["golds"].to_dict()
    for row in out.itertuples():
        if row.id not in golds:
            raise InputError(
                f"the id {row.id!r} is not in the dataset", f"{predictions}:{row.line}", "is this the right --data?"
            )
        if str(row.gold).strip() not in golds[row.id]:
            raise InputError(
                f"the gold answer {str(row.gold)[:40]!r} is not the dataset's",
                f"{predictions}:{row.line}",
                "the file was edited, or made on another version of the dataset; infer again",
            )
    for name in JOINED:
        out[name] = fields[name].reindex(out["id"]).to_numpy()
    return _fill_options(out)


def _fill_options(table: pd.DataFrame) -> pd.DataFrame:
    """Options from the prompt's two lines where the dataset does not name them: `infer` reads them there too."""
    asked = zip(table["kind"], table["question"], table["option_a"], table["option_b"], strict=True)
    for at, (kind, question, *given) in zip(table.index, asked, strict=True):
        if kind == "choice" and not all(given) and (options := grade.options_of(str(question))):
            table.at[at, "option_a"], table.at[at, "option_b"] = options
    return table


def _guess(table: pd.DataFrame) -> pd.DataFrame:
    """Options from the prompt's two lines; the verdict's truth from which of p_a and p_b is p_anomaly."""
    for name in JOINED:
        if name not in table:
            table[name] = ""
    for at, row in _fill_options(table).iterrows():
        if row["kind"] == "scene":
            table.at[at, "anomaly"] = cell(parse_scene(str(row["gold"])))
        elif row["kind"] == "choice" and row["p_anomaly"] and float(row["p_a"] or -1) != float(row["p_b"] or -1):
            stop, a, b = (float(row[name] or -1) for name in ("p_anomaly", "p_a", "p_b"))
            means = "A" if stop == a else "B" if stop == b else None
            table.at[at, "anomaly"] = "" if means is None else cell(means == row["gold"])
    return table


def grade_table(table: pd.DataFrame, *, inferred: bool) -> pd.DataFrame:
    """Grade every answer of a joined table: a copy with the columns `parsed`, `right`, `substring`, `judge`, `reason`.

    inferred: `parsed` is what `infer` parsed each answer as, and is taken; otherwise it is parsed here. right,
    substring: true or false. judge is empty as long as nothing judges.
    """
    out: pd.DataFrame = table.copy()
    names = ("prediction", "gold", "kind", "option_a", "option_b", "anomaly", "parsed")
    rows = zip(*(out[name].tolist() for name in names), strict=True)
    graded = [
        grade.grade(
            text,
            gold,
            kind,
            options=(option_a, option_b),
            anomaly=FLAGS.get(anomaly),
            parsed=parsed if inferred and kind != "open" else None,
        )
        for text, gold, kind, option_a, option_b, anomaly, parsed in rows
    ]
    out["parsed"] = [answer.parsed for answer in graded]
    out["right"] = [cell(answer.right) for answer in graded]
    out["substring"] = [cell(answer.substring) for answer in graded]
    out["judge"] = ""
    out["reason"] = [str(answer.reason) for answer in graded]
    return out


def cell(value: object) -> str:
    """A value as it stands in a table: `true` or `false`, empty for None."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool | np.bool_) else str(value)


def table_bytes(table: pd.DataFrame, columns: Sequence[str]) -> bytes:
    """Some columns of a table as CSV bytes; `scored.csv` is SCORED_COLUMNS."""
    return csv_bytes(columns, list(zip(*(table[name].tolist() for name in columns), strict=True)))


def predictions_sha256(table: pd.DataFrame) -> str:
    """sha256 of a graded prediction table as `infer` writes it: of FILE.csv itself where that comes from `infer`."""
    return hashlib.sha256(table_bytes(table, COLUMNS)).hexdigest()


def scored_sha256(table: pd.DataFrame) -> str:
    """sha256 of `scored.csv` of a graded table."""
    return hashlib.sha256(table_bytes(table, SCORED_COLUMNS)).hexdigest()
