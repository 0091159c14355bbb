"""Parts of a run on several machines, and how they become one: the files of a run without shards."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deckbench import artifact
from deckbench.annotate.files import SHARD, Line, Status, counts_of, write_files, write_jsonl
from deckbench.annotate.items import can_name_file, concept_answer, guided_answer, scene_answer
from deckbench.annotate.scenes import scene_text
from deckbench.disk import read_bytes
from deckbench.errors import InputError
from deckbench.language import LANGS, Lang
from deckbench.schema import check

LINES = "lines.jsonl"
MAX_BYTES = 4 << 30
MOST = 100_000  # shards of a run
NAME = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")
AGAIN = "run the shard again"
FACTS = {"scene": {"frame"}, "check": {"frame", "step", "phase", "check"}, "concept": {"class"}, "guided": {"class"}}


class Template(BaseModel):
    lists: dict[str, dict[str, str]]


class Prompt(BaseModel):
    template: Template


class RunParams(BaseModel):
    """What `merge` needs to know of the run; the rest is only compared."""

    model_config = ConfigDict(strict=True)

    kind: Literal["scene", "check", "concept", "guided"]
    lang: Literal["en", "zh", "both"]
    prompt: Prompt
    phrasings: int | None = Field(default=None, ge=1, le=1000)

    @model_validator(mode="after")
    def has_phrasings(self) -> RunParams:
        if self.kind == "concept" and (self.phrasings is None or not self.prompt.template.lists.get("topics")):
            raise ValueError("phrasings and the prompt's topics are needed")
        return self

    @property
    def langs(self) -> tuple[Lang, ...]:
        return LANGS if self.lang == "both" else (self.lang,)


class ShardParams(BaseModel):
    """The parameters in a shard's manifest."""

    model_config = ConfigDict(strict=True)

    of: RunParams
    shard: str
    total: int = Field(ge=1)
    bank: str


class Entry(BaseModel):
    """One line of `lines.jsonl`: `files.Line` as it may come from anybody."""

    model_config = ConfigDict(strict=True, extra="forbid")

    number: int = Field(ge=0)
    id: str
    status: Status
    facts: dict[str, str]
    answer: dict[str, Any] | None
    reasons: list[str]
    transcript: str = Field(pattern=r"\A(?s:.*\n)?\z")

    @model_validator(mode="after")
    def is_answered(self) -> Entry:
        if (self.status == "answered") != (self.answer is not None):
            raise ValueError("there is an answer where, and only where, the status is answered")
        return self


def parse_shard(shard: str, where: str | Path = "--shard") -> tuple[int, int]:
    """(i, N) of `i/N`. Raises InputError."""
    match = NAME.fullmatch(shard)
    if match is None or not int(match[1]) <= int(match[2]) <= MOST:
        shown = shard if len(shard) <= 40 else f"{shard[:37]}..."
        what = f"the shard {shown!r} is not i/N with i from 1 to N, and N at most {MOST}"
        raise InputError(what, where, "write --shard 1/4")
    return int(match[1]), int(match[2])


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
    seen: dict[int, Path] = {}
    whole = 0
    for made in manifests:
        params = params_of(made)
        check_same(first, made)
        number, whole = parse_shard(params.shard, made.path / artifact.MANIFEST)
        if number in seen:
            raise InputError(f"the shard {params.shard} is given twice ({seen[number]})", made.path, "give each once")
        seen[number] = made.path
    if len(seen) < whole:
        missing = islice((f"{number}/{whole}" for number in range(1, whole + 1) if number not in seen), 8)
        more = f" and {whole - len(seen) - 8} more" if whole - len(seen) > 8 else ""
        what = f"shards are missing: {', '.join(missing)}{more}"
        raise InputError(what, first.path, "give all shards of the run")
    params = params_of(first)
    lines = sorted(read_lines([made.path / LINES for made in manifests], params), key=lambda line: line.number)
    if len(lines) != params.total:
        what = f"the shards hold {len(lines)} different entries, and the run has {params.total}"
        raise InputError(what, first.path, "run them again")
    observed = {"shards": [made.observed for made in manifests]}
    of = first.content["params"]["of"]
    return write_files(Path(out), lines, first.content["inputs"], of, observed, bank=params.bank)


