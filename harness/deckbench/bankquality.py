"""How good a question bank is: repeated questions, questions that tell their answer, and how classes are balanced.

A question *leaks* where it can be answered without the picture: its answer stands in it, or it is asked about classes
that all have the same answer, so that whoever has read the bank knows it by the question's words. The leak of a bank is
the fraction of its open questions, each counted once for every class and language, that do. Choice questions do not
leak: their twins have the same words and the opposite answer.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from deckbench.errors import InputError
from deckbench.language import LANGS, Lang
from deckbench.ontology import Ontology
from deckbench.questions import Bank, BankQuestion, ClassQuestion, bank_places, render

MAX_LEAK = 0.10
ALIKE = 0.9  # of two questions' characters in order: one question in other words
COMPARED = 2000  # texts that are compared with each other
SHOWN = 8


@dataclass(frozen=True)
class Asked:
    """One question as it is put about one class in one language. where: file and line, or its id."""

    question: BankQuestion
    where: str
    cls: str
    lang: Lang
    text: str
    answer: str


def open_questions(bank: Bank, ontology: Ontology, places: Mapping[str, str]) -> Iterator[Asked]:
    """Every open question of a bank about every class that it is put about, with its answer. places: `bank_places`."""
    for question in bank.questions:
        if question.kind != "open" or question.answer is None:
            continue
        for cls, spec in ontology.classes.items():
            if question.classes is not None and cls not in question.classes:
                continue
            fact = spec.facts.get(question.fact or "")
            if (question.about == "state" and spec.state is None) or (question.about == "fact" and fact is None):
                continue
            for lang in langs_of(question):
                values = {
                    "kind": spec.kind_text.get(lang),
                    "name": spec.name.get(lang),
                    "state": spec.state.get(lang) if spec.state else "",
                    "fact": fact.get(lang) if fact else "",
                    "noun": "",
                    "region": "",
                }
                where = where_of(question, places)
                text, answer = (render(part.get(lang), values, where) for part in (question.ask, question.answer))
                yield Asked(question, where, cls, lang, text, answer)


def langs_of(question: BankQuestion) -> tuple[Lang, ...]:
    only = question.only if isinstance(question, ClassQuestion) else None
    return LANGS if only is None else (only,)


def where_of(question: BankQuestion, places: Mapping[str, str]) -> str:
    return places.get(question.id, f"the question {question.id!r}")


def plain(text: str) -> str:
    """A text as it is compared."""
    return re.sub(r"[\s.。,,!!??]+", " ", text).strip().casefold()


def holds(question: str, answer: str) -> bool:
    """Whether a question holds its answer, whole."""
    asked, said = plain(question), plain(answer)
    if not said:
        return False
    ends = (r"(?<!\w)", r"(?!\w)") if said.isascii() else ("", "")
    return re.search(ends[0] + re.escape(said) + ends[1], asked) is not None


def leaks(asked: Sequence[Asked], classes: int) -> dict[str, list[Asked]]:
    """The questions that tell their answer, by how. classes: of the ontology; of one, nothing is told."""
    groups: dict[tuple[Lang, str], list[Asked]] = defaultdict(list)
    for one in asked:
        groups[one.lang, plain(one.text)].append(one)
    found: dict[str, list[Asked]] = {"answer_in_question": [], "told_by_text": []}
    for one in asked:
        answers = {plain(other.answer) for other in groups[one.lang, plain(one.text)]}
        if holds(one.text, one.answer):
            found["answer_in_question"].append(one)
        elif len(answers) == 1 and classes > 1:
            found["told_by_text"].append(one)
    return found


def duplicates(bank: Bank, places: Mapping[str, str]) -> tuple[list[list[str]], list[list[str]]]:
    """(pairs of questions in the same words, pairs in nearly the same) that are put about a common class."""
    texts: list[tuple[str, Lang, BankQuestion]] = [
        (plain(words_of(question, lang)), lang, question) for question in bank.questions for lang in langs_of(question)
    ]
    same, near = [], []
    by_text: dict[tuple[str, Lang, str], list[BankQuestion]] = defaultdict(list)
    for text, lang, question in texts:
        for other in by_text[text, lang, question.kind]:
            if other.id != question.id and overlap(other, question):
                same.append([where_of(other, places), where_of(question, places)])
        by_text[text, lang, question.kind].append(question)
    some = texts[:COMPARED]
    matcher = SequenceMatcher(autojunk=False)
    for number, (text, lang, question) in enumerate(some):
        matcher.set_seq2(text)
        for other_text, other_lang, other in some[:number]:
            if other_lang != lang or other_text == text or other.kind != question.kind or not overlap(other, question):
                continue
            matcher.set_seq1(other_text)
            if matcher.real_quick_ratio() >= ALIKE and matcher.quick_ratio() >= ALIKE and matcher.ratio() >= ALIKE:
                near.append([where_of(other, places), where_of(question, places)])
    return unique(same), unique(near)


def words_of(question: BankQuestion, lang: Lang) -> str:
    """A question with its options: with others, it is another question."""
    return " | ".join([question.ask.get(lang), *(text.get(lang) for text in question.options.values())])


def unique(pairs: list[list[str]]) -> list[list[str]]:
    return [list(pair) for pair in dict.fromkeys(tuple(pair) for pair in pairs)]


def overlap(one: BankQuestion, other: BankQuestion) -> bool:
    """Whether two questions may be put about one class."""
    return one.classes is None or other.classes is None or bool(set(one.classes) & set(other.classes))


def quality(
    bank: Bank, ontology: Ontology, max_leak: float = MAX_LEAK, places: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The report on a bank.

    Args:
        bank: The questions.
        ontology: What its classes mean: answers may follow from it.
        max_leak: The largest leak that passes.
        places: id -> file and line, for messages.

    Returns:
        `questions`, by `kinds` and `languages`; `per_class`: open and verdict questions of each class; `duplicates` and
        `near_duplicates`: pairs of places; `answer_in_question`, `told_by_text`: places with the question; `leak`;
        `text_only_accuracy`: of a reader who knows the bank and not the picture, beside `chance`, the share of the
        commonest answer; `balance`: how often the stated answer is `normal` or `anomaly`; `passed`, `reasons`.
    """
    places = places or {}
    asked = list(open_questions(bank, ontology, places))
    found = leaks(asked, len(ontology.classes))
    leaking = sum(len(listed) for listed in found.values())
    leak = leaking / len(asked) if asked else 0.0
    same, near = duplicates(bank, places)
    per_class: dict[str, Counter[str]] = {cls: Counter() for cls in ontology.classes}
    for question in bank.questions:
        if question.kind == "open" or question.about == "verdict":
            for cls in question.classes or tuple(ontology.classes):
                per_class.setdefault(cls, Counter())["verdict" if question.about == "verdict" else "open"] += 1
    reasons = []
    if leak > max_leak:
        share = f"{leaking} of {len(asked)} open questions"
        reasons.append(f"{share} tell their answer: a leak of {leak:.2f}, above {max_leak:g}")
    if same:
        reasons.append(f"{len(same)} questions are asked twice about one class")
    right = Counter(question.right for question in bank.questions if isinstance(question, ClassQuestion))
    accuracy, chance = text_only(asked)
    return {
        "questions": len(bank.questions),
        "kinds": dict(sorted(Counter(question.kind for question in bank.questions).items())),
        "languages": dict(sorted(Counter(lang for one in bank.questions for lang in langs_of(one)).items())),
        "per_class": {cls: dict(sorted(counts.items())) for cls, counts in per_class.items()},
        "duplicates": same,
        "near_duplicates": near,
        **{name: [shown(one) for one in listed] for name, listed in found.items()},
        "open_questions": len(asked),
        "leak": leak,
        "max_leak": max_leak,
        "text_only_accuracy": accuracy,
        "chance": chance,
        "balance": {name: right[name] for name in ("normal", "anomaly")},  # type: ignore[index]
        "passed": not reasons,
        "reasons": reasons,
    }


