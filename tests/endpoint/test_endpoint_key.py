"""A server that sends the key back, in whatever field: no file and no message holds it, and no answer loses a word."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deckbench.endpoint.text import short, without_key
from deckbench.errors import OutsideError
from deckbench.infer import infer
from tests.endpoint import deciding, faulty
from tests.endpoint.test_endpoint_infer import observed, rows_of

Settings = Callable[..., str]


@pytest.fixture
def server() -> Iterator[deciding.Server]:
    with deciding.serving() as found:
        yield found


@pytest.mark.parametrize(
    ("key", "text", "shown", "answer"),
    [
        ("sk-12345678", "a sk-12345678.", "a ***.", "a ***."),
        ("zq7x", "a zq7x.", "a ***.", "a ***."),
        ("zq7", "a zq7.", "a ***.", "a zq7."),
        ("A", "A", "***", "A"),
        ("EMPTY", "EMPTY", "***", "EMPTY"),
        ("None", "None", "***", "None"),
        ('a"b\\c', json.dumps({"x": 'a"b\\c'}), '{"x": "***"}', '{"x": "***"}'),
        (None, "None", "None", "None"),
    ],
)
def test_what_is_left_of_a_text(key: str | None, text: str, shown: str, answer: str) -> None:
    assert (without_key(text, key), without_key(text, key, answer=True)) == (shown, answer)


@pytest.mark.parametrize("before", range(180, 202))
def test_a_key_that_is_cut(before: int) -> None:
    assert faulty.KEY[:4] not in without_key(short("." * before + faulty.KEY), faulty.KEY)


def echoing(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A reply with the key wherever a text may stand."""

    def alter(reply: dict[str, Any]) -> dict[str, Any]:
        answers = reply["answers"]
        for answer in answers.values() if isinstance(answers, dict) else answers:
            answer |= {"note": key, "filler": "." * 1960, "more": key}
        return {**reply, "model": f"squares {key}"}

    return alter


@pytest.mark.parametrize("key", ["zq7x", "z9q-7", faulty.KEY])
@pytest.mark.parametrize("api", ["decisions", "systemone"])
def test_a_server_that_echoes_the_key(
    api: str,
    key: str,
    server: deciding.Server,
    settings: Settings,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SQUARES_KEY", key)
    monkeypatch.setattr(faulty, "KEY", key)
    chat = {
        "model": f"squares {key}",
        "system_fingerprint": key,
        "choices": [{"message": {"content": f"a red {key} square"}, "finish_reason": f"{key}.stop"}],
    }

    def plan(asked: str, attempt: int, body: dict[str, Any]) -> Any:
        if attempt == 1:
            return {"status": 500, "body": {"error": {"message": f"no {key}"}}}
        return {"status": 200, "body": chat} if "messages" in body else {"alter": echoing(key)}

    server.plan = plan
    out = tmp_path / "p.csv"
    infer(model=settings(api=api), data=data, out=out)
    assert observed(out)["models"] == ["squares ***"] and observed(out)["fingerprints"] == ["***"]
    assert {row["prediction"] for row in rows_of(out) if row["kind"] == "open"} == {"a red *** square"}
    assert all(row["prediction"] == row["gold"] for row in rows_of(out) if row["kind"] == "choice")
    assert all(key not in path.read_text() for path in tmp_path.rglob("p.*") if path.is_file())
    assert key not in capsys.readouterr().err


def test_a_key_of_one_letter_takes_no_answer_away(
    server: deciding.Server,
    settings: Settings,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SQUARES_KEY", "A")
    out = tmp_path / "p.csv"
    infer(model=settings(api="chat"), data=data, out=out)
    assert all(row["prediction"] == row["gold"] for row in rows_of(out))
    server.plan = lambda key, attempt, body: {"status": 401, "body": {"error": {"message": "wrong key: A"}}}
    with pytest.raises(OutsideError, match=r"wrong key: \*\*\*"):
        infer(model=settings(api="chat"), data=data, out=tmp_path / "q.csv")
