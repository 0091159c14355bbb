"""The question quality report: of a bank alone, and asked of a model that does not see the picture."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, create_model

from deckbench import artifact
from deckbench.annotate.run import PROMPTS, check_complete, endpoint
from deckbench.bankquality import MAX_LEAK, Asked, open_questions, plain, quality, shown
from deckbench.endpoint.structured import Request, answer_all, estimate, open_calls
from deckbench.endpoint.structured.prompt import Prompt, load_prompt
from deckbench.progress import say
from deckbench.questions import bank_places
from deckbench.schema import Strict
from deckbench.stats import wilson
from deckbench.task import load_task

CHOICES = 4
CALLS = ".blind.calls.jsonl"
DEFAULT = "ot2-concept@1"


def audit_bank(
    bank: Path,
    *,
    task: str | None = None,
    ontology: Path | str | None = None,
    max_leak: float = MAX_LEAK,
    blind: str | None = None,
    calls: Path | None = None,
) -> dict[str, Any]:
    """Report on a question bank.

    Args:
        bank: A bank's file or folder.
        task: The task it is for; default: the one that `annotate` noted beside it, else ot2-concept@1.
        ontology: A lab's own ontology.
        max_leak: The largest leak that passes.
        blind: An endpoint that is asked every open question without the picture, with the answers of other classes to
            choose from.
        calls: The file of its calls; default: beside the bank.

    Returns:
        As `bankquality.quality`; with `blind`: `n`, `right`, `chance` and Wilson's 95% interval, and `answerable`, the
        questions that it has right. It fails where the interval lies above chance.

    Raises:
        InputError: The bank cannot be read.
        OutsideError: The server fails.
    """
    path = Path(bank)
    definition = load_task(task or noted_task(path) or DEFAULT, ontology=ontology, qa=path)
    report = quality(definition.bank, definition.ontology, max_leak, bank_places(path))
    if definition.scenes is not None:
        texts = [text for scene in definition.scenes.texts.values() for text in (scene.en, scene.zh) if text]
        report["scenes"] = {"frames": len(definition.scenes.texts), "texts": len(texts), "distinct": len(set(texts))}
    if blind is not None:
        asked = list(open_questions(definition.bank, definition.ontology, bank_places(path)))
        report["blind"] = found = ask_blind(asked, blind, calls or path.with_name(path.name + CALLS))
        if found["n"] and found["low"] > found["chance"]:
            share = f"{found['right']} of {found['n']} are right"
            report["reasons"].append(f"without the picture {share}, above the chance of {found['chance']:.2f}")
            report["passed"] = False
    return report


def noted_task(bank: Path) -> str | None:
    """The task in the manifest of what `annotate` wrote: its name without the hash."""
    if not (bank / artifact.MANIFEST).is_file():
        return None
    params = artifact.read(bank).content["params"]
    return str(params["task"]).partition("+")[0] if "task" in params else None


@lru_cache(maxsize=4)
def choice_answer(count: int) -> type[BaseModel]:
    return create_model("Choice", __base__=Strict, number=(int, Field(ge=1, le=count)))


def ask_blind(asked: Sequence[Asked], model: str, calls: Path) -> dict[str, Any]:
    """Ask every open question without the picture: which of these is the answer?"""
    spec, server = endpoint(model)
    prompt = load_prompt(PROMPTS / "blind.yaml")
    able = [(one, options) for one in asked if len(options := options_for(one, asked)) > 1]
    requests = [request_for(number, one, options, prompt) for number, (one, options) in enumerate(able)]
    with open_calls(calls) as kept:
        say(estimate(requests, spec, kept).line())
        run = answer_all(requests, spec, server, kept, what="asking without the picture")
    check_complete(run.outcomes, server, whole=False)
    right, chances, answerable = 0, 0.0, []
    answered = [(pair, outcome.value.number) for pair, outcome in zip(able, run.outcomes, strict=True) if outcome.value]
    for (one, options), number in answered:
        chances += 1 / len(options)
        if options[number - 1] == one.answer:
            right += 1
            answerable.append(shown(one))
    low, high = wilson(right, len(answered)) or (0.0, 1.0)
    chance = chances / len(answered) if answered else 0.0
    numbers = {"n": len(answered), "right": right, "chance": chance, "low": low, "high": high}
    return {**numbers, "not_answered": len(able) - len(answered), "answerable": answerable, "cost": run.observed}


def options_for(one: Asked, asked: Sequence[Asked]) -> list[str]:
    """The right answer among those of other classes, of which those to the same question come first."""
    rng = random.Random(f"{one.cls}|{one.lang}|{one.text}")
    others = [other for other in asked if other.lang == one.lang and other.cls != one.cls]
    rng.shuffle(others)
    others.sort(key=lambda other: plain(other.text) != plain(one.text))
    options = [one.answer]
    for other in others:
        if len(options) < CHOICES and plain(other.answer) not in {plain(text) for text in options}:
            options.append(other.answer)
    rng.shuffle(options)
    return options


def request_for(number: int, one: Asked, options: Sequence[str], prompt: Prompt) -> Request:
    system, user = prompt.texts({"question": one.text, "options": list(options)})
    return Request(
        id=str(number),
        prompt=prompt.ref,
        system=system,
        user=user,
        answer=choice_answer(len(options)),
        temperature=prompt.spec.temperature,
        max_tokens=prompt.spec.max_tokens,
    )
