"""Reading datasets: folders of messages JSONL (ours or a lab's own), single JSONL files, and CSV tables of questions.

Every step that reads samples reads them here, so that a broken row, a missing picture or a path that leaves the folder
gives the same message everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deckbench import artifact
from deckbench.artifact import MANIFEST, hash_json, inside
from deckbench.csvfile import csv_records, open_input
from deckbench.errors import InputError
from deckbench.yamlfile import kind_of

SPLITS = ("train", "val", "test")
MAX_LINE = 16 << 20  # bytes of a row of a JSONL file
Box = tuple[float, float, float, float]


class Message(BaseModel):
    """One turn of a conversation. `image` is a path relative to the dataset folder."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: str
    image: str | None = None


class Row(BaseModel):
    """One line of a messages JSONL. Only `messages` is required; files from elsewhere may hold other keys."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)
    messages: list[Message] = Field(min_length=1)
    id: str | None = None
    pair_id: str | None = None
    frame: str | None = None
    group: str | None = None
    task: str | None = None
    stage: str | None = None
    kind: Literal["choice", "open", "scene"] | None = None
    option_a: str | None = None
    option_b: str | None = None
    anomaly: bool | None = None
    cls: str | None = Field(default=None, alias="class")
    step: str | None = None
    phase: str | None = None
    check: str | None = None
    context: str | None = None
    view: str | None = None
    images: list[str] | None = None


class OurRow(Row):
    """A row of a dataset that DeckBench built (a manifest lies beside it): no unknown key."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


@dataclass(frozen=True)
class Sample:
    """One question about one picture.

    gold: "A" or "B" for a choice, else the text; empty where the file holds no answer.
    image: an existing file inside the dataset folder.
    box: pixels x0 y0 x1 y1 of the asked object in the picture, where samples.csv holds it.
    phase, check, context: of a question about a check, with its step, and how much of it the question says.
    view: from where the camera looks.
    """

    id: str
    pair_id: str
    kind: str
    question: str
    answer: str
    image: Path
    option_a: str | None
    option_b: str | None
    gold: str
    anomaly: bool | None
    cls: str | None
    step: str | None
    frame: str | None
    group: str | None
    task: str | None
    stage: str | None
    split: str
    lang: str | None = None
    box: Box | None = None
    phase: str | None = None
    check: str | None = None
    context: str | None = None
    view: str | None = None


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"])
    return f"{place}: {fault['msg']}" if place else str(fault["msg"])


def has_surrogates(value: Any) -> bool:
    """Whether a JSON value holds half a surrogate pair, which no UTF-8 file can."""
    try:
        artifact.canonical(value)
    except UnicodeEncodeError:
        return True
    except ValueError:  # NaN: refused where a number is expected
        return False
    return False


def _numbered_rows(path: Path) -> Iterator[tuple[int, Row]]:
    if not path.is_file():
        raise InputError("not found; a JSONL file is expected here", path, "check the path")
    schema = OurRow if (path.parent / MANIFEST).is_file() else Row
    with open_input(path) as file:
        for number, raw in enumerate(iter(partial(file.readline, MAX_LINE), b""), 1):
            where = f"{path}:{number}"
            if len(raw) == MAX_LINE:
                raise InputError(f"the line is longer than {MAX_LINE >> 20} MiB", where, "fix or remove this line")
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"not UTF-8 (byte {error.start} of the line)", where, "save the file as UTF-8"
                ) from error
            if not text.strip():
                continue
            try:
                data = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise InputError(f"not valid JSON ({error})", where, "fix or remove this line") from error
            if not isinstance(data, dict):
                raise InputError(f"a JSON object is expected, not {type(data).__name__}", where, "one object a line")
            if "\\u" in text and has_surrogates(data):
                raise InputError("a text holds half a surrogate pair", where, "fix or remove this row")
            if "messages" not in data:
                raise InputError(
                    "the row has no `messages`",
                    where,
                    "each line needs a list `messages`, as in DeckBench's own datasets",
                )
            try:
                yield number, schema.model_validate(data)
            except ValidationError as error:
                raise InputError(_first_fault(error), where, "fix this row") from error


