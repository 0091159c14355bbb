"""The command line in this process: quick enough for hundreds of hostile inputs."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deckbench.cli.app import main
from tests.measure import Done

Cli = Callable[..., Done]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """`cli("pool", "check", pool)`: runs `deckbench` in this process. What is a bug raises."""

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["deckbench", *map(str, words)])
        capfd.readouterr()
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        out, err = capfd.readouterr()
        return Done(code, out, err)

    return run


@pytest.fixture(scope="session")
def small_pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight rendered frames. Copy it before you break it."""
    from deckbench.pool.synth import synth_pool

    out = tmp_path_factory.mktemp("faults") / "pool"
    synth_pool(out, frames=8, size=(320, 180), seed=3, workers=1)
    return out


@pytest.fixture(scope="session")
def small_dataset(small_pool: Path) -> Path:
    """A dataset of these frames, all of them in test. Copy it before you break it."""
    from deckbench.build import build_dataset

    out = small_pool.with_name("dataset")
    build_dataset("ot2-guided@1", pool=small_pool, out=out, split="test-only", workers=1)
    return out


@pytest.fixture
def without_rights() -> Iterator[None]:
    """Permissions hold for this process: root gives up its capabilities until the end of the test (capset(2))."""
    libc, header = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    before: Any = (ctypes.c_uint32 * 6)()
    dropped: Any = (ctypes.c_uint32 * 6)()
    if os.geteuid() != 0:
        yield
        return
    assert libc.capget(header, before) == 0
    dropped[:] = before[:]
    dropped[0] = dropped[3] = 0  # effective
    assert libc.capset(header, dropped) == 0
    yield
    assert libc.capset(header, before) == 0
