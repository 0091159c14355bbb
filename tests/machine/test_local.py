"""What this machine says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from deckbench.machine.local import emulated_architectures, local_machine

HANDLER = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\nmagic {magic}\n"
ARM64 = "7f454c460201010000000000000000000200b700"


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (HANDLER.format(magic=ARM64), True),
        (HANDLER.format(magic=ARM64).replace("POCF", "POC"), False),
        (HANDLER.format(magic=ARM64).replace("enabled", "disabled"), False),
        (HANDLER.format(magic=ARM64.replace("b700", "3e00")), False),
        ("", False),
    ],
)
def test_emulation_of_arm64(tmp_path: Path, text: str, good: bool) -> None:
    (tmp_path / "qemu-any").write_text(text)
    (tmp_path / "register").write_text("")
    assert emulated_architectures(tmp_path) == ({"arm64"} if good else set())
    assert emulated_architectures(tmp_path / "nowhere") == set()


def test_this_machine() -> None:
    machine = local_machine()
    assert machine.cores and machine.memory and machine.architecture in {"amd64", "arm64"}
    assert (machine.docker is None) == bool(machine.docker_fault)
