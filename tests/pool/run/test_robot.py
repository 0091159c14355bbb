"""The commands of a run from a robot on loopback: pages, booting, and everything a server may say instead."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from deckbench.errors import InputError, OutsideError
from deckbench.pool.run import robot
from deckbench.pool.run.robot import fetch_commands

COMMANDS = [{"id": f"c{n}", "key": f"k{n}", "commandType": "home", "startedAt": "2026-11-30T10:00:00Z"}
            for n in range(250)]  # fmt: skip
Answer = tuple[int, Any]


class Robot(ThreadingHTTPServer):
    """Answers with what `script` says for each request, then as a robot does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Answer | Callable[[Any], None]] = []
        self.asked: list[tuple[str, str | None]] = []

    @property
    def run(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/runs/abc-1"


class Handler(BaseHTTPRequestHandler):
    server: Robot

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Opentrons-Version")))
        said = self.server.script.pop(0) if self.server.script else self.page()
        if callable(said):
            said(self)
            return
        status, body = said
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def page(self) -> Answer:
        query = parse_qs(urlsplit(self.path).query)
        start, count = int(query["cursor"][0]), int(query["pageLength"][0])
        return 200, {"data": COMMANDS[start : start + count], "meta": {"cursor": start, "totalLength": len(COMMANDS)}}

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Robot]:
    monkeypatch.setattr(robot, "PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(robot, "TIMEOUT_S", 0.5)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a robot stands in the lab's own network
    served = Robot()
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()


BOOTING = {"errors": [{"id": "DatabaseNotYetInitialized", "title": "x", "detail": "wait a moment"}]}
OLD_SHAPE = {"message": "Motors are not ready", "errorCode": "4000"}


def test_all_pages_are_asked_with_the_header(server: Robot) -> None:
    assert fetch_commands(server.run) == COMMANDS
    assert [path.partition("?")[2] for path, _ in server.asked] == [
        "cursor=0&pageLength=100", "cursor=100&pageLength=100", "cursor=200&pageLength=100",
    ]  # fmt: skip
    assert {version for _, version in server.asked} == {"*"}
    assert fetch_commands(f"{server.run}/commands/") == COMMANDS


def test_booting_is_waited_for(server: Robot) -> None:
    server.script = [(503, BOOTING), (503, OLD_SHAPE)]
    assert len(fetch_commands(server.run)) == 250


@pytest.mark.parametrize(
    ("script", "error", "text"),
    [
        ([(503, BOOTING)] * 3, OutsideError, "503: DatabaseNotYetInitialized wait a moment"),
        ([(503, OLD_SHAPE)] * 3, OutsideError, "503: Motors are not ready"),
        ([(404, {"errors": [{"id": "RunNotFound", "detail": "Run abc-1 was not found."}]})], InputError, "RunNotFound"),
        ([(403, {"debugMessage": "no token", "requiredScopes": []})], OutsideError, "403: no token"),
        ([(422, {"errors": []})], OutsideError, "422"),
        ([(422, [1])], OutsideError, "422"),
        ([(500, b"\xff")] * 3, OutsideError, "500"),
        ([(200, b"<html>")], OutsideError, "not JSON"),
        ([(200, [1])], OutsideError, "not a JSON object"),
        ([(200, b"[" * 100_000)], OutsideError, "not JSON"),
        ([(200, {"data": []})], OutsideError, "no page of commands"),
        ([(200, {"data": [{}], "meta": {"totalLength": 1}})], OutsideError, "has no id"),
        ([(200, {"data": [], "meta": {"totalLength": 5}})], OutsideError, "0 of its 5"),
        ([(200, {"data": [], "meta": {"totalLength": 10**9}})], OutsideError, "more than"),
        ([(302, {})], OutsideError, "302"),
        ([lambda handler: handler.connection.close()] * 3, OutsideError, "no answer from the robot"),
        ([lambda handler: handler.wfile.write(b"nonsense\r\n\r\n")] * 3, OutsideError, "no answer from the robot"),
    ],
)  # fmt: skip
def test_what_a_server_may_say_instead(server: Robot, script: list[Any], error: type[Exception], text: str) -> None:
    server.script = script
    with pytest.raises(error, match=text):
        fetch_commands(server.run)


def test_an_answer_without_end_is_not_read_to_its_end(server: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robot, "MAX_BYTES", 1000)
    with pytest.raises(OutsideError, match="larger than"):
        fetch_commands(server.run)


def test_an_answer_that_drips_is_given_up(server: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robot, "TIMEOUT_S", 0.1)

    def drip(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):  # the other side gives up
            for _ in range(40):
                handler.wfile.write(b" ")
                threading.Event().wait(0.03)

    server.script = [drip] * 3
    with pytest.raises(OutsideError, match="it took more than"):
        fetch_commands(server.run)


def test_a_robot_that_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robot, "PAUSES_S", ())
    with pytest.raises(OutsideError, match="no answer from the robot"):
        fetch_commands("http://127.0.0.1:9/runs/x")


@pytest.mark.parametrize("address", ["http://127.0.0.1/", "ftp://x/runs/1", "http://h/runs/a b", "http://h:x/runs/1"])
def test_addresses_of_no_run(address: str) -> None:
    with pytest.raises(InputError, match="address"):
        fetch_commands(address)