def shown(one: Asked) -> dict[str, str]:
    return {"where": one.where, "class": one.cls, "lang": one.lang, "question": one.text, "answer": one.answer}


def text_only(asked: Sequence[Asked]) -> tuple[float | None, float | None]:
    """(accuracy of the commonest answer to each text, of the commonest answer in its language)."""
    texts: dict[tuple[Lang, str], Counter[str]] = defaultdict(Counter)
    answers: dict[Lang, Counter[str]] = defaultdict(Counter)
    for one in asked:
        texts[one.lang, plain(one.text)][plain(one.answer)] += 1
        answers[one.lang][plain(one.answer)] += 1
    if not asked:
        return None, None
    by_text, usual = (sum(max(counts.values()) for counts in table.values()) for table in (texts, answers))
    return by_text / len(asked), usual / len(asked)


def check_leak(bank: Bank, ontology: Ontology, max_leak: float, path: Path) -> float:
    """The leak of the bank at `path`. Raises InputError, with its lines, where it is above `max_leak`."""
    asked = list(open_questions(bank, ontology, bank_places(path)))
    found = leaks(asked, len(ontology.classes))
    leaking = [one for listed in found.values() for one in listed]
    leak = len(leaking) / len(asked) if asked else 0.0
    if leak > max_leak:
        lines = list(dict.fromkeys(f"{one.where}: {one.text[:80]}" for one in leaking))
        more = f"\n... and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        listed = "\n".join(lines[:SHOWN])
        what = f"{leak:.0%} of the bank's open questions tell their answer, more than {max_leak:.0%}:\n{listed}{more}"
        fix = "ask the same question about several classes, or raise --max-leak; `deckbench audit BANK` lists all"
        raise InputError(what, path, fix)
    return leak
