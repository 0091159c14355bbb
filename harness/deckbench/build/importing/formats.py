"""What one record of another tool's file says: turns of a conversation, each with the pictures it is about.

Known shapes: GLM-4V `messages` with `image` in the user's message; ms-swift `query`/`response`/`images` (with
`history`) and `messages` + `images`; `conversations` (`from`/`value`) with `<image>`, as LLaVA and Phi-3-vision
trainers write it, or with `<img>path</img>` as early ms-swift did; and rows of a table (`image`, `question`, `answer`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deckbench.build.importing.refused import Refused
from deckbench.build.importing.text import column_of

ROLES = {
    **dict.fromkeys(("user", "human", "question"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt", "answer"), "assistant"),
    "system": "system",
}
# Where a picture stands in a text, as the tools write it.
MARK = re.compile(
    r"<image>|<\|image(?:_\d+)?\|>|<ImageHere>|<\|begin_of_image\|>\s*(?:<\|endoftext\|>)?\s*<\|end_of_image\|>"
)
INLINE = re.compile(r"<img>(.*?)</img>", re.DOTALL)
CONVERSATIONS = ("messages", "conversations", "conversation")


@dataclass(frozen=True)
class Turn:
    """A question, its answer, and the pictures it is about, as the file names them."""

    pictures: tuple[str, ...]
    question: str
    answer: str


@dataclass
class Said:
    """A user's message on the way to a Turn. marks: how many of the record's pictures it takes."""

    text: str
    own: list[str] = field(default_factory=list)
    marks: int = 0
    answer: str | None = None


def json_records(text: str) -> Iterator[tuple[int, Any]]:
    """(line or number, record) of a JSON array, a JSON object that holds one, or JSON Lines.

    A line that is no JSON is given as a Refused.
    """
    try:
        whole = json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, list):
        yield from enumerate(whole, 1)
        return
    if isinstance(whole, dict):
        lists = [value for value in whole.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        one = any(column_of(str(key)) == "question" or key in CONVERSATIONS for key in whole)
        yield from enumerate([whole] if one else lists[0] if len(lists) == 1 else [], 1)
        return
    # Not splitlines: a text may hold U+2028, which is no end of line in JSON.
    lines = text.lstrip("\ufeff").split("\n")
    start, after = lines[0].strip(), "".join(lines[1:2]).lstrip()
    if start == "[" or (start == "{" and not after.startswith("{")):  # cut off: one fault, not one a line
        yield 1, Refused("broken-row", "not valid JSON: the file breaks off, or is damaged")
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, Refused("broken-row", f"not valid JSON ({error})")


def turns_of(record: Any) -> list[Turn]:
    """The turns of a record. Raises Refused when it has none, or its pictures cannot be told apart."""
    if not isinstance(record, Mapping):
        raise Refused("broken-row", f"an object is expected, not {type(record).__name__}")
    for kind in ("videos", "video", "audios", "audio"):
        if record.get(kind):
            raise Refused("video-or-audio", kind)
    listed = _paths(record.get("images")) or _paths(record.get("image"))
    said: list[Said]
    if isinstance(record.get("messages"), list):
        said = _messages(record["messages"], "role", "content")
    elif isinstance(record.get("conversations"), list):
        turns = record["conversations"]
        style = ("from", "value") if any(isinstance(t, Mapping) and "from" in t for t in turns) else ("role", "content")
        said = _messages(turns, *style)
    elif isinstance(record.get("conversation"), list):
        said = _pairs([(turn.get("human"), turn.get("assistant")) for turn in _maps(record["conversation"])])
    else:
        said, found = _plain(record)
        listed = listed or found
    if not said:
        raise Refused("broken-row", "no question with an answer: " + ", ".join(map(str, list(record)[:6])))
    return _assign(said, listed)


def _maps(items: Sequence[Any]) -> list[Mapping[str, Any]]:
    for item in items:
        if not isinstance(item, Mapping):
            raise Refused("broken-row", f"a turn is {type(item).__name__}, not an object")
    return list(items)


def _said(text: str) -> Said:
    """A user's text without its picture marks."""
    own = [path.strip() for path in INLINE.findall(text) if path.strip()]
    text, marks = MARK.subn("", INLINE.sub("", text))
    # A line that held only the mark leaves no empty line; the words themselves stay as they are.
    return Said(text.strip(), own, marks)


