"""The table that scoring reads: predictions joined with what their dataset knows of each sample, every answer graded.

`score` makes it from a prediction file and a dataset, a record from its own samples; metrics are made of nothing else.
All cells are text, empty where nothing is known. Faults of the files have a file, a line and a fix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deckbench import dataset, grade
from deckbench.csvfile import csv_columns
from deckbench.errors import InputError
from deckbench.parse import parse_scene
from deckbench.predictions import COLUMNS, csv_blocks
from deckbench.predictions.read import line_of
from deckbench.stats import Floats

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
    """What the dataset knows about each sample: JOINED, by `id`, as text (object).

    Columns beside these: `gold` and `answer`, the texts that count as its gold, and `asked`, its kind.
    """
    data = Path(data)
    table = data / "samples.csv"
    if data.is_dir() and table.is_file():
        names = ("id", "gold", "answer", "kind", *JOINED)
        cells = csv_columns(table, names, required=("id", "gold"))
        columns = {name: cells.get(name) or [""] * len(cells["id"]) for name in names}
        columns["anomaly"] = mapped(_flag, columns["anomaly"])
    else:
        samples = list(_samples(data))
        columns = {
            name: [cell(getattr(sample, "cls" if name == "class" else name, None)) for sample in samples]
            for name in ("id", "gold", "answer", "kind", *JOINED)
        }
        columns["image"] = [""] * len(samples)
    # A scene's gold is its verdict in samples.csv, and its text where it is asked and predicted.
    for name in ("gold", "answer"):
        columns[name] = mapped(str.strip, columns[name])
    ids, columns["asked"] = columns.pop("id"), columns.pop("kind")
    fields: pd.DataFrame = pd.DataFrame(columns, index=pd.Index(ids, dtype=object), dtype=object)
    return fields[~fields.index.duplicated(keep="last")] if len({*ids}) < len(ids) else fields


def _flag(text: str) -> str:
    """`true`, `false` or nothing."""
    flag = text.strip().lower()
    return flag if flag in FLAGS else ""


def mapped(function: Callable[[Any], Any], cells: Iterable[Any]) -> list[Any]:
    """A function of each cell, called once for cells that are equal."""
    cells = cells if isinstance(cells, list) else list(cells)
    known = {value: function(value) for value in {*cells}}
    return [known[value] for value in cells]


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
    at = fields.index.get_indexer(pd.Index(out["id"], dtype=object))
    golds = np.array(mapped(str.strip, out["gold"]), dtype=object)
    nothing = np.full(len(at), "", dtype=object)
    known = {name: fields[name].to_numpy()[at] if len(fields) else nothing for name in ("gold", "answer", *JOINED)}
    fits = (at >= 0) & ((golds == known.pop("gold")) | (golds == known.pop("answer")))
    if not fits.all():
        row = int(np.flatnonzero(~fits)[0])
        where = f"{predictions}:{line_of(out, predictions, row)}"
        if at[row] < 0:
            what = f"the id {out['id'].iloc[row]!r} is not in the dataset"
            raise InputError(what, where, "is this the right --data?")
        raise InputError(
            f"the gold answer {out['gold'].iloc[row][:40]!r} is not the dataset's",
            where,
            "the file was edited, or made on another version of the dataset; infer again",
        )
    for name, cells in known.items():
        out[name] = pd.Series(cells, index=out.index, dtype=object)
    return _fill_options(out)


def _fill_options(table: pd.DataFrame) -> pd.DataFrame:
    """Options from the prompt's two lines where the dataset does not name them: `infer` reads them there too."""
    given = {name: table[name].to_numpy() for name in ("option_a", "option_b")}
    lacking = (table["kind"] == "choice").to_numpy() & ((given["option_a"] == "") | (given["option_b"] == ""))
    rows = np.flatnonzero(lacking)
    options = mapped(grade.options_of, table["question"].to_numpy()[rows])
    for place, name in enumerate(given):
        cells = given[name].copy()
        cells[rows] = [found[place] if found else old for found, old in zip(options, cells[rows], strict=True)]
        table[name] = pd.Series(cells, index=table.index, dtype=object)
    return table


