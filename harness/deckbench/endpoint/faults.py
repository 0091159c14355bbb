"""What goes wrong between here and a server, by what helps: ask again, leave this question, or stop."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from deckbench.endpoint.text import short

AGAIN = frozenset({408, 409, 425, 429})  # and every 5xx
REFUSED = frozenset({400, 403, 413, 414, 415, 422, 451})  # this question or picture; others may be answered
QUOTA = ("insufficient_quota", "billing", "exceeded your current quota")


class Again(Exception):
    """Asking again may help. wait_s: how long the server wants to be left alone. limited: a rate limit."""

    def __init__(self, text: str, *, wait_s: float | None = None, limited: bool = False, lost: bool = False) -> None:
        super().__init__(text)
        self.wait_s, self.limited, self.lost = wait_s, limited, lost


class Refused(Exception):
    """This request will never succeed; it says nothing about the model."""


class Stop(Exception):
    """No request will succeed until somebody fixes something. fix: what."""

    def __init__(self, text: str, fix: str) -> None:
        super().__init__(text)
        self.fix = fix


def fault_of(status: int, body: Any, headers: Mapping[str, str], key_name: str) -> Again | Refused | Stop:
    """The fault behind an HTTP status. body: the answer's JSON, or its text."""
    error = body.get("error") if isinstance(body, dict) else None
    text = f"HTTP {status}: {short(error or body or 'no reason given')}"
    if status == 429 and any(word in text or word in code_of(error) for word in QUOTA):
        return Stop(text, "the account's quota is used up: raise it, then rerun to resume")
    if status in AGAIN or status >= 500:
        return Again(text, wait_s=wait_of(headers), limited=status == 429)
    if status in REFUSED:
        return Refused(text)
    if status == 401:
        return Stop(text, f"set {key_name} to a key this server takes, then rerun to resume")
    if status == 404:
        return Stop(text, "check the model's name and the address (it mostly ends in /v1), then rerun to resume")
    return Stop(text, "fix it at the server, then rerun to resume")


def code_of(error: Any) -> str:
    """`code` or `type` of an error as OpenAI writes it."""
    return f"{error.get('code')} {error.get('type')}" if isinstance(error, dict) else ""


def wait_of(headers: Mapping[str, str]) -> float | None:
    """Seconds until the server wants to be asked again, from its headers; None when it does not say."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
            return float(value) / unit
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def field_named(body: Any, fields: list[str]) -> str | None:
    """Which of the request's optional fields an error names, in its `param` or anywhere in its text."""
    error = body.get("error") if isinstance(body, dict) else None
    param = error.get("param") if isinstance(error, dict) else None
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, default=str)
    for found in (param if isinstance(param, str) else "", text):
        for name in fields:
            if re.search(rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])", found):
                return name
    return None
