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
    ("``", "``"),
    ("'''", "'''"),
    ("$$", "$$"),
    *((mark, mark) for mark in "`\"'$_"),
    *zip("([“‘「『【《<", ")]”’」』】》>", strict=True),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("\\boxed{", "}"),
    ("\\text{", "}"),
    ("\\textbf{", "}"),
    ("\\mathbf{", "}"),
    ("\\mathrm{", "}"),
    ("<answer>", "</answer>"),
    ("<final_answer>", "</final_answer>"),
    ("<b>", "</b>"),
    ("<strong>", "</strong>"),
)
_AROUND_OPTION = (("(", ")"), ("**", "**"), ("*", "*"), ("__", "__"), *((mark, mark) for mark in "`\"'"))
_KEYS = {"answer", "final_answer", "choice", "option", "letter", "选项", "答案"}
_FENCE = re.compile(r"^(```|''')[a-z]*\n")
_BULLET = re.compile(r"^(?:(?:#{1,6}|[-*+>•])\s+|[✅✔☑✓]\ufe0f?\s*)")
_TICK = re.compile(r"[✅✔☑✓]\ufe0f?$")
_STOP_AFTER_MARK = re.compile(r"(?<=[*_`\"'$)\]}”’」』】》>])[.。!;]$")
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
_SO_ZH = r"(?:(?:因此|所以|故|综上(?:所述)?)\s*,?\s*)?(?:我\s*)?(?:认为|觉得)?"
_BEFORE = (
    r"(?:(?:so|thus|therefore|hence)\s*,?\s*)?(?:i\s+(?:think|believe|would\s+say)\s+(?:that\s+)?)?"
    r"(?:(?:the|my)\s+)?(?:final\s+|correct\s+|right\s+|best\s+)?(?:answer|option|choice)"
    r"(?:\s+(?:is|would\s+be)\s*:|\s+(?:is|would\s+be)(?=[\s*_`\"'(\[])|\s*:|\s+(?=[*_`\"'(\[]*[AB]\b))\s*"
    r"|i(?:['’](?:d|ll)|\s+would|\s+will)?\s+(?:choose|pick|select|answer|go\s+with)(?=[\s:*_`\"'(\[])\s*:?\s*"
    rf"|{_SO_ZH}(?:我的)?(?:(?:最终|正确|最佳)的?)?(?:答案|选项|选择)(?:就|应该?)?\s*(?:(?:是|为|选(?![项择]))\s*:?|:)?\s*"
    rf"|{_SO_ZH}(?:应该?|会)?选择?\s*(?:项)?\s*:?\s*"
    r"|【\s*答案\s*】\s*:?\s*|(?:回答|答)\s*:\s*"
)
_LEAD = re.compile(rf"^(?:{_BEFORE})", re.IGNORECASE)
_ARTICLE = re.compile(r"\b(?:is|be|choose|pick|select|with)\s+a$")  # of a sentence that was cut off
_TAIL = re.compile(
    r"(?:\s+(?:is|would\s+be)\s+(?:the\s+)?(?:correct|right|best)(?:\s+(?:answer|option|choice|one))?"
    r"|\s+is\s+(?:the|my)\s+(?:final\s+)?(?:answer|choice)"
    r"|\s*(?:是)?正确的?(?:答案|选项)?|\s*(?:选项|项))\s*[.。!]?$",
    re.IGNORECASE,
)
_LETTER = re.compile(r"^(?:\(\s*([AB])\s*\)|\[\s*([AB])\s*\]|([AB]))\s*[.):。、,;!]?$", re.IGNORECASE)
# The option's line: a letter, and the text that must be its own.
_LINE = re.compile(
    r"^(?:\(\s*([AB])\s*\)|\[\s*([AB])\s*\]|([AB])\s*[.):、,]|([AB])(?=[\s(]))\s*(?:[-–—|:=]\s*)?(\S.*)$",
    re.IGNORECASE | re.DOTALL,
)
# A JSON object as models write it without its quotes: one key, one plain value.
_LOOSE_JSON = re.compile(r"""^\{\s*["']?(\w+)["']?\s*:\s*(?:"([^"{}:,]+)"|'([^'{}:,]+)'|([^"'{}:,\[\]]+))\s*\}$""")
_EMPHASISED = re.compile(r"^(\*\*|__|`|\*(?=\S))([^*_`\n]{1,60})\1(?=.)", re.DOTALL)  # the first words alone
_EMPHASIS = re.compile(r"\*+|__|`")
_OPEN, _CLOSE = r"(?:\\boxed\{|[\"'“‘「【\[(])?", r"[\"'”’」】\])}]?"
_VERDICT = re.compile(rf"(verdict\s*:|结论\s*:)\s*{_OPEN}(\w+)", re.IGNORECASE)
_STATED = re.compile(rf"{_VERDICT.pattern}{_CLOSE}\s*[.。!]?", re.IGNORECASE)
_LAST = re.compile(
    r"(?:(?:#{1,6}|[-+>•])\s+)?\(?(?:"
    rf"(?:(?:the|my)\s+)?(?:final\s+)?verdict\s*:\s*{_OPEN}(anomaly|normal){_CLOSE}\s*[.!]?"
    rf"|(?:最终)?结论\s*:\s*{_OPEN}(异常|正常){_CLOSE}\s*[。.!]?)\)?(?:</answer>)?$",
    re.IGNORECASE,
)
_WORDS = {"anomaly": True, "异常": True, "normal": False, "正常": False}
VERDICTS = {True: "anomaly", False: "normal"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def clean(text: str) -> str:
    """A text as it is kept and parsed: line ends are line feeds, other control characters but tabs are U+FFFD.

    CSV readers stumble over control characters, and a model that writes one has not written a letter.
    """
    if not _CONTROL.search(text):
        return text
    return _CONTROL.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def narrow(text: str) -> str:
    """`text` with full-width ASCII characters and the ideographic space replaced by plain ones."""
    return text if text.isascii() else text.translate(_NARROW)


def answer_text(text: str) -> str:
    """What an answer says, full-width ASCII replaced: no leading block of thinking, no box marks, no end token.

    Empty where the thinking never ends.
    """
    return _answer_text(text) if len(text) <= MAX_AROUND else narrow(unwrap(text).text).strip()


@lru_cache(maxsize=256)  # what grades an answer reads it several times
def _answer_text(text: str) -> str:
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
    text = answer_text(text).strip(_INVISIBLE).strip()
    if len(text) > MAX_AROUND + len(option_a) + len(option_b):
        return None
    if _ARTICLE.search(text):
        return None
    readings = {reading for form in _forms(text) for reading in _readings(form, option_a, option_b)}
    return readings.pop() if len(readings) == 1 else None


def parse_scene(text: str) -> bool | None:
    """The verdict of a scene description: True anomaly, False normal, None when the last sentence is no verdict.

    The last sentence must be `Verdict: anomaly.` or `Verdict: normal.` (`结论:异常。`, `结论:正常。`), with or without
    marks around it and words that say nothing else (`### Final verdict: "anomaly"!`); an earlier verdict that says
    something else makes the text None.
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
    return not before or before[-1] in ".。!?;" or before.endswith("<answer>") or "\n" in text[len(before) : place]


def states_verdict(text: str) -> bool:
    """Whether a text states a verdict anywhere, be it `normal`, `anomaly` or another word."""
    return _VERDICT.search(_EMPHASIS.sub("", narrow(text))) is not None


def description(text: str) -> str:
    """A scene text without its verdict sentences."""
    plain = _EMPHASIS.sub("", answer_text(text))
    return _STATED.sub("", plain).strip()


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
    for pattern in (_TAIL, _STOP_AFTER_MARK, _TICK):
        match = pattern.search(text)
        if match:
            return text[: match.start()].strip()
    return ""


def _json_answer(text: str) -> str | None:
    """The text of a JSON object that holds an answer and nothing else."""
    if not (text.startswith("{") and text.endswith("}")) or len(text) > MAX_JSON:
        return None
    try:
        pairs = json.loads(text, object_pairs_hook=list)  # a key that stands there twice may mean either
    except (ValueError, RecursionError):
        loose = _LOOSE_JSON.match(text)
        pairs = [(loose[1], loose[2] or loose[3] or loose[4])] if loose else []
    if len(pairs) != 1:
        return None
    ((key, answer),) = pairs
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
    elif (last := _last_letter(text)) and _option(text[: max(map(text.rfind, "(["))], option_a, option_b) == last:
        yield last


def _last_letter(text: str) -> Letter | None:
    """The letter that ends a text in brackets: `damaged (B)`."""
    text = text.rstrip(" .。!")
    pair = {")": "(", "]": "["}.get(text[-1:])
    letter = "" if pair is None else text[text.rfind(pair) + 1 : -1].strip()
    return _upper(letter) if letter in {"A", "B", "a", "b"} else None


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
    for opening, closing in _AROUND_OPTION:
        inner = text.rstrip(".。!").rstrip()
        if inner.startswith(opening) and inner.endswith(closing) and len(inner) > len(opening) + len(closing):
            text = inner[len(opening) : -len(closing)].strip()
    return re.sub(r"\s+", " ", text).casefold().rstrip(".。!").strip()
