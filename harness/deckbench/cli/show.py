"""Results on stdout."""

from __future__ import annotations

import json
from typing import Any


def show(result: Any, as_json: bool, lines: list[str]) -> None:
    """A result on stdout: as JSON, or as lines for people."""
    print(json.dumps(result, indent=1, ensure_ascii=False) if as_json else "\n".join(lines))


def harmless(text: str) -> str:
    """A model's text for a terminal: what steers one, or turns the direction of writing, is U+FFFD."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
