"""Reading prediction files and joining them with their dataset: every fault has a file, a line and a fix."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from deckbench import artifact, dataset
from deckbench.errors import InputError
from deckbench.grade import options_of, parse_scene
from deckbench.predictions import COLUMNS

KINDS = ("choice", "open", "scene")
PROBABILITIES = ("p_a", "p_b", "p_anomaly")
JOINED = (
    *("option_a", "option_b", "anomaly", "class", "step", "group", "frame"),
    *("stage", "task", "lang", "split", "question_type"),
)


def sidecar(predictions: Path, ending: str) -> Path:
    """`FILE.csv` -> `FILE.<ending>` (manifest.json, timings.csv, partial)."""
    return predictions.with_name(f"{predictions.stem}.{ending}")


def read_predictions(path: Path) -> pd.DataFrame:
    """The rows of a prediction file, checked.

    Columns: COLUMNS (text; p_* are float64, NaN where empty; tokens_* nullable integers) and `line`, the line where
    the row ends. BOM and CRLF are accepted, more columns are ignored. Raises InputError with `file:line`.
    """
    path = Path(path)
    if not path.exists() and sidecar(path, "partial").exists():
        raise InputError(
            "the predictions are not finished: only the partial folder is there",
            path,
            "run `deckbench infer` with the same arguments again; it goes on where it stopped",
        )
    if path.is_dir():
        raise InputError("a prediction file is expected, this is a folder", path, "give FILE.csv")
    rows: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for line, record in dataset.csv_records(path, required=COLUMNS):
        where = f"{path}:{line}"
        row = _checked(record, where)
        if row["id"] in seen:
            raise InputError(
                f"the id {row['id']!r} occurs twice (first at line {seen[row['id']]})", where, "ids are unique"
            )
        seen[row["id"]] = line
        rows.append({**row, "line": line})
    if not rows:
        raise InputError("the file holds no predictions", path, "run `deckbench infer` on a dataset with a test part")
    table: pd.DataFrame = pd.DataFrame(rows, columns=[*COLUMNS, "line"])
    for name in PROBABILITIES:
        table[name] = table[name].astype("float64")
    return table


def _checked(record: dict[str, str], where: str) -> dict[str, Any]:
    row: dict[str, Any] = {name: record[name] for name in COLUMNS}
    if not row["id"]:
        raise InputError("the row has no id", where, "every prediction names its sample")
    if row["kind"] not in KINDS:
        raise InputError(f"the kind is {row['kind']!r}", where, f"one of: {', '.join(KINDS)}")
    if row["kind"] == "choice" and row["gold"] not in {"A", "B"}:
        raise InputError(f"the gold of a choice is {row['gold']!r}, not A or B", where, "fix the row")
    for name in PROBABILITIES:
        row[name] = _number(row[name], name, where)
        if not math.isnan(row[name]) and not 0 <= row[name] <= 1:
            raise InputError(f"{name} is {row[name]:g}, outside 0 to 1", where, "a probability is expected")
    for name in ("tokens_in", "tokens_out"):
        count = _number(row[name], name, where)
        if not math.isnan(count) and (count < 0 or count != int(count)):
            raise InputError(f"{name} is {row[name]!r}, not a count", where, "a whole number is expected")
        row[name] = None if math.isnan(count) else int(count)
    return row


def _number(cell: str, name: str, where: str) -> float:
    if not cell.strip():
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        raise InputError(f"{name} is {cell!r}, not a number", where, "fix the row, or leave the cell empty") from None
    if not math.isfinite(value):
        raise InputError(f"{name} is {cell!r}, not a finite number", where, "leave the cell empty if it is unknown")
    return value


def read_manifest(predictions: Path) -> dict[str, Any] | None:
    """`FILE.manifest.json` as a dict, or None when there is none. Raises InputError when it is damaged."""
    path = sidecar(predictions, "manifest.json")
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        good = artifact.hash_json(manifest["content"]) == manifest["content_hash"]
        kind = manifest["content"].get("kind", "predictions")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the manifest cannot be read ({type(error).__name__})", path, "make the predictions again"
        ) from error
    if not good:
        raise InputError("the manifest's hash does not fit its content", path, "it was edited; infer again")
    if kind != "predictions":
        raise InputError(f"this is the manifest of a {kind}, not of predictions", path, "give a prediction file")
    files = manifest["content"].get("files", {})
    entry = files.get(predictions.name) or files.get("predictions.csv") if isinstance(files, dict) else None
    if isinstance(entry, dict) and entry.get("sha256") != artifact.hash_file(predictions):
        raise InputError(
            "the file was changed after it was made: its hash is not the manifest's", predictions, "infer again"
        )
    return dict(manifest)


def check_data(manifest: dict[str, Any] | None, predictions: Path, data: Path) -> str:
    """Refuse a dataset that the predictions were not made on; returns its content hash. Raises InputError."""
    found = dataset.dataset_hash(data, verify=("samples.csv",))
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
    """What the dataset knows about each sample: JOINED (text, None where empty; anomaly is bool), by `id`.

    Column `golds`: the texts that count as its gold answer.
    """
    data = Path(data)
    table = data / "samples.csv"
    rows: dict[str, dict[str, Any]] = {}
    if data.is_dir() and table.is_file():
        for _, record in dataset.csv_records(table, required=("id", "gold")):
            flag = record.get("anomaly", "").strip().lower()
            row: dict[str, Any] = {name: record.get(name) or None for name in JOINED}
            # A scene's gold is its verdict in samples.csv, and its text where it is asked and predicted.
            golds = {record["gold"].strip(), (record.get("answer") or "").strip()}
            rows[record["id"]] = {**row, "anomaly": {"true": True, "false": False}.get(flag), "golds": golds}
    else:
        for sample in _samples(data):
            row = {name: getattr(sample, "cls" if name == "class" else name, None) for name in JOINED}
            rows[sample.id] = {**row, "golds": {sample.gold.strip(), sample.answer.strip()}}
    fields: pd.DataFrame = pd.DataFrame.from_dict(rows, orient="index", columns=[*JOINED, "golds"])
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
        if kind == "choice" and not all(given) and (options := options_of(str(question))):
            table.at[at, "option_a"], table.at[at, "option_b"] = options
    return table


def _guess(table: pd.DataFrame) -> pd.DataFrame:
    """Options from the prompt's two lines; the verdict's truth from which of p_a and p_b is p_anomaly."""
    for name in JOINED:
        table[name] = pd.Series([None] * len(table), dtype=object)
    for at, row in _fill_options(table).iterrows():
        if row["kind"] == "scene":
            table.at[at, "anomaly"] = parse_scene(str(row["gold"]))
        elif row["kind"] == "choice" and not math.isnan(row["p_anomaly"]) and row["p_a"] != row["p_b"]:
            means = "A" if row["p_anomaly"] == row["p_a"] else "B" if row["p_anomaly"] == row["p_b"] else None
            table.at[at, "anomaly"] = None if means is None else means == row["gold"]
    return table
