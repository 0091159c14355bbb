"""The Batch API: half the price, resumable, and nothing paid twice."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deckbench.endpoint.spec import find_server, read_spec
from deckbench.endpoint.structured import Request, Run, answer_all, batch, open_calls
from deckbench.endpoint.structured.batch import answer_by_batch
from deckbench.errors import InputError, OutsideError
from tests.endpoint.batch_server import BatchServer
from tests.endpoint.test_structured import number_in, request_for, statuses, write
from tests.endpoint.writing_server import paid_twice


@pytest.fixture
def server() -> Iterator[BatchServer]:
    found = BatchServer(write)
    threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def run(server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    monkeypatch.setattr(batch, "POLL_S", (0.01, 0.02))

    def answer(requests: Sequence[Request], max_cost: float | None = None, **settings: Any) -> Run:
        path = tmp_path / "writer.yaml"
        known = {"model": "writer", "base_url": server.address, "key_env": "SQUARES_KEY", "price_in": 1, "price_out": 2}
        path.write_text(json.dumps({**known, **settings}))
        spec = read_spec(f"endpoint:{path}")
        with open_calls(tmp_path / "calls.jsonl") as calls:
            return answer_by_batch(requests, spec, find_server(spec), calls, max_cost=max_cost)

    return answer


def test_all_are_answered_at_half_the_price(run: Callable[..., Run], server: BatchServer) -> None:
    requests = [request_for(number) for number in range(20)]
    found = run(requests)
    assert [outcome.value.number for outcome in found.outcomes] == list(range(20))
    assert found.observed["cost"] == pytest.approx(20 * (100 + 2 * 20) / 1e6 / 2)
    assert len(server.batches) == 1 and server.seen[0]["model"] == "writer" and "response_format" in server.seen[0]
    assert run(requests).outcomes == found.outcomes and len(server.batches) == 1
    assert not paid_twice(server)


def test_a_rejected_answer_goes_into_the_next_batch(run: Callable[..., Run], server: BatchServer) -> None:
    server.write = lambda body: "no" if number_in(body) == 3 and len(body["messages"]) == 2 else write(body)
    found = run([request_for(number) for number in range(6)])
    assert statuses(found) == ["answered"] * 6 and len(server.batches) == 2
    assert "not one JSON object" in server.seen[-1]["messages"][-1]["content"]


def test_images_travel(run: Callable[..., Run], server: BatchServer, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    assert statuses(run([request_for(1, image=tmp_path / "a.png")])) == ["answered"]
    assert server.seen[0]["messages"][1]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert "base64" not in (tmp_path / "calls.jsonl").read_text()


def test_a_server_without_schemas(run: Callable[..., Run], server: BatchServer) -> None:
    server.takes_schema = False
    found = run([request_for(number) for number in range(3)])
    assert statuses(found) == ["answered"] * 3 and len(server.batches) == 2
    assert "JSON schema" in server.seen[-1]["messages"][-1]["content"] and not paid_twice(server)


def test_refusals_and_failures_are_told_apart(run: Callable[..., Run], server: BatchServer) -> None:
    server.faults = {
        1: (400, {"error": {"message": "flagged by the content policy"}}),
        2: (500, {"error": {"message": "not now"}}),
    }
    server.extra_lines = b'\nnot json\n{"custom_id": "another", "response": {"status_code": 200, "body": {}}}\n[1]'
    found = run([request_for(number) for number in range(4)])
    assert statuses(found)[0::3] == ["answered"] * 2 and statuses(found)[1] == "refused"
    assert "content policy" in found.outcomes[1].reasons[0]
    assert statuses(found)[2] == "answered"  # alone in the next batch, where it is number 0
    assert not paid_twice(server)


def test_a_short_key_that_comes_back(
    run: Callable[..., Run], server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQUARES_KEY", "zq7x")
    server.faults = {1: (400, {"error": {"message": "zq7x: flagged by the content policy"}})}
    server.write = lambda body: f"zq7x {write(body)}"
    found = run([request_for(number) for number in range(2)])
    assert "***: flagged" in found.outcomes[1].reasons[0]
    assert '"text":"*** ' in (tmp_path / "calls.jsonl").read_text().replace(": ", ":")
    assert "zq7x" not in (tmp_path / "calls.jsonl").read_text()


@pytest.mark.parametrize("stage", ["created", "running"])
def test_a_batch_is_picked_up_again(stage: str, run: Callable[..., Run], server: BatchServer, tmp_path: Path) -> None:
    """Killed when the batch was created but its id not heard of, or while it runs."""
    if stage == "created":
        server.drop_reply = "/v1/batches"
    else:
        server.end = "die"
    requests = [request_for(number) for number in range(5)]
    kept = tmp_path / "calls.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "wait_for", killed)
        patch.setattr(batch, "find", killed)
        with pytest.raises(KeyboardInterrupt):
            run(requests)
    server.end = "completed"
    states = [json.loads(line)["batch"]["state"] for line in kept.read_text().splitlines()]
    assert states == (["creating"] if stage == "created" else ["creating", "submitted"])
    assert statuses(run(requests)) == ["answered"] * 5
    assert len(server.batches) == 1 and not paid_twice(server)


@pytest.mark.parametrize(
    "noted",
    [
        [],
        5,
        {"name": "x"},
        {"name": "x", "state": "y"},
        {"name": "x", "state": "submitted"},
        {"name": "x", "state": "creating", "keys": []},
        {"name": "x", "state": "creating", "keys": {"k": {}}},
        {"name": "x", "state": "creating", "keys": {"k": None}},
    ],
)
def test_a_broken_note_is_refused(noted: Any, run: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "calls.jsonl").write_text(json.dumps({"batch": noted}) + "\n")
    with pytest.raises(InputError, match="this is no call"):
        run([request_for(1)])


async def killed(*_: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("fewer", [3, 0])
def test_all_answers_of_a_batch_are_kept(
    fewer: int, run: Callable[..., Run], server: BatchServer, tmp_path: Path
) -> None:
    """Stopped, then rerun with fewer requests (--limit), then with all."""
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    requests = [request_for(number, image=tmp_path / "a.png", temperature=0.5) for number in range(6)]
    stopped(run, requests)
    assert len(run(requests[:fewer]).outcomes) == fewer
    found = run(requests)
    assert statuses(found) == ["answered"] * 6 and len(server.batches) == 1 and not paid_twice(server)
    assert found.observed["cost"] == pytest.approx(6 * (100 + 2 * 20) / 1e6 / 2)
    with open_calls(tmp_path / "calls.jsonl") as calls:
        (kept,) = {(call.prompt, call.temperature, call.sent, call.batch) for call in calls.by_key.values()}
        assert kept == ("test@1", 0.5, "json_schema", True)
        assert all("sha256" in json.dumps(call.messages) for call in calls.by_key.values())


@pytest.mark.parametrize("heard", [True, False])
def test_an_open_batch_is_not_paid_again_without_batch(
    heard: bool, run: Callable[..., Run], server: BatchServer, tmp_path: Path
) -> None:
    requests = [request_for(number) for number in range(4)]
    if not heard:
        server.drop_reply = "/v1/batches"
    stopped(run, requests)
    kept = (tmp_path / "calls.jsonl").read_bytes()
    spec = read_spec(f"endpoint:{tmp_path / 'writer.yaml'}")
    for asked in (requests, [request_for(9)]):
        with (
            pytest.raises(OutsideError, match="batch_0 with 4 calls" if heard else "with 4 calls") as caught,
            open_calls(tmp_path / "calls.jsonl") as calls,
        ):
            answer_all(asked, spec, find_server(spec), calls)
        assert "--batch" in str(caught.value.fix)
    assert not server.seen and (tmp_path / "calls.jsonl").read_bytes() == kept
    run(requests[:1])
    with open_calls(tmp_path / "calls.jsonl") as calls:
        assert statuses(answer_all(requests, spec, find_server(spec), calls)) == ["answered"] * 4
    assert not paid_twice(server)


def stopped(run: Callable[..., Run], requests: Sequence[Request]) -> None:
    """A run that was killed while its batch was under way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "wait_for", killed)
        patch.setattr(batch, "find", killed)
        with pytest.raises(KeyboardInterrupt):
            run(requests)


