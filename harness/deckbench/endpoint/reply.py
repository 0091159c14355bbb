"""From the bytes of a chat completion to an answer: nothing in them is taken on trust."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from deckbench.endpoint.faults import FILTER, Again, ErrorReply, NotAnswered, Refused
from deckbench.endpoint.letters import read_letters
from deckbench.endpoint.text import html_text, short, whole
from deckbench.wrapping import unwrap

# The reasons for which a model's own answer ends, in the words of the servers, compared without case. Whatever is in
# neither list, nor a filter's, was not ended by the model: it is asked again.
ENDED = frozenset(
    {"stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "end_of_text", "endoftext"}
    | {"complete", "completed", "normal", "finish", "finished", "done", "end", "eot", "eos_token_id"}
)
CUT = frozenset(
    {"length", "max_tokens", "max_length", "max_output_tokens", "max_new_tokens", "max_completion_tokens", "max_output"}
    | {"max_tokens_reached", "model_length", "token_limit", "token_limit_reached", "limit"}
)
FULL = frozenset({"model_context_window_exceeded", "context_length_exceeded", "context_window_exceeded"})
TEXTS = frozenset({"text", "output_text"})  # parts of a message that are its answer
MOST_TOKENS = 10**9
REASONING = ("reasoning_content", "reasoning", "thinking", "reasoning_text")
REPLY_FIELDS = frozenset({"id", "object", "created", "model", "usage", "choices", "system_fingerprint"})
THOUGHT = "all tokens went into thinking; raise `thinking_tokens` in the endpoint's file"
TWICE = "an object that has a name twice"
SILENT = "no text within the limit; where the model thinks first, raise `thinking_tokens` in the endpoint's file"


@dataclass(frozen=True)
class Reply:
    """What a server said.

    text: the answer. raw: as it came, where that was more. stripped: names of what was taken off around it.
    p_a, p_b: out of the whole vocabulary, None where not served or not to be believed; `strange` then says why.
    tokens_in, tokens_out: None where it does not count them. ended: its finish_reason. cut: the answer ran into its
    limit.
    """

    text: str
    raw: str
    stripped: tuple[str, ...]
    p_a: float | None
    p_b: float | None
    strange: str
    tokens_in: int | None
    tokens_out: int | None
    ended: str
    cut: bool
    model: str
    fingerprint: str


def read_reply(body: bytes, *, letters: bool) -> Reply:
    """The answer in a chat completion.

    Args:
        body: as the server sent it, with status 200.
        letters: probabilities of A and B were asked for.

    Raises:
        Again: no whole completion, or one that was broken off; asked again, it may be.
        Refused: a filter took the answer, or the model's context is full.
        NotAnswered: the model thought and said nothing.
        ErrorReply: an error in place of an answer.
    """
    data = parsed(body)
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    for part in (data, choice, message):
        if isinstance(part, dict) and part.get("error"):
            raise ErrorReply({"error": part["error"]}, status_in(part["error"]))
    if not isinstance(choice, dict) or not isinstance(message, dict):
        if not choices and data.keys() - REPLY_FIELDS:
            raise ErrorReply(data, status_in(data))
        raise Again(f"the answer holds no message: {short(choice or data)}")
    raw = text_of(message)
    cut = check_ending(choice, raw)
    found = unwrap(raw)
    usage = data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    thought = "thinking" in found.stripped or has_thought(message, usage)
    if not found.text.strip() and (thought or cut):
        raise NotAnswered(THOUGHT if thought else SILENT)
    p_a = p_b = None
    strange = ""
    if letters:
        try:
            p_a, p_b = read_letters(choice.get("logprobs"), found.text, wrapped=thought or "box" in found.stripped)
        except ValueError as why:
            strange = str(why)
    return Reply(
        found.text,
        raw if found.stripped else "",
        found.stripped,
        p_a,
        p_b,
        strange,
        count(usage.get("prompt_tokens")),
        count(usage.get("completion_tokens")),
        short(choice["finish_reason"]),
        cut,
        short(data["model"]) if isinstance(data.get("model"), str) else "",
        short(data["system_fingerprint"]) if isinstance(data.get("system_fingerprint"), str) else "",
    )


def parsed(body: bytes, *, once: bool = False) -> dict[str, Any]:
    """A reply's JSON object. Raises Again for anything else, with what it says.

    once: an object that has a name twice is replaced by the text `TWICE`: either value may be meant.
    """
    try:
        data = json.loads(body, object_pairs_hook=_once if once else None)
    except (ValueError, RecursionError):
        text = body[:4000].decode("utf-8", "replace").strip()
        shown = short(html_text(text) if text.startswith("<") else text)
        raise Again(f"the answer is not JSON{f': {shown}' if shown else ''}") from None
    if not isinstance(data, dict):
        raise Again(data if data == TWICE else "the answer is not a JSON object")
    return data


def _once(pairs: list[tuple[str, Any]]) -> Any:
    """An object whose names differ, or `TWICE`."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else TWICE


def status_in(error: Any) -> int:
    """The HTTP status that an error in a reply states, 0 for none."""
    if isinstance(error, dict):
        for key in ("status", "code", "status_code", "statusCode", "error_code"):
            value = error.get(key)
            value = int(value) if isinstance(value, str) and re.fullmatch(r"[45]\d\d", value) else value
            if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600:
                return value
    return 0


def check_ending(choice: dict[str, Any], text: str) -> bool:
    """Whether the answer ran into its limit. Raises Again where it was broken off, Refused where a filter took it.

    text: of the message, which may say why.
    """
    reason = choice.get("finish_reason")
    for given in (reason, choice.get("native_finish_reason")):
        if isinstance(given, str) and FILTER.search(given):
            raise Refused(f"a filter of the server took the answer away ({short(given)})", filtered=True)
    if not isinstance(reason, str) or not reason.strip():
        raise Again(f"the answer breaks off (no finish_reason{f': {short(reason)}' if reason else ''})")
    word = re.sub(r"[\s-]+", "_", reason.strip().lower().rpartition(".")[2]).removeprefix("finish_reason_")
    if word in FULL:
        raise Refused("the model's context is full: set `max_side`, or serve it with a longer context")
    if word not in ENDED | CUT:
        said = f": {short(text)}" if text.strip() else ""
        raise Again(f"the server broke the answer off (finish_reason {short(reason)!r}){said}")
    return word in CUT


def text_of(message: dict[str, Any]) -> str:
    """The answer's text; a model that declines in words has said them, one that says nothing has answered nothing."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type", "text") in TEXTS]
        content = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    if content is None:
        content = message.get("refusal") or ""
    if not isinstance(content, str):
        raise Again("the answer's text is not a text")
    return whole(content)


def has_thought(message: dict[str, Any], usage: dict[str, Any]) -> bool:
    """Whether the server says that the model has thought: the thoughts themselves, or how many tokens they took."""
    details = usage.get("completion_tokens_details")
    spent = details.get("reasoning_tokens") if isinstance(details, dict) else None
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    apart = any(isinstance(part, dict) and part.get("type", "text") in {*REASONING} for part in parts)
    return apart or any(message.get(name) for name in REASONING) or bool(count(spent))


def count(value: Any) -> int | None:
    """A number of tokens, or None for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS else None