class _Pictures:
    """Resolves picture paths inside one folder; each path is checked once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: dict[str, Path] = {}

    def find(self, relative: str, where: str) -> Path:
        if relative not in self.seen:
            if "\0" in relative or not relative.strip():
                raise InputError("the image's path is empty or broken", where, "name a file inside the folder")
            path = inside(self.folder, relative, where)
            if kind_of(path) != "file":
                raise InputError(f"the image {relative[:300]!r} is missing", where, "put it there, or remove the row")
            self.seen[relative] = path
        return self.seen[relative]


def _turns(row: Row, where: str) -> Iterator[tuple[str, str, str]]:
    """(picture, question, answer) of each user turn followed by an assistant turn."""
    if row.images and len(row.images) > 1:
        what = f"the row has {len(row.images)} images; a question is about one"
        raise InputError(what, where, "`deckbench import` tells turns with one image each apart, and lists the others")
    picture = row.images[0] if row.images else None
    waiting: str | None = None
    found = False
    for message in row.messages:
        if message.role == "user":
            picture = message.image or picture
            waiting = message.content
        elif message.role == "assistant" and waiting is not None:
            if picture is None:
                raise InputError("the question has no image", where, "give the user message an `image`")
            found = True
            yield picture, waiting, message.content
            waiting = None
    if not found:
        raise InputError("the row holds no question with an answer", where, "a user message, then an assistant message")


def _samples_of(number: int, row: Row, path: Path, split: str, pictures: _Pictures) -> Iterator[Sample]:
    where = f"{path}:{number}"
    for turn, (picture, question, answer) in enumerate(_turns(row, where), 1):
        image = pictures.find(picture, where)
        key = row.id or hash_json([picture, question, answer])[:16]
        key = key if turn == 1 else f"{key}/{turn}"
        letter = answer.strip()
        kind = row.kind or ("choice" if letter in {"A", "B"} else "open")
        if kind == "choice" and letter not in {"A", "B", ""}:
            raise InputError(f"the answer of a choice is {answer!r}, not A or B", where, "fix the row's answer")
        yield Sample(
            id=key,
            pair_id=row.pair_id or key,
            kind=kind,
            question=question,
            answer=answer,
            image=image,
            option_a=row.option_a,
            option_b=row.option_b,
            gold=letter if kind == "choice" else answer,
            anomaly=row.anomaly,
            cls=row.cls,
            step=row.step,
            frame=row.frame,
            group=row.group,
            task=row.task,
            stage=row.stage,
            split=split,
            phase=row.phase,
            check=row.check,
            context=row.context,
            view=row.view,
        )


def _unique(samples: Iterator[Sample], given: set[str]) -> Iterator[Sample]:
    """Number derived ids that occur twice (the same question about the same picture)."""
    times: dict[str, int] = {}
    for sample in samples:
        times[sample.id] = times.get(sample.id, 0) + 1
        if times[sample.id] == 1 or sample.id in given:
            yield sample
        else:
            key = f"{sample.id}-{times[sample.id]}"
            yield replace(sample, id=key, pair_id=key)


def read_file(path: Path, split: str = "test") -> list[Sample]:
    """The samples of one `.jsonl` or `.csv` file; pictures are looked for in the file's folder.

    A CSV has a header with `image` and `question`; `answer`, `id` and the other fields of a row are optional.
    Raises InputError with `file:line`.
    """
    path = Path(path)
    rows = _rows(path)
    pictures = _Pictures(path.parent)
    given: set[str] = set()

    def walk() -> Iterator[Sample]:
        for number, row in rows:
            if row.id is not None:
                if row.id in given:
                    raise InputError(f"the id {row.id!r} occurs twice", f"{path}:{number}", "ids are unique in a file")
                given.add(row.id)
            yield from _samples_of(number, row, path, split, pictures)

    return list(_unique(walk(), given))


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    """(line number, row) of a JSONL or CSV file. Raises InputError."""
    if path.suffix.lower() == ".csv":
        return _csv_rows(path)
    if path.suffix.lower() == ".jsonl":
        return _numbered_rows(path)
    raise InputError("a .jsonl or .csv file is expected", path, "give a dataset folder, a JSONL or a CSV file")


def named_pictures(path: Path) -> list[str]:
    """The pictures that a `.jsonl` or `.csv` file names, as it names them, each once, sorted. Raises InputError."""
    path = Path(path)
    return sorted({picture for number, row in _rows(path) for picture, _, _ in _turns(row, f"{path}:{number}")})


def _csv_rows(path: Path) -> Iterator[tuple[int, Row]]:
    for number, record in csv_records(path, required=("image", "question")):
        data: dict[str, Any] = {key: value for key, value in record.items() if value != "" and key in _CSV_FIELDS}
        data["messages"] = [
            {"role": "user", "content": record["question"], "image": record["image"]},
            {"role": "assistant", "content": record.get("answer") or ""},
        ]
        try:
            yield number, Row.model_validate(data)
        except ValidationError as error:
            raise InputError(_first_fault(error), f"{path}:{number}", "fix this row") from error


_CSV_FIELDS = {
    "id",
    "pair_id",
    "frame",
    "group",
    "task",
    "stage",
    "kind",
    "option_a",
    "option_b",
    "anomaly",
    "class",
    "step",
    "phase",
    "check",
    "context",
    "view",
}


def _extras(folder: Path) -> dict[str, tuple[str | None, Box | None]]:
    """id -> (language, box) from samples.csv; empty when there is none."""
    table = folder / "samples.csv"
    if not table.is_file():
        return {}
    extras: dict[str, tuple[str | None, Box | None]] = {}
    for number, record in csv_records(table, required=("id",)):
        box: Box | None = None
        if cell := record.get("box", "").strip():
            try:
                x0, y0, x1, y1 = (float(part) for part in cell.split())
            except ValueError as error:
                raise InputError(f"the box {cell!r} is not four numbers", f"{table}:{number}", "x0 y0 x1 y1") from error
            box = (x0, y0, x1, y1)
        extras[record["id"]] = (record.get("lang") or None, box)
    return extras


def splits_of(dataset: Path) -> list[str]:
    """The parts a dataset folder has, in the order train, val, test. Raises InputError when it has none."""
    dataset = Path(dataset)
    if not dataset.exists():
        raise InputError("not found; a dataset folder is expected here", dataset, "check the path")
    if not dataset.is_dir():
        raise InputError("a dataset folder is expected, this is a file", dataset, "give the folder that holds it")
    found = [split for split in SPLITS if (dataset / f"{split}.jsonl").is_file()]
    if not found:
        raise InputError(
            "the folder holds no train.jsonl, val.jsonl or test.jsonl",
            dataset,
            "give a dataset folder (`deckbench build` makes one)",
        )
    return found


def read_samples(dataset: Path, split: str) -> list[Sample]:
    """The samples of one part of a dataset folder, in file order.

    Optional fields that are missing are derived: id from the content, pair_id from the id, kind "choice" when the
    answer is exactly A or B and "open" otherwise. A row with several turns gives one sample a turn.
    Raises InputError with `file:line` for broken rows, missing pictures and paths that leave the folder.
    """
    dataset = Path(dataset)
    if split not in splits_of(dataset):
        raise InputError(f"the dataset has no {split} part", dataset / f"{split}.jsonl", "choose another part")
    samples = read_file(dataset / f"{split}.jsonl", split)
    extras = _extras(dataset)
    if not extras:
        return samples
    return [
        replace(sample, lang=extras[sample.id][0], box=extras[sample.id][1]) if sample.id in extras else sample
        for sample in samples
    ]


def dataset_hash(data: Path, *, verify: bool | Collection[str] = True) -> str:
    """The identity of a dataset: what predictions, adapters, scores and measurements say they were made from.

    Args:
        data: A dataset folder, any folder of messages JSONL, or one JSONL or CSV file.
        verify: Whether the files of a folder with a manifest are hashed again: all, none, or those that are named.

    Returns:
        The manifest's content hash; without a manifest, the hash of all files of the folder, or of the one file.

    Raises:
        InputError: There is nothing, the folder is an artifact of another kind, or a verified file was changed.
    """
    data = Path(data)
    if data.is_file():
        return artifact.hash_file(data)
    if not data.is_dir():
        raise InputError("not found; a dataset folder, JSONL or CSV file is expected here", data, "check the path")
    if (data / MANIFEST).is_file():
        return artifact.read(data, "dataset", verify=verify).content_hash
    return artifact.hash_folder(data)