def _text(content: Any, own: list[str]) -> str:
    """A message's text; pictures among its parts are added to `own`."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Refused("broken-row", f"a message's content is {type(content).__name__}")
    words = []
    for part in content:
        if isinstance(part, str):
            words.append(part)
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            words.append(part["text"])
        elif isinstance(part, Mapping):
            place = part.get("image") or part.get("image_url") or part.get("url") or part.get("path")
            if isinstance(place, Mapping):
                place = place.get("url")
            own += _paths(place)
    return "\n".join(words)


def _messages(messages: Sequence[Any], role_key: str, text_key: str) -> list[Said]:
    said: list[Said] = []
    for message in _maps(messages):
        role = ROLES.get(str(message.get(role_key, "")).lower())
        if role is None:
            raise Refused("broken-row", f"a message's {role_key} is {message.get(role_key)!r}")
        parts: list[str] = []
        text = _text(message.get(text_key), parts)
        if role == "user":
            one = _said(text)
            one.own += parts + _paths(message.get("image")) + _paths(message.get("images"))
            said.append(one)
        elif role == "assistant" and said and said[-1].answer is None:
            said[-1].answer = text.strip()
    return said


def _pairs(pairs: Sequence[tuple[Any, Any]]) -> list[Said]:
    said = []
    for question, answer in pairs:
        if not isinstance(question, str) or not isinstance(answer, str | int | float | None):
            raise Refused("broken-row", "a turn is not a question and an answer")
        one = _said(question)
        one.answer = None if answer is None else str(answer).strip()
        said.append(one)
    return said


def _plain(record: Mapping[str, Any]) -> tuple[list[Said], list[str]]:
    """`query` and `response` under any of their names; `history` comes first."""
    named: dict[str, Any] = {}
    for key, value in record.items():
        name = column_of(str(key))
        if name is not None:
            named.setdefault(name, value)
    if "question" not in named:
        return [], []
    history = record.get("history") or []
    if not isinstance(history, list) or any(not isinstance(h, list | tuple) or len(h) != 2 for h in history):
        raise Refused("broken-row", "the history is no list of [question, answer]")
    said = _pairs([*[(h[0], h[1]) for h in history], (named["question"], named.get("answer"))])
    return said, _paths(named.get("image"))


def _paths(value: Any) -> list[str]:
    """Paths of pictures in what a record holds about them. Raises Refused for pictures that are no files."""
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        if isinstance(value.get("path"), str) and value["path"]:
            return [value["path"]]
        raise Refused("not-a-file", "an image inside the row")
    if isinstance(value, list):
        return [path for item in value for path in _paths(item)]
    raise Refused("broken-row", f"an image is {type(value).__name__}")


def _assign(said: Sequence[Said], listed: list[str]) -> list[Turn]:
    """Give the record's pictures to the messages that ask for them; a later turn speaks of the picture before."""
    wanted = sum(one.marks for one in said if not one.own)
    if listed and not any(one.own for one in said) and wanted == 0:
        said[0].own = listed
        listed = []
    elif wanted and wanted != len(listed):
        raise Refused("pictures-and-marks", f"{wanted} marks, {len(listed)} images")
    elif not wanted:
        known = {path for one in said for path in one.own}
        if set(listed) - known:
            raise Refused("pictures-and-marks", f"{len(listed)} images beside those in the messages")
        listed = []
    turns: list[Turn] = []
    current: tuple[str, ...] = ()
    for one in said:
        mine = one.own
        if not mine and one.marks:
            mine, listed = listed[: one.marks], listed[one.marks :]
        current = tuple(dict.fromkeys(mine)) or current
        turns.append(Turn(current, one.text, one.answer or ""))
    return turns
