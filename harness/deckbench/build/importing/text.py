"""Texts of unknown encoding, tables that a spreadsheet wrote, and questions and answers in plain text."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deckbench.errors import InputError

BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
DELIMITERS = (",", ";", "\t")
# What a column of a table of questions may be called, lower case; the first is our own word.
COLUMNS = {
    "image": (
        "image", "images", "image_path", "imagepath", "img", "img_path", "image_name", "image_file", "picture", "path",
        "file", "file_path", "图像", "图片", "图像路径", "图片路径", "图像地址", "图片地址", "路径", "地址",
    ),
    "question": ("question", "query", "q", "prompt", "instruction", "问题", "提问"),
    "answer": ("answer", "response", "a", "output", "label", "ground_truth", "gt", "答案", "回答"),
}  # fmt: skip
_SPELLING = {spelling: name for name, spellings in COLUMNS.items() for spelling in spellings}


def decode(data: bytes, where: Path | str) -> tuple[str, str]:
    """(text, encoding): by byte order mark, else UTF-8, else GB18030. Raises InputError."""
    for mark, encoding in BOMS:
        if data.startswith(mark):
            try:
                return data.decode(encoding), encoding
            except UnicodeDecodeError as error:
                raise InputError(f"damaged {encoding} (byte {error.start})", where, "save it as UTF-8") from error
    for encoding in ("utf-8", "gb18030"):
        try:
            return data.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    raise InputError("neither UTF-8 nor GB18030", where, "save the file as UTF-8")


def column_of(name: str) -> str | None:
    """`image`, `question` or `answer` for a column's name as labs write it; None for other columns."""
    return _SPELLING.get(name.strip().strip("\ufeff").lower().replace(" ", "_").replace("-", "_"))


def table_rows(text: str, where: Path | str, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, str] | None]]:
    """(first line, {image, question, answer}) of a CSV with a header; None for a row whose cells do not fit the header.

    Other columns go by their own names.

    Commas, semicolons and tabs, quoted line breaks and Excel's `sep=;` line are understood; empty rows are skipped.
    columns: our name -> the table's own, for headers that are not known. Raises InputError for those.
    """
    first, _, rest = text.partition("\n")
    start = 0
    match = re.fullmatch(r'"?sep=(.)"?\s*', first, re.IGNORECASE)
    if match:
        text, start = rest, 1
    header_line = next(iter(text.splitlines()), "")
    tried = (match[1],) if match else sorted(DELIMITERS, key=lambda mark: -header_line.count(mark))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=tried[0], strict=True)
    try:
        header = next(reader, [])
        names = [_named(cell, columns) for cell in header]
        for needed in ("question", "answer"):
            if needed not in names:
                raise InputError(
                    f"no column is known to hold the {needed}; the header is {', '.join(header)!r}",
                    f"{where}:{start + 1}",
                    f"say which it is, like --columns {needed}=NAME; known: {', '.join(COLUMNS[needed])}",
                )
        keys = [name or cell.strip().strip("\ufeff") for name, cell in zip(names, header, strict=True)]
        line = start + reader.line_num + 1
        for cells in reader:
            first_line, line = line, start + reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                yield first_line, None
                continue
            row: dict[str, str] = {}
            for name, cell in zip(keys, cells, strict=True):
                row.setdefault(name, cell.strip())
            yield first_line, row
    except csv.Error as error:
        raise InputError(
            f"not a valid CSV ({error})", f"{where}:{start + reader.line_num}", "save it again as CSV UTF-8"
        ) from error


def _named(cell: str, columns: Mapping[str, str]) -> str | None:
    for ours, theirs in columns.items():
        if cell.strip().strip("\ufeff") == theirs:
            return ours
    name = column_of(cell)
    return f"unused {name}" if name in columns else name


@dataclass(frozen=True)
class Pair:
    """A question and its answer in a text file; line: where the question starts."""

    line: int
    question: str
    answer: str


# No two neighbours take the same characters: else a long line of blanks or stars takes hours.
_LEAD = r"^[\s>#*-]*(?:\d+\s*[.)、:][\s*]*)?"
_MARK = r"(?:\s*\d+)?[\s*]*[:：][\s*]*(.*)$"
_QUESTION = re.compile(_LEAD + r"(?:Q|Question|问题|问|提问)" + _MARK, re.IGNORECASE)
_ANSWER = re.compile(_LEAD + r"(?:Answer|答案|回答|答)" + _MARK, re.IGNORECASE)
_LETTER = re.compile(_LEAD + r"A" + _MARK, re.IGNORECASE)


def question_pairs(text: str) -> list[Pair]:
    """Questions and answers of a text: `Q: ...` / `A: ...`, `Question 1:` / `Answer:`, `问:` / `答:`.

    Each may run over several lines. Where a question is followed by `Answer:`, a line `A: ...` before it is one of the
    options; else it is the answer.
    """
    blocks: list[tuple[int, list[str]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        match = _QUESTION.match(line)
        if match:
            blocks.append((number, [match[1]]))
        elif blocks:
            blocks[-1][1].append(line)
    pairs = []
    for number, lines in blocks:
        marks = [at for at, line in enumerate(lines) if at and _ANSWER.match(line)]
        pattern = _ANSWER if marks else _LETTER
        marks = marks or [at for at, line in enumerate(lines) if at and _LETTER.match(line)]
        if not marks:
            continue
        match = pattern.match(lines[marks[0]])
        assert match is not None
        question = "\n".join(lines[: marks[0]]).strip()
        answer = "\n".join([match[1], *lines[marks[0] + 1 :]]).strip()
        if question and answer:
            pairs.append(Pair(number, question, answer))
    return pairs


def plain(text: str) -> str:
    """A text as it is compared: white space does not matter."""
    return " ".join(text.split())
