"""The command line in this process: quick enough for hundreds of hostile inputs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from deckbench.cli.app import main


@dataclass(frozen=True)
class Done:
    """How a command ended. stderr: what it said."""

    code: int
    stdout: str
    stderr: str

    def refused(self, *words: str, code: int = 2) -> bool:
        """Whether it ended with one message that holds `words`, and no traceback."""
        assert self.code == code, self.stderr
        assert "Traceback" not in self.stderr
        assert all(word in self.stderr for word in words), self.stderr
        return True


Cli = Callable[..., Done]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """`cli("pool", "check", pool)`: runs `deckbench` in this process. What is a bug raises."""

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["deckbench", *map(str, words)])
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        out, err = capfd.readouterr()
        return Done(code, out, err)

    return run
