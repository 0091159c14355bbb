"""The exceptions of DeckBench: what is wrong, where, how to fix it. The command line maps them to exit codes."""

from __future__ import annotations

from pathlib import Path

MOST = 4000  # characters of a message: what is wrong may quote its input


class DeckBenchError(Exception):
    """Base of every error DeckBench raises on purpose.

    what: one sentence. where: `file`, `file:line` or a field's name. fix: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, where: str | Path | None = None, fix: str | None = None) -> None:
        self.what = what if len(what) <= MOST else f"{what[:MOST]}... ({len(what)} characters)"
        self.where = None if where is None else str(where)[:MOST]
        self.fix = fix
        super().__init__(self.message())

    def message(self) -> str:
        """The complete message: what, where, how to fix it."""
        lines = [self.what if self.where is None else f"{self.where}: {self.what}"]
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class InputError(DeckBenchError):
    """The input is wrong; nothing was written."""

    exit_code = 2


class OutsideError(DeckBenchError):
    """Something outside failed (disk, daemon, endpoint, another process); the run can be resumed."""

    exit_code = 3


class AnswerIsNo(DeckBenchError):
    """The command ran to its end and the answer is no (audit, verify, models check, report --check)."""

    exit_code = 4
