"""What a built dataset's gold answers follow from: the labels of its frames and the definition of its task.

Both lie in the dataset folder and are hashed with it, so `rule:gold` needs no pool, no ontology file and no question
bank beside it:

- `labels.jsonl`, one line a frame: `{"task": "ot2-scene@1", "frame": "images/f0", "width": 704, "height": 396, "step":
  "transfer", "anomalies": ["tip_damaged"], "boxes": [{"class": "tip_damaged", "box": [x0, y0, x1, y1]}]}`. `class` is
  the ontology's, `box` is in fractions of the frame; `step` and `anomalies` are null where frames.csv does not say.
  `checks` are the frame's, as checks.csv has them; only a frame that has some has the key.
- `tasks.json`: task -> all that decides what it asks. The canonical hash of an entry is the manifest's `inputs.task`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deckbench import artifact
from deckbench.disk import read_bytes
from deckbench.errors import InputError
from deckbench.ontology import Ontology
from deckbench.questions import Bank
from deckbench.task import Options, Task, TaskSpec
from deckbench.yolo.frame import Check

LABELS = "labels.jsonl"
TASKS = "tasks.json"
REBUILD = "build the dataset again"
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class LabelledBox(BaseModel):
    """One label: the ontology's class, and x0 y0 x1 y1 in fractions of the frame."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    cls: str = Field(alias="class")
    box: tuple[float, float, float, float]


class FrameLabels(BaseModel):
    """One line of `labels.jsonl`. width, height: pixels of the upright frame."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    task: str
    frame: str
    width: int
    height: int
    step: str | None
    anomalies: tuple[str, ...] | None
    boxes: tuple[LabelledBox, ...]
    checks: tuple[Check, ...] = ()


def write_gold(folder: Path, tasks: Mapping[str, Mapping[str, Any]], labels: Iterable[Mapping[str, Any]]) -> None:
    """Write both files into a dataset that is being made.

    Args:
        folder: The dataset's draft.
        tasks: Task -> its definition (`Task.definition`).
        labels: Lines of `labels.jsonl`, in the order in which they are written.
    """
    (folder / TASKS).write_text(json.dumps(tasks, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    with (folder / LABELS).open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_encode(line) + "\n" for line in labels)


def read_tasks(dataset: Path) -> dict[str, Task]:
    """The tasks that a dataset carries.

    Args:
        dataset: A dataset folder.

    Returns:
        Task (`name@version`, with `+hash8` where it is not the published one) -> the task as it was built; empty for a
        dataset that carries none, such as an imported one.

    Raises:
        InputError: The file is not the one that was built.
    """
    return {ref: _task(ref, data, dataset) for ref, data in definitions(dataset).items()}


def definitions(dataset: Path) -> dict[str, Any]:
    """`tasks.json` as plain data, its hash checked; empty when there is none. Raises InputError."""
    path = _intact(dataset, TASKS)
    if path is None:
        return {}
    try:
        found: dict[str, Any] = dict(json.loads(read_bytes(path)))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"not valid JSON ({error})", path, REBUILD) from error
    return found


def _task(ref: str, data: Mapping[str, Any], folder: Path) -> Task:
    try:
        return Task(
            ref=ref,
            spec=TaskSpec.model_validate(data["spec"]),
            ontology=Ontology.model_validate(data["ontology"]),
            bank=Bank.model_validate(data["questions"]),
            options=Options.model_validate(data["options"]),
            folder=folder,
            content_hash=artifact.hash_json(data),
        )
    except (KeyError, TypeError, ValueError) as error:
        what = f"the definition of {ref} is not understood ({type(error).__name__})"
        raise InputError(what, folder / TASKS, REBUILD) from error


def read_lines(dataset: Path) -> list[dict[str, Any]] | None:
    """`labels.jsonl` as plain data, its hash checked; None when the dataset carries none. Raises InputError."""
    path = _intact(dataset, LABELS)
    if path is None:
        return None
    lines = []
    for number, text in enumerate(read_bytes(path).splitlines(), 1):
        try:
            lines.append(json.loads(text))
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"not valid JSON ({error})", f"{path}:{number}", REBUILD) from error
    return lines


def read_labels(dataset: Path) -> dict[tuple[str, str], FrameLabels]:
    """The labels that a dataset carries.

    Args:
        dataset: A dataset folder.

    Returns:
        (task, frame id) -> the frame's labels. A mix of pools that use one name for different frames has several
        labels for it; such a frame is left out.

    Raises:
        InputError: The dataset carries no labels, or they are not those that were built.
    """
    lines = read_lines(dataset)
    if lines is None:
        raise InputError(f"the dataset carries no labels ({LABELS})", dataset, "build it with `deckbench build`")
    found: dict[tuple[str, str], FrameLabels] = {}
    ambiguous: set[tuple[str, str]] = set()
    for number, line in enumerate(lines, 1):
        try:
            labels = FrameLabels.model_validate(line)
        except ValidationError as error:
            fault = error.errors()[0]
            what = f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            raise InputError(what, f"{dataset / LABELS}:{number}", REBUILD) from error
        key = labels.task, labels.frame
        if found.setdefault(key, labels) != labels:
            ambiguous.add(key)
    return {key: labels for key, labels in found.items() if key not in ambiguous}


def _intact(dataset: Path, name: str) -> Path | None:
    """A file of the dataset whose hash is the manifest's; None: the dataset has none. Raises InputError."""
    path = dataset / name
    manifest = artifact.read(dataset, "dataset") if (dataset / artifact.MANIFEST).is_file() else None
    entry = manifest.content["files"].get(name) if manifest is not None else None
    if entry is None:
        return path if manifest is None and path.is_file() else None
    if not path.is_file() or artifact.hash_file(path) != entry["sha256"]:
        raise InputError("the file is missing or was changed since the dataset was built", path, REBUILD)
    return path
