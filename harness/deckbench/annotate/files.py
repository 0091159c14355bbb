"""What `annotate` writes, and how shards become one: the same bytes as without shards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from deckbench import artifact
from deckbench.annotate.banks import concept_files, guided_files
from deckbench.annotate.items import scene_answer
from deckbench.annotate.scenes import scene_text
from deckbench.disk import read_bytes
from deckbench.errors import InputError
from deckbench.language import LANGS, Lang
from deckbench.scenetexts import FILE as SCENES
from deckbench.scenetexts import write_scene_texts
from deckbench.textbank import format_text_bank

KIND, SHARD = "annotation", "annotation shard"
BANK, LISTED, TRANSCRIPT, LINES = "questions.yaml", "listed.jsonl", "transcript.jsonl", "lines.jsonl"
MAX_BYTES = 4 << 30
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
            text = format_text_bank(cls, questions, head)
            (folder / f"{cls}.txt").write_text(text, encoding="utf-8", newline="\n")


def write_shard(
    out: Path,
    lines: Sequence[Line],
    inputs: Mapping[str, Any],
    params: Mapping[str, Any],
    observed: Mapping[str, Any],
    shard: str,
    total: int,
    *,
    bank: str,
) -> artifact.Manifest:
    """Write one shard. total: entries of all shards together."""
    own = {"of": dict(params), "shard": shard, "total": total, "bank": bank}
    with artifact.writing(out, SHARD, inputs=inputs, params=own) as draft:
        write_jsonl(draft.path / LINES, [asdict(line) for line in lines])
        draft.params["counts"] = counts_of(lines)
        draft.observed |= observed
    return artifact.read(out, SHARD)


def merge(shards: Sequence[Path], *, out: Path) -> artifact.Manifest:
    """Put shards together: the bytes, and the content hash, of the run without shards.

    Args:
        shards: All shards of one run, in any order.
        out: The folder that `build --qa` takes.

    Returns:
        The manifest.

    Raises:
        InputError: A shard is damaged, missing, given twice, or of another run.
    """
    artifact.check_free(Path(out))
    manifests = [artifact.read(Path(shard), SHARD, verify=True) for shard in shards]
    first = manifests[0]
    seen: dict[str, Path] = {}
    for made in manifests:
        check_same(first, made)
        name = made.content["params"]["shard"]
        if name in seen:
            raise InputError(f"the shard {name} is given twice ({seen[name]})", made.path, "give each shard once")
        seen[name] = made.path
    whole = int(str(first.content["params"]["shard"]).partition("/")[2])
    if missing := [f"{number}/{whole}" for number in range(1, whole + 1) if f"{number}/{whole}" not in seen]:
        raise InputError(f"shards are missing: {', '.join(missing[:8])}", first.path, "give all shards of the run")
    lines = sorted((line for made in manifests for line in read_lines(made.path / LINES)), key=lambda line: line.number)
    total = first.content["params"]["total"]
    if [line.number for line in lines] != list(range(total)):
        what = f"the shards hold {len(lines)} entries, not {total} different ones"
        raise InputError(what, first.path, "run them again")
    params = first.content["params"]
    observed = {"shards": [made.observed for made in manifests]}
    return write_files(Path(out), lines, first.content["inputs"], params["of"], observed, bank=params["bank"])


def check_same(one: artifact.Manifest, other: artifact.Manifest) -> None:
    """Raises InputError unless two shards are of one run."""
    a, b = one.content, other.content
    pairs: dict[str, tuple[Any, ...]] = {"total": (a["params"]["total"], b["params"]["total"])}
    pairs |= {name: (a["inputs"].get(name), b["inputs"].get(name)) for name in {*a["inputs"], *b["inputs"]}}
    pairs |= {name: (a["params"]["of"].get(name), b["params"]["of"].get(name)) for name in a["params"]["of"]}
    pairs["number of shards"] = tuple(str(made["params"]["shard"]).partition("/")[2] for made in (a, b))
    if different := sorted(name for name, (mine, theirs) in pairs.items() if mine != theirs):
        what = f"the shards are of different runs: another {', '.join(different)} than in {one.path}"
        raise InputError(what, other.path, "give the shards of one run")


def read_lines(path: Path) -> list[Line]:
    """The entries of a shard."""
    try:
        found = [json.loads(line) for line in read_bytes(path, MAX_BYTES).decode().split("\n") if line]
        return [Line(**{**line, "reasons": tuple(line["reasons"])}) for line in found]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"cannot be read ({type(error).__name__})", path, "run the shard again") from error


def counts_of(lines: Sequence[Line]) -> dict[str, int]:
    statuses = [line.status for line in lines]
    return {status: statuses.count(status) for status in ("answered", "rejected", "refused", "skipped")}


def write_jsonl(path: Path, values: Sequence[Any]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
