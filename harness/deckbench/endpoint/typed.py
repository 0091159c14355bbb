"""Choice questions as typed decisions, and what is believed of the probabilities that come back.

A decision is asked in the question's own words; its two options are the choice's values, A's first. The lines that
print them with letters, and the line that asks for a letter, are left out: a server sets its own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deckbench.answer import Question
from deckbench.endpoint.faults import Again, Refused
from deckbench.endpoint.reply import count
from deckbench.endpoint.text import short, whole
from deckbench.grade import options_of

ROUNDING = 0.01  # how far the two probabilities may be from adding up to 1: servers round them
OPTION_LINES = re.compile(r"^A\. .+\nB\. .+$", re.MULTILINE)
# The line behind the options that asks for a letter, in the tasks' words and those of labs' own files.
LETTER_LINE = re.compile(
    r"^.{0,100}(?:\bletters?\b|\bA\s*(?:or|and|/|,)\s*B\b|A\s*[或和、]\s*B|字母).{0,100}$", re.MULTILINE | re.IGNORECASE
)


@dataclass(frozen=True)
class Typed:
    """One choice question of a request. name: within its frame. options: the texts of A and B, which differ."""

    name: str
    instructions: str
    options: tuple[str, str]


@dataclass(frozen=True)
class Decided:
    """What a server answered to one question. letter: the likelier option's. raw: the answer as it came, as JSON."""

    p_a: float
    p_b: float
    letter: str
    raw: str


Outcome = Decided | Refused | Again


@dataclass(frozen=True)
class Decisions:
    """A reply. outcomes: one for each question, in order. tokens_in, tokens_out: None where not counted."""

    outcomes: list[Outcome]
    model: str
    tokens_in: int | None
    tokens_out: int | None


def typed(question: Question, name: str) -> Typed | None:
    """A question as a decision; None for what is no choice between two options that differ."""
    if question.kind != "choice":
        return None
    text = question.text.replace("\r\n", "\n")
    printed = options_of(text)
    options = question.options or printed
    if options is None or len({option.strip() for option in options} - {""}) < 2:
        return None
    options = (options[0].strip(), options[1].strip())
    if printed == options:
        before, after = OPTION_LINES.split(text, maxsplit=1)
        text = f"{before.rstrip()}\n{LETTER_LINE.sub('', after).strip()}"
    return Typed(name, whole(text.strip()), (whole(options[0]), whole(options[1])))


def shares_of(pairs: Sequence[tuple[Any, Any]], question: Typed) -> tuple[float, float]:
    """P(A) and P(B) out of (option, probability) pairs. Raises Again for what is not to be believed."""
    if not all(isinstance(option, str) for option, _ in pairs):
        raise Again("probabilities of something else than the options")
    found = dict(pairs)
    if len(found) != len(pairs) or found.keys() != set(question.options):
        raise Again(f"probabilities of other options: {short(sorted(found))}")
    for value in found.values():
        # Compared before it is converted: JSON holds whole numbers too large for a float, and Python's reads NaN.
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise Again(f"a probability that is none: {short(value)}")
    p_a, p_b = (float(found[option]) for option in question.options)
    if not math.isclose(p_a + p_b, 1, rel_tol=0, abs_tol=ROUNDING + 1e-9):
        raise Again(f"probabilities that add up to {p_a + p_b:g}")
    return p_a, p_b


def decided(answer: dict[str, Any], pairs: Sequence[tuple[Any, Any]], question: Typed) -> Decided:
    """One answer of type `choice`. Raises Again where it is not to be believed, or contradicts itself."""
    p_a, p_b = shares_of(pairs, question)
    choice = answer.get("choice")
    if choice not in question.options:
        raise Again(f"the choice {short(choice)} is none of the options")
    letter = "AB"[question.options.index(choice)]
    if (p_a > p_b and letter == "B") or (p_b > p_a and letter == "A"):
        raise Again(f"the choice {short(choice)} is not the likelier option")
    return Decided(p_a, p_b, letter, json.dumps(answer, ensure_ascii=False))


def tokens_of(data: dict[str, Any]) -> tuple[int | None, int | None]:
    """A reply's token counts (input, output), None where it gives none."""
    usage = data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return count(usage.get("input_tokens")), count(usage.get("output_tokens"))
