"""Servers that go wrong in words of their own: nothing that the model did not say becomes a prediction."""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deckbench.errors import OutsideError
from deckbench.infer import infer
from deckbench.score import score
from tests.endpoint import faulty
from tests.endpoint.faulty import KEY
from tests.endpoint.test_endpoint_infer import ids_of, observed, rows_of

Settings = Callable[..., str]


def ended(reason: Any, content: Any = "B", **message: Any) -> dict[str, Any]:
    """An answer that ends for a reason."""
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": reason}
    return {"status": 200, "body": {"choices": [choice]}}


def said(body: Any, status: int = 200, **headers: str) -> dict[str, Any]:
    return {"status": status, "body": body, "headers": {"Retry-After": "0", **headers}}


ASKED_AGAIN: dict[str, Any] = {
    reason: ended(reason)
    for reason in ("abort", "network_error", "insufficient_system_resource", "error", "cancelled", "timeout", "OTHER")
} | {
    "no reason": ended(None),
    "a number": ended(1),
    "tool_calls": ended("tool_calls", None, tool_calls=[{"id": "x"}]),
    "an object": ended({"type": "abort", "message": "gone"}),
    "flat error": said({"object": "error", "message": "out of memory", "code": 50000}),
    "error in choices": said({"choices": [{"error": {"message": "upstream"}, "finish_reason": "error"}]}),
    "error with words": said({"choices": [{"message": {"content": "B, no"}, "finish_reason": "error"}]}),
    "HTML in 200": said("<html><body>B</body></html>"),
    "a page in 502": said("<html><title>502</title></html>", 502),
}
FILTERED: dict[str, Any] = {
    reason: ended(reason)
    for reason in ("sensitive", "SAFETY", "content_filter", "RECITATION", "PROHIBITED_CONTENT", "refusal", "BLOCKLIST")
} | {
    "native": {"status": 200, "body": {"choices": [
        {"message": {"content": "B"}, "finish_reason": "stop", "native_finish_reason": "SAFETY"}]}},
    "code in 200": said({"error": {"code": "data_inspection_failed", "message": "inappropriate content"}}),
    "in words": said({"error": {"message": "flagged by the content policy"}}, 400),
    "too large": said("<html><h1>413 Request Entity Too Large</h1></html>", 413),
    "full": ended("model_context_window_exceeded"),
}  # fmt: skip
THOUGHT: dict[str, Any] = {
    "an open block": ended("length", "<think>B or A? Let me"),
    "an open block, stopped": ended("stop", "<think>B"),
    "an open block of another kind": ended("length", "[THINK]B"),
    "a block alone": ended("length", "<think>B</think>"),
    "thoughts apart": ended("length", None, reasoning_content="B or A"),
    "thoughts apart, stopped": ended("stop", "", reasoning="B"),
    "nothing": ended("length", ""),
    "blanks": ended("length", " \n"),
}
FAULTS = [*ASKED_AGAIN.items(), *FILTERED.items(), *THOUGHT.items()]
TOGETHER = 12


