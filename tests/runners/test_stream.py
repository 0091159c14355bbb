"""Lines of a container on this terminal, with this machine's paths."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deckbench.runners.stream import Pump, translator

PLACES = {"/out": Path("adapters"), "/in": Path("/"), "/in/data/S1": Path("/data/S1"), "/in/home/x": Path("link")}


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("adapter: /out/S1", "adapter: adapters/S1"),
        ("/out/S1.partial: an unfinished run", "adapters/S1.partial: an unfinished run"),
        ("/in/data/S1/test.jsonl:3: broken", "/data/S1/test.jsonl:3: broken"),
        ("('/in/home/x/y',)", "('link/y',)"),
        ("no /in/nowhere", "no /nowhere"),
        ('{"page": "file:///out/w/index.html"}', f'{{"page": "{Path("adapters").resolve().as_uri()}/w/index.html"}}'),
        ("see /out.", "see adapters."),
        ("work/out/x and /output and my/in/x and a-/out-b", "work/out/x and /output and my/in/x and a-/out-b"),
    ],
)
def test_paths_are_those_of_this_machine(said: str, shown: str) -> None:
    assert translator(PLACES)(said.encode()) == shown.encode()


def test_an_output_here_has_no_folder() -> None:
    assert translator({"/out": Path()})(b"predictions: /out/a.csv\n") == b"predictions: a.csv\n"


def test_lines_are_put_together_and_kept_apart(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    def frames() -> Iterator[tuple[bytes | None, bytes | None]]:
        yield b"one: /o", b"\xff half"
        yield b"ut/x\ntwo", None
        yield None, b" a line\r\nlast /out/y"

    pump = Pump(frames(), translator(PLACES))
    pump.run()
    out, err = capfdbinary.readouterr()
    assert (out, err) == (b"one: adapters/x\ntwo", b"\xff half a line\r\nlast adapters/y")
    assert pump.failed is None


def test_a_stream_that_breaks_is_noted() -> None:
    def frames() -> Iterator[tuple[bytes | None, bytes | None]]:
        yield b"", None
        raise ConnectionError("gone")

    pump = Pump(frames(), translator({}))
    pump.run()
    assert isinstance(pump.failed, ConnectionError)


def test_what_cannot_be_written_is_taken_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the container stands still, and every question to the daemon about it too."""
    frames = iter([(b"line\n", None)] * 5)
    pump = Pump(frames, translator({}))
    full = open("/dev/full", "wb", buffering=0)  # noqa: PTH123, SIM115
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(full, write_through=True))  # type: ignore[type-var]
    pump.run()
    assert isinstance(pump.failed, OSError)
    assert list(frames) == []


def test_a_long_line_is_looked_at_once() -> None:
    pump = Pump((), translator({}))
    began = time.monotonic()
    for _ in range(60):
        pump.take(0, b"x" * 16_000)
    assert time.monotonic() - began < 5
    assert len(pump.rests[0]) == 960_000
