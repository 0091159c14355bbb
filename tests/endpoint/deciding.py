"""A server on loopback that also takes typed decisions: /v1/decisions as the types of openai's package have it, and
/v1/systemone as `transformers serve` validates it. It looks at the image, and fails in whatever way a test tells it.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from openai.types.decision import Decision
from openai.types.decision_create_params import DecisionCreateParams
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tests.endpoint import faulty

REQUEST: TypeAdapter[Any] = TypeAdapter(DecisionCreateParams)
LIKELY = 0.9


class SystemOneRequest(BaseModel):
    """As `transformers.cli.serving.systemone` (5.24) has it."""

    model_config = ConfigDict(extra="forbid")

    model: str
    state: str | dict[str, Any] | list[Any]
    questions: dict[str, dict[str, Any]] = Field(min_length=1, max_length=64)
    assets: dict[str, dict[str, Any]] = Field(default_factory=dict, max_length=4)


class Server(faulty.Server):
    """apis: what it has. limit: questions of a request, where that is less than the API allows. decided: how often each
    question (its image, instructions and options) got an answer. calls: (API, number of questions) of each request.
    """

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = Handler
        self.apis = {"decisions", "systemone", "chat"}
        self.limit: int | None = None
        self.decided: dict[str, int] = {}
        self.calls: list[tuple[str, int]] = []
        self.bodies: list[dict[str, Any]] = []
        self.declined = ""  # questions that hold this word are refused

    def clear(self) -> None:
        self.decided.clear()
        self.calls.clear()
        self.bodies.clear()
        self.attempts.clear()


def image_in(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


class Handler(faulty.Handler):
    server: Server

    def do_POST(self) -> None:
        api = self.path.rpartition("/")[2]
        api = "chat" if api == "completions" else api
        if api not in self.server.apis:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(404, {"detail": "Not Found"})
        elif api == "chat":
            with self.server.guard:
                self.server.calls.append(("chat", 1))
            super().do_POST()
        else:
            self.decide(api, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def decide(self, api: str, body: dict[str, Any]) -> None:
        server = self.server
        assert self.headers["authorization"] == f"Bearer {faulty.KEY}"
        try:
            asked = from_decisions(body) if api == "decisions" else from_systemone(body)
        except ValidationError as error:
            detail = [{**found, "loc": ("body", *found["loc"])} for found in error.errors(include_url=False)]
            self.reply(422, json.dumps({"detail": detail}, default=str).encode())
            return
        picture, questions = asked
        keys = {name: f"{zlib.crc32(picture.tobytes())} {q['text']} {q['options']}" for name, q in questions.items()}
        key = "|".join(keys.values())
        with server.guard:
            server.attempts[key] += 1
            attempt = server.attempts[key]
            server.calls.append((api, len(questions)))
            server.bodies.append(body)
        if server.slow_s:
            time.sleep(server.slow_s)
        limit = server.limit or (400 if api == "decisions" else 64)
        if len(questions) > limit:
            message = f"questions: at most {limit} questions are taken in a request, got {len(questions)}"
            self.reply(400, {"error": {"message": message, "type": "invalid_request_error", "param": "questions"}})
            return
        good = self.good(api, picture, questions)
        fault = server.plan(key, attempt, body)
        if isinstance(fault, Mapping) and "alter" in fault:
            self.reply(200, fault["alter"](good))
        elif isinstance(fault, Mapping):
            self.reply(fault["status"], fault.get("body", ""), fault.get("headers", {}))
        elif fault is not None:
            self.do_fault(fault, good)
        else:
            self.reply(200, good)
            with server.guard:
                for name in keys:
                    server.decided[keys[name]] = server.decided.get(keys[name], 0) + 1

    def good(self, api: str, picture: Image.Image, questions: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """A right reply."""
        colour = faulty.colour_of(picture)
        answers: dict[str, Any] = {}
        for name, question in questions.items():
            if self.server.declined and self.server.declined in question["text"]:
                answers[name] = {"type": "refusal"}
                continue
            likely = colour if colour in question["options"] else question["options"][-1]
            shares = {option: LIKELY if option == likely else 1 - LIKELY for option in question["options"]}
            answers[name] = {"type": "choice", "choice": likely, "confidence": 0.8, "probabilities": shares}
        tokens = 40 + 11 * len(questions)
        if api == "systemone":
            return {"model": "squares-1", "answers": answers, "usage": {"input_tokens": tokens, "output_tokens": 0}}
        listed = []
        for name, answer in answers.items():
            if answer["type"] == "choice":
                pairs = [{"value": value, "probability": p} for value, p in answer["probabilities"].items()]
                answer = {**answer, "probabilities": pairs}
            listed.append({**answer, "name": name})
        usage = {
            "input_tokens": tokens,
            "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": tokens,
        }
        made = Decision.model_validate({"answers": listed, "model": "squares-1", "usage": usage}, strict=True)
        return dict(made.model_dump(mode="json"))


def from_decisions(body: dict[str, Any]) -> tuple[Image.Image, dict[str, dict[str, Any]]]:
    """(image, questions) of a request to /v1/decisions. Raises ValidationError."""
    REQUEST.validate_python(body)
    assert body.keys() <= {"model", "input", "questions"}, body.keys()
    (message,) = body["input"]
    (part,) = message["content"]
    kind, data = part["image_url"].split(";base64,")
    assert part["type"] == "input_image" and kind in {"data:image/png", "data:image/jpeg"}
    questions = {}
    for question in body["questions"]:
        options = [choice["value"] for choice in question["choices"]]
        assert question["type"] == "choice" and len(set(options)) == len(options)
        questions[question["name"]] = {"text": question["instructions"], "options": options}
    assert len(questions) == len(body["questions"])
    return image_in(data), questions


def from_systemone(body: dict[str, Any]) -> tuple[Image.Image, dict[str, dict[str, Any]]]:
    """(image, questions) of a request to /v1/systemone. Raises ValidationError."""
    SystemOneRequest.model_validate(body, strict=True)
    ((name, asset),) = body["assets"].items()
    assert body["state"] == name and asset["type"] == "image"
    questions = {}
    for key, question in body["questions"].items():
        assert question.keys() == {"type", "instructions", "criteria"} and question["type"] == "choice"
        assert name not in json.dumps(question, ensure_ascii=False)
        questions[key] = {"text": question["instructions"], "options": list(question["criteria"])}
    return image_in(asset["data_base64"]), questions


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server that answers while the block runs."""
    found = Server()
    threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield found
    found.over.set()
    found.shutdown()
    found.server_close()
