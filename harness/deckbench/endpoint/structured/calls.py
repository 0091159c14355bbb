"""The file of calls: every answer that was paid for, forced to disk before it is used, and found again by its key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from deckbench.artifact import make_parent
from deckbench.disk import claim, real_path
from deckbench.endpoint.faults import ErrorReply, NotAnswered, Refused
from deckbench.endpoint.reply import count, parsed, read_reply
from deckbench.endpoint.spec import EndpointSpec
from deckbench.endpoint.text import short, whole
from deckbench.errors import InputError, OutsideError
from deckbench.journal import Journal, open_journal, read_journal

FIX = "free disk space or fix the permissions, then rerun to resume"
BEGINS = (b'{"call":{', b'{"batch":{')  # of entries, torn or not
WHOLE = (b'{"call":{"batch":', b'{"batch":{"dropped":')  # as `canonical` writes them: nobody else's file begins so


@dataclass(frozen=True)
class Said:
    """What a server said in one whole reply, or why it said nothing.

    said: a text. cut: a text that ran into its limit. silent: thoughts alone. refused: a filter took it, or the model
    declines. text: the answer; raw: as it came, where that was more. reason: why there is no text.
    tokens_in, tokens_out: None where the server does not count.
    """

    outcome: Literal["said", "cut", "silent", "refused"]
    text: str
    raw: str
    reason: str
    ended: str
    tokens_in: int | None
    tokens_out: int | None
    served: str
    fingerprint: str


@dataclass(frozen=True)
class Call:
    """One paid call: what was sent, without images and keys, and what came back.

    key: `request.key_of`. sent: how the schema went, in the field `response_format` or in the prompt. guess_in: the
    tokens that were expected. batch: by the Batch API, at half the price. requests, seconds: of the last answer, with
    those that failed before it; 0 in a batch.
    """

    key: str
    prompt: str
    model: str
    sent: Literal["json_schema", "prompt"]
    temperature: float
    max_tokens: int
    repeat: int
    messages: list[dict[str, Any]]
    guess_in: int
    batch: bool
    requests: int
    seconds: float
    outcome: Literal["said", "cut", "silent", "refused"]
    text: str
    raw: str
    reason: str
    ended: str
    tokens_in: int | None
    tokens_out: int | None
    served: str
    fingerprint: str

    def cost(self, spec: EndpointSpec) -> float:
        """In the currency of the prices; what the server does not count is taken at what was expected of it."""
        if spec.price_in is None or spec.price_out is None:
            return 0.0
        tokens_in = self.guess_in if self.tokens_in is None else self.tokens_in
        tokens_out = self.max_tokens if self.tokens_out is None else self.tokens_out
        return (tokens_in * spec.price_in + tokens_out * spec.price_out) / 1e6 * (0.5 if self.batch else 1.0)


class Calls:
    """The open file of calls. One process writes it."""

    def __init__(self, path: Path, journal: Journal) -> None:
        self.path = path
        self._journal = journal
        self.by_key = {entry["call"]["key"]: Call(**entry["call"]) for entry in journal.entries if "call" in entry}
        self.batches: dict[str, dict[str, Any]] = {}  # by name, with every field as it was last journalled
        for entry in journal.entries:
            if "batch" in entry:
                self._remember(entry["batch"])
        journal.entries.clear()

    def add(self, call: Call) -> None:
        """Keep a call. Raises OutsideError when the disk fails; then it is not used either."""
        self._append({"call": asdict(call)})
        self.by_key[call.key] = call

    def note_batch(self, batch: dict[str, Any]) -> None:
        """Keep fields of a batch, at least name and state. Raises OutsideError when the disk fails."""
        self._append({"batch": batch})
        self._remember(batch)

    def open_batches(self) -> list[dict[str, Any]]:
        """Batches that may have answers which are paid and not in the file yet."""
        return [batch for batch in self.batches.values() if batch["state"] != "collected"]

    def spent(self, spec: EndpointSpec) -> float:
        """What all calls in the file cost."""
        return sum(call.cost(spec) for call in self.by_key.values())

    def _remember(self, batch: dict[str, Any]) -> None:
        known = self.batches.setdefault(batch["name"], {"dropped": [], "keys": {}})
        known.update(batch)

    def _append(self, entry: dict[str, Any]) -> None:
        try:
            self._journal.append(entry, sync=True)
        except OSError as error:
            raise OutsideError(f"cannot write: {error.strerror}", self.path, FIX) from error
        self._journal.entries.clear()  # kept by key


@contextmanager
def open_calls(path: Path) -> Iterator[Calls]:
    """Open or create a file of calls (JSONL) as its only writer.

    Raises:
        InputError: it is no such file.
        OutsideError: another process writes it, or the disk fails.
    """
    make_parent(path)
    with claim(path):
        try:
            _check_file(path)
            try:
                with open_journal(path, _is_entry) as journal:
                    yield Calls(path, journal)
            finally:
                if path.stat().st_size == 0:  # nothing was asked
                    path.unlink()
        except OSError as error:
            raise OutsideError(f"cannot be used: {error.strerror}", path, FIX) from error


def _check_file(path: Path) -> None:
    """Refuse a file that holds anything but calls: a journal cuts off all behind its first torn line, paid or not."""
    if path.is_symlink():
        raise InputError("the file of calls is a symbolic link", path, f"name the file itself: {real_path(path)}")
    if path.is_dir():
        raise InputError("the file of calls is a directory", path, "name a file")
    if not path.exists():
        return
    if not path.is_file():
        raise InputError("the file of calls is no regular file", path, "name another file, or a new one")
    entries, length = read_journal(path, _is_entry)
    with path.open("rb") as file:
        file.seek(length)
        start = file.read(max(map(len, WHOLE)))
        own = start.startswith(BEGINS if entries else WHOLE) or any(entries and one.startswith(start) for one in BEGINS)
        block = start
        while block and own:
            own = b"\n" not in block  # what a killed process left has no end
            block = file.read(1 << 20)
    if start and not own:
        what = "this is no call, or one of another version of DeckBench"
        raise InputError(what, f"{path}:{len(entries) + 1}", "name another file, or a new one")


def _is_batch(batch: Any) -> bool:
    """Whether what is noted of a batch is whole. A key with a number is of an earlier version: not collected."""
    if not isinstance(batch, dict) or batch["state"] not in {"creating", "submitted", "collected"}:
        return False
    dropped, keys = batch.get("dropped", []), batch.get("keys", {})
    unsaid = {field.name for field in fields(Call)} - {field.name for field in fields(Said)}
    texts = (batch["name"], batch["id"] if batch["state"] == "submitted" else "", *dropped)
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(keys, dict)
        and all(isinstance(asked, int) or (set(asked) == unsaid and asked["key"] == key) for key, asked in keys.items())
    )


def _is_entry(entry: Any) -> bool:
    """Whether a line of the file is whole."""
    if "batch" in entry:
        return _is_batch(entry["batch"])
    call = entry["call"]
    numbers = (call["guess_in"], call["max_tokens"], call["requests"])
    counted = all(call[name] is None or isinstance(call[name], int) for name in ("tokens_in", "tokens_out"))
    return set(call) == {field.name for field in fields(Call)} and counted and all(isinstance(n, int) for n in numbers)


def read_said(body: bytes) -> Said:
    """A chat completion's text with what it cost.

    Raises:
        Again: no whole completion, or one that was broken off.
        ErrorReply: an error in place of an answer.
    """
    data = parsed(body)
    usage = data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    served, fingerprint = (
        short(data[name]) if isinstance(data.get(name), str) else "" for name in ("model", "system_fingerprint")
    )
    tokens = (count(usage.get("prompt_tokens")), count(usage.get("completion_tokens")))
    refusal, ended = _refusal(data)
    facts = (ended, *tokens, served, fingerprint)
    try:
        reply = read_reply(body, letters=False)
    except NotAnswered as silent:
        return Said("silent", "", "", str(silent), *facts)
    except Refused as refused:
        return Said("refused", "", "", str(refused), *facts)
    except ErrorReply:
        raise
    if refusal:
        return Said("refused", "", "", f"the model declines: {refusal}", *facts)
    return Said("cut" if reply.cut else "said", reply.text, reply.raw, "", *facts)


def _refusal(data: dict[str, Any]) -> tuple[str, str]:
    """(the words in which a model declines a structured answer, why the answer ended); empty where there are none."""
    try:
        choice = data["choices"][0]
        refusal, ended = choice["message"].get("refusal"), choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        return "", ""
    return (short(whole(refusal)) if isinstance(refusal, str) else "", short(ended) if isinstance(ended, str) else "")


def transcript(calls: Calls, keys: Iterable[str]) -> str:
    """JSONL of calls in the order of `keys`: every prompt and answer, nothing of when and how often it was tried."""
    lines = []
    for key in keys:
        shown = asdict(calls.by_key[key])
        for name in ("requests", "seconds", "fingerprint"):
            del shown[name]
        lines.append(json.dumps(shown, ensure_ascii=False, sort_keys=True) + "\n")
    return "".join(lines)
