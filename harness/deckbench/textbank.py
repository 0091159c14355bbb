"""Question banks as plain text, one file a class: `trash_bin.txt` holds questions about what is labelled `trash_bin`.

    # a comment
    Q: What is it used for?
    A: It takes the used tips.
    问: 它有什么用途?
    答: 它收集用过的吸头。

A blank line ends a question; so does the next `Q:`. A question has its text in English, in Chinese, or both; a text in
Chinese may stand behind `Q:` and `A:` too. A verdict question has its two options, and the one that is right for the
class as `A:` (which must agree with the ontology, and may be left out where the verdict depends on the step):

    Q: Is the tip in the box as it should be?
    normal: yes
    anomaly: no
    A: no

Texts are texts, never templates. What is written here is read by `questions.load_bank`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deckbench.disk import read_bytes
from deckbench.errors import InputError
from deckbench.language import LANGS, Lang

FIX = "see docs/annotate.md for the form of a class's file"
CJK = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
NAMES = {
    "q": ("ask", None), "question": ("ask", None), "问": ("ask", "zh"), "问题": ("ask", "zh"), "提问": ("ask", "zh"),
    "a": ("answer", None), "answer": ("answer", None), "答": ("answer", "zh"), "答案": ("answer", "zh"),
    "回答": ("answer", "zh"), "normal": ("normal", None), "anomaly": ("anomaly", None), "正常": ("normal", "zh"),
    "异常": ("anomaly", "zh"),
}  # fmt: skip
MARK = re.compile(rf"^\s*({'|'.join(sorted(NAMES, key=len, reverse=True))})\s*(?:\d+\s*)?[:：]\s*(.*)$", re.IGNORECASE)
OPTION = re.compile(r"^\s*\(?[AB]\s*[.)、]\s*\S")
PARTS = ("ask", "normal", "anomaly", "answer")
MARKS = {
    ("ask", "en"): "Q", ("ask", "zh"): "问", ("answer", "en"): "A", ("answer", "zh"): "答",
    ("normal", "en"): "normal", ("normal", "zh"): "正常", ("anomaly", "en"): "anomaly", ("anomaly", "zh"): "异常",
}  # fmt: skip


@dataclass
class TextQuestion:
    """One question of a class's file. parts: (part, language) -> text. line: where it starts, 0 for one just made."""

    parts: dict[tuple[str, Lang], str] = field(default_factory=dict)
    line: int = 0

    @property
    def langs(self) -> tuple[Lang, ...]:
        return tuple(lang for lang in LANGS if ("ask", lang) in self.parts)

    @property
    def judges(self) -> bool:
        """Whether it is a verdict question: one with the options normal and anomaly."""
        return any(part in {"normal", "anomaly"} for part, _ in self.parts)

    def text(self, part: str, lang: Lang) -> str:
        """A part's text; in the other language where the question has only that, empty where it has none."""
        return self.parts.get((part, lang)) or next(
            (self.parts[part, other] for other in LANGS if (part, other) in self.parts), ""
        )


def read_text_bank(path: Path) -> list[TextQuestion]:
    """The questions of a class's file. Raises InputError with file and line."""
    try:
        text = read_bytes(path, 4 << 20).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", path, "save it as UTF-8") from error
    found: list[TextQuestion] = []
    question: TextQuestion | None = None
    last: tuple[str, Lang] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{path}:{number}"
        if line.lstrip().startswith("#"):
            continue
        if not line.strip():
            question = last = None
            continue
        match = MARK.match(line)
        if match is None:
            if question is None or last is None:
                raise InputError(f"a line that belongs to no question: {line.strip()[:60]!r}", where, FIX)
            if OPTION.match(line):
                fix = "write the options of a verdict question as `normal: ...` and `anomaly: ...`"
                raise InputError("lettered options: their order is drawn when a dataset is built", where, fix)
            question.parts[last] += f" {line.strip()}"
            continue
        part, lang = NAMES[match[1].lower()]
        said = match[2].strip()
        key: tuple[str, Lang] = (part, lang or ("zh" if CJK.search(said) else "en"))  # type: ignore[assignment]
        if part == "ask" and (question is None or key in question.parts):
            question = TextQuestion(line=number)
            found.append(question)
        if question is None:
            raise InputError(f"`{match[1]}:` before any question", where, FIX)
        if part in {"answer", "normal", "anomaly"} and lang is None and key[1] not in question.langs:
            # A letter, a number or a name of a plate is in no language: it belongs to the question before it.
            key = (part, question.langs[-1])
        if key in question.parts:
            raise InputError(f"a second `{match[1]}:` of one question", where, FIX)
        if not said:
            raise InputError(f"`{match[1]}:` has no text", where, FIX)
        question.parts[key] = said
        last = key
    if not found:
        raise InputError("the file holds no question", path, FIX)
    for question in found:
        _check_whole(question, f"{path}:{question.line}")
    return found


def _check_whole(question: TextQuestion, where: str) -> None:
    needed: Sequence[str] = ("normal", "anomaly") if question.judges else ("answer",)
    for lang in question.langs:
        if lacking := [part for part in needed if (part, lang) not in question.parts]:
            mark = MARKS[lacking[0], lang]
            raise InputError(f"a question without `{mark}:`", where, FIX)
        options = [question.parts[part, lang] for part in ("normal", "anomaly") if question.judges]
        if len(set(options)) < len(options):
            raise InputError("the two options have the same text", where, FIX)
        answer = question.parts.get(("answer", lang))
        if question.judges and answer is not None and answer not in options:
            raise InputError(f"the answer {answer!r} is neither of its options", where, FIX)
    if extra := [MARKS[key] for key in question.parts if key[1] not in question.langs]:
        raise InputError(f"`{extra[0]}:` without a question in its language", where, FIX)


def format_text_bank(cls: str, questions: Iterable[TextQuestion], head: str = "") -> str:
    """A class's file. head: a comment above its questions."""
    lines = [f"# {line}" for line in [f"Questions about {cls!r}.", *head.splitlines()]]
    for question in questions:
        lines.append("")
        for lang in question.langs:
            for part in PARTS:
                if (part, lang) in question.parts:
                    lines.append(f"{MARKS[part, lang]}: {' '.join(question.parts[part, lang].split())}")
    return "\n".join(lines) + "\n"


def as_template(text: str) -> str:
    """A text as a template that says just that."""
    if not any(mark in text for mark in ("{{", "{%", "{#")):
        return text
    return "".join("{{ '{' }}" if mark == "{" else mark for mark in text)
