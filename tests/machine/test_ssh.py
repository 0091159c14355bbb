"""ssh to other machines, and to the docker daemon there."""

from __future__ import annotations

from pathlib import Path

import pytest

from deckbench.errors import OutsideError
from deckbench.machine.daemon import connect
from deckbench.machine.ssh import login_command


def test_the_command_to_log_in() -> None:
    assert login_command("ssh://lab@127.0.0.1:2222") == "ssh -p 2222 lab@127.0.0.1"
    assert login_command("ssh://orin") == "ssh orin"


def test_what_ssh_says_last_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is gone before ssh has said why."""
    pytest.importorskip("docker")
    program = tmp_path / "ssh"
    said = "lab@orin: Permission denied (publickey)."
    program.write_text(f"#!/bin/sh\nexec <&- >&-\nsleep 0.5\necho '{said}' >&2\nexit 255\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(OutsideError, match="Permission denied"):
        connect("ssh://lab@orin")
