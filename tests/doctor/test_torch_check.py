"""torch is checked in a process of its own; what that process prints is read strictly."""

from __future__ import annotations

from pathlib import Path

import pytest

from deckbench.doctor import torch_check

LOADED = b'{"part": "torch", "version": "2.9", "cuda": "13.0", "capability": "AVX2", "threads": 4}\n'


@pytest.mark.parametrize(
    ("said", "code", "states"),
    [
        (LOADED + b'{"part": "torchvision", "absent": true, "fault": "x"}', 0, ["good", "absent", "absent"]),
        (LOADED + b'{"part": "torchvision", "absent": false, "fault": "nms"}', 0, ["good", "absent", "bad"]),
        (b"noise\n" + LOADED, -11, ["good", "bad", "bad"]),
        (b'{"part": "torch", "fault": "OSError: libcudart"}\n', 0, ["bad"]),
        (b"", -4, ["bad"]),
        (b"", None, ["bad"]),
        (
            LOADED
            + b'{"part": "gpu", "name": "G", "memory": 9, "free": 5, "fault": ""}\n'
            + b'{"part": "gpu", "name": "H", "memory": null, "free": null, "fault": "no kernel image"}\n'
            + b'{"part": "torchvision", "version": "0.25"}',
            0,
            ["good", "good", "bad", "good"],
        ),
    ],
)
def test_what_is_said_of_torch(said: bytes, code: int | None, states: list[str]) -> None:
    asked = torch_check.TorchCheck(torch_check.parse(said), code)
    assert [one.state for one in torch_check.findings(asked)] == states
    assert asked.loads == (b"version" in said and b"2.9" in said)
    assert asked.gpu_free == (5 if b'"free": 5' in said else None)


def test_torch_is_asked_in_a_process_that_may_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("import os; os.kill(os.getpid(), 11)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    asked = torch_check.collect(torch_check.start())
    assert torch_check.findings(asked)[0].found == "does not load: the process was killed by SIGSEGV"


@pytest.mark.torch
def test_torch_here() -> None:
    asked = torch_check.collect(torch_check.start())
    assert asked.loads and asked.code == 0
    assert torch_check.findings(asked)[0].state == "good"
