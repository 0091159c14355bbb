"""What a judge is asked about one answer: the versioned template, and the form of its verdict."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from deckbench import artifact
from deckbench.endpoint.structured import Request
from deckbench.language import Lang, Text
from deckbench.schema import Strict
from deckbench.yamlfile import read_yaml

VERSION = 1
MAX_TOKENS = 400  # of a verdict with its reason
MAX_TEXT = 6000  # characters of each text that is shown; the middle of longer ones is left out
_TAG = re.compile(r"<(?=\s*/?\s*(?:question|reference|answer)\s*>)", re.IGNORECASE)
_CHINESE = re.compile(r"[\u3400-\u9fff]")


class Verdict(Strict):
    """What a judge answers."""

    reason: str = Field(description="one sentence")
    verdict: Literal["correct", "incorrect", "unclear"]


class Rules(Strict):
    choice: Text
    open: Text
    scene: Text


class Template(Strict):
    """The file of a version."""

    version: int
    system: Text
    question: Text
    reference: Text
    answer: Text
    rules: Rules

    @property
    def ref(self) -> str:
        return f"judge@{self.version}"

    @property
    def sha256(self) -> str:
        return artifact.hash_json(self.model_dump(mode="json"))


@lru_cache(maxsize=4)
def template(version: int = VERSION) -> Template:
    """The template of a version."""
    place = Path(__file__).parent / f"prompt.v{version}.yaml"
    return read_yaml(place, Template, "install deckbench again")


def request_for(key: str, row: dict[str, str], *, swapped: bool, repeat: int) -> Request:
    """One question to the judge.

    Args:
        key: of the request, unique in a run.
        row: of a graded table.
        swapped: the answer stands before the reference.
        repeat: makes an equal question another call.
    """
    made, lang = template(), language_of(row)
    rules: Text = getattr(made.rules, row["kind"])
    parts = [made.reference.get(lang).format(text=shown(reference_of(row)))]
    parts.insert(0 if swapped else 1, made.answer.get(lang).format(text=shown(row["prediction"])))
    question = made.question.get(lang).format(text=shown(row["question"]))
    return Request(
        id=key,
        prompt=made.ref,
        system=made.system.get(lang),
        user="\n\n".join([question, *parts, rules.get(lang)]),
        answer=Verdict,
        max_tokens=MAX_TOKENS,
        repeat=repeat,
    )


def reference_of(row: dict[str, str]) -> str:
    """The gold answer as a judge is shown it: of a choice, with the option's text."""
    text = row["option_a"] if row["gold"] == "A" else row["option_b"]
    return f"{row['gold']}. {text}" if row["kind"] == "choice" and text else row["gold"]


def language_of(row: dict[str, str]) -> Lang:
    """The sample's language, where it says so, else that of its question."""
    if row["lang"] in {"en", "zh"}:
        return "zh" if row["lang"] == "zh" else "en"
    return "zh" if _CHINESE.search(row["question"] or row["gold"]) else "en"


def shown(text: str) -> str:
    """A text from outside between marks: it cannot close them, and is bounded."""
    text = _TAG.sub("‹", text).strip() or "(empty)"
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"
