"""From the bytes of a chat completion to an answer: nothing in them is taken on trust."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from deckbench.endpoint.faults import Again, Refused
from deckbench.endpoint.text import short, whole

ROUNDING = 0.01  # how far listed probabilities may add up to more than 1
UNLISTED = 0.01  # P is kept where a letter that is not listed holds less than this


@dataclass(frozen=True)
class Reply:
    """What a server said.

    p_a, p_b: out of the whole vocabulary, None where not served or not to be believed; `strange` then says why.
    tokens_in, tokens_out: None where it does not count them. cut: the answer ran into its limit.
    """

    text: str
    p_a: float | None
    p_b: float | None
    strange: str
    tokens_in: int | None
    tokens_out: int | None
    cut: bool
    model: str
    fingerprint: str


def read_reply(body: bytes, *, letters: bool) -> Reply:
    """letters: probabilities of A and B were asked for.

    Raises Again for what is no whole completion (asked again, it may be), Refused where a filter took the answer.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise Again("the answer is not JSON") from None
    if not isinstance(data, dict):
        raise Again("the answer is not a JSON object")
    if data.get("error"):
        raise Again(f"an error instead of an answer: {short(data['error'])}")
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise Again("the answer holds no message")
    reason = choice.get("finish_reason")
    if reason == "content_filter":
        raise Refused("a filter of the server took the answer away")
    if not isinstance(reason, str) or reason == "error":
        raise Again("the answer breaks off (no finish_reason)")
    text = text_of(message)
    p_a = p_b = None
    strange = ""
    if letters:
        try:
            p_a, p_b = read_letters(choice.get("logprobs"), text)
        except ValueError as error:
            strange = str(error)
    usage = data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(
        text,
        p_a,
        p_b,
        strange,
        count(usage.get("prompt_tokens")),
        count(usage.get("completion_tokens")),
        reason == "length",
        whole(data["model"]) if isinstance(data.get("model"), str) else "",
        whole(data["system_fingerprint"]) if isinstance(data.get("system_fingerprint"), str) else "",
    )


def text_of(message: dict[str, Any]) -> str:
    """The answer's text; a model that declines in words has said them, one that says nothing has answered nothing."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        content = "".join(part for part in parts if isinstance(part, str))
    if content is None:
        content = message.get("refusal") or ""
    if not isinstance(content, str):
        raise Again("the answer's text is not a text")
    return whole(content)


def count(value: Any) -> int | None:
    """A number of tokens, or None for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def read_letters(logprobs: Any, text: str) -> tuple[float | None, float | None]:
    """P(A) and P(B) at the first position, summed over their spellings; (None, None) where none are served.

    A letter that is not listed gets 0: it holds less than every listed token, and less than what is left over. Raises
    ValueError, saying why, where that may be much, or where the numbers are no probabilities of this answer.
    """
    positions = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not positions:
        return None, None
    first = positions[0] if isinstance(positions, list) else None
    top = first.get("top_logprobs") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(first.get("token"), str) or not isinstance(top, list) or not top:
        raise ValueError("probabilities in no known form")
    token = first["token"].strip()
    if token and not text.lstrip().startswith(token):
        raise ValueError("probabilities of another answer")
    shares: list[tuple[str, float]] = []
    for entry in top:
        if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
            raise ValueError("probabilities in no known form")
        value = entry.get("logprob")
        # Compared before it is converted: JSON holds whole numbers too large for a float.
        if isinstance(value, bool) or not isinstance(value, int | float) or not value <= ROUNDING:
            raise ValueError("probabilities that are none")
        shares.append((entry["token"].strip(), math.exp(max(value, -1e4))))
    total = math.fsum(share for _, share in shares)
    if total > 1 + ROUNDING:
        raise ValueError("probabilities that add up to more than 1")
    unlisted = min(max(0.0, 1 - total), *(share for _, share in shares))
    p_a, p_b = (min(1.0, math.fsum(share for name, share in shares if name == letter)) for letter in "AB")
    if (p_a == 0 or p_b == 0) and unlisted > UNLISTED:
        raise ValueError("too few probabilities listed")
    return p_a, p_b