@pytest.mark.parametrize("first", range(0, len(FAULTS), TOGETHER))
def test_no_row_that_the_model_did_not_answer(
    first: int,
    server: faulty.Server,
    settings: Settings,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One question about each picture gets a fault of its own for ever; the two others are answered."""
    here = FAULTS[first : first + TOGETHER]
    given: dict[str, Any] = {}

    def plan(key: str, attempt: int, body: dict[str, Any]) -> Any:
        if "A. red" not in key or (key not in given and len(given) == len(here)):
            return None
        return given.setdefault(key, here[len(given) % len(here)][1])

    server.plan = plan
    out = tmp_path / "p.csv"
    with pytest.raises(OutsideError, match=f"{len(here)} questions got no answer"):
        infer(model=settings(concurrency=1, tries=2), data=data, out=out)
    assert not out.exists()
    refused = sum(name in FILTERED for name, _ in here)
    sums = f"answered: {36 - len(here)}, refused: {refused}, unanswered: {len(here) - refused}"
    assert sums in capsys.readouterr().err
    made = infer(model=settings(concurrency=1, tries=2, unanswered="leave-out"), data=data, out=out)
    rows = rows_of(out)
    left = [key for key in ids_of(data) if key.endswith("red")][: len(here)]
    assert [row["id"] for row in rows] == [key for key in ids_of(data) if key not in left]
    assert all(row["prediction"] == row["gold"] for row in rows)
    assert made.content["endpoint"]["unanswered"] == left
    assert len(made.content["endpoint"].get("refused", [])) == refused
    assert sums in capsys.readouterr().err


WRAPPED = {
    "<think>A or B? Looks red.</think>{}": "thinking",
    "Looks red, or A.</think>\n\n{}": "thinking",
    "<|begin_of_box|>{}<|end_of_box|>": "box",
    "{}</s>": "end token",
}


@pytest.mark.parametrize("form", WRAPPED)
def test_what_stands_around_an_answer_is_taken_off_and_recorded(
    form: str, server: faulty.Server, settings: Settings, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.around = form
    out = tmp_path / "p.csv"
    made = infer(model=settings(thinking_tokens=100), data=data, out=out)
    assert all(row["prediction"] == row["gold"] for row in rows_of(out))
    assert made.content["endpoint"]["stripped"] == {WRAPPED[form]: 36}
    lines = [json.loads(line) for line in (tmp_path / "p.transcript.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ids_of(data)
    golds = [row["gold"] for row in rows_of(out)]
    assert [line["text"] for line in lines] == [form.format(gold) for gold in golds]
    assert all(line["stripped"] == [WRAPPED[form]] and line["ended"] == "stop" for line in lines)
    assert f"{WRAPPED[form]} (36)" in capsys.readouterr().err
    assert f"taken off around answers: {WRAPPED[form]} (36)" in score(out, data=data)["notes"]


@pytest.mark.parametrize("name", ["thoughts apart", "an open block", "nothing", "empty"])
def test_a_model_that_says_nothing_stops_early(
    name: str, server: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    server.plan = lambda key, attempt, body: {**THOUGHT, "empty": ended("stop", "")}[name]
    for unanswered in ("stop", "leave-out"):
        with pytest.raises(OutsideError, match=r"thinking_tokens") as caught:
            infer(model=settings(concurrency=1, unanswered=unanswered), data=data, out=tmp_path / "p.csv")
        assert caught.value.exit_code == 3 and not (tmp_path / "p.csv").exists()
    assert len(server.seen) <= 2 * 8


def test_a_limit_that_is_too_large_changes_no_other_request(
    server: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    text = "max_tokens is too large: 16. This model's maximum context length is 8, reduce max_tokens"
    bad: list[str] = []

    def plan(key: str, attempt: int, body: dict[str, Any]) -> Any:
        bad.extend([key] if not bad and "A. red" in key else [])
        return said({"error": {"message": text, "param": "max_tokens"}}, 400) if key in bad else None

    server.plan = plan
    made = infer(model=settings(unanswered="leave-out"), data=data, out=tmp_path / "p.csv")
    assert all("max_tokens" in body and "max_completion_tokens" not in body for body in server.seen)
    assert len(made.content["endpoint"]["unanswered"]) == 1 and made.content["endpoint"]["dropped"] == []


def test_a_rate_limit_in_words_is_said_and_waited_for(
    server: faulty.Server, settings: Settings, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = {"status": 429, "body": {"error": {"message": "Rate limit reached. Please try again in 700ms."}}}
    server.plan = lambda key, attempt, body: fault if sum(server.attempts.values()) == 1 else None
    began = time.monotonic()
    infer(model=settings(), data=data, out=tmp_path / "p.csv")
    assert time.monotonic() - began > 0.7
    lines = [line for line in capsys.readouterr().err.splitlines() if "Rate limit reached" in line]
    assert len(lines) == 1 and "asking again in 1 s" in lines[0]


@pytest.mark.parametrize("text", ["Please try again in 3h20m.", None])
def test_a_rate_limit_without_end_stops(
    text: str | None,
    server: faulty.Server,
    settings: Settings,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from deckbench.endpoint import caller

    monkeypatch.setattr(caller, "PATIENCE_S", 0.3)
    server.plan = lambda key, attempt, body: {"status": 429, "body": {"error": {"message": text or "slow down"}}}
    with pytest.raises(OutsideError, match=r"come back in 12000 s" if text else r"slow down \(for 0 s now\)"):
        infer(model=settings(), data=data, out=tmp_path / "p.csv")
    assert len(server.seen) < 20


@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        (said({"error": {"code": 500, "message": "image input is not supported - hint: provide the mmproj"}}, 500), 1),
        (said({"error": {"message": "tiny is not a multimodal model"}}, 400), 1),
        (said({"error": {"message": "'list' object has no attribute 'strip'"}}, 500), 4),
        (said("Internal Server Error", 500), 4),
        (said({"error": "cannot parse the messages"}, 400), 3),
    ],
)
def test_a_model_without_eyes_stops_at_once(
    fault: dict[str, Any], requests: int, server: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    server.text_alone = True
    server.plan = lambda key, attempt, body: fault
    with pytest.raises(OutsideError, match="image") as caught:
        infer(model=settings(), data=data, out=tmp_path / "p.csv")
    assert "vision" in (caught.value.fix or "") and caught.value.exit_code == 3
    assert sum(server.attempts.values()) <= requests


def test_an_image_that_fails_is_no_blind_model(
    server: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    """The first picture fails for ever, the small blank one and all others do not."""
    server.text_alone = True
    bad: list[str] = []

    def plan(key: str, attempt: int, body: dict[str, Any]) -> Any:
        bad.extend([] if bad else [key])
        return said("Internal Server Error", 500) if key in bad else None

    server.plan = plan
    made = infer(model=settings(concurrency=1, tries=3, unanswered="leave-out"), data=data, out=tmp_path / "p.csv")
    assert made.content["endpoint"]["unanswered"] == ["0-red"]


LOGPROBS_REFUSED = {
    "403": said({"error": {"message": "You are not allowed to request logprobs from this model"}}, 403),
    "501": said({"error": {"message": "Not implemented: log probs"}}, 501),
    "500": said({"error": {"message": "logprobs not implemented"}}, 500),
    "another spelling": said(
        {"error": {"message": "LogProbs is not enabled for this model", "status": "INVALID"}}, 400
    ),
    "in 200": said({"error": {"message": "log_probs unsupported", "code": 400}}),
    "without a name": said({"error": {"message": "this feature needs another plan"}}, 403),
    "not implemented": said({"error": "not implemented"}, 501),
}


@pytest.mark.parametrize("name", LOGPROBS_REFUSED)
def test_probabilities_that_a_server_refuses_are_left_out(
    name: str, server: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    server.plan = lambda key, attempt, body: LOGPROBS_REFUSED[name] if "logprobs" in body else None
    made = infer(model=settings(), data=data, out=tmp_path / "p.csv")
    rows = rows_of(tmp_path / "p.csv")
    assert len(rows) == 36 and all(row["prediction"] == row["gold"] and row["p_a"] == "" for row in rows)
    assert made.content["endpoint"]["dropped"] == ["logprobs"]
    assert sum("logprobs" in body for body in server.seen) <= 3


def test_probabilities_that_are_not_served_are_counted_and_said(
    server: faulty.Server, settings: Settings, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.logprobs = False
    infer(model=settings(), data=data, out=tmp_path / "p.csv")
    assert observed(tmp_path / "p.csv")["strange_logprobs"] == {"no probabilities served": 24}
    assert "without probabilities: 24 choice answers: no probabilities served (24)" in capsys.readouterr().err


def test_a_picture_that_is_too_large_says_what_helps(
    server: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    page = "<html><head><title>413 Request Entity Too Large</title></head><body><hr>nginx</body></html>"
    server.plan = lambda key, attempt, body: said(page, 413)
    with pytest.raises(OutsideError, match="413 Request Entity Too Large, nginx") as caught:
        infer(model=settings(), data=data, out=tmp_path / "p.csv")
    assert "<" not in str(caught.value) and "picture: jpeg" in str(caught.value) and "max_side" in str(caught.value)


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("name", ["endless", "packed"])
def test_a_body_without_end_is_not_read(
    name: str, status: int, server: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    server.plan = lambda key, attempt, body: f"{name} {status}"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    with pytest.raises(OutsideError, match="longer than 8 MiB, so it was not read to its end"):
        infer(model=settings(tries=1, concurrency=1), data=data, out=tmp_path / "p.csv")
    assert time.monotonic() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


@pytest.fixture
def other() -> Iterator[faulty.Server]:
    """A second server."""
    with faulty.serving() as found:
        yield found


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_not_followed(
    status: int, server: faulty.Server, other: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    there = f"{other.address}/chat/completions".replace("http://", f"http://me:{KEY}@")
    server.plan = lambda key, attempt, body: said("", status, Location=there)
    with pytest.raises(OutsideError, match="not followed") as caught:
        infer(model=settings(), data=data, out=tmp_path / "p.csv")
    assert not other.seen and len(server.seen) <= 4
    assert f"127.0.0.1:{other.server_address[1]}" in str(caught.value) and KEY not in str(caught.value)


def test_a_redirect_on_the_same_host_is_followed(
    server: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    there = f"{server.address}/chat/completions/"
    server.plan = lambda key, attempt, body: said("", 308, Location=there) if attempt == 1 else None
    infer(model=settings(), data=data, out=tmp_path / "p.csv")
    assert all(row["prediction"] == row["gold"] for row in rows_of(tmp_path / "p.csv"))


def test_a_proxy_gets_no_request_for_this_machine(
    server: faulty.Server,
    other: faulty.Server,
    settings: Settings,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, other.address.removesuffix("/v1"))
    infer(model=settings(), data=data, out=tmp_path / "p.csv")
    assert not other.seen and "proxy" not in capsys.readouterr().err
    # The second server as the proxy to a host that only it knows.
    infer(model=settings(base_url="http://squares.invalid/v1"), data=data, out=tmp_path / "far.csv")
    assert len(other.seen) >= 36
    err = capsys.readouterr().err
    assert f"go through the proxy 127.0.0.1:{other.server_address[1]}, in clear text" in err
    assert "the key goes to squares.invalid in clear text" in err and KEY not in err


def test_packed_answers_are_read(server: faulty.Server, settings: Settings, data: Path, tmp_path: Path) -> None:
    body = {"choices": [{"message": {"content": "A"}, "finish_reason": "stop"}]}
    packed = {"status": 200, "body": gzip.compress(json.dumps(body).encode()), "headers": {"Content-Encoding": "gzip"}}
    server.plan = lambda key, attempt, body: packed
    infer(model=settings(), data=data, out=tmp_path / "p.csv")
    assert {row["prediction"] for row in rows_of(tmp_path / "p.csv")} == {"A"}


def test_an_answer_cannot_steer_the_terminal(server: faulty.Server, settings: Settings, data: Path) -> None:
    server.around = "\x1b]0;owned\x07\u202e\x9b2J{}\n\u5f02\u5e38"
    words = ["ask", "--model", settings(), str(data / "images/0.png"), "Describe."]
    done = subprocess.run([sys.executable, "-m", "deckbench", *words], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines()[0] == "Describe. -> \ufffd]0;owned\ufffd\ufffd\ufffd2Ja red square."
    assert done.stdout.decode().splitlines()[1] == "\u5f02\u5e38"
