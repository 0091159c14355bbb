from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai", reason="the `endpoint` extra is not installed")

from deckbench.judge import Options
from deckbench.judge import judge as run_judge
from tests.endpoint import writing_server
from tests.endpoint.writing_server import Server
from tests.judge import judging


@pytest.fixture
def server() -> Iterator[Server]:
    with writing_server.writing(judging.judge()) as found:
        yield found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits, and no key."""
    from deckbench.endpoint import caller

    monkeypatch.setattr(caller, "BACKOFF_S", 0.01)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def settings(server: Server, tmp_path: Path) -> Callable[..., str]:
    """Writes an endpoint's file; returns its reference."""

    def write(**given: Any) -> str:
        path = tmp_path / "judge.yaml"
        known = {"model": "judge-1", "base_url": server.address, "timeout_s": 2.0, "concurrency": 8}
        path.write_text(json.dumps({**known, **given}))
        return f"endpoint:{path}"

    return write


@pytest.fixture
def run(settings: Callable[..., str]) -> Callable[..., dict[str, Any]]:
    """Judges predictions by the server."""

    def judge(
        predictions: Path, data: Path | None = None, *, server: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        return run_judge(predictions, Options(settings(**(server or {})), **options), data=data)

    return judge


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Judges predictions by what writes verdicts, without a server."""

    def judge(predictions: Path, data: Path | None, write: Callable[[dict[str, Any]], str], **options: Any) -> Any:
        monkeypatch.setattr("deckbench.endpoint.structured.answer_all", judging.answer_offline(write))
        monkeypatch.setattr("deckbench.endpoint.spec.find_server", lambda spec: None)
        return run_judge(predictions, Options("endpoint:nobody", **options), data=data)

    return judge
