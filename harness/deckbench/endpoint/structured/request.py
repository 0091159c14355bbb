"""What a model is asked to write, what came of it, and the messages in between."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from deckbench.artifact import hash_file, hash_json
from deckbench.endpoint.spec import EndpointSpec
from deckbench.endpoint.structured.answer import strict_schema

NAME = "answer"  # of the schema, in the request
SHOWN = 4000  # characters of a rejected answer that the model is shown again
SYSTEM = "system"  # the role, among the fields that a server does not take
NOTHING = "(no answer)"
ONLY_JSON = "Answer with one JSON object, and nothing else, that matches this JSON schema:"
Turn = tuple[str, tuple[str, ...]]  # an answer that was rejected, and why


def nothing_wrong(answer: Any) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Request:
    """One text to be written.

    id: unique in a run. prompt: name@version of the template that made the texts. answer: the pydantic model of the
    answer; it forbids fields it does not know. image: sent before the text. max_tokens: of the answer; doubled, at most
    twice, where it was cut off. repeat: makes an equal request another call. check: reasons to reject an answer that
    has the right form; it depends on the answer alone.
    """

    id: str
    prompt: str
    system: str
    user: str
    answer: type[BaseModel]
    image: Path | None = None
    temperature: float = 0.0
    max_tokens: int = 1024
    repeat: int = 0
    check: Callable[[Any], Sequence[str]] = nothing_wrong


@dataclass(frozen=True)
class Outcome:
    """What came of a request.

    status: answered; rejected: no answer passed, all tries were paid; refused: by the server, its filter or the model;
    unanswered: the server failed, asked again it may answer. value: the answer. reasons: why there is none.
    calls: keys of the calls that were answered, in order.
    """

    request: Request
    status: Literal["answered", "rejected", "refused", "unanswered"]
    value: Any = None
    reasons: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()


@lru_cache(maxsize=4096)
def image_hash(path: Path) -> str:
    """sha256 of an image's file: with the settings in `key_of`, it decides the bytes that are sent."""
    return hash_file(path)


def key_of(request: Request, turns: Sequence[Turn], max_tokens: int, spec: EndpointSpec) -> str:
    """The identity of one call: everything that decides its answer. sha256, hex.

    Whether the schema travels in its own field or in the text is not part of it: that is the server's affair.
    """
    image = None
    if request.image is not None:
        image = {"sha256": image_hash(request.image), "picture": spec.picture, "max_side": spec.max_side}
    return hash_json(
        {
            "model": {"name": spec.label, "thinking_tokens": spec.thinking_tokens, "extra": spec.extra},
            "prompt": request.prompt,
            "texts": [request.system, request.user, *([text, *reasons] for text, reasons in turns)],
            "image": image,
            "schema": strict_schema(request.answer),
            "temperature": request.temperature,
            "max_tokens": max_tokens,
            "repeat": request.repeat,
        }
    )


def messages_of(
    request: Request, turns: Sequence[Turn], *, prompted: bool, url: str | None, system: bool = True
) -> list[dict[str, Any]]:
    """The messages of a call. prompted: the schema stands in the text. url: of the image. system: as a message."""
    user = f"{request.user}\n\n{schema_text(request)}" if prompted else request.user
    if request.system and not system:
        user = f"{request.system}\n\n{user}"
    content: Any = user
    if url is not None:
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": user}]
    messages = [{"role": "system", "content": request.system}] if request.system and system else []
    messages.append({"role": "user", "content": content})
    for text, reasons in turns:
        messages.append({"role": "assistant", "content": text[:SHOWN] if text.strip() else NOTHING})
        listed = "".join(f"\n- {reason}" for reason in reasons)
        again = f"That answer is rejected:{listed}\n\n{schema_text(request)}"
        messages.append({"role": "user", "content": again})
    return messages


def schema_text(request: Request) -> str:
    return f"{ONLY_JSON}\n{json.dumps(strict_schema(request.answer), ensure_ascii=False)}"


def fields_of(
    request: Request,
    turns: Sequence[Turn],
    max_tokens: int,
    spec: EndpointSpec,
    url: str | None,
    dropped: set[str] | frozenset[str],
) -> dict[str, Any]:
    """A request's fields beside the model. dropped: names of fields that the server does not take."""
    prompted = "response_format" in dropped
    fields: dict[str, Any] = {
        "messages": messages_of(request, turns, prompted=prompted, url=url, system=SYSTEM not in dropped),
        "temperature": request.temperature,
    }
    fields |= spec.extra
    limit = "max_completion_tokens" if "max_tokens" in dropped else "max_tokens"
    fields[limit] = max_tokens + spec.thinking_tokens
    if not prompted:
        schema = {"name": NAME, "strict": True, "schema": strict_schema(request.answer)}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return {name: value for name, value in fields.items() if name not in dropped or name == limit}


def without_images(messages: Sequence[Mapping[str, Any]], image: str | None) -> list[dict[str, Any]]:
    """Messages for a transcript: an image is named by the sha256 of its file."""

    def shown(content: Any) -> Any:
        if not isinstance(content, list):
            return content
        return [part if part["type"] == "text" else {"type": "image", "sha256": image} for part in content]

    return [{**message, "content": shown(message["content"])} for message in messages]
