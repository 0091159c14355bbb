"""Text that a model writes: read strictly, asked again with reasons, each call paid once whatever fails."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image
from pydantic import Field

from deckbench.endpoint.spec import find_server, read_spec
from deckbench.endpoint.structured import Outcome, Request, Run, answer_all, estimate, open_calls, replay, transcript
from deckbench.endpoint.structured.answer import NoAnswer, read_answer, strict_schema
from deckbench.endpoint.structured.pace import Pace
from deckbench.errors import InputError, OutsideError
from deckbench.schema import Strict
from tests.endpoint import faulty, writing_server
from tests.endpoint.writing_server import Server, paid_twice, text_in


class Verdict(Strict):
    """What the server is asked for."""

    number: int
    verdict: Literal["normal", "anomaly"]
    why: str = Field(min_length=1, max_length=200)


GOOD = {"number": 7, "verdict": "normal", "why": "all is well"}


def number_in(body: dict[str, Any]) -> int:
    first = next(message for message in body["messages"] if message["role"] == "user")
    found = re.search(r"frame (\d+)", text_in(first["content"]))
    assert found is not None
    return int(found[1])


def write(body: dict[str, Any]) -> str:
    number = number_in(body)
    return json.dumps({"number": number, "verdict": "anomaly" if number % 2 else "normal", "why": "seen 已看"})


@pytest.fixture
def server() -> Iterator[Server]:
    with writing_server.writing(write) as found:
        yield found


def request_for(number: int, **given: Any) -> Request:
    texts: dict[str, Any] = {"id": str(number), "prompt": "test@1", "system": "Judge.", "user": f"frame {number}"}
    return Request(**{**texts, "answer": Verdict, **given})


@pytest.fixture
def run(server: Server, tmp_path: Path) -> Callable[..., Run]:
    """Answers requests by the server, with the same file of calls each time."""

    def answer(requests: Sequence[Request], tries: int = 3, max_cost: float | None = None, **settings: Any) -> Run:
        path = tmp_path / "writer.yaml"
        known = {"model": "writer", "base_url": server.address, "key_env": "SQUARES_KEY", "timeout_s": 20}
        path.write_text(json.dumps({**known, **settings}))
        spec = read_spec(f"endpoint:{path}")
        with open_calls(tmp_path / "calls.jsonl") as calls:
            return answer_all(requests, spec, find_server(spec), calls, tries=tries, max_cost=max_cost)

    return answer


def statuses(run: Run) -> list[str]:
    return [outcome.status for outcome in run.outcomes]


# Reading


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD),
        f"\n  {json.dumps(GOOD, indent=2)}\n",
        f"```json\n{json.dumps(GOOD)}\n```",
        f"Here it is:\n\n```\n{json.dumps(GOOD)}\n```\nThat is all.",
        json.dumps({**GOOD, "why": "```json\n{}\n```"}),
    ],
)
def test_an_answer_is_read(text: str) -> None:
    assert read_answer(text, Verdict).number == 7


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("normal", "not one JSON object"),
        (f"It is {json.dumps(GOOD)}", "not one JSON object"),
        (json.dumps(GOOD)[:-3], "not one JSON object"),
        (json.dumps(GOOD) * 2, "not one JSON object"),
        (f"```json\n{json.dumps(GOOD)}\n```\nor\n```json\n{json.dumps(GOOD)}\n```", "2 fenced blocks"),
        (f"```json\n{json.dumps(GOOD)}", "not one JSON object"),
        (json.dumps([GOOD]), "not one JSON object"),
        ('{"number": 1, "number": 2, "verdict": "normal", "why": "x"}', "occurs twice"),
        ('{"number": NaN, "verdict": "normal", "why": "x"}', "NaN"),
        (json.dumps({**GOOD, "number": "7"}), "number: "),
        (json.dumps({**GOOD, "number": 7.5}), "number: "),
        (json.dumps({**GOOD, "verdict": "Normal"}), "verdict: "),
        (json.dumps({**GOOD, "sure": True}), "sure: "),
        (json.dumps({"number": 7, "verdict": "normal"}), "why: "),
        ('{"number": 7, "verdict": "normal", "why": "\\ud83d"}', ""),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"number": ' + "9" * 5000 + "}", ""),
        ("x" * (2 << 20), "longer than"),
        ("```json\n" * 100_000, "not one JSON object"),
        ("```" + " " * 1_000_000, "not one JSON object"),
        (" " * 1_000_000 + "x", "not one JSON object"),
    ],
)
def test_nothing_is_guessed(text: str, reason: str) -> None:
    with pytest.raises(NoAnswer) as caught:
        read_answer(text, Verdict)
    assert reason in str(caught.value)


def test_the_schema_is_what_strict_servers_take() -> None:
    class Inner(Strict):
        title: str = "a default"

    class Outer(Strict):
        inner: tuple[Inner, ...]
        extra: str | None = None

    schema = strict_schema(Outer)
    inner = schema["$defs"]["Inner"]
    assert schema["required"] == ["inner", "extra"] and schema["additionalProperties"] is False
    assert inner == {
        "additionalProperties": False,
        "properties": {"title": {"type": "string"}},
        "required": ["title"],
        "type": "object",
    }
    assert read_answer('{"inner": [{"title": "x"}], "extra": null}', Outer).inner == (Inner(title="x"),)


# Asking


def test_all_are_answered_in_order_and_paid_once(run: Callable[..., Run], server: Server, tmp_path: Path) -> None:
    requests = [request_for(number) for number in range(30)]
    first = run(requests, price_in=1.0, price_out=2.0)
    assert [outcome.value.number for outcome in first.outcomes] == list(range(30))
    assert server.seen[0]["response_format"]["json_schema"]["strict"] is True
    assert server.seen[0]["messages"][0] == {"role": "system", "content": "Judge."}
    assert first.observed["calls"] == 30 and first.observed["tokens_in"] == 3000
    assert first.observed["cost"] == pytest.approx(30 * (100 * 1.0 + 20 * 2.0) / 1e6)
    assert server.most <= 4
    again = run(requests, price_in=1.0, price_out=2.0)
    assert len(server.seen) == 30 and again.observed["paid_before"] == 30
    assert again.outcomes == first.outcomes
    with open_calls(tmp_path / "calls.jsonl") as calls:
        lines = transcript(calls, [key for outcome in first.outcomes for key in outcome.calls]).splitlines()
    assert len(lines) == 30 and faulty.KEY not in "".join(lines)
    shown = json.loads(lines[3])
    assert shown["messages"][1]["content"] == "frame 3" and json.loads(shown["text"])["number"] == 3


CHANGES: dict[str, dict[str, Any]] = {
    "the text": {"user": "frame 1 again"},
    "the system text": {"system": "Judge well."},
    "the prompt's version": {"prompt": "test@2"},
    "the temperature": {"temperature": 0.5},
    "the limit": {"max_tokens": 99},
    "the repeat": {"repeat": 1},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_decides_an_answer_is_asked_anew(change: str, run: Callable[..., Run], server: Server) -> None:
    run([request_for(1)])
    run([request_for(1), request_for(1, **CHANGES[change])])
    assert len(server.seen) == 2


def test_an_image_goes_before_the_text_and_its_bytes_count(
    run: Callable[..., Run], server: Server, tmp_path: Path
) -> None:
    for name, colour in (("a", "red"), ("b", "red"), ("c", "blue")):
        Image.new("RGB", (80, 60), colour).save(tmp_path / f"{name}.png")
    found = run([request_for(1, image=tmp_path / f"{name}.png") for name in "abc"])
    assert statuses(found) == ["answered"] * 3
    assert len(server.seen) == 2  # a and b are the same bytes
    assert [part["type"] for part in server.seen[0]["messages"][1]["content"]] == ["image_url", "text"]
    assert "base64" not in (tmp_path / "calls.jsonl").read_text()


def test_a_server_without_schemas_gets_them_in_the_prompt(run: Callable[..., Run], server: Server) -> None:
    server.takes_schema = False
    server.write = lambda body: f"Sure:\n```json\n{write(body)}\n```"
    found = run([request_for(number) for number in range(5)])
    assert statuses(found) == ["answered"] * 5
    assert "response_format" in server.seen[0] and all("response_format" not in body for body in server.seen[1:])
    assert '"additionalProperties": false' in server.seen[-1]["messages"][-1]["content"]
    assert found.observed["dropped"] == ["response_format"]


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_server_that_fails_with_schemas_for_no_reason(status: int, run: Callable[..., Run], server: Server) -> None:
    server.plan = lambda key, attempt, body: (
        {"status": status, "body": {"error": {"message": "bad request"}}} if "response_format" in body else None
    )
    assert statuses(run([request_for(1), request_for(2)])) == ["answered"] * 2


@pytest.mark.parametrize("message", ["System role not supported", "Conversation roles must alternate user/assistant"])
def test_a_server_without_a_system_role(message: str, run: Callable[..., Run], server: Server) -> None:
    refused = {"status": 400, "body": {"error": {"message": message}}}
    server.plan = lambda key, attempt, body: refused if body["messages"][0]["role"] == "system" else None
    found = run([request_for(number) for number in range(4)])
    assert statuses(found) == ["answered"] * 4 and server.seen[-1]["messages"][0]["content"].startswith("Judge.\n\n")
    assert found.observed["dropped"] == ["system"]


def test_a_rejected_answer_is_asked_for_again_with_the_reasons(run: Callable[..., Run], server: Server) -> None:
    server.write = lambda body: write(body) if len(body["messages"]) == 4 else json.dumps({**GOOD, "why": "the lid"})

    def check(answer: Verdict) -> list[str]:
        return [f"it names {answer.why!r}, which is not there"] if "lid" in answer.why else []

    found = run([request_for(2, check=check)])
    assert statuses(found) == ["answered"] and len(found.outcomes[0].calls) == 2
    _, _, said, again = server.seen[1]["messages"]
    assert json.loads(said["content"])["why"] == "the lid" and said["role"] == "assistant"
    assert "'the lid', which is not there" in again["content"] and "JSON schema" in again["content"]
    server.write = lambda body: json.dumps({**GOOD, "why": "the lid"})
    found = run([request_for(3, check=check)])
    assert statuses(found) == ["rejected"] and "which is not there" in found.outcomes[0].reasons[0]
    assert len(server.seen) == 5


def test_a_cut_answer_gets_more_room(run: Callable[..., Run], server: Server) -> None:
    def cut(body: dict[str, Any]) -> Any:
        if body["max_tokens"] < 200:
            return {"message": {"role": "assistant", "content": write(body)[:20]}, "finish_reason": "length"}
        return write(body)

    server.write = cut
    found = run([request_for(1, max_tokens=50)])
    assert [body["max_tokens"] for body in server.seen] == [50, 100, 200] and statuses(found) == ["answered"]
    assert "cut off after 50 tokens" in server.seen[1]["messages"][-1]["content"]


def test_thoughts_are_no_answer(run: Callable[..., Run], server: Server) -> None:
    server.write = lambda body: f"<think>{json.dumps(GOOD)}</think>\n{write(body)}"
    found = run([request_for(4)])
    assert found.outcomes[0].value.number == 4
    server.write = lambda body: "<think>Hm" if len(body["messages"]) < 4 else write(body)
    found = run([request_for(5)])
    assert statuses(found) == ["answered"] and "(no answer)" in server.seen[-1]["messages"][2]["content"]


DECLINED: dict[str, Any] = {
    "a refusal": {"message": {"role": "assistant", "content": None, "refusal": "I cannot"}},
    "a filter": {"message": {"role": "assistant", "content": ""}, "finish_reason": "content_filter"},
}


@pytest.mark.parametrize("name", DECLINED)
def test_a_refusal_is_kept_and_not_asked_again(name: str, run: Callable[..., Run], server: Server) -> None:
    server.write = lambda body: DECLINED[name] if number_in(body) == 3 else write(body)
    requests = [request_for(number) for number in range(6)]
    assert statuses(run(requests))[3] == "refused"
    assert statuses(run(requests)).count("answered") == 5 and len(server.seen) == 6


# Faults


def test_faults_that_pass(run: Callable[..., Run], server: Server) -> None:
    names = [name for name in faulty.PASSING if name not in {"hang", "drip"}]
    server.plan = lambda key, attempt, body: None if attempt > 2 else names[(faulty.number(key) + attempt) % len(names)]
    found = run([request_for(number) for number in range(60)], concurrency=16)
    assert statuses(found) == ["answered"] * 60 and not paid_twice(server)
    assert found.observed["failed_requests"] == 120


def test_a_slow_answer_is_not_waited_for(run: Callable[..., Run], server: Server) -> None:
    server.plan = lambda key, attempt, body: "hang" if number_in(body) == 1 and attempt == 1 else None
    assert statuses(run([request_for(number) for number in range(4)], timeout_s=0.3)) == ["answered"] * 4


def test_rate_limits_halve_what_is_open_and_answers_raise_it(run: Callable[..., Run], server: Server) -> None:
    limited = {"status": 429, "body": {"error": {"message": "slow down"}}, "headers": {"Retry-After": "0.05"}}
    server.slow_s = 0.03
    server.plan = lambda key, attempt, body: limited if server.open > 3 else None
    found = run([request_for(number) for number in range(150)], concurrency=32)
    assert statuses(found) == ["answered"] * 150 and not paid_twice(server)
    assert found.observed["rate_limits"] > 0
    assert found.observed["rate_limits"] < 60
    assert found.observed["concurrency"]["lowest"] < found.observed["concurrency"]["highest"]


def test_the_pace_grows_by_answers_and_halves_at_a_limit() -> None:
    pace = Pace(32)
    for _ in range(15):
        pace.faster()
    assert pace.limit == 16  # from one, by one with each answer
    era = pace.era
    pace.slower(era)
    pace.slower(era)  # sent before the first: it says nothing new
    assert pace.limit == 8
    for _ in range(9):
        pace.faster()
    assert 8.9 < pace.limit < 9.2  # by one with each round of answers
    for _ in range(5):
        pace.slower(pace.era)
    assert pace.limit == 1 and pace.lowest == 1
    for _ in range(2000):
        pace.faster()
    assert pace.limit == 32


def test_a_server_that_dies_is_come_back_to(run: Callable[..., Run], server: Server, tmp_path: Path) -> None:
    server.plan = lambda key, attempt, body: "reset" if sum(server.answered.values()) >= 20 else None
    requests = [request_for(number) for number in range(50)]
    with pytest.raises(OutsideError, match="no answer in 6 requests"):
        run(requests)
    server.plan = lambda key, attempt, body: None
    assert statuses(run(requests)) == ["answered"] * 50
    assert not paid_twice(server) and len(server.answered) == 50


def test_a_limit_on_the_cost_is_kept(run: Callable[..., Run], server: Server) -> None:
    requests = [request_for(number, max_tokens=30) for number in range(40)]
    prices = {"price_in": 1.0, "price_out": 1.0, "concurrency": 8}
    with pytest.raises(OutsideError, match="raise --max-cost"):
        run(requests, max_cost=20 * 120 / 1e6, **prices)
    answered = sum(server.answered.values())
    assert 15 <= answered <= 20
    with pytest.raises(OutsideError):
        run(requests, max_cost=20 * 120 / 1e6, **prices)
    assert sum(server.answered.values()) <= 20
    assert statuses(run(requests, max_cost=1.0, **prices)) == ["answered"] * 40 and not paid_twice(server)


def test_a_limit_needs_prices(run: Callable[..., Run], server: Server) -> None:
    with pytest.raises(InputError, match="price_in"):
        run([request_for(1)], max_cost=1.0)
    assert not server.seen


def test_an_estimate_asks_nothing(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(json.dumps({"model": "writer", "base_url": server.address, "price_in": 2.0, "price_out": 4.0}))
    Image.new("RGB", (750, 1000), "red").save(tmp_path / "a.png")
    requests = [request_for(1, user="x" * 400), request_for(2, user="看" * 100, image=tmp_path / "a.png")]
    found = estimate(requests, read_spec(f"endpoint:{path}"))
    assert found.requests == 2 and found.tokens_out == 2048 and not server.seen
    assert 100 + 100 + 1000 <= found.tokens_in <= 1260
    assert found.cost == pytest.approx((found.tokens_in * 2 + 2048 * 4) / 1e6)
    assert "estimate" in found.line()


KILLED = """
import sys, json
from pathlib import Path
sys.path[:0] = {path!r}
from deckbench.endpoint import client
from deckbench.endpoint.spec import find_server, read_spec
from deckbench.endpoint.structured import answer_all, open_calls
from tests.endpoint.test_structured import request_for
spec = read_spec("endpoint:" + sys.argv[1])
with open_calls(Path(sys.argv[2])) as calls:
    run = answer_all([request_for(n) for n in range(60)], spec, find_server(spec), calls)
