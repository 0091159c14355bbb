"""Text of a server made safe to show and to write."""

from __future__ import annotations

import json
from typing import Any


def whole(text: str) -> str:
    """`text` with halves of characters (lone surrogates, which JSON can hold and UTF-8 cannot) replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def short(value: Any) -> str:
    """An error of a server in at most 200 characters, on one line."""
    if isinstance(value, dict):
        value = value.get("message") or value.get("detail") or value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join("".join(mark if mark.isprintable() else " " for mark in whole(text)).split())
    return text if len(text) <= 200 else f"{text[:199]}…"
