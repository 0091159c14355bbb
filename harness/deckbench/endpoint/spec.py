"""Which server, which model, and how it is asked. The key is never here: only the name of its variable is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator, model_validator

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.schema import FieldFaults, Strict
from deckbench.yamlfile import read_yaml

PREFIX = "endpoint:"
FAMILY = "endpoint"
ADDRESS = "OPENAI_BASE_URL"
KEY = "OPENAI_API_KEY"
OPENAI = "https://api.openai.com/v1"
# What decides the answers; the rest is how they are fetched and what they cost.
DECIDES = ("logprobs", "top_logprobs", "picture", "max_side", "thinking_tokens", "extra")
OURS = frozenset(
    {"model", "messages", "stream", "n", "logprobs", "top_logprobs", "max_tokens", "max_completion_tokens"}
)
OURS_TYPED = OURS | {"input", "questions", "state", "assets"}


class EndpointSpec(Strict):
    """The settings of one endpoint. Prices are for a million tokens; times are in seconds."""

    model: str = Field(min_length=1, description="the name the server knows it by")
    name: str | None = Field(default=None, min_length=1, description="the name in records; default: the model's")
    api: Literal["chat", "decisions", "systemone", "auto"] = Field(
        default="chat", description="how choice questions are asked; auto: as the server can"
    )
    base_url: str | None = Field(default=None, description=f"default: the variable {ADDRESS}, else {OPENAI}")
    key_env: str | None = Field(default=None, pattern=r"^[A-Z_][A-Z0-9_]*$", description="variable that holds the key")
    concurrency: int = Field(default=4, ge=1, le=256, description="images asked about at once")
    timeout_s: float = Field(default=120, gt=0, le=3600, description="for one whole answer")
    tries: int = Field(default=6, ge=1, le=100, description="for one question, waits for a rate limit not counted")
    logprobs: bool = Field(default=True, description="ask for probabilities of the first token of a choice")
    top_logprobs: int = Field(default=20, ge=2, le=1000)
    picture: Literal["png", "jpeg"] = Field(default="png", description="png loses nothing; jpeg has quality 95")
    max_side: int | None = Field(default=None, ge=32, description="shrink larger images to so many pixels")
    thinking_tokens: int = Field(default=0, ge=0, description="room for thinking before the answer")
    extra: dict[str, JsonValue] = Field(default_factory=dict, description="more fields of every request")
    price_in: float | None = Field(default=None, ge=0)
    price_out: float | None = Field(default=None, ge=0)
    currency: str = "USD"
    unanswered: Literal["stop", "leave-out"] = "stop"

    @field_validator("base_url")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        if value is not None:
            check_address(value)
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> EndpointSpec:
        if taken := sorted((OURS if self.api == "chat" else OURS_TYPED) & set(self.extra)):
            raise FieldFaults([(("extra", name), f"{name} is set by DeckBench itself") for name in taken])
        typed = self.api in {"decisions", "systemone"}  # nothing is generated, so nothing is paid for it
        if (self.price_in is None) != (self.price_out is None) and not (typed and self.price_out is None):
            raise ValueError("give both price_in and price_out, or neither")
        return self

    @property
    def label(self) -> str:
        """The model's name in records; a server that serves a folder names it by a path, which goes in none."""
        if self.name is not None:
            return self.name
        return Path(self.model).name if self.model.startswith(("/", "~", "./", "../")) else self.model


@dataclass(frozen=True)
class Server:
    """Where requests go. key: None where none is needed; it is shown nowhere, not even by repr."""

    address: str
    key: str | None = field(repr=False)


def check_address(value: str) -> None:
    """Raises ValueError for what is no plain http address; the message never repeats it, it may hold a password."""
    try:
        parts = urlsplit(value)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ValueError("the address is not like http://HOST:PORT/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("the address holds a password or a query; the key comes from the environment only")


def read_spec(ref: str) -> EndpointSpec:
    """The settings behind `endpoint:NAME` or `endpoint:FILE.yaml`. Raises InputError with the file and field."""
    name = ref.removeprefix(PREFIX)
    if not name.strip():
        raise InputError("the endpoint has no name", ref, f"write {PREFIX}MODEL or {PREFIX}FILE.yaml")
    path = Path(name)
    if path.suffix.lower() not in {".yaml", ".yml"}:
        return EndpointSpec(model=name)
    return read_yaml(path, EndpointSpec, "see docs/endpoints.md for every setting, such as `model: NAME`")


def identity_of(spec: EndpointSpec) -> dict[str, Any]:
    """What is known of who answers: names and settings. The weights are not known, and the address is no identity."""
    settings = {key: value for key, value in spec.model_dump(mode="json").items() if key in DECIDES}
    if spec.api != "chat":
        settings["api"] = spec.api
    digest = artifact.hash_json({"model": spec.label, **settings})
    return {"name": f"{PREFIX}{spec.label}", "family": FAMILY, "model": spec.label, "hash": digest, **settings}


def endpoint_identity(ref: str) -> dict[str, Any]:
    """The identity behind `endpoint:...`, without asking the server. Raises InputError."""
    return identity_of(read_spec(ref))


def find_server(spec: EndpointSpec, environ: Mapping[str, str] = os.environ) -> Server:
    """The address and the key. Raises InputError where a key that is needed is not in the environment.

    A key goes only where it belongs: OPENAI_API_KEY to OpenAI or to the server that OPENAI_BASE_URL names beside it;
    an address in a file gets the key that the file names, or none.
    """
    address = spec.base_url or environ.get(ADDRESS, "").strip() or OPENAI
    try:
        check_address(address)
    except ValueError as error:
        raise InputError(str(error), ADDRESS, "set it to an address such as http://127.0.0.1:8000/v1") from None
    is_openai = (urlsplit(address).hostname or "").endswith("api.openai.com")
    variable = spec.key_env or (KEY if spec.base_url is None or is_openai else None)
    key = environ.get(variable, "").strip() if variable else ""
    if not key and (spec.key_env or is_openai):
        what = f"the server needs a key, and the variable {variable} is not set"
        raise InputError(what, variable, f"export {variable}=..., or set {ADDRESS} to another server")
    if not (key.isascii() and key.isprintable()):
        raise InputError("the key holds characters that no key has", variable, "set it again, without line breaks")
    return Server(address.rstrip("/"), key or None)
