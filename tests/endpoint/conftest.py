from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai", reason="the `endpoint` extra is not installed")

import yaml

from tests.endpoint import faulty
from tests.train import micro_world


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro_world.make_dataset(tmp_path_factory.mktemp("data") / "squares", 12)


@pytest.fixture
def server() -> Iterator[faulty.Server]:
    with faulty.serving() as found:
        yield found


@pytest.fixture
def settings(server: faulty.Server, tmp_path: Path) -> Callable[..., str]:
    """Writes an endpoint's file; returns its reference."""

    def write(name: str = "squares.yaml", **given: Any) -> str:
        path = tmp_path / name
        known = {"model": "squares", "base_url": server.address, "key_env": "SQUARES_KEY", "timeout_s": 60}
        path.write_text(yaml.safe_dump({**known, **given}))
        return f"endpoint:{path}"

    return write


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits, and a key."""
    from deckbench.endpoint import caller

    monkeypatch.setattr(caller, "BACKOFF_S", 0.01)
    monkeypatch.setenv("SQUARES_KEY", faulty.KEY)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
