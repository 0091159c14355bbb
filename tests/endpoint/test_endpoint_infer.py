"""Predictions from a real server on loopback that fails in every way servers fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deckbench.csvfile import csv_records
from deckbench.errors import InputError, OutsideError
from deckbench.infer import ask, infer
from deckbench.score import score
from tests.endpoint import faulty
from tests.endpoint.faulty import KEY
from tests.train import micro_world

Settings = Callable[..., str]


def rows_of(path: Path) -> list[dict[str, str]]:
    return [record for _, record in csv_records(path)]


def ids_of(data: Path) -> list[str]:
    return [json.loads(line)["id"] for line in (data / "test.jsonl").open()]


def observed(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(path.with_name(f"{path.stem}.manifest.json").read_text())
    found: dict[str, Any] = manifest["observed"]["endpoint"]
    return found


@pytest.fixture
def clean(server: faulty.Server, settings: Settings, data: Path, tmp_path: Path) -> tuple[str, bytes]:
    """Content hash and bytes of a run in which nothing fails."""
    out = tmp_path / "clean" / "p.csv"
    made = infer(model=settings(), data=data, out=out)
    server.attempts.clear()
    server.answered.clear()
    server.seen.clear()
    server.most = 0
    return made.content_hash, out.read_bytes()


def test_every_question_is_answered_rightly(
    server: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p.csv"
    server.slow_s = 0.05  # so that requests overlap on any machine
    made = infer(model=settings(price_in=2.0, price_out=10.0), data=data, out=out)
    rows = rows_of(out)
    assert [row["id"] for row in rows] == ids_of(data)
    assert all(row["prediction"] == row["gold"] for row in rows)
    for row in rows:
        if row["kind"] == "choice":
            right, wrong = ("p_a", "p_b") if row["gold"] == "A" else ("p_b", "p_a")
            assert (row[right], row[wrong]) == ("0.80000000", "0.15000000")
            assert row["p_anomaly"] in {row["p_a"], row["p_b"]}
        else:
            assert row["p_a"] == row["p_b"] == row["p_anomaly"] == ""
    assert made.content["endpoint"] == {"dropped": [], "unanswered": []}
    seen = observed(out)
    tokens = sum(int(row["tokens_in"]) for row in rows), sum(int(row["tokens_out"]) for row in rows)
    assert (seen["tokens_in"], seen["tokens_out"]) == tokens == (36 * 50, 24 * 2 + 12 * 4)
    assert seen["cost"] == pytest.approx((tokens[0] * 2 + tokens[1] * 10) / 1e6) and seen["currency"] == "USD"
    # not equal: on a busy machine a connection may break, and the question is sent again
    assert seen["answers"] == 36 <= seen["requests"] < 48 and seen["models"] == ["squares-1"]
    assert seen["addresses"] == [server.address]
    assert 1 < server.most <= 4
    body = server.seen[0]
    assert body["model"] == "squares" and body["temperature"] == 0 and body["max_tokens"] == 16
    assert 24 <= sum("logprobs" in body for body in server.seen) < 32
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    times = rows_of(tmp_path / "p.timings.csv")
    assert len(times) == 36 and {row["vision_s"] + row["decode_s"] for row in times} == {""}
    assert score(out, data=data)["metrics"]["accuracy"]["value"] == 1


@pytest.mark.parametrize("fault", faulty.PASSING)
def test_a_fault_changes_nothing(
    fault: str, clean: tuple[str, bytes], server: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    """The first try of every third question fails."""
    hit = set(range(0, 36, 3))
    order: dict[str, int] = {}

    def plan(key: str, attempt: int, body: dict[str, Any]) -> str | None:
        place = order.setdefault(key, len(order))
        return fault if attempt == 1 and place in hit else None

    server.plan = plan
    out = tmp_path / "p.csv"
    waits = fault in {"hang", "drip"}
    made = infer(model=settings(concurrency=8, **({"timeout_s": 2} if waits else {})), data=data, out=out)
    assert (made.content_hash, out.read_bytes()) == clean
    assert len(server.answered) == 36
    # 48 on a quiet machine; on a busy one a connection may break or a wait run out, and the question is sent again
    assert 48 <= observed(out)["requests"] < 60 and sum(server.answered.values()) < 44


@pytest.mark.slow
def test_all_faults_at_once(
    clean: tuple[str, bytes], server: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    """Up to four tries of a question fail, each in another way."""

    def plan(key: str, attempt: int, body: dict[str, Any]) -> str | None:
        name = faulty.PASSING[(faulty.number(key) + attempt) % len(faulty.PASSING)]
        return name if attempt <= faulty.number(key) % 5 else None

    server.plan = plan
    out = tmp_path / "p.csv"
    made = infer(model=settings(concurrency=8, timeout_s=2), data=data, out=out)
    assert (made.content_hash, out.read_bytes()) == clean
    assert len(server.answered) == 36


@pytest.mark.parametrize("name", faulty.LOGPROBS)
def test_wrong_logprobs_leave_p_empty(
    name: str, server: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    server.plan = lambda key, attempt, body: name if "A. red" in key else None
    out = tmp_path / "p.csv"
    infer(model=settings(), data=data, out=out)
    rows = rows_of(out)
    assert all(row["prediction"] == row["gold"] for row in rows)
    for row in rows:
        believed = row["kind"] == "choice" and row["id"].endswith("blue")
        assert (row["p_a"] != "") == (row["p_anomaly"] != "") == believed, row
    assert sum(observed(out)["strange_logprobs"].values()) == 12


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "openai": ({"error": {"message": "Unsupported parameter.", "param": "logprobs"}}, "logprobs"),
    "a pydantic server": (
        {"detail": [{"loc": ["body", "top_logprobs"], "msg": "Extra inputs are not permitted"}]},
        "logprobs",
    ),
    "a plain text": ({"error": "logprobs is not supported by this model"}, "logprobs"),
    "temperature": (
        {"error": {"message": "'temperature' does not support 0 with this model", "param": "temperature"}},
        "temperature",
    ),
    "max_tokens": (
        {
            "error": {
                "message": "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead.",
                "param": "max_tokens",
            }
        },
        "max_tokens",
    ),
}


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("name", REFUSALS)
def test_a_refused_field_is_dropped_once(
    status: int, name: str, server: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    error, field = REFUSALS[name]
    refused = {"logprobs", "top_logprobs"} if field == "logprobs" else {field}
    server.plan = lambda key, attempt, body: {"status": status, "body": error} if refused & set(body) else None
    out = tmp_path / "p.csv"
    made = infer(model=settings(concurrency=8), data=data, out=out)
    rows = rows_of(out)
    assert len(rows) == 36 and all(row["prediction"] == row["gold"] for row in rows)
    assert made.content["endpoint"]["dropped"] == [field]
    assert (rows[0]["p_a"] == "") == (field == "logprobs")
    # Once; once for each kind of question, where the first of both were on their way together; again where a
    # connection broke
    assert 1 <= sum(bool(refused & set(body)) for body in server.seen) <= 4
    if field == "max_tokens":
        assert sum(body.get("max_completion_tokens") is not None for body in server.seen) >= 36


def test_a_server_without_logprobs_or_usage(
    server: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    """Nothing is made up: cells stay empty, and the cost is of what was counted."""
    server.logprobs = server.usage = False
    out = tmp_path / "p.csv"
    infer(model=settings(price_in=1.0, price_out=1.0), data=data, out=out)
    rows = rows_of(out)
    assert {row["p_a"] + row["tokens_in"] + row["tokens_out"] for row in rows} == {""}
    assert observed(out)["uncounted"] == 36 and observed(out)["cost"] == 0
    assert score(out, data=data)["n"] == 36


def test_half_a_character_is_an_answer(server: faulty.Server, settings: Settings, data: Path, tmp_path: Path) -> None:
    server.plan = lambda key, attempt, body: "half a character" if "Describe" in key else None
    infer(model=settings(), data=data, out=tmp_path / "p.csv")
    assert {row["prediction"] for row in rows_of(tmp_path / "p.csv") if row["kind"] == "open"} == {"\ufffd"}


# What can never succeed is no wrong answer


FOREVER: dict[str, Any] = {
    "a filter": {"status": 400, "body": {"error": {"message": "flagged by the content policy"}}},
    "too large": {"status": 413, "body": "too large"},
    "a filter's end": {
        "status": 200,
        "body": {"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]},
    },
    "a field that stays": {"status": 400, "body": {"error": {"message": "logprobs temperature max_tokens messages"}}},
    "always 500": {"status": 500, "body": "no", "headers": {"Retry-After": "0"}},
}


@pytest.mark.parametrize("name", FOREVER)
def test_what_never_succeeds_is_no_wrong_answer(
    name: str, clean: tuple[str, bytes], server: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    bad: set[str] = set()

    def plan(key: str, attempt: int, body: dict[str, Any]) -> Any:
        if "A. red" in key and len(bad) < 2:
            bad.add(key)
        return FOREVER[name] if key in bad else None

    server.plan = plan
    out = tmp_path / "p.csv"
    # One at a time, so that the same two pictures are met first; each has two more questions that are answered.
    with pytest.raises(OutsideError, match="2 questions got no answer; the first, 0-red: ") as caught:
        infer(model=settings(concurrency=1, tries=2), data=data, out=out)
    assert caught.value.exit_code == 3 and not out.exists()
    assert [row["id"] for row in rows_of(tmp_path / "p.partial" / "p.unanswered.csv")] == ["0-red", "1-red"]
    asked = sum(server.attempts.values())
    made = infer(model=settings(concurrency=1, tries=2, unanswered="leave-out"), data=data, out=out)
    assert sum(server.attempts.values()) - asked < 30  # only the two pictures, not the ten others
    assert [row["id"] for row in rows_of(out)] == [key for key in ids_of(data) if key not in {"0-red", "1-red"}]
    assert made.content["endpoint"]["unanswered"] == ["0-red", "1-red"]
    assert len(rows_of(tmp_path / "p.unanswered.csv")) == 2
    result = score(out, data=data)
    assert result["n"] == 34 and result["metrics"]["accuracy"]["value"] == 1
    assert "34 of 36 questions answered; 2 have no prediction and are not in the score" in result["notes"]
    server.plan = lambda key, attempt, body: None
    fixed = infer(model=settings(), data=data, out=tmp_path / "fixed.csv")
    assert (fixed.content_hash, (tmp_path / "fixed.csv").read_bytes()) == clean
    assert made.content["endpoint"]["dropped"] == []  # what did not help was not dropped


def test_a_stopped_run_goes_on_when_mended(
    clean: tuple[str, bytes], server: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    bad: set[str] = set()

    def plan(key: str, attempt: int, body: dict[str, Any]) -> Any:
        if len(server.answered) >= 20 and not bad:
            bad.add(key)
        return FOREVER["a filter"] if key in bad else None

    server.plan = plan
    out = tmp_path / "p.csv"
    with pytest.raises(OutsideError, match="questions got no answer"):
        infer(model=settings(), data=data, out=out)
    server.plan = lambda key, attempt, body: None
    made = infer(model=settings(), data=data, out=out)
    assert (made.content_hash, out.read_bytes()) == clean
    assert not (tmp_path / "p.partial").exists() and not (tmp_path / "p.unanswered.csv").exists()


STOPS: dict[str, tuple[dict[str, Any], str]] = {
    "the key": ({"status": 401, "body": {"error": {"message": f"wrong key {KEY}"}}}, r"wrong key \*\*\*"),
    "the model": ({"status": 404, "body": {"error": {"message": "no such model"}}}, "no such model"),
    "the quota": (
        {"status": 429, "body": {"error": {"message": "no money", "code": "insufficient_quota"}}},
        "no money",
    ),
    "come back tomorrow": ({"status": 429, "body": "later", "headers": {"Retry-After": "86400"}}, "86400 s"),
    "every picture": ({"status": 400, "body": {"error": {"message": f"{KEY} no"}}}, "every question is refused"),
    "down": ({"status": 503, "body": "", "headers": {"Retry-After": "0"}}, "no answer in 6 requests"),
}


@pytest.mark.parametrize("name", STOPS)
def test_what_nobody_can_answer_stops_the_run(
    name: str, server: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    fault, message = STOPS[name]
    server.plan = lambda key, attempt, body: fault
    with pytest.raises(OutsideError, match=message) as caught:
        infer(model=settings(), data=data, out=tmp_path / "p.csv")
    assert KEY not in str(caught.value) and caught.value.fix
    assert sum(server.attempts.values()) <= 18 + 4  # three questions of six tries, and what was on its way then
    with pytest.raises(OutsideError):
        infer(model=settings(unanswered="leave-out"), data=data, out=tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


def test_the_quota_runs_out_in_the_middle(
    clean: tuple[str, bytes], server: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    """What is answered is kept, and not asked again."""
    server.plan = lambda key, attempt, body: STOPS["the quota"][0] if len(server.answered) >= 20 else None
    out = tmp_path / "p.csv"
    with pytest.raises(OutsideError, match="no money"):
        infer(model=settings(), data=data, out=out)
    kept = (tmp_path / "p.partial" / "answers.jsonl").read_bytes().count(b"\n")
    assert kept >= 4
    server.plan = lambda key, attempt, body: None
    before = sum(server.answered.values())
    made = infer(model=settings(), data=data, out=out)
    again = sum(server.answered.values()) - before
    assert 3 * (12 - kept) <= again < 3 * 12  # a broken connection on a busy machine costs a request more
    assert (made.content_hash, out.read_bytes()) == clean


def test_nobody_listens(settings: Settings, data: Path, tmp_path: Path) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    began = time.monotonic()
    with pytest.raises(OutsideError, match="the connection failed"):
        infer(model=settings(base_url=address), data=data, out=tmp_path / "p.csv")
    assert time.monotonic() - began < 20


def test_a_broken_picture_costs_nothing(server: faulty.Server, settings: Settings, tmp_path: Path) -> None:
    place = micro_world.make_dataset(tmp_path / "d", 3)
    (place / "images/2.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"2\.png"):
        infer(model=settings(), data=place, out=tmp_path / "p.csv")
    assert not server.seen and not (tmp_path / "p.partial").exists()


# Killed and resumed


# A shell starts what runs in its background with interrupts ignored, and children inherit that.
HEEDING_INTERRUPTS = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("deckbench", run_name="__main__")
"""


