"""A chat-completions server on loopback that writes JSON, and does to a request whatever a test tells it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.endpoint import faulty


def text_in(content: Any) -> str:
    """The text of a message's content."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def key_in(body: Mapping[str, Any]) -> str:
    """What is asked: all texts and images of a request, without the fields around them."""
    return str(zlib.crc32(json.dumps(body["messages"], sort_keys=True).encode()))


class Server(faulty.Server):
    """write(body) -> the text of the answer, or a message. plan: as of `faulty.Server`, by `key_in`.

    answered: whole answers sent, by key; seen: every request's body. takes_schema: whether `response_format` is taken.
    """

    def __init__(self, write: Callable[[dict[str, Any]], Any]) -> None:
        super().__init__()
        self.RequestHandlerClass = Handler
        self.write = write
        self.takes_schema = True
        self.tokens: Callable[[dict[str, Any], str], tuple[int, int]] = lambda body, text: (100, 20)


class Handler(faulty.Handler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, key = self.server, key_in(body)
        with server.guard:
            server.attempts[key] += 1
            attempt = server.attempts[key]
            server.seen.append(body)
            server.open += 1
            server.most = max(server.most, server.open)
        try:
            if server.slow_s:
                time.sleep(server.slow_s)
            fault = server.plan(key, attempt, body)
            if not server.takes_schema and "response_format" in body:
                fault = {"status": 400, "body": {"error": {"message": "response_format is not supported"}}}
            good = self.written(body)
            if isinstance(fault, Mapping):
                self.reply(fault["status"], fault.get("body", ""), fault.get("headers", {}))
            elif fault is not None:
                self.do_fault(fault, good)
            else:
                self.reply(200, good)
                with server.guard:
                    server.answered[key] += 1
        finally:
            with server.guard:
                server.open -= 1

    def written(self, body: dict[str, Any]) -> dict[str, Any]:
        return completion(self.server, body)


def completion(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    """A chat completion of what the server writes."""
    wrote = server.write(body)
    choice = dict(wrote) if isinstance(wrote, Mapping) else {"message": {"role": "assistant", "content": wrote}}
    choice = {"index": 0, "finish_reason": "stop", **choice}
    tokens_in, tokens_out = server.tokens(body, choice["message"].get("content") or "")
    usage = {"usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}} if server.usage else {}
    made = {"id": "x", "object": "chat.completion", "created": 0, "model": "writer-1", "system_fingerprint": "fp_1"}
    return {**made, "choices": [choice], **usage}


@contextlib.contextmanager
def writing(write: Callable[[dict[str, Any]], Any]) -> Iterator[Server]:
    """A server that writes while the block runs."""
    found = Server(write)
    threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield found
    found.over.set()
    found.shutdown()
    found.server_close()


def paid_twice(server: Server) -> Counter[str]:
    """Requests that were answered more than once."""
    return Counter({key: times for key, times in server.answered.items() if times > 1})
