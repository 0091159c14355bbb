"""`annotate`: a task and a pool become question banks or scene texts, written by a model and checked against labels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deckbench import artifact
from deckbench.annotate.banks import concept_items, guided_items
from deckbench.annotate.files import KIND, SHARD, Line, write_files
from deckbench.annotate.items import Item, Skipped
from deckbench.annotate.scenes import check_items, frame_items
from deckbench.annotate.shards import parse_shard, write_shard
from deckbench.endpoint.spec import EndpointSpec, Server, find_server, identity_of, read_spec
from deckbench.endpoint.structured import Calls, Estimate, Outcome, answer_all, estimate, open_calls, transcript
from deckbench.endpoint.structured.prompt import Prompt, load_prompt
from deckbench.errors import InputError, OutsideError
from deckbench.extras import require
from deckbench.language import LANGS, Lang
from deckbench.ontology import map_classes
from deckbench.progress import say
from deckbench.task import Task, load_task
from deckbench.yolo.frame import Pool

PROMPTS = Path(__file__).parent / "prompts"
CALLS = ".calls.jsonl"
PAIRS, PHRASINGS = 4, 3
SHOWN = 3


@dataclass(frozen=True)
class Plan:
    """What will be asked: items and what is skipped in the order of the pool, and what decides them."""

    task: Task
    pool: Pool
    prompt: Prompt
    langs: tuple[Lang, ...]
    entries: tuple[Item | Skipped, ...]
    params: dict[str, Any]


def annotate(
    task: str,
    *,
    pool: Path,
    out: Path,
    model: str,
    ontology: Path | str | None = None,
    lang: str = "en",
    prompt: Path | None = None,
    with_image: bool = False,
    pairs: int = PAIRS,
    phrasings: int = PHRASINGS,
    limit: int | None = None,
    shard: str | None = None,
    max_cost: float | None = None,
    tries: int = 3,
    batch: bool = False,
    calls: Path | None = None,
    skip_bad: bool = False,
) -> artifact.Manifest:
    """Have a model write question banks (S1, S2) or scene texts (S3) for a task, checked against the labels.

    Args:
        task: `name@version`, or a task folder.
        pool: The pool's folder or its yaml.
        out: The folder that `build --qa` takes; must not exist yet.
        model: `endpoint:NAME` or `endpoint:FILE.yaml`.
        ontology: A lab's own ontology, by file or name.
        lang: `en`, `zh` or `both`.
        prompt: An edited copy of the prompt.
        with_image: Send the frame too (S3).
        pairs: Questions about a class (S2).
        phrasings: Of each topic, shared by all classes (S1).
        limit: Only the first so many frames, checks or classes.
        shard: `i/N`: only the i-th of N parts; `merge` puts them together.
        max_cost: For all calls in the file of calls, in the currency of the endpoint's prices.
        tries: Answers to one request; a rejected one is shown to the model with the reasons.
        batch: Use the Batch API, at half the price; answers come within 24 hours.
        calls: The file of calls; default: `OUT.calls.jsonl`. What is in it is never paid again.
        skip_bad: Leave out broken frames.

    Returns:
        The manifest.

    Raises:
        InputError: Something given is wrong; nothing is written.
        OutsideError: The server fails, or the next call may exceed `max_cost`; answers are kept and the same command
            resumes.
    """
    out = Path(out)
    artifact.check_free(out)
    if shard is not None:
        parse_shard(shard)
    spec, server = endpoint(model)
    plan = make_plan(
        task,
        pool=pool,
        ontology=ontology,
        lang=lang,
        prompt=prompt,
        with_image=with_image,
        pairs=pairs,
        phrasings=phrasings,
        limit=limit,
        skip_bad=skip_bad,
    )
    numbers = shard_numbers(plan.entries, shard)
    items = [(number, entry) for number in numbers if isinstance(entry := plan.entries[number], Item)]
    requests = [item.request for _, item in items]
    identity = identity_of(spec)
    inputs = {"pool": plan.pool.content_hash, "task": plan.task.content_hash, "model": identity}
    params = {**plan.params, "tries": tries}
    with open_calls(calls or out.with_name(out.name + CALLS)) as kept:
        say(estimate(requests, spec, kept, batch=batch).line())
        if batch:
            from deckbench.endpoint.structured.batch import answer_by_batch

            run = answer_by_batch(requests, spec, server, kept, tries=tries, max_cost=max_cost)
        else:
            run = answer_all(requests, spec, server, kept, tries=tries, max_cost=max_cost, what=f"{plan.task.ref}")
        check_complete(run.outcomes, server, whole=shard is None)
        lines = lines_of(plan, numbers, dict(zip((number for number, _ in items), run.outcomes, strict=True)), kept)
    observed = {"address": server.address, "calls": run.observed}
    if shard is None:
        made = write_files(out, lines, inputs, params, observed, bank=bank_text(plan.task))
    else:
        made = write_shard(out, lines, inputs, params, observed, shard, len(plan.entries), bank=bank_text(plan.task))
    tell(lines, run.observed, out)
    return made


def preview(
    task: str, *, model: str, shard: str | None = None, batch: bool = False, **given: Any
) -> tuple[Estimate, dict[str, str]]:
    """What `annotate` would ask and cost, and its first prompt. Nothing is asked, no key is needed.

    Raises:
        InputError: Something given is wrong.
    """
    if shard is not None:
        parse_shard(shard)
    spec = read_spec(model)
    plan = make_plan(task, **given)
    entries = [plan.entries[number] for number in shard_numbers(plan.entries, shard)]
    requests = [entry.request for entry in entries if isinstance(entry, Item)]
    first = {"id": requests[0].id, "system": requests[0].system, "user": requests[0].user} if requests else {}
    return estimate(requests, spec, batch=batch), first


def endpoint(model: str) -> tuple[EndpointSpec, Server]:
    """The settings and the server. Raises InputError for what is no endpoint, or cannot be used."""
    if not model.startswith("endpoint:"):
        raise InputError(f"{model!r} is no endpoint", "--model", "write endpoint:NAME or endpoint:FILE.yaml")
    spec = read_spec(model)
    server = find_server(spec)
    require("openai", model)
    return spec, server


def make_plan(
    task: str,
    *,
    pool: Path,
    ontology: Path | str | None = None,
    lang: str = "en",
    prompt: Path | None = None,
    with_image: bool = False,
    pairs: int = PAIRS,
    phrasings: int = PHRASINGS,
    limit: int | None = None,
    skip_bad: bool = False,
) -> Plan:
    """What is asked for a task and a pool; arguments as of `annotate`. Raises InputError."""
    from deckbench.yolo.read import read_pool

    langs = LANGS if lang == "both" else tuple(each for each in LANGS if each == lang)
    if not langs:
        raise InputError(f"the language {lang!r} is not known", "--lang", "one of en, zh, both")
    if limit is not None and limit < 1:
        raise InputError(f"the limit is {limit}", "--limit", "ask for at least one")
    definition = load_task(task, ontology=ontology)
    kind = kind_of(definition)
    if with_image and kind not in {"scene", "check"}:
        raise InputError("frames are sent only for descriptions of frames", "--with-image", "remove --with-image")
    template = load_prompt(PROMPTS / f"{kind}.yaml", prompt)
    frames = read_pool(Path(pool), skip_bad=skip_bad)
    known = definition.ontology
    classes: list[list[str]] = [[] for _ in frames.frames]
    if definition.bank.asks_labels:
        used = [box.cls for frame in frames.frames for box in frame.boxes]
        mapped = map_classes(frames.names, used, known, pool)
        classes = [[mapped[box.cls] for box in frame.boxes] for frame in frames.frames]
    counts = Counter(cls for labelled in classes for cls in labelled)
    found: Iterator[Item | Skipped]
    if kind == "scene":
        found = frame_items(frames, classes, known, template, langs, with_image=with_image)
    elif kind == "check":
        found = check_items(frames, known, template, langs, with_image=with_image)
    elif kind == "concept":
        found = concept_items(counts, definition, template, langs)
    else:
        found = guided_items(counts, definition, template, langs, pairs)
    entries = limited(found, limit)
    if not any(isinstance(entry, Item) for entry in entries):
        reasons = Counter(entry.reason for entry in entries if isinstance(entry, Skipped))
        listed = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(SHOWN))
        what = f"the pool gives nothing to write about for {definition.ref}" + (f" ({listed})" if listed else "")
        raise InputError(what, pool, "give a pool with labels or checks whose verdict is known")
    params: dict[str, Any] = {
        "task": definition.ref,
        "stage": definition.stage,
        "kind": kind,
        "lang": lang,
        "ontology": known.name,
        "prompt": {"ref": template.ref, "sha256": template.sha256, "template": template.spec.model_dump(mode="json")},
        "limit": limit,
        **({"with_image": with_image} if kind in {"scene", "check"} else {}),
        **({"pairs": pairs} if kind == "guided" else {}),
        **({"phrasings": phrasings} if kind == "concept" else {}),
    }
    return Plan(definition, frames, template, langs, tuple(entries), params)


def kind_of(task: Task) -> str:
    """Which prompt a task takes. Raises InputError for a task that has nothing to write."""
    if task.spec.picture == "frame":
        return "check" if task.bank.asks_checks and not task.bank.asks_labels else "scene"
    if not task.bank.asks_labels:
        fix = "descriptions of checks are written for ot2-check@1"
        raise InputError(f"{task.ref} asks about checks, which have questions of their own", None, fix)
    return "concept" if task.spec.picture == "crop" else "guided"


def limited(found: Iterator[Item | Skipped], limit: int | None) -> list[Item | Skipped]:
    """All entries up to the item that is the last within the limit."""
    entries: list[Item | Skipped] = []
    items = 0
    for entry in found:
        if isinstance(entry, Item):
            if items == limit:
                break
            items += 1
        entries.append(entry)
    return entries


def shard_numbers(entries: Sequence[Item | Skipped], shard: str | None) -> list[int]:
    """Numbers of the entries of a shard: equal requests are in one, so that none is paid in two.

    Raises InputError for a broken shard.
    """
    if shard is None:
        return list(range(len(entries)))
    part, whole = parse_shard(shard)
    first: dict[Any, int] = {}
    numbers = []
    for number, entry in enumerate(entries):
        asked = entry.request if isinstance(entry, Item) else None
        key = number if asked is None else (asked.system, asked.user, asked.image)
        if first.setdefault(key, number) % whole == part - 1:
            numbers.append(number)
    return numbers


def check_complete(outcomes: Sequence[Outcome], server: Server, *, whole: bool) -> None:
    """Raises OutsideError where the server has not answered everything, or nothing of a whole run is of use."""
    left = [outcome for outcome in outcomes if outcome.status == "unanswered"]
    if left:
        what = f"{len(left)} of {len(outcomes)} requests got no answer; the first: {left[0].reasons[0]}"
        raise OutsideError(what, server.address, "rerun to resume; what is answered is kept")
    if whole and not any(outcome.status == "answered" for outcome in outcomes):
        first = outcomes[0]
        what = f"none of {len(outcomes)} answers was accepted; {first.request.id}: {'; '.join(first.reasons)}"
        raise OutsideError(what, server.address, "use another model, or another prompt (--prompt)")


def lines_of(plan: Plan, numbers: Sequence[int], outcomes: dict[int, Outcome], kept: Calls) -> list[Line]:
    """One line an entry, with the calls behind it."""
    lines = []
    for number in numbers:
        entry = plan.entries[number]
        if isinstance(entry, Skipped):
            lines.append(Line(number, entry.id, "skipped", {}, None, (entry.reason,), ""))
            continue
        outcome = outcomes[number]
        answer = None if outcome.value is None else outcome.value.model_dump(mode="json")
        texts = transcript(kept, outcome.calls)
        lines.append(Line(number, entry.id, outcome.status, dict(entry.facts), answer, outcome.reasons, texts))
    return lines


def bank_text(task: Task) -> str:
    """The task's own questions, which a written bank is added to: as YAML."""
    questions = json.loads(task.bank.model_dump_json(exclude_defaults=True))["questions"]
    head = f"# The questions of {task.ref}, beside which those of each class are asked. Edit freely.\n"
    return head + yaml.safe_dump({"questions": questions}, allow_unicode=True, sort_keys=False, width=1000)


def tell(lines: Sequence[Line], observed: dict[str, Any], out: Path) -> None:
    """How many were answered, and what it cost."""
    counts = Counter(line.status for line in lines)
    statuses = ("answered", "rejected", "refused", "skipped")
    listed = ", ".join(f"{counts[status]} {status}" for status in statuses if counts[status])
    cost = f"; {observed['cost']} {observed['currency']}" if "cost" in observed else ""
    tokens = f"{observed['calls']} calls, {observed['tokens_in']} tokens in, {observed['tokens_out']} out"
    say(f"{listed}; {tokens}{cost}: {out}")


__all__ = ["KIND", "SHARD", "annotate", "preview"]