def _guess(table: pd.DataFrame) -> pd.DataFrame:
    """Options from the prompt's two lines; the verdict's truth from which of p_a and p_b is p_anomaly."""
    for name in JOINED:
        if name not in table:
            table[name] = pd.Series("", index=table.index, dtype=object)
    table = _fill_options(table)
    kind, gold = table["kind"].to_numpy(), table["gold"].to_numpy()
    stop, a, b = (np.nan_to_num(numbers(table[name]), nan=-1.0) for name in ("p_anomaly", "p_a", "p_b"))
    truth = np.full(len(table), "", dtype=object)
    scenes = np.flatnonzero(kind == "scene")
    truth[scenes] = mapped(lambda text: cell(parse_scene(text)), gold[scenes])
    told = (kind == "choice") & (stop >= 0) & (a != b)
    truth[told & (stop == a)] = "A"
    truth[told & (stop == b)] = "B"
    letters = told & (truth != "")
    truth[letters] = np.where(truth[letters] == gold[letters], "true", "false")
    table["anomaly"] = pd.Series(truth, index=table.index, dtype=object)
    return table


def numbers(cells: Iterable[str]) -> Floats:
    """Text cells as float64, NaN where empty."""
    return np.array([float(cell) if cell.strip() else np.nan for cell in cells], dtype=np.float64)


def grade_table(table: pd.DataFrame, *, inferred: bool) -> pd.DataFrame:
    """Grade every answer of a joined table: a copy with the columns `parsed`, `right`, `substring`, `judge`, `reason`.

    inferred: `parsed` is what `infer` parsed each answer as, and is taken; otherwise it is parsed here. right,
    substring: true or false. judge is empty as long as nothing judges.
    """
    out: pd.DataFrame = table.copy()
    names = ("prediction", "gold", "kind", "option_a", "option_b", "anomaly", "parsed")
    columns = [out[name].tolist() for name in names]
    if not inferred:
        columns[-1] = [""] * len(out)

    def graded(row: tuple[str, ...]) -> tuple[str, ...]:
        text, gold, kind, option_a, option_b, anomaly, parsed = row
        answer = grade.grade(
            text,
            gold,
            kind,
            options=(option_a, option_b),
            anomaly=FLAGS.get(anomaly),
            parsed=parsed if inferred and kind != "open" else None,
        )
        return answer.parsed, cell(answer.right), cell(answer.substring), "", answer.reason

    grades = mapped(graded, zip(*columns, strict=True))
    for name, cells in zip(SCORED_COLUMNS[1:], zip(*grades, strict=True), strict=True):
        out[name] = pd.Series(cells, index=out.index, dtype=object)
    return out


def cell(value: object) -> str:
    """A value as it stands in a table: `true` or `false`, empty for None."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool | np.bool_) else str(value)


def table_bytes(table: pd.DataFrame, columns: Sequence[str]) -> bytes:
    """Some columns of a table as CSV bytes; `scored.csv` is SCORED_COLUMNS."""
    return b"".join(_blocks(table, columns))


def predictions_sha256(table: pd.DataFrame) -> str:
    """sha256 of a graded prediction table as `infer` writes it: of FILE.csv itself where that comes from `infer`."""
    return _sha256(_blocks(table, COLUMNS))


def scored_sha256(table: pd.DataFrame) -> str:
    """sha256 of `scored.csv` of a graded table."""
    return _sha256(_blocks(table, SCORED_COLUMNS))


def _blocks(table: pd.DataFrame, columns: Sequence[str]) -> Iterator[bytes]:
    return csv_blocks(columns, [table[name].tolist() for name in columns])


def _sha256(blocks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()