def params_of(made: artifact.Manifest) -> ShardParams:
    """The parameters of a shard. Raises InputError where its manifest is damaged."""
    place = made.path / artifact.MANIFEST
    if LINES not in made.content["files"]:
        raise InputError(f"the shard has no {LINES}", place, AGAIN)
    try:
        artifact.canonical(made.observed)  # written as it is; no hash covers it
    except (ValueError, RecursionError) as error:
        raise InputError("observed: it cannot be written as JSON", place, AGAIN) from error
    return check(made.content["params"], ShardParams, place, AGAIN)


def check_same(one: artifact.Manifest, other: artifact.Manifest) -> None:
    """Raises InputError unless two shards are of one run."""
    a, b = one.content, other.content
    pairs: dict[str, tuple[Any, ...]] = {name: (a["params"][name], b["params"][name]) for name in ("total", "bank")}
    pairs |= {name: (a["inputs"].get(name), b["inputs"].get(name)) for name in {*a["inputs"], *b["inputs"]}}
    mine, theirs = a["params"]["of"], b["params"]["of"]
    pairs |= {name: (mine.get(name), theirs.get(name)) for name in {*mine, *theirs}}
    pairs["number of shards"] = tuple(made["params"]["shard"].partition("/")[2] for made in (a, b))
    if different := sorted(name for name, (one_has, other_has) in pairs.items() if one_has != other_has):
        what = f"the shards are of different runs: another {', '.join(different)} than in {one.path}"
        raise InputError(what, other.path, "give the shards of one run")


def read_lines(paths: Sequence[Path], params: ShardParams) -> list[Line]:
    """The entries of shards, each checked. Raises InputError with file and line."""
    found: list[Line] = []
    numbers: dict[int, str] = {}
    about: dict[tuple[str, ...], str] = {}
    for path in paths:
        try:
            texts = read_bytes(path, MAX_BYTES).decode().split("\n")
        except (OSError, ValueError) as error:
            raise InputError(f"cannot be read ({type(error).__name__})", path, AGAIN) from error
        for count, text in enumerate(texts, 1):
            if not text:
                continue
            where = f"{path}:{count}"
            line = read_line(text, where, params)
            if line.number >= params.total or line.number in numbers:
                again = f" again, as in {numbers[line.number]}" if line.number in numbers else ""
                raise InputError(f"this is entry {line.number}{again}; the run has {params.total}", where, AGAIN)
            numbers[line.number] = where
            if line.answer is not None:
                key = tuple(line.facts[name] for name in sorted(line.facts))
                if key in about:
                    raise InputError(f"this is about the same as {about[key]}", where, AGAIN)
                about[key] = where
            found.append(line)
    return found


def read_line(text: str, where: str, params: ShardParams) -> Line:
    """One entry, with its answer as `annotate` leaves it. Raises InputError."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the line is no JSON ({type(error).__name__})", where, AGAIN) from error
    entry = check(data, Entry, where, AGAIN)
    kind, langs = params.of.kind, params.of.langs
    if set(entry.facts) != (FACTS[kind] if entry.status != "skipped" else set()):
        raise InputError(f"facts: {', '.join(sorted(FACTS[kind]))} are needed, no others", where, AGAIN)
    if "class" in entry.facts and not can_name_file(entry.facts["class"]):
        raise InputError("facts.class: no file can have the class's name", where, "do not use this shard")
    answer = None
    if entry.answer is not None:
        if kind == "concept":
            form = concept_answer(langs, tuple(params.of.prompt.template.lists["topics"]))
        else:
            form = guided_answer(langs) if kind == "guided" else scene_answer(langs)
        value = check(entry.answer, form, where, AGAIN)
        if kind in {"scene", "check"}:
            try:
                scene_text(entry.facts, value, langs)
            except ValidationError as error:
                raise InputError(f"answer: {error.errors()[0]['msg']}", where, AGAIN) from error
        answer = value.model_dump(mode="json")
    return Line(entry.number, entry.id, entry.status, entry.facts, answer, tuple(entry.reasons), entry.transcript)
