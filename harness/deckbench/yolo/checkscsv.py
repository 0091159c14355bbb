"""`checks.csv`: what is looked for in a pool's frames at a protocol step, and what was found there."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import cast

from deckbench.language import AnyText
from deckbench.yolo.frame import VERDICTS, Box4, Check, Problem, Verdict
from deckbench.yolo.labels import NUMBER
from deckbench.yolo.table import FrameIndex, Row, Table

TEXTS = ("step", "phase", "check", "expected", "anomaly", "caption")  # each also as `..._zh`
COLUMNS = ("frame", *TEXTS, *(f"{name}_zh" for name in TEXTS), "verdict", "region")
NAME = "checks.csv"
MAX_TEXT = 2000  # characters of a cell
MAX_REGIONS = 100


def read_checks_csv(
    path: Path, index: FrameIndex, *, shown: str = NAME
) -> tuple[dict[str, tuple[Check, ...]], list[Problem]]:
    """frame id -> its checks, sorted by step, phase and check, and the problems.

    Never raises: a broken file is a problem. A row with an error gives no check, and names the frame that it spoils.

    Args:
        path: The file.
        index: The pool's frames.
        shown: The file's name in problems.
    """
    table = Table("checks-csv", shown)
    read: dict[str, dict[tuple[str, ...], Check]] = {}
    for row in table.rows(path, index, COLUMNS, ("frame", "check", "verdict")):
        check = read_check(row, table)
        if check is None:
            continue
        checks = read.setdefault(row.frame, {})
        known = checks.setdefault(check.key, check)
        if known is not check:
            tell_repeated(known, check, row, table)
    return {key: tuple(checks[name] for name in sorted(checks)) for key, checks in read.items()}, table.problems


def tell_repeated(known: Check, check: Check, row: Row, table: Table) -> None:
    """Say that a frame is checked twice for the same; with two answers it has none."""
    what = f"the frame {row.cells['frame'][:200]!r} is already checked for this at this step on line {known.line}"
    if known.verdict != check.verdict:
        table.say("two-verdicts", f"{what}: {known.verdict} there, {check.verdict} here", row.line, row.frame)
    elif replace(known, line=0) == replace(check, line=0):
        table.say("repeated", f"{what}; this row is not used", row.line, row.frame)
    else:
        text = f"{what}, with another text, region or kind of anomaly; write one row with all of them"
        table.say("differs", text, row.line, row.frame)


def read_check(row: Row, table: Table) -> Check | None:
    """One row; None where an error spoils it."""
    before = len(table.problems)
    texts = {name: read_text(row, name, table) for name in TEXTS}
    check = texts["check"]
    if check is None and not any(row.cells.get(name) for name in ("check", "check_zh")):
        table.say("text", "`check` is empty: what is looked for?", row.line, row.frame)
    word = row.cells["verdict"].casefold()
    if word not in VERDICTS:
        text = f"the verdict {row.cells['verdict'][:40]!r} is none of {', '.join(VERDICTS)}"
        table.say("verdict", text, row.line, row.frame)
    kinds, kinds_zh = (read_kinds(row.cells.get(name, "")) for name in ("anomaly", "anomaly_zh"))
    if (kinds or kinds_zh) and word in VERDICTS and word != "anomaly":
        text = f"the kind of anomaly {(kinds or kinds_zh)[0]!r} stands in a row whose verdict is {word}"
        table.say("anomaly", text, row.line, row.frame)
    if kinds and kinds_zh and len(kinds) != len(kinds_zh):
        text = f"`anomaly` names {len(kinds)} kinds and `anomaly_zh` {len(kinds_zh)}; give one for each, in one order"
        table.say("anomaly", text, row.line, row.frame)
    regions = read_regions(row, table)
    if len(table.problems) > before or check is None:
        return None
    return Check(
        step=texts["step"],
        phase=texts["phase"],
        check=check,
        expected=texts["expected"],
        verdict=cast("Verdict", word),
        anomaly=kinds or kinds_zh,
        anomaly_zh=kinds_zh,
        regions=regions,
        caption=texts["caption"],
        line=row.line,
    )


def read_text(row: Row, name: str, table: Table) -> AnyText | None:
    """The text of `name` and `name_zh`, as one line each; None where both are empty, or one cannot be used."""
    given: dict[str, str | None] = {}
    for lang, column in (("en", name), ("zh", f"{name}_zh")):
        text, fault = one_line(row.cells.get(column, ""))
        if fault:
            table.say("text", f"`{column}` {fault}", row.line, row.frame)
            return None
        given[lang] = text or None
    return any_text(given["en"], given["zh"])


@lru_cache(maxsize=4096)  # the same steps and checks stand in thousands of rows
def any_text(en: str | None, zh: str | None) -> AnyText | None:
    """The text in the languages it is given in; None where it is in none."""
    return AnyText(en, zh) if en or zh else None


@lru_cache(maxsize=4096)
def one_line(cell: str) -> tuple[str, str]:
    """A cell as one line, and what is wrong with it."""
    text = " ".join(cell.split())
    if len(text) > MAX_TEXT:
        return "", f"has {len(text):,} characters, more than {MAX_TEXT:,}"
    if any(unicodedata.category(letter) == "Cc" for letter in text):
        return "", "holds a control character"
    return text, ""


def read_kinds(cell: str) -> tuple[str, ...]:
    """`missing; tilted` as its parts, each once, in the order of the cell."""
    return tuple(dict.fromkeys(filter(None, (" ".join(part.split()) for part in cell.split(";")))))


def read_regions(row: Row, table: Table) -> tuple[Box4, ...]:
    """`0.1 0.2 0.3 0.4; ...` as (x0, y0, x1, y1) in fractions of the upright frame, each once."""
    regions: dict[Box4, None] = {}
    for part in row.cells.get("region", "").split(";"):
        numbers = part.split()
        if not numbers:
            continue
        what = None
        values = [float(text) if NUMBER.fullmatch(text) else math.nan for text in numbers]
        if len(values) != 4 or not all(map(math.isfinite, values)):
            what = "is not four numbers `x0 y0 x1 y1`"
        elif min(values) < 0 or max(values) > 1:
            what = "leaves the frame; regions are fractions of the upright frame, 0 to 1"
        elif values[2] <= values[0] or values[3] <= values[1]:
            what = "has no area; x0 < x1 and y0 < y1"
        elif len(regions) == MAX_REGIONS:
            what = f"is one of more than {MAX_REGIONS}"
        if what is not None:
            table.say("region", f"the region {part.strip()[:60]!r} {what}", row.line, row.frame)
            return ()
        regions[values[0], values[1], values[2], values[3]] = None
    return tuple(regions)
