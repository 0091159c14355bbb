from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai", reason="the `endpoint` extra is not installed")

from tests.annotate import writer
from tests.build.build_helpers import write_pool
from tests.endpoint import faulty, writing_server


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(tmp_path_factory.mktemp("pools") / "hand")


@pytest.fixture
def server() -> Iterator[writing_server.Server]:
    with writing_server.writing(writer.write) as found:
        yield found


@pytest.fixture
def model(server: writing_server.Server, tmp_path: Path) -> Callable[..., str]:
    """Writes an endpoint's file; returns its reference."""

    def make(**given: Any) -> str:
        path = tmp_path / "writer.yaml"
        known = {"model": "writer", "base_url": server.address, "key_env": "SQUARES_KEY", "timeout_s": 30}
        path.write_text(json.dumps({**known, **given}))
        return f"endpoint:{path}"

    return make


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits, and a key."""
    from deckbench.endpoint import caller

    monkeypatch.setattr(caller, "BACKOFF_S", 0.01)
    monkeypatch.setenv("SQUARES_KEY", faulty.KEY)
