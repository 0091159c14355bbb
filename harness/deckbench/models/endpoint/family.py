"""The family of models that a server runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deckbench.errors import InputError
from deckbench.extras import require
from deckbench.models.interface import FamilySpec, Model, Reference


def identity(ref: Reference) -> dict[str, Any]:
    from deckbench.endpoint.spec import endpoint_identity

    return endpoint_identity(ref.text)


def load(ref: Reference, device: str, dtype: str) -> Model:
    """No request is made yet. Raises InputError for wrong settings, a missing key or package, a proxy of no use."""
    from deckbench.endpoint.spec import find_server, read_spec
    from deckbench.endpoint.transport import open_client
    from deckbench.models.endpoint.model import Endpoint

    spec = read_spec(ref.text)
    server = find_server(spec)
    require("openai", ref.text)
    if spec.api != "chat":
        import openai

        if not hasattr(openai.AsyncOpenAI, "decisions"):
            what = f"openai {openai.__version__} has no decisions; `api: {spec.api}` needs 3.51 or later"
            raise InputError(what, ref.text, "pip install -U 'openai>=3.51,<4'")
    open_client(server)  # a proxy that cannot be used is found before anything is asked
    return Endpoint(spec, server)


def path_in(place: str) -> Path | None:
    """The file of settings."""
    return Path(place) if Path(place).is_file() else None


SPEC = FamilySpec(
    name="endpoint",
    serves="endpoint",
    known={"endpoint:NAME, endpoint:FILE.yaml": "a model behind an OpenAI-compatible server; docs/endpoints.md"},
    identity=identity,
    load=load,
    prefixes=("endpoint:",),
    engines=("endpoint",),
    path_in=path_in,
)
