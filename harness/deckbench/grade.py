"""Whether an answer is right, and why not. An answer is graded here and nowhere else.

An answer that `parse` cannot read is "unparsed": it is counted and stays wrong, because a watcher that cannot say A or
B has not said "stop".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from deckbench.parse import VERDICTS, answer_text, clean, description, narrow, parse, parse_scene

Kind = Literal["choice", "open", "scene"]
Reason = Literal["", "wrong", "empty", "unparsed"]
Contradiction = Literal["names_anomaly_says_normal", "says_anomaly_names_none"]

_CLAUSE = re.compile(r"[.;,:!?。,;:!?、\n]+")
_TOKEN = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+")
_NEGATION = re.compile(r"\b(?:no|not|never|none|without|nothing)\b|n't\b|没有|未见|未发现|并无|无|不")


def mentions(text: str, terms: Sequence[str]) -> list[str]:
    """The terms that `text` states: whole words, case ignored, not in a clause that also holds a negation.

    "no spill, one damaged tip" states `damaged tip` only. A term inside a longer stated term is not counted again.
    """
    found: list[str] = []
    text = narrow(text).casefold()
    clauses = [clause for clause in _CLAUSE.split(text) if clause]
    for term, pattern in _patterns(tuple(terms)):
        if term not in text:
            continue
        for number, clause in enumerate(clauses):
            if pattern.search(clause):
                # The rest of the clause decides: the term itself may be negative ("not seated").
                clauses[number] = pattern.sub(" ", clause)
                if not _NEGATION.search(clauses[number]):
                    found.append(term)
    return sorted(set(found))


@lru_cache(maxsize=64)
def _patterns(terms: tuple[str, ...]) -> list[tuple[str, re.Pattern[str]]]:
    """The terms in lower case, each with what finds it as whole words; long ones first."""
    named = {narrow(term).casefold().strip() for term in terms} - {""}
    ordered = sorted(named, key=lambda term: (-len(term), term))
    whole = {term: rf"(?<!\w){re.escape(term)}s?(?!\w)" if term.isascii() else re.escape(term) for term in ordered}
    return [(term, re.compile(pattern)) for term, pattern in whole.items()]


def contradiction(text: str, terms: Sequence[str], *, reasons: Sequence[str] | None = None) -> Contradiction | None:
    """Does a scene description contradict its own verdict? None when it does not, or has no verdict.

    terms: what is an anomaly at this protocol step, by name. A description that states one of them and ends "normal"
    contradicts itself; one that ends "anomaly" and states none of `reasons` (default: `terms`) gives no reason for
    it. This reads words, not meaning: a paraphrase the ontology has no name for is not seen, so the count is a lower
    bound for the first kind and an upper bound for the second.
    """
    verdict = parse_scene(text)
    if verdict is None:
        return None
    body = description(text)
    if verdict:
        return None if mentions(body, terms if reasons is None else reasons) else "says_anomaly_names_none"
    return "names_anomaly_says_normal" if mentions(body, terms) else None


def tokens(text: str) -> list[str]:
    """Words of an answer in lower case; every Chinese character is one token; punctuation is dropped."""
    return _TOKEN.findall(answer_text(text).casefold())


def plain(text: str) -> str:
    """A text as open answers are compared: tokens joined by spaces."""
    return " ".join(tokens(text))


@dataclass(frozen=True)
class Graded:
    """One graded answer.

    parsed: what the text was parsed as: `A` or `B` (choice), `anomaly` or `normal` (scene), empty where nothing could
    be parsed and for open answers, whose text is compared as it is. right: strictly. substring: the source lab's
    check, kept beside it to show what it hides. reason: why it is not right: `wrong`, `empty` (no text) or `unparsed`.
    """

    parsed: str
    right: bool
    substring: bool
    reason: Reason


def grade(
    text: str,
    gold: str,
    kind: str,
    *,
    options: tuple[str, str] = ("", ""),
    anomaly: bool | None = None,
    parsed: str | None = None,
) -> Graded:
    """Grade one answer.

    Args:
        text: what the model wrote.
        gold: the gold answer: a letter, a scene's text, or an open answer.
        kind: of the question.
        options: their texts; empty where they are unknown, then only letters can be read.
        anomaly: whether the frame is an anomaly, where the sample says so.
        parsed: what the answer was parsed as when it was given; by default it is parsed now.

    Returns:
        The graded answer; one that cannot be parsed is wrong.
    """
    text = clean(text)
    substring = substring_correct(text, gold)
    parsed = parse(text, kind, options) if parsed is None else parsed
    if kind == "open":
        readable, right = bool(plain(text)), plain(text) == plain(gold)
    else:
        truth = verdict_truth(gold, kind, anomaly)
        readable = bool(parsed)
        right = parsed == (gold if kind == "choice" else "" if truth is None else VERDICTS[truth])
    right = right and readable
    reason: Reason = "" if right else "wrong" if readable else "unparsed" if text.strip() else "empty"
    return Graded(parsed, right, substring, reason)


def verdict_truth(gold: str, kind: str, anomaly: bool | None) -> bool | None:
    """Whether the frame is an anomaly, where a verdict is asked: the sample says so, or a scene's gold text."""
    if kind == "open":
        return None
    return parse_scene(gold) if kind == "scene" and anomaly is None else anomaly


def substring_correct(text: str, gold: str) -> bool:
    """The source lab's check: the gold text occurs somewhere in the answer, both lower-cased.

    It is too generous: "Answer: AB" holds "a", and so does "a tip".
    """
    return gold.strip().lower() in text.lower()


def sample_options(question: str, option_a: str | None, option_b: str | None) -> tuple[str, str]:
    """The options of a choice: those of the sample, else those its prompt prints, else empty texts."""
    if option_a and option_b:
        return option_a, option_b
    return options_of(question) or ("", "")


def options_of(question: str) -> tuple[str, str] | None:
    """The two options as a choice prompt prints them (lines `A. ...` and `B. ...`), or None."""
    match = re.search(r"^A\. (.+)\nB\. (.+)$", question.replace("\r\n", "\n"), re.MULTILINE)
    return (match[1].strip(), match[2].strip()) if match else None
