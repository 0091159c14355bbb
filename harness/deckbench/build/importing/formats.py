"""What one record of another tool's file says: turns of a conversation, each with the pictures it is about.

Every text of a record is part of a turn, or one of the fields that say where it comes from; else the record is refused
by that field's name. LLaMA-Factory's `input` and `system` are joined to the question, ms-swift's `<ref-object>` filled.

Known shapes: GLM-4V `messages` with `image` in the user's message; ms-swift `query`/`response`/`images` (with
`history`) and `messages` + `images`; `conversations` (`from`/`value`) with `<image>`, as LLaVA and Phi-3-vision
trainers write it, or with `<img>path</img>` as early ms-swift did; and rows of a table (`image`, `question`, `answer`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deckbench.build.importing.refused import Refused
from deckbench.build.importing.text import column_of

ROLES = {
    **dict.fromkeys(("user", "human", "question"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt", "answer"), "assistant"),
    "system": "system",
}
TOOL_ROLES = frozenset(
    ("function", "function_call", "function_response", "observation", "tool", "tool_call", "tool_response")
)
# Where a picture stands in a text, as the tools write it.
MARK = re.compile(
    r"<image(?:[ _]?\d+)?>|<\|image(?:_\d+)?\|>|<ImageHere>|<image_placeholder>|<start_of_image>|<IMG_CONTEXT>|\[IMG\]|"
    r"<\|vision_start\|>(?:<\|image_pad\|>)*<\|vision_end\|>|"
    r"<\|begin_of_image\|>\s*(?:<\|endoftext\|>)?\s*<\|end_of_image\|>"
)
INLINE = re.compile(r"<img>(.*?)</img>", re.DOTALL)
# What a tool fills in before a model sees it: a literal one is no part of a question.
UNFILLED = re.compile(
    r"<(?:bbox|ref-object|cot-process|mask|point|seg|object|video|audio|speech)>|<\|?(?:video|audio|image)[\w ]*\|?>|"
    r"\{\{?\s*(?:image|input|question|query|instruction|context|system|response|answer|output)\s*\}?\}"
)
CONVERSATIONS = ("messages", "conversations", "conversation")
# Texts that a trainer puts before the question, in the order in which they are read.
BEFORE = ("system", "system_prompt", "context", "hint")
AFTER = ("input",)
# Fields that say where a record comes from, or say again what its texts say.
ORIGIN = frozenset(
    (
        "id", "_id", "idx", "index", "uid", "uuid", "no", "number", "sample_id", "question_id", "image_id", "data_id",
        "record_id", "conversation_id", "pair_id", "annotation_id", "source", "dataset", "data_source", "origin",
        "split", "subset", "part", "fold", "type", "question_type", "answer_type", "kind", "category", "task",
        "task_type", "stage", "topic", "subject", "skill", "lang", "language", "width", "height", "size",
        "image_size", "image_width", "image_height", "time", "timestamp", "date", "created", "created_at",
        "updated_at", "author", "annotator", "annotators", "user", "model", "license", "licence", "url", "frame",
        "group", "session", "step", "class", "anomaly", "option_a", "option_b", "bbox", "box", "boxes", "region",
        "score", "difficulty", "weight", "loss", "version", "meta", "metadata", "info", "extra", "extra_info",
        "file_name", "filename", "channel", "objects", "object", "md5", "sha256", "hash", "tags", "tag",
    )
)  # fmt: skip
MESSAGE_FIELDS = frozenset({"role", "from", "content", "value", "image", "images", "loss", "name", "weight", "id"})


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


def turns_of(record: Any, ignored: Collection[str] = ()) -> list[Turn]:
    """The turns of a record. Raises Refused when it has none, or its pictures cannot be told apart.

    ignored: fields that are no part of a question. A text in any other field that is not known is refused.
    """
    if not isinstance(record, Mapping):
        raise Refused("broken-row", f"an object is expected, not {type(record).__name__}")
    for kind in ("videos", "video", "audios", "audio"):
        if record.get(kind):
            raise Refused("video-or-audio", kind)
    record = {key: value for key, value in record.items() if key not in ignored}
    talks = [name for name in CONVERSATIONS if isinstance(record.get(name), list)]
    if not talks and not any(column_of(str(key)) == "question" for key in record):
        raise Refused("broken-row", "no question with an answer: " + ", ".join(map(str, list(record)[:6])))
    check_fields(record, {talks[0], "images", "image", *BEFORE} if talks else None)
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
        raise Refused("broken-row", "no question with an answer")
    if talks:
        said[0].text = joined([record.get(name) for name in BEFORE], said[0].text)
    fill_references(said, record.get("objects"))
    for one in said:
        if (left := UNFILLED.search(one.text) or UNFILLED.search(one.answer or "")) is not None:
            raise Refused("placeholder", left[0])
    return _assign(said, listed)


def has_text(value: Any) -> bool:
    """Whether a field's value holds any words."""
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, Mapping):
        return any(map(has_text, value.values()))
    return isinstance(value, list) and any(map(has_text, value))


