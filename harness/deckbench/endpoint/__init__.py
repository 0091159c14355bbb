"""Models behind an OpenAI-compatible server: `endpoint:NAME`, or `endpoint:FILE.yaml` with settings."""

from __future__ import annotations

from deckbench.endpoint.model import Endpoint, load_endpoint
from deckbench.endpoint.spec import PREFIX, endpoint_identity

__all__ = ["PREFIX", "Endpoint", "endpoint_identity", "load_endpoint"]