def test_a_batch_that_is_gone_is_not_paid_again(run: Callable[..., Run], server: BatchServer) -> None:
    stopped(run, [request_for(1)])
    server.gone = True
    with pytest.raises(OutsideError, match="another file of calls"):
        run([request_for(1)])
    server.gone = False
    assert statuses(run([request_for(1)])) == ["answered"] and len(server.batches) == 1


@pytest.mark.parametrize("missing", ["/v1/files", "/v1/batches"])
def test_a_batch_that_was_never_created_stops_nothing(
    missing: str, run: Callable[..., Run], server: BatchServer, tmp_path: Path
) -> None:
    server.missing = missing
    with pytest.raises(OutsideError, match="run without --batch"):
        run([request_for(1)])
    spec = read_spec(f"endpoint:{tmp_path / 'writer.yaml'}")
    with open_calls(tmp_path / "calls.jsonl") as calls:
        assert statuses(answer_all([request_for(1)], spec, find_server(spec), calls)) == ["answered"]


def test_a_created_batch_is_not_created_again(run: Callable[..., Run], server: BatchServer) -> None:
    server.drop_reply = "/v1/batches"
    assert statuses(run([request_for(1)])) == ["answered"] and len(server.batches) == 1


def test_an_expired_batch_keeps_what_it_answered(run: Callable[..., Run], server: BatchServer) -> None:
    server.end = "expired"
    server.faults = {2: (0, None)}
    found = run([request_for(number) for number in range(4)])
    assert statuses(found) == ["answered"] * 4 and len(server.batches) == 2 and not paid_twice(server)


def test_a_failed_batch_stops_the_run(run: Callable[..., Run], server: BatchServer) -> None:
    server.end = "failed"
    with pytest.raises(OutsideError, match="failed"):
        run([request_for(1)])
    server.end = "completed"
    assert statuses(run([request_for(1)])) == ["answered"]


def test_a_limit_on_the_cost(run: Callable[..., Run], server: BatchServer) -> None:
    requests = [request_for(number, max_tokens=30) for number in range(40)]
    with pytest.raises(OutsideError, match="raise --max-cost"):
        run(requests, max_cost=0.0016)
    assert 5 <= sum(server.answered.values()) <= 1600 / 70  # of 0.000070 each
    assert statuses(run(requests, max_cost=1.0)) == ["answered"] * 40 and not paid_twice(server)


def test_a_server_without_the_batch_api(run: Callable[..., Run], server: BatchServer) -> None:
    server.bare = True
    with pytest.raises(OutsideError, match="run without --batch"):
        run([request_for(1)])


def test_a_limit_needs_prices(run: Callable[..., Run], server: BatchServer) -> None:
    with pytest.raises(InputError, match="price_in"):
        run([request_for(1)], max_cost=1.0, price_in=None, price_out=None)
