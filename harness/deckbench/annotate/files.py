"""What `annotate` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deckbench import artifact
from deckbench.annotate.banks import concept_files, guided_files
from deckbench.annotate.items import can_name_file, scene_answer
from deckbench.annotate.scenes import scene_text
from deckbench.errors import InputError
from deckbench.language import LANGS, Lang
from deckbench.scenetexts import FILE as SCENES
from deckbench.scenetexts import write_scene_texts
from deckbench.textbank import format_text_bank

KIND, SHARD = "annotation", "annotation shard"
BANK, LISTED, TRANSCRIPT = "questions.yaml", "listed.jsonl", "transcript.jsonl"
Status = Literal["answered", "rejected", "refused", "skipped"]


@dataclass(frozen=True)
class Line:
    """What came of one entry. number: in the whole plan. facts: what it is about. transcript: its calls, as JSONL."""

    number: int
    id: str
    status: str
    facts: dict[str, Any]
    answer: dict[str, Any] | None
    reasons: tuple[str, ...]
    transcript: str


def write_files(
    out: Path,
    lines: Sequence[Line],
    inputs: Mapping[str, Any],
    params: Mapping[str, Any],
    observed: Mapping[str, Any],
    *,
    bank: str,
) -> artifact.Manifest:
    """Write what `build --qa` takes. lines: of all entries, in order. bank: the task's own questions, as YAML.

    Raises InputError where the output is taken, OutsideError for the disk.
    """
    langs: tuple[Lang, ...] = LANGS if params["lang"] == "both" else (params["lang"],)
    with artifact.writing(out, KIND, inputs=inputs, params=params) as draft:
        if params["kind"] in {"scene", "check"}:
            write_scenes(draft.path, lines, langs)
        else:
            write_banks(draft.path, lines, langs, params)
            (draft.path / BANK).write_text(bank, encoding="utf-8", newline="\n")
        listed = [line for line in lines if line.status != "answered"]
        shown = [{"id": line.id, "status": line.status, "reasons": line.reasons, **line.facts} for line in listed]
        write_jsonl(draft.path / LISTED, shown)
        with (draft.path / TRANSCRIPT).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(line.transcript for line in lines)
        draft.params["counts"] = counts_of(lines)
        draft.observed |= observed
    return artifact.read(out, KIND)


def write_scenes(folder: Path, lines: Sequence[Line], langs: tuple[Lang, ...]) -> None:
    form = scene_answer(langs)
    answered = [(line.facts, line.answer) for line in lines if line.answer is not None]
    texts = [scene_text(facts, form.model_validate(answer), langs) for facts, answer in answered]
    write_scene_texts(folder / SCENES, texts)


def write_banks(folder: Path, lines: Sequence[Line], langs: tuple[Lang, ...], params: Mapping[str, Any]) -> None:
    answers = {str(line.facts["class"]): line.answer for line in lines if line.answer is not None}
    if params["kind"] == "concept":
        found = concept_files(answers, langs, params["phrasings"])
    else:
        found = guided_files(answers, langs)
    head = "Written by a model, checked against the ontology. Edit freely; `deckbench build --qa` reads it."
    for cls, questions in found.items():
        if questions:
            if not can_name_file(cls):
                raise InputError(f"no file can have the class's name {cls[:40]!r}", folder, "rename the class")
            text = format_text_bank(cls, questions, head)
            (folder / f"{cls}.txt").write_text(text, encoding="utf-8", newline="\n")


def counts_of(lines: Sequence[Line]) -> dict[str, int]:
    statuses = [line.status for line in lines]
    return {status: statuses.count(status) for status in ("answered", "rejected", "refused", "skipped")}


def write_jsonl(path: Path, values: Sequence[Any]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
