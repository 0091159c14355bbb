"""A chat-completions server on loopback that looks at the picture, and does to a request whatever a test tells it."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import re
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

KEY = "sk-test-0123456789abcdef"
Fault = str | Mapping[str, Any] | None
Plan = Callable[[str, int, dict[str, Any]], Fault]

LOGPROBS: dict[str, Any] = {
    "a number above 0": lambda top: [{**entry, "logprob": 0.7} for entry in top],
    "not a number": lambda top: [{**entry, "logprob": math.nan} for entry in top],
    "a text": lambda top: [{**entry, "logprob": "-0.1"} for entry in top],
    "twice as much": lambda top: top + top,
    "no list": lambda top: {"A": -0.1},
    "no token": lambda top: [{"logprob": -0.1}],
    "too few": lambda top: top[1:2],
    "huge": lambda top: [{**entry, "logprob": 10**400} for entry in top],
}


def colour_of(picture: Image.Image) -> str:
    """Red, blue, or nothing on a picture of one colour."""
    shares = Counter(
        {colour: count for count, colour in picture.convert("RGB").getcolors(picture.width * picture.height) or ()}
    )
    return "red" if shares[(255, 0, 0)] > 40 else "blue" if shares[(0, 0, 255)] > 40 else "none"


def number(key: str) -> int:
    """A number that is the same in every run."""
    return zlib.crc32(key.encode())


def truth(picture: Image.Image, question: str) -> str:
    """The right answer to a question about coloured squares."""
    colour = colour_of(picture)
    options = re.search(r"A\. (\w+)\nB\. (\w+)", question)
    if options is None:
        return f"a {colour} square."
    return "A" if options[1] == colour else "B"


def distribution(text: str) -> list[dict[str, Any]]:
    """Tokens of the first position: two spellings of the answer, one of the other letter, and a rest."""
    other = "B" if text == "A" else "A"
    shares = {text: 0.7, f" {text}": 0.1, other: 0.15, "The": 0.04}
    return [{"token": token, "logprob": math.log(p), "bytes": list(token.encode())} for token, p in shares.items()]


class Server(ThreadingHTTPServer):
    """plan(key, attempt, body) -> the fault of this request, or None. key: picture and question; attempt: from 1.

    A fault is a name of `Handler.do_fault`, or {"status": ..., "body": ..., "headers": ...}. answered: whole answers
    sent, by key. seen: every request's body. most: requests open at once.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: Plan = lambda key, attempt, body: None
        self.logprobs = True
        self.usage = True
        self.text_alone = False  # whether questions without a picture are answered
        self.around = "{}"  # what every answer stands in
        self.slow_s = 0.0
        self.guard = threading.Lock()
        self.attempts: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.open = self.most = 0
        self.over = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.text_alone and isinstance(body["messages"][0]["content"], str):
            self.reply(200, self.completion("A", body))
            return
        image, text = body["messages"][0]["content"]
        kind, data = image["image_url"]["url"].split(";base64,")
        assert kind in {"data:image/png", "data:image/jpeg"}
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        key = f"{zlib.crc32(picture.tobytes())} {text['text']}"
        server = self.server
        with server.guard:
            server.attempts[key] += 1
            attempt = server.attempts[key]
            server.seen.append({"url": image["image_url"]["url"], **body})
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.open += 1
            server.most = max(server.most, server.open)
        try:
            if server.slow_s:
                time.sleep(server.slow_s * (1 + number(key) % 3))
            fault = server.plan(key, attempt, body)
            if isinstance(fault, Mapping):
                self.reply(fault["status"], fault.get("body", ""), fault.get("headers", {}))
            elif fault is not None:
                self.do_fault(fault, self.completion(truth(picture, text["text"]), body))
            else:
                self.reply(200, self.completion(truth(picture, text["text"]), body))
                with server.guard:
                    server.answered[key] += 1
        finally:
            with server.guard:
                server.open -= 1

    def completion(self, text: str, body: dict[str, Any]) -> dict[str, Any]:
        message = {"role": "assistant", "content": self.server.around.format(text)}
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop"}
        if self.server.logprobs and body.get("logprobs"):
            top = distribution(text)[: body.get("top_logprobs", 0)]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        made = {"id": "x", "object": "chat.completion", "model": "squares-1", "system_fingerprint": "fp_1"}
        usage = (
            {"usage": {"prompt_tokens": 50, "completion_tokens": len(text.split()) + 1}} if self.server.usage else {}
        )
        return {**made, "created": 0, "choices": [choice], **usage}

    def reply(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        data = (
            body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        )
        self.send_response(status)
        kind = "text/html" if isinstance(body, str) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def without_end(self, status: int, *, packed: bool) -> None:
        """A body that goes on until the client goes away; packed: a gigabyte of blanks in a megabyte."""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.close_connection = True
        pack = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
        for _ in range(1024):
            block = b" " * (1 << 20)
            try:
                self.wfile.write(pack.compress(block) if packed else block)
            except OSError:
                return

    def do_fault(self, name: str, good: dict[str, Any]) -> None:
        """One of the ways a server goes wrong. good: the answer it would have given."""
        data = json.dumps(good).encode()
        choice = good.get("choices", [{}])[0]
        if name in {"429", "500", "502", "503"}:
            headers = {"Retry-After": "0"}
            self.reply(int(name), {"error": {"message": "not now", "type": "server_error"}}, headers)
        elif name == "hang":
            self.server.over.wait(60)
            self.close_connection = True
        elif name == "drip":
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            for byte in data:
                if self.server.over.wait(0.1):
                    break
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
        elif name == "reset":
            self.close_connection = True
        elif name == "malformed":
            self.reply(200, data[: len(data) // 2])
        elif name == "html":
            self.reply(200, "<html>Bad gateway</html>")
        elif name == "empty":
            self.reply(200, b"")
        elif name == "cut":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif name == "cut chunks":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n" % (20, data[:20]))
            self.close_connection = True
        elif name == "cut text":  # a proxy that put a broken stream together
            choice["message"]["content"] = choice["message"]["content"][:1]
            choice["finish_reason"] = None
            self.reply(200, good)
        elif name.startswith(("endless", "packed")):
            self.without_end(int(name.split()[1]), packed=name.startswith("packed"))
        elif name == "no choices":
            self.reply(200, {**good, "choices": []})
        elif name == "no message":
            self.reply(200, {**good, "choices": [{"finish_reason": "stop"}]})
        elif name == "error in 200":
            self.reply(200, {"error": {"message": "overloaded"}})
        elif name == "half a character":
            choice["message"]["content"] = "\ud83d"
            self.reply(200, good)
        else:
            top = choice["logprobs"]["content"][0]["top_logprobs"]
            choice["logprobs"]["content"][0]["top_logprobs"] = LOGPROBS[name](top)
            self.reply(200, good)


PASSING = (
    *("429", "500", "502", "503", "hang", "drip", "reset", "malformed", "html", "empty", "cut", "cut chunks"),
    *("cut text", "no choices", "no message", "error in 200"),
)


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server that answers while the block runs."""
    found = Server()
    threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield found
    found.over.set()
    found.shutdown()
    found.server_close()
