"""Text of a server made safe to show and to write, and what an error body says, however it is packed."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

LONGEST = 200
# Where servers put the reason of an error, the most telling first.
REASONS = (
    *("message", "msg", "detail", "error_msg", "error_message", "errmsg", "err_msg", "status_msg", "error_description"),
    *("errorMessage", "description", "reason", "title", "error", "errors", "base_resp", "cause", "code", "type"),
)
ECHOES = frozenset({"input", "ctx", "url", "body", "request", "request_id", "id"})  # what was sent, sent back
HTML = re.compile(r"\s*(?:<!doctype html|<html|<head|<body|<center|<title|<h1)", re.IGNORECASE)
DEPTH = 6
# Keys that guides to local servers tell to use, and those that short: no secrets, and an answer may hold them as words.
PLACEHOLDERS = frozenset({"empty", "none", "null", "dummy", "ollama"})
SHORTEST_KEY = 4


def whole(text: str) -> str:
    """`text` with halves of characters (lone surrogates, which JSON can hold and UTF-8 cannot) replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def without_key(text: str, key: str | None, *, answer: bool = False) -> str:
    """`text` without the key, which a server may have sent back.

    answer: the model's own words, in which keys that are words (`PLACEHOLDERS`, or shorter than 4) are left alone.
    """
    if not key or (answer and (len(key) < SHORTEST_KEY or key.lower() in PLACEHOLDERS)):
        return text
    text = text.replace(json.dumps(key)[1:-1], "***").replace(key, "***")
    for length in range(len(key) - 1, SHORTEST_KEY - 1, -1):  # where `short` has cut it
        text = text.replace(f"{key[:length]}…", "***…")
    return text


def short(value: Any) -> str:
    """An error of a server in at most 200 characters, on one line."""
    text = reason_of(value)
    if not text:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join("".join(mark if mark.isprintable() else " " for mark in whole(text[: 20 * LONGEST])).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def reason_of(value: Any, depth: int = 0) -> str:
    """The reason that an error body gives: JSON of any of the usual forms, JSON in a text, HTML, or plain text."""
    if depth > DEPTH:
        return ""
    if isinstance(value, str):
        if value.lstrip()[:1] in ("{", "["):
            try:
                return reason_of(json.loads(value), depth + 1) or value
            except (ValueError, RecursionError):
                return value
        return html_text(value) if HTML.match(value) else value
    if isinstance(value, list):
        return "; ".join(filter(None, (reason_of(part, depth + 1) for part in value[:3])))
    if not isinstance(value, dict):
        return ""
    place = value.get("loc")
    if isinstance(place, list) and isinstance(value.get("msg"), str):  # pydantic's
        return f"{'.'.join(str(part) for part in place if part != 'body')}: {value['msg']}"
    found = next((text for key in REASONS if key in value and (text := reason_of(value[key], depth + 1))), "")
    metadata = value.get("metadata")  # a relay's: what the server behind it said
    raw = reason_of(metadata.get("raw"), depth + 1) if isinstance(metadata, dict) else ""
    return f"{found}: {raw}" if found and raw else found or raw


def all_text(value: Any, depth: int = 0) -> str:
    """Every text and number in an error body with its field's name, but for what merely repeats the request."""
    if depth > DEPTH:
        return ""
    if isinstance(value, dict):
        parts = [f"{key}: {all_text(part, depth + 1)}" for key, part in value.items() if key not in ECHOES]
        return "; ".join(parts)[:8000]
    if isinstance(value, list):
        return "; ".join(all_text(part, depth + 1) for part in value[:20])[:8000]
    return reason_of(value)[:4000] if isinstance(value, str) else "" if value is None else str(value)[:100]


class _Text(HTMLParser):
    """What a page shows."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.hidden += tag in {"script", "style"}

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in {"script", "style"} and self.hidden > 0

    def handle_data(self, data: str) -> None:
        if not self.hidden and (text := " ".join(data.split())) and text not in self.parts:
            self.parts.append(text)


def html_text(page: str) -> str:
    """The text of an HTML page, its markup, scripts and repetitions left out."""
    parser = _Text()
    parser.feed(page[:20000])
    return ", ".join(parser.parts[:20])