def check_fields(record: Mapping[str, Any], known: Collection[str] | None) -> None:
    """Raises Refused for a field with a text that is not known. known: None for a plain question and answer."""
    for key, value in record.items():
        name = str(key).strip().lower().replace(" ", "_").replace("-", "_")
        plain = column_of(name) is not None or name in {*BEFORE, *AFTER, "history"}
        if not has_text(value) or name in ORIGIN or (plain if known is None else key in known):
            continue
        raise Refused("unknown-field", f"{key}: {' '.join(str(value).split())[:60]}")


def joined(texts: Sequence[Any], text: str, after: Sequence[Any] = ()) -> str:
    """A question with what a trainer puts before and after it, a line each. Raises Refused for what is no text."""
    parts = []
    for part in (*texts, text, *after):
        if part is None or part == "":
            continue
        if not isinstance(part, str):
            raise Refused("broken-row", f"a part of the question is {type(part).__name__}, not a text")
        parts.append(part.strip())
    return "\n".join(part for part in parts if part)


def fill_references(said: Sequence[Said], objects: Any) -> None:
    """ms-swift's `<ref-object>`, one after the other, from `objects` ({"ref": [...]}, or before 3.0 a list)."""
    if isinstance(objects, str):
        try:
            objects = json.loads(objects)
        except (ValueError, RecursionError):
            return
    names: Any = objects.get("ref") if isinstance(objects, Mapping) else objects
    if not isinstance(names, list):
        return
    words = iter([name.get("caption") if isinstance(name, Mapping) else name for name in names])

    def fill(text: str) -> str:
        def word(match: re.Match[str]) -> str:
            found = next(words, None)
            return found if isinstance(found, str) else match[0]

        return re.sub("<ref-object>", word, text)

    for one in said:
        one.text = fill(one.text)
        one.answer = None if one.answer is None else fill(one.answer)


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
    system: list[str] = []
    for message in _maps(messages):
        written = str(message.get(role_key, "")).lower()
        role = ROLES.get(written)
        if written in TOOL_ROLES or has_text(message.get("tool_calls")):
            raise Refused("tool-call", f"{role_key}: {written}")
        if role is None:
            raise Refused("broken-row", f"a message's {role_key} is {message.get(role_key)!r}")
        for key, value in message.items():
            if key not in MESSAGE_FIELDS and has_text(value):
                raise Refused("unknown-field", f"{key} in a message: {' '.join(str(value).split())[:60]}")
        parts: list[str] = []
        text = _text(message.get(text_key), parts)
        if role == "user":
            one = _said(text)
            one.own += parts + _paths(message.get("image")) + _paths(message.get("images"))
            said.append(one)
        elif role == "system":
            if said:
                raise Refused("broken-row", "a system message after the first question")
            system.append(text)
        elif not said or said[-1].answer is not None:
            raise Refused(
                "broken-row", "an answer without a question before it" if not said else "two answers in a row"
            )
        else:
            said[-1].answer = text.strip()
    if said:
        said[0].text = joined(system, said[0].text)
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
    questions: list[Any] = []
    for key, value in record.items():
        name = column_of(str(key))
        if name == "question" and value not in questions:
            questions.append(value)
        if name is not None and named.setdefault(name, value) != value and name == "answer":
            raise Refused("broken-row", f"two answers: {str(named[name])[:40]!r} and {str(value)[:40]!r}")
    if "question" not in named:
        return [], []
    if has_text([record.get(name) for name in (*BEFORE, *AFTER)]) or len(questions) > 1:
        before, after = ([record.get(name) for name in names] for names in (BEFORE, AFTER))
        named["question"] = joined([*before, *questions[:-1]], questions[-1] or "", after)
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