print(json.dumps([outcome.value.number for outcome in run.outcomes]))
"""


def test_killed_and_resumed(server: Server, tmp_path: Path) -> None:
    path, kept = tmp_path / "e.yaml", tmp_path / "calls.jsonl"
    path.write_text(json.dumps({"model": "writer", "base_url": server.address, "concurrency": 4}))
    command = [sys.executable, "-c", KILLED.format(path=[entry for entry in sys.path if entry]), str(path), str(kept)]
    server.slow_s = 0.02
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while sum(server.answered.values()) < 30:
        time.sleep(0.01)
    first.kill()
    first.wait()
    known = {json.loads(line)["call"]["key"] for line in kept.read_bytes().splitlines() if line.endswith(b"}")}
    with kept.open("ab") as file:
        file.write(b'{"call":{"key":"torn')
    before = dict(server.answered)
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert json.loads(done.stdout) == list(range(60))
    again = paid_twice(server)
    assert len(again) <= 4 and sum(before.values()) - len(known) >= len(again)  # only those that were open
    assert len(server.answered) == 60


def test_calls_are_replayed_without_a_server(run: Callable[..., Run], server: Server, tmp_path: Path) -> None:
    requests = [request_for(number) for number in range(3)]
    found = run(requests)
    spec = read_spec(f"endpoint:{tmp_path / 'writer.yaml'}")
    with open_calls(tmp_path / "calls.jsonl") as calls:
        assert replay([*requests, request_for(9)], spec, calls) == [*found.outcomes, None]


def test_another_file_is_not_taken_for_calls(run: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "calls.jsonl").write_text('{"messages": []}\n')
    with pytest.raises(InputError, match="this is no call"):
        run([request_for(1)])
    assert (tmp_path / "calls.jsonl").read_text() == '{"messages": []}\n'


@pytest.mark.parametrize(
    "text", ["tip", '{"images": [1], "annotations": []}', '{"call": {"name": "f"}}', '{"call":{"name":"f"}}', "{", "\r"]
)
def test_another_file_without_a_line_end_is_left_alone(text: str, run: Callable[..., Run], tmp_path: Path) -> None:
    kept = tmp_path / "calls.jsonl"
    kept.write_text(text, newline="")
    with pytest.raises(InputError, match="this is no call") as caught:
        run([request_for(1)])
    assert caught.value.where == f"{kept}:1" and kept.read_bytes() == text.encode()


def test_notes_behind_calls_are_left_alone(run: Callable[..., Run], tmp_path: Path) -> None:
    run([request_for(1)])
    kept = tmp_path / "calls.jsonl"
    kept.write_bytes(whole := kept.read_bytes() + b"my notes")
    with pytest.raises(InputError, match="this is no call") as caught:
        run([request_for(2)])
    assert caught.value.where == f"{kept}:2" and kept.read_bytes() == whole


@pytest.mark.parametrize("length", [40, -1])
def test_a_torn_first_call_is_asked_for_again(
    length: int, run: Callable[..., Run], server: Server, tmp_path: Path
) -> None:
    run([request_for(1)])
    kept = tmp_path / "calls.jsonl"
    kept.write_bytes(kept.read_bytes()[:length])
    run([request_for(1)])
    assert len(server.seen) == 2 and kept.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_not_followed(there: bool, run: Callable[..., Run], tmp_path: Path) -> None:
    if there:
        (tmp_path / "target").write_text("")
    (tmp_path / "calls.jsonl").symlink_to(tmp_path / "target")
    with pytest.raises(InputError, match="symbolic link"):
        run([request_for(1)])
    assert (tmp_path / "target").exists() == there and (tmp_path / "calls.jsonl").is_symlink()


def test_a_damaged_line_loses_nothing_that_was_paid(run: Callable[..., Run], server: Server, tmp_path: Path) -> None:
    run([request_for(number) for number in range(4)])
    kept = tmp_path / "calls.jsonl"
    whole = kept.read_bytes()
    first, second, *rest = whole.splitlines(keepends=True)
    kept.write_bytes(b"".join([first, second.replace(b'"outcome"', b'"result"'), *rest]))
    damaged = kept.read_bytes()
    with pytest.raises(InputError, match="another version") as caught:
        run([request_for(1)])
    assert caught.value.where == f"{kept}:2" and kept.read_bytes() == damaged
    kept.write_bytes(whole + b'{"call":{"key"')
    run([request_for(number) for number in range(4)])
    assert len(server.seen) == 4 and kept.read_bytes() == whole


def test_one_process_writes_the_calls(run: Callable[..., Run], tmp_path: Path) -> None:
    held = "import sys; from pathlib import Path; from deckbench.disk import claim\n"
    held += f"with claim(Path({str(tmp_path / 'calls.jsonl')!r})): print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(OutsideError, match="another process"):
            run([request_for(1)])
        other.stdin.close()


def test_equal_requests_are_one_call(run: Callable[..., Run], server: Server) -> None:
    server.slow_s = 0.05
    found: list[Outcome] = list(run([request_for(0), *[request_for(1) for _ in range(8)]]).outcomes)
    assert [outcome.value.number for outcome in found] == [0, *[1] * 8] and len(server.seen) == 2
