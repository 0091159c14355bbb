"""The commands that a Markdown page shows: those of its blocks, in order, and those it names in passing.

A block of commands is fenced with `console`, `bash` or `sh`; in `console` a command follows `$ `, the rest is output.
An HTML comment on the line above says what is special about it:

    <!-- not run: needs docker -->      its commands are parsed, not run
    <!-- exit 4: leaks -->              its last command ends with this code
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^( *)(```+|~~~+) *(\w*)")
MARK = re.compile(r"^ *<!-- *(?:(not run)|exit (\d)) *: *(.+?) *-->$")
SHELLS = {"console", "bash", "sh"}
SEPARATORS = set("();<>|&")
SPAN = re.compile(r"(?<!`)`(deckbench [^`]+)`(?!`)")


@dataclass(frozen=True)
class Command:
    """One command of a page. where: `PAGE:LINE`. skipped: why it is not run, or empty. exit_code: what it ends with."""

    where: str
    argv: tuple[str, ...]
    skipped: str = ""
    exit_code: int = 0

    def __str__(self) -> str:
        return f"{self.where}: {shlex.join(self.argv)}"


@dataclass
class Block:
    """A fenced block: language, mark above it, and its lines with their numbers; backslashes join lines."""

    language: str
    skipped: str
    exit_code: int
    lines: list[tuple[int, str]]


def fenced_blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    block, fence, above = None, "", ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        found = FENCE.match(line)
        if block is None and found:
            mark = MARK.match(above)
            skipped = mark.group(3) if mark and mark.group(1) else ""
            block = Block(found.group(3), skipped, int(mark.group(2) or 0) if mark else 0, [])
            fence = found.group(2)
        elif block is not None and line.strip() == fence:
            yield block
            block = None
        elif block is not None and block.lines and block.lines[-1][1].endswith("\\"):
            first, before = block.lines[-1]
            block.lines[-1] = (first, f"{before[:-1].rstrip()} {line.strip()}")
        elif block is not None:
            block.lines.append((number, line))
        above = line if line.strip() else above


def block_commands(page: Path, name: str) -> list[Command]:
    """Every command of the page's blocks, split at the shell's operators; words such as `do` and `sudo` are kept."""
    commands = []
    for block in fenced_blocks(page):
        if block.language not in SHELLS:
            continue
        written = [
            (number, line.strip().removeprefix("$ "))
            for number, line in block.lines
            if block.language != "console" or line.lstrip().startswith("$ ")
        ]
        parts = [(number, argv) for number, line in written for argv in split(line)]
        for place, (number, argv) in enumerate(parts, 1):
            code = block.exit_code if place == len(parts) else 0
            commands.append(Command(f"{name}:{number}", tuple(argv), block.skipped, code))
    return commands


def split(line: str) -> list[list[str]]:
    """A shell line -> its simple commands, without comments, redirections and `do`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    redirected = False
    for token in lexer:
        if set(token) <= SEPARATORS:
            redirected = set(token) <= set("<>")
            if not redirected:
                commands.append([])
        elif redirected:
            redirected = False
        elif token != "do" or commands[-1]:
            commands[-1].append(token)
    return [command for command in commands if command]


def spans(page: Path, name: str) -> list[Command]:
    """Commands named within a line of prose, as `deckbench VERB ...` between backticks."""
    found = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        for text in SPAN.findall(line):
            found += [Command(f"{name}:{number}", tuple(argv)) for argv in split(text)[:1]]
    return found


def stray_lines(page: Path) -> list[int]:
    """Lines that look like commands and stand outside a block of commands, so nobody runs them."""
    inside = {number for block in fenced_blocks(page) if block.language in SHELLS for number, _ in block.lines}
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    look = re.compile(r"^( *\$ | +)?(deckbench|nox -)( |$)")
    joined = {number for number, line in lines if look.match(line)}
    return sorted(joined - inside)