def cli(settings: str, data: Path, out: Path, **environ: str) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[2] / "harness"
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    words = ["infer", "--model", settings, "--data", str(data), "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-c", HEEDING_INTERRUPTS, *words],
        env={**os.environ, "PYTHONPATH": paths, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_sigkill_and_again(
    clean: tuple[str, bytes], server: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    """Killed whenever ten more answers are there, among faults, until it is through: nothing lost, nothing doubled."""
    kinds = [name for name in faulty.PASSING if name not in {"hang", "drip"}]

    def plan(key: str, attempt: int, body: dict[str, Any]) -> str | None:
        return kinds[faulty.number(key) % len(kinds)] if attempt == 1 and faulty.number(key) % 3 == 0 else None

    server.plan, server.slow_s = plan, 0.02
    out = tmp_path / "p.csv"
    kills, said = 0, ""
    while not out.exists():
        goal = sum(server.answered.values()) + 10
        run = cli(settings(concurrency=3, timeout_s=60), data, out, OPENAI_LOG="debug")
        while run.poll() is None and sum(server.answered.values()) < goal:
            time.sleep(0.002)
        run.send_signal(signal.SIGKILL)
        said += "".join(run.communicate(timeout=60))
        kills += run.returncode == -signal.SIGKILL
        assert kills < 20
    assert kills >= 2
    assert out.read_bytes() == clean[1]
    # Asked again: at most the pictures that were open when it was killed
    assert len(server.answered) == 36 and sum(server.answered.values()) <= 36 + kills * 3 * 3
    run = cli(settings(concurrency=3, timeout_s=60), data, out)
    said += "".join(run.communicate(timeout=60))
    assert run.returncode == 0 and json.loads((tmp_path / "p.manifest.json").read_text())["content_hash"] == clean[0]
    assert not (tmp_path / "p.partial").exists()
    everything = said.encode() + b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert KEY.encode() not in everything and KEY[8:].encode() not in everything


def test_an_interrupt_ends_at_once(server: faulty.Server, settings: Settings, data: Path, tmp_path: Path) -> None:
    """Requests that hang do not keep the program from ending."""
    server.plan = lambda key, attempt, body: "hang" if len(server.answered) >= 6 else None
    run = cli(settings(timeout_s=600), data, tmp_path / "p.csv")
    while run.poll() is None and (len(server.answered) < 6 or server.open < 2):
        time.sleep(0.01)
    time.sleep(0.3)
    began = time.monotonic()
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert run.returncode == 130 and "Traceback" not in said
    assert (tmp_path / "p.partial" / "answers.jsonl").is_file()


def test_the_command_line_says_what_failed(
    server: faulty.Server, settings: Settings, data: Path, tmp_path: Path
) -> None:
    server.plan = lambda key, attempt, body: STOPS["the key"][0]
    run = cli(settings(), data, tmp_path / "p.csv")
    out, said = run.communicate(timeout=60)
    assert run.returncode == 3 and "SQUARES_KEY" in said and "Traceback" not in said
    assert KEY not in out + said


# Asking


def test_ask(server: faulty.Server, settings: Settings, data: Path) -> None:
    question = micro_world.PROMPT.format(a="red", b="blue")
    answers = ask(model=settings(), frame=data / "images/0.png", questions=[question, "Describe."])
    assert [answer.text for answer in answers] == ["A", "a red square."]
    assert answers[0].p_a == pytest.approx(0.8) and answers[1].p_a is None
    server.plan = lambda key, attempt, body: FOREVER["a filter"]
    with pytest.raises(OutsideError, match="refused: HTTP 400: flagged by the content policy"):
        ask(model=settings(), frame=data / "images/0.png", questions=["Describe."])


def test_blind_sees_one_colour(server: faulty.Server, settings: Settings, data: Path, tmp_path: Path) -> None:
    made = infer(model=f"blind:{settings()}", data=data, out=tmp_path / "p.csv")
    assert made.content["inputs"]["model"]["name"] == "blind:endpoint:squares"
    assert {row["prediction"] for row in rows_of(tmp_path / "p.csv")} == {"B", "a none square."}
    assert len({body["url"] for body in server.seen}) == 1


def test_pictures_as_asked_for(server: faulty.Server, settings: Settings, data: Path) -> None:
    import base64
    import io

    from PIL import Image

    ask(model=settings(max_side=32, picture="jpeg"), frame=data / "images/0.png", questions=["Describe."])
    kind, text = server.seen[0]["url"].split(";base64,")
    assert kind == "data:image/jpeg"
    assert Image.open(io.BytesIO(base64.b64decode(text))).size == (32, 18)
    ask(model=settings(thinking_tokens=500, extra={"seed": 7}), frame=data / "images/0.png", questions=["Describe."])
    assert server.seen[1]["max_tokens"] == 628 and server.seen[1]["seed"] == 7
    ask(model=settings(), frame=data / "images/0.png", questions=["Describe."])
    sent = Image.open(io.BytesIO(base64.b64decode(server.seen[2]["url"].split(",")[1])))
    assert sent.tobytes() == Image.open(data / "images/0.png").convert("RGB").tobytes()
