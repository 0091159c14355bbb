r"""What a model's text says: one letter, one option's text, one verdict. Strict, never guessed.

Read is what every careful reader takes for one answer: a letter or an option's text, alone or with words and marks
around it that say nothing else (`Answer: **B**.`, `\boxed{B}`, `{"answer": "B"}`, `Option B is correct`). All else is
unparsed: two letters, a denial (`not B`), a question (`B?`), and an answer with an explanation after it, since an
explanation may take the answer back.

The text that is kept is the text that is parsed: control characters are replaced (`clean`) before either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

from deckbench.wrapping import unwrap

Letter = Literal["A", "B"]

MAX_JSON = 2000  # characters of an answer that is tried as a JSON object
MAX_AROUND = 2000  # characters around the options' texts; who writes more explains
# Full-width ASCII (as Chinese keyboards write it) -> ASCII. Not NFKC: that would also turn "Ⓐ" or "ª" into a letter.
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
# Pairs of marks that may stand around a whole answer. An answer that holds one of them inside stays as it is.
_AROUND = (
    *(("*" * count, "*" * count) for count in (3, 2, 1)),
    ("__", "__"),
    ("```", "```"),
    ("'''", "'''"),
    *((mark, mark) for mark in "`\"'$_"),
    *zip("([“‘「『【《<", ")]”’」』】》>", strict=True),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("\\boxed{", "}"),
    ("\\text{", "}"),
    ("\\textbf{", "}"),
    ("\\mathrm{", "}"),
    ("<answer>", "</answer>"),
    ("<final_answer>", "</final_answer>"),
    ("<b>", "</b>"),
    ("<strong>", "</strong>"),
)
_KEYS = {"answer", "final_answer", "choice", "option", "letter", "选项", "答案"}
_FENCE = re.compile(r"^(```|''')[a-z]*\n")
_BULLET = re.compile(r"^(?:#{1,6}|[-*+>•])\s+")
_STOP_AFTER_MARK = re.compile(r"(?<=[*_`\"'$)\]}”’」』】》>])[.。!;]$")
_BEFORE = (
    r"(?:(?:so|thus|therefore|hence)\s*,?\s*)?"
    r"(?:(?:the|my)\s+)?(?:final\s+|correct\s+|right\s+|best\s+)?(?:answer|option|choice)"
    r"(?:\s+(?:is|would\s+be)\s*:|\s+(?:is|would\s+be)(?=[\s*_`\"'(\[])|\s*:|\s+(?=\(?[AB]\b))\s*"
    r"|i\s+(?:would\s+|will\s+)?(?:choose|pick|select|answer)(?=[\s:*_`\"'(\[])\s*:?\s*"
    r"|(?:我|因此|所以)?(?:认为|觉得)?(?:最终|正确)?(?:答案|选项)\s*(?:是\s*:?|为\s*:?|应为\s*:?|:)?\s*"
    r"|(?:我|因此|所以)?(?:应|应该)?选择?\s*(?:项)?\s*:?\s*"
)
_LEAD = re.compile(rf"^(?:{_BEFORE})", re.IGNORECASE)
_TAIL = re.compile(
    r"(?:\s+(?:is|would\s+be)\s+(?:the\s+)?(?:correct|right|best)(?:\s+(?:answer|option|choice|one))?"
    r"|\s+is\s+(?:the|my)\s+(?:final\s+)?(?:answer|choice)"
    r"|\s*(?:是)?正确的?(?:答案|选项)?|\s*(?:选项|项))\s*[.。!]?$",
    re.IGNORECASE,
)
_LETTER = re.compile(r"^(?:\(\s*([AB])\s*\)|\[\s*([AB])\s*\]|([AB]))\s*[.):。、,;!]?$", re.IGNORECASE)
# The option's line: a letter, and the text that must be its own.
_LINE = re.compile(
    r"^(?:\(\s*([AB])\s*\)|\[\s*([AB])\s*\]|([AB])\s*[.):、]|([AB])(?=\s))\s*(?:[-–—|:=]\s*)?(\S.*)$",
    re.IGNORECASE | re.DOTALL,
)
_EMPHASISED = re.compile(r"^(\*\*|__|`)([^*_`\n]{1,60})\1(?=.)", re.DOTALL)  # the first words alone
_EMPHASIS = re.compile(r"\*+|__|`")
_VERDICT = re.compile(r"(verdict\s*:|结论\s*:)\s*(\w+)", re.IGNORECASE)
_LAST = re.compile(r"(?:verdict\s*:\s*(anomaly|normal)\s*\.?|结论\s*:\s*(异常|正常)\s*[。.]?)$", re.IGNORECASE)
_WORDS = {"anomaly": True, "异常": True, "normal": False, "正常": False}
VERDICTS = {True: "anomaly", False: "normal"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def clean(text: str) -> str:
    """A text as it is kept and parsed: line ends are line feeds, other control characters but tabs are U+FFFD.

    CSV readers stumble over control characters, and a model that writes one has not written a letter.
    """
    return _CONTROL.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def narrow(text: str) -> str:
    """`text` with full-width ASCII characters and the ideographic space replaced by plain ones."""
    return text.translate(_NARROW)


def answer_text(text: str) -> str:
    """What an answer says, full-width ASCII replaced: no leading block of thinking, no box marks, no end token.

    Empty where the thinking never ends.
    """
    return narrow(unwrap(text).text).strip()


def parse(text: str, kind: str, options: tuple[str, str] = ("", "")) -> str:
    """The column `parsed` of an answer.

    Args:
        text: What the model wrote.
        kind: Of the question: `choice`, `open` or `scene`.
        options: The two options' texts; empty where they are unknown, then only letters can be read.

    Returns:
        `A` or `B` (choice), `anomaly` or `normal` (scene); empty where nothing could be parsed, and for open answers.
    """
    text = clean(text)
    if kind == "choice":
        return parse_choice(text, *options) or ""
    verdict = parse_scene(text) if kind == "scene" else None
    return "" if verdict is None else VERDICTS[verdict]


def parse_choice(text: str, option_a: str, option_b: str) -> Letter | None:
    """The option a text chooses, or None when it does not clearly choose one.

    A text is read as it is, and again after each mark or phrase around it was taken off. Each reading is one letter,
    exactly one option's text, or the option's line (`B. damaged`, `B - damaged`) when letter and text agree. A text
    that can be read both ways is None, and so is one with over 2,000 characters beside the options' texts.
    """
    read = _parse_choice if len(text) <= MAX_AROUND else _parse_choice.__wrapped__  # kept: short texts alone
    return read(text, option_a, option_b)


@lru_cache(maxsize=4096)
def _parse_choice(text: str, option_a: str, option_b: str) -> Letter | None:
    text = answer_text(text)
    if len(text) > MAX_AROUND + len(option_a) + len(option_b):
        return None
    readings = {reading for form in _forms(text) for reading in _readings(form, option_a, option_b)}
    return readings.pop() if len(readings) == 1 else None


def parse_scene(text: str) -> bool | None:
    """The verdict of a scene description: True anomaly, False normal, None when the last sentence is no verdict.

    The last sentence must be `Verdict: anomaly.` or `Verdict: normal.` (`结论:异常。`, `结论:正常。`), emphasised or
    not; an earlier verdict that says something else makes the text None.
    """
    text = _EMPHASIS.sub("", answer_text(text)).strip()
    last = _LAST.search(text)
    if not last or not _starts_sentence(text, last.start()):
        return None
    verdict = _WORDS[(last[1] or last[2]).casefold()]
    stated = {_WORDS.get(match[2].casefold()) for match in _VERDICT.finditer(text)}
    return verdict if stated == {verdict} else None


def _starts_sentence(text: str, place: int) -> bool:
    """Whether a sentence or a line starts here. A pattern for it would take hours for 200 KB of blank lines."""
    before = text[:place].rstrip()
    return not before or before[-1] in ".。!?;" or "\n" in text[len(before) : place]


def states_verdict(text: str) -> bool:
    """Whether a text states a verdict anywhere, be it `normal`, `anomaly` or another word."""
    return _VERDICT.search(_EMPHASIS.sub("", narrow(text))) is not None


def description(text: str) -> str:
    """A scene text without its verdict sentences."""
    plain = _EMPHASIS.sub("", answer_text(text))
    return re.sub(_VERDICT.pattern + r"\s*[.。]?", "", plain, flags=re.IGNORECASE).strip()


def _forms(text: str) -> Iterator[str]:
    """A text, and what is left of it after each mark or phrase around it; each is shorter than the one before."""
    while text:
        yield text
        text = _peel(text)


def _peel(text: str) -> str:
    """A text without the outermost mark or phrase around it; empty where there is none."""
    for opening, closing in _AROUND:
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            inner = text[len(opening) : -len(closing)]
            nested = closing == "}" and inner.count("{") == inner.count("}")
            if opening not in inner and (closing not in inner or nested):
                fenced = _FENCE.match(text)
                return (text[fenced.end() : -len(closing)] if fenced else inner).strip()
    if (value := _json_answer(text)) is not None:
        return value.strip()
    if first := _EMPHASISED.match(text):  # `**Answer:** B`, `**B.** damaged`
        return (first[2] + text[first.end() :]).strip()
    for pattern in (_LEAD, _BULLET):
        match = pattern.match(text)
        if match and match.end():
            return text[match.end() :].strip()
    for pattern in (_TAIL, _STOP_AFTER_MARK):
        match = pattern.search(text)
        if match:
            return text[: match.start()].strip()
    return ""


def _json_answer(text: str) -> str | None:
    """The text of a JSON object that holds an answer and nothing else."""
    if not (text.startswith("{") and text.endswith("}")) or len(text) > MAX_JSON:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if len(value) != 1:
        return None
    ((key, answer),) = value.items()
    return answer if key.strip().casefold() in _KEYS and isinstance(answer, str) and len(answer) < len(text) else None


def _readings(text: str, option_a: str, option_b: str) -> Iterator[Letter]:
    """What one form of a text can be read as."""
    if option := _option(text, option_a, option_b):
        yield option
    if letter := _LETTER.match(text):
        yield _upper(letter[1] or letter[2] or letter[3])
    elif line := _LINE.match(text):
        stated = _upper(line[1] or line[2] or line[3] or line[4])
        if _option(line[5], option_a, option_b) == stated:
            yield stated


def _upper(letter: str) -> Letter:
    return "A" if letter in "aA" else "B"


def _option(text: str, option_a: str, option_b: str) -> Letter | None:
    plain, a, b = _plain(text), _plain(option_a), _plain(option_b)
    if not plain or a == b:
        return None
    return "A" if plain == a else "B" if plain == b else None


@lru_cache(maxsize=4096)
def _plain(text: str) -> str:
    """An option's text as it is compared: case, white space and one closing full stop do not matter."""
    text = narrow(text).strip()
    for mark in ("**", "__", "`", '"', "'"):
        if text.startswith(mark) and text.endswith(mark) and len(text) > 2 * len(mark):
            text = text[len(mark) : -len(mark)].strip()
    return re.sub(r"\s+", " ", text).casefold().rstrip(".。!").strip()
