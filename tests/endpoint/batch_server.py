"""The routes of the Batch API on loopback, made from the types of the openai package, beside chat completions."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from openai.types import Batch, BatchRequestCounts, FileObject
from openai.types.chat import ChatCompletion

from tests.endpoint import writing_server
from tests.endpoint.writing_server import Server, completion, key_in

FIELDS = frozenset({"custom_id", "method", "url", "body"})


class BatchServer(Server):
    """files, batches: as stored. polls: how often a batch is `in_progress` first. die: raise in place of answering.

    faults: custom_id's number in its batch -> (status, body) in place of an answer. end: the status of a batch.
    """

    def __init__(self, write: Any) -> None:
        super().__init__(write)
        self.RequestHandlerClass = Handler
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Batch] = {}
        self.polls = 1
        self.left: dict[str, int] = {}
        self.faults: dict[int, tuple[int, Any]] = {}
        self.end = "completed"
        self.drop_reply = ""  # a path whose next answer never arrives
        self.extra_lines = b""
        self.bare = False  # knows no such routes
        self.missing = ""  # one that it does not know
        self.gone = False  # knows no batch

    def store(self, data: bytes) -> str:
        name = f"file-{len(self.files)}"
        self.files[name] = data
        return name

    def run(self, batch: Batch) -> None:
        """Answer all of a batch."""
        good: list[str] = []
        bad: list[str] = []
        lines = self.files[batch.input_file_id].splitlines()
        for number, line in enumerate(lines):
            asked = json.loads(line)
            assert set(asked) == FIELDS and asked["method"] == "POST" and asked["url"] == batch.endpoint
            body = asked["body"]
            self.seen.append(body)
            fault = self.faults.get(number)
            if not self.takes_schema and "response_format" in body:
                fault = (400, {"error": {"message": "response_format is not supported"}})
            made: Any = as_openai(completion(self, body)) if fault is None else fault[1]
            if fault is None:
                self.answered[key_in(body)] += 1
            response = {"status_code": 200 if fault is None else fault[0], "request_id": "r", "body": made}
            one = {"id": f"b-{number}", "custom_id": asked["custom_id"], "response": response, "error": None}
            (good if fault is None else bad).append(json.dumps(one))
        batch.output_file_id = self.store("\n".join(reversed(good)).encode() + self.extra_lines) if good else None
        batch.error_file_id = self.store("\n".join(bad).encode()) if bad else None
        batch.request_counts = BatchRequestCounts(completed=len(good), failed=len(bad), total=len(lines))


def as_openai(made: dict[str, Any]) -> dict[str, Any]:
    """A chat completion with every field that OpenAI's has."""
    for choice in made["choices"]:
        choice.setdefault("logprobs", None)
        choice["message"].setdefault("refusal", None)
    usage = made["usage"]
    usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
    ChatCompletion.model_validate(made)
    return made


class Handler(writing_server.Handler):
    server: BatchServer

    def do_POST(self) -> None:
        if self.path == "/v1/chat/completions":
            super().do_POST()
            return
        data = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        if server.bare or server.missing == self.path:
            self.reply(404, {"error": {"message": "no such route"}})
        elif self.path == "/v1/files":
            boundary = re.search(r"boundary=([^;\s]+)", self.headers["Content-Type"])
            assert boundary is not None
            parts = {}
            for part in data.split(b"--" + boundary[1].encode())[1:-1]:
                head, _, content = part.partition(b"\r\n\r\n")
                name = re.search(rb'name="(\w+)"', head)
                assert name is not None
                parts[name[1].decode()] = content.removesuffix(b"\r\n")
            assert parts["purpose"] == b"batch"
            stored = server.store(parts["file"])
            made = FileObject(
                id=stored, bytes=len(parts["file"]), created_at=0, filename="x.jsonl", object="file", purpose="batch",
                status="processed",
            )  # fmt: skip
            self.answer(made.model_dump())
        elif self.path == "/v1/batches":
            body = json.loads(data)
            batch = Batch(
                id=f"batch_{len(server.batches)}", created_at=int(time.time()), object="batch", status="validating",
                completion_window=body["completion_window"], endpoint=body["endpoint"], metadata=body.get("metadata"),
                input_file_id=body["input_file_id"],
            )  # fmt: skip
            server.batches[batch.id] = batch
            server.left[batch.id] = server.polls
            self.answer(batch.model_dump())

    def do_GET(self) -> None:
        server = self.server
        if server.gone:
            self.reply(404, {"error": {"message": "no such batch"}})
        elif match := re.fullmatch(r"/v1/batches/(\w+)", self.path):
            batch = server.batches[match[1]]
            if batch.status in {"validating", "in_progress"}:
                server.left[batch.id] -= 1
                batch.status = "in_progress"
                if server.left[batch.id] < 0:
                    batch.status = server.end  # type: ignore[assignment]
                    if server.end in {"completed", "expired"}:
                        server.run(batch)
            self.answer(batch.model_dump())
        elif self.path.startswith("/v1/batches"):
            data = [batch.model_dump() for batch in reversed(server.batches.values())]
            self.answer({"object": "list", "data": data, "has_more": False})
        elif match := re.fullmatch(r"/v1/files/([\w-]+)/content", self.path):
            self.reply(200, server.files[match[1]])
        else:
            self.reply(404, {"error": {"message": "no such route"}})

    def answer(self, value: Any) -> None:
        if self.server.drop_reply == self.path:  # the work is done, and nobody hears of it
            self.server.drop_reply = ""
            self.close_connection = True
            return
        self.reply(200, value)
