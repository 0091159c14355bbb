"""What a model's text means: strict, never guessed. An answer is graded here and nowhere else.

A choice answer is one letter, or one option's text. A scene answer ends with its verdict. Everything else is
"unparsed": it is counted and stays wrong, because a watcher that cannot say A or B has not said "stop".

The text that is kept is the text that is parsed: control characters are replaced (`clean`) before either.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Kind = Literal["choice", "open", "scene"]
Letter = Literal["A", "B"]
Reason = Literal["", "wrong", "empty", "unparsed"]
Contradiction = Literal["names_anomaly_says_normal", "says_anomaly_names_none"]

# Full-width ASCII (as Chinese keyboards write it) -> ASCII. Not NFKC: that would also turn "Ⓐ" or "ª" into a letter.
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
_LEAD = re.compile(
    r"^(?:(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|option|choice)(?:\s+is\s*:|\s+is\s|\s*:)\s*"
    r"|(?:正确)?(?:答案|选项)\s*(?:是\s*:?|为\s*:?|:)\s*|(?:应)?选择?\s*(?:项)?\s*:?\s*)",
    re.IGNORECASE,
)
_LETTER = re.compile(r"^(?:\(\s*([AB])\s*\)|([AB]))\s*[.):。、,;!]?$", re.IGNORECASE)
_LINE = re.compile(r"^(?:\(\s*([AB])\s*\)|([AB])\s*[.):、])\s*(\S.*)$", re.IGNORECASE | re.DOTALL)
_MARKS = ("**", "__", "`", '"', "'")
_VERDICT = re.compile(r"(verdict\s*:|结论\s*:)\s*(\w+)", re.IGNORECASE)
_LAST = re.compile(
    r"(?:^|[.。!?;\n])\s*(?:verdict\s*:\s*(anomaly|normal)\s*\.?|结论\s*:\s*(异常|正常)\s*[。.]?)$", re.IGNORECASE
)
_WORDS = {"anomaly": True, "异常": True, "normal": False, "正常": False}
_VERDICTS = {True: "anomaly", False: "normal"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_CLAUSE = re.compile(r"[.;,:!?。,;:!?、\n]+")
_NEGATION = re.compile(r"\b(?:no|not|never|none|without|nothing)\b|n't\b|没有|未见|未发现|并无|无|不")


def narrow(text: str) -> str:
    """`text` with full-width ASCII characters and the ideographic space replaced by plain ones."""
    return text.translate(_NARROW)


def _unmark(text: str) -> str:
    """Strip white space and balanced markdown or quote marks around the whole text."""
    text = text.strip()
    for mark in _MARKS:
        if text.startswith(mark) and text.endswith(mark) and len(text) > 2 * len(mark):
            text = text[len(mark) : -len(mark)].strip()
    return text


def _plain(text: str) -> str:
    """An option's text as it is compared: case, white space and one closing full stop do not matter."""
    return re.sub(r"\s+", " ", _unmark(narrow(text))).casefold().rstrip(".。!").strip()


def _letter(text: str) -> Letter | None:
    match = _LETTER.match(text)
    if not match:
        return None
    return "A" if (match[1] or match[2]).upper() == "A" else "B"


def _option(text: str, option_a: str, option_b: str) -> Letter | None:
    plain, a, b = _plain(text), _plain(option_a), _plain(option_b)
    if not plain or a == b:
        return None
    return "A" if plain == a else "B" if plain == b else None


@lru_cache(maxsize=4096)
def parse_choice(text: str, option_a: str, option_b: str) -> Letter | None:
    """The option a text chooses, or None when it does not clearly choose one.

    Accepted, with white space, markdown bold or quotes around it and full-width characters: one letter (`A`, `a`,
    `A.`, `A)`, `(A)`, `Answer: A`, `**A**`, `答案:A`, `选A`), exactly one option's text, or the option's line as the
    prompt prints it (`A. yes`) when letter and text agree. A text that can be read both ways is None.
    """
    text = _unmark(narrow(text))
    whole = _option(text, option_a, option_b)
    body = _unmark(_LEAD.sub("", text, count=1))
    readings = {whole, _option(body, option_a, option_b), _letter(body)} - {None}
    line = _LINE.match(body)
    if not readings and line:
        letter = _letter(line[1] or line[2])
        if letter is not None and _option(line[3], option_a, option_b) == letter:
            return letter
    return readings.pop() if len(readings) == 1 else None


def parse_scene(text: str) -> bool | None:
    """The verdict of a scene description: True anomaly, False normal, None when the last sentence is no verdict.

    The last sentence must be `Verdict: anomaly.` or `Verdict: normal.` (`结论:异常。`, `结论:正常。`); an earlier
    verdict that says something else makes the text None.
    """
    text = narrow(text).strip()
    last = _LAST.search(text)
    if not last:
        return None
    verdict = _WORDS[(last[1] or last[2]).casefold()]
    said = {_WORDS.get(match[2].casefold()) for match in _VERDICT.finditer(text)}
    return verdict if said == {verdict} else None


def description(text: str) -> str:
    """A scene text without its verdict sentences."""
    return re.sub(_VERDICT.pattern + r"\s*[.。]?", "", narrow(text), flags=re.IGNORECASE).strip()


def mentions(text: str, terms: Sequence[str]) -> list[str]:
    """The terms that `text` states: whole words, case ignored, not in a clause that also holds a negation.

    "no spill, one damaged tip" states `damaged tip` only. A term inside a longer stated term is not counted again.
    """
    found: list[str] = []
    clauses = [clause for clause in _CLAUSE.split(narrow(text).casefold()) if clause]
    for term in sorted({narrow(term).casefold().strip() for term in terms} - {""}, key=lambda t: (-len(t), t)):
        pattern = re.escape(term)
        if term.isascii():
            pattern = rf"(?<!\w){pattern}s?(?!\w)"
        for number, clause in enumerate(clauses):
            if re.search(pattern, clause):
                # The rest of the clause decides: the term itself may be negative ("not seated").
                clauses[number] = re.sub(pattern, " ", clause)
                if not _NEGATION.search(clauses[number]):
                    found.append(term)
    return sorted(set(found))


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
    """Words in lower case; every Chinese character is one token; punctuation is dropped."""
    return re.findall(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+", narrow(text).casefold())


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


def clean(text: str) -> str:
    """A text as it is kept and parsed: line ends are line feeds, other control characters but tabs are U+FFFD.

    CSV readers stumble over control characters, and a model that writes one has not written a letter.
    """
    return _CONTROL.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def parse(text: str, kind: str, options: tuple[str, str] = ("", "")) -> str:
    """The column `parsed` of an answer: see `Graded`. options: empty texts where they are unknown."""
    text = clean(text)
    if kind == "choice":
        return parse_choice(text, *options) or ""
    verdict = parse_scene(text) if kind == "scene" else None
    return "" if verdict is None else _VERDICTS[verdict]


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
        right = parsed == (gold if kind == "choice" else "" if truth is None else _VERDICTS[truth])
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
