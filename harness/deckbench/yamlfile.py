"""The YAML reader: UTF-8, bounded, every key once, the line of every field, all faults of a file in one message.

Keys are texts, as written. Plain values are null, booleans (as YAML 1.1 has them), numbers or texts; dates, `010` and
`1:30`, which YAML 1.1 takes for something else than they look like, are texts. Tags other than those of plain data are
refused. Merge keys (`<<`) work; a field's own value wins.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from deckbench.errors import InputError
from deckbench.schema import Fault, Place, Schema, faults_of, refusal, shown, with_name

MAX_BYTES = 4 * 2**20
MAX_DEPTH = 50
MAX_VALUES = 200_000  # keys, values and containers, each alias counted with all that it stands for
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # only its parser is used; the C one is ten times as fast
TAGS = "tag:yaml.org,2002:"
BOOLEANS = {word: value for value, words in ((True, "yes true on"), (False, "no false off")) for word in words.split()}
BOOLEANS |= {form(word): value for word, value in BOOLEANS.items() for form in (str.title, str.upper)}
NULLS = frozenset({"", "~", "null", "Null", "NULL"})
INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+|0b[01]+)")
FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?")
SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
UNUSABLE = re.compile("[\0\ud800-\udfff]")  # no path, no UTF-8 file can hold these


class _Fatal(Exception):
    """The rest of the text cannot be read."""

    def __init__(self, line: int, what: str) -> None:
        self.line, self.what = line, what
        super().__init__(what)


@dataclass(slots=True)
class Node:
    """A value with its line, counted from 1.

    value: a plain value, a list of nodes, or key -> (line of the key, node). size: how many values it holds, itself
    counted, aliases expanded. height: how deep it is nested; 1 for a plain value.
    """

    line: int
    value: Any
    size: int = 1
    height: int = 1

    def plain(self) -> Any:
        """The value without lines; what an alias stands for is copied."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, (_, node) in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, list) else self.value

    def child(self, part: int | str) -> tuple[int, Node] | None:
        """The line and node of a field or item; None where there is none."""
        if isinstance(self.value, dict):
            found: tuple[int, Node] | None = self.value.get(part)
            return found
        if isinstance(self.value, list) and isinstance(part, int) and part < len(self.value):
            node: Node = self.value[part]
            return node.line, node
        return None


class _Builder:
    """Nodes out of the parser's events, and faults that do not keep the rest from being read."""

    def __init__(self, text: str) -> None:
        self.events: Iterator[Any] = yaml.parse(text, Loader=LOADER)
        self.anchors: dict[str, Node] = {}
        self.faults: list[tuple[int, str]] = []
        self.count = 0
        self.line = 1

    def next(self) -> Any:
        try:
            event = next(self.events)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            what = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
            raise _Fatal(self.line if mark is None else mark.line + 1, f"not valid YAML: {what}") from error
        except ValueError as error:  # an escape that stands for no character
            raise _Fatal(self.line, f"not valid YAML: {error}") from error
        self.line = event.start_mark.line + 1
        return event

    def document(self) -> Node:
        self.next()  # the stream's start
        event = self.next()
        if isinstance(event, yaml.StreamEndEvent):
            return Node(1, None)
        root = self.node(self.next(), 1)
        self.next()  # the document's end
        if not isinstance(self.next(), yaml.StreamEndEvent):
            raise _Fatal(self.line, "a second document begins here; one is expected")
        return root

    def node(self, event: Any, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise _Fatal(self.line, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, depth)
        self.add(1)
        if isinstance(event, yaml.ScalarEvent):
            node = Node(self.line, self.scalar(event))
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self.sequence(event, depth)
        else:
            node = self.mapping(event, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def add(self, values: int) -> None:
        self.count += values
        if self.count > MAX_VALUES:
            raise _Fatal(self.line, f"more than {MAX_VALUES} values, aliases expanded")

    def alias(self, event: Any, depth: int) -> Node:
        node = self.anchors.get(event.anchor)
        if node is None:
            raise _Fatal(self.line, f"the alias *{shown(event.anchor)} has no anchor before it")
        self.add(node.size)
        if depth + node.height - 1 > MAX_DEPTH:
            raise _Fatal(self.line, f"nested deeper than {MAX_DEPTH} levels")
        return node

    def sequence(self, event: Any, depth: int) -> Node:
        self.check_tag(event, "seq")
        node = Node(self.line, [])
        while not isinstance(event := self.next(), yaml.SequenceEndEvent):
            child = self.node(event, depth + 1)
            node.value.append(child)
            grow(node, child)
        return node

    def mapping(self, event: Any, depth: int) -> Node:
        self.check_tag(event, "map")
        node = Node(self.line, {})
        merged: list[Node] = []
        seen: dict[str, int] = {}
        while not isinstance(event := self.next(), yaml.MappingEndEvent):
            line, is_merge = self.line, False
            if isinstance(event, yaml.ScalarEvent):
                self.add(1)
                key = event.value
                is_merge = key == "<<" and event.implicit[0]
                self.usable(key)
            else:
                self.faults.append((line, "a key is a text, not a list, a map or an alias"))
                self.node(event, depth + 1)
                key = None
            child = self.node(self.next(), depth + 1)
            grow(node, child)
            if key is None:
                continue
            if key in seen:
                self.faults.append((line, f"the key {shown(key)!r} occurs twice (first in line {seen[key]})"))
            elif is_merge:
                merged += self.to_merge(child, line)
            else:
                node.value[key] = (line, child)
            seen.setdefault(key, line)
        for other in merged:
            for key, value in other.value.items():
                node.value.setdefault(key, value)
        return node

    def to_merge(self, node: Node, line: int) -> list[Node]:
        """The maps that `<<` names, the first of which wins."""
        found = node.value if isinstance(node.value, list) else [node]
        if not all(isinstance(one.value, dict) for one in found):
            self.faults.append((line, "<< takes a map, or a list of maps"))
            return []
        return found

    def check_tag(self, event: Any, name: str) -> None:
        if event.tag not in (None, "!", TAGS + name):
            self.refuse_tag(event.tag)

    def refuse_tag(self, tag: str) -> None:
        self.faults.append((self.line, f"not valid YAML: the tag {shown(tag.replace(TAGS, '!!'))} is not allowed here"))

    def usable(self, text: str) -> None:
        if UNUSABLE.search(text):
            self.faults.append((self.line, "the text holds a NUL or half a surrogate pair"))

    def scalar(self, event: Any) -> Any:
        text: str = event.value
        self.usable(text)
        if event.implicit[0]:
            return self.resolve(text)
        if event.tag in (None, "!", f"{TAGS}str"):
            return text
        value = self.resolve(text)
        kinds = {"null": type(None), "bool": bool, "int": int, "float": float}
        kind = kinds.get(event.tag.removeprefix(TAGS))
        if kind is None:
            self.refuse_tag(event.tag)
        elif kind is float and type(value) is int:
            return float(value)
        elif type(value) is not kind:
            self.faults.append((self.line, f"this is no {event.tag.removeprefix(TAGS)}"))
        return value

    def resolve(self, text: str) -> Any:
        """A plain scalar as the value that it is written like."""
        if text in NULLS:
            return None
        if text in BOOLEANS:
            return BOOLEANS[text]
        value: int | float
        if INTEGER.fullmatch(text):
            value = int(text.replace("_", ""), 0) if len(text) < 100 else 2**64
            if not -(2**63) <= value < 2**63:
                self.faults.append((self.line, "this number does not fit in 64 bits"))
                return 0
            return value
        if FLOAT.fullmatch(text):
            value = float(text.replace("_", ""))
            if value in (float("inf"), float("-inf")):
                self.faults.append((self.line, "this number is too large"))
                return 0.0
            return value
        if special := SPECIAL.fullmatch(text):
            return float(f"{special[1] or ''}{special[2] or special[3]}")
        return text


def grow(node: Node, child: Node) -> None:
    """Count a child in its parent's size and height."""
    node.size += child.size
    node.height = max(node.height, child.height + 1)


@dataclass(frozen=True)
class Document:
    """A YAML text that was read.

    source: its file, or what else it came from (then no lines are shown). broken: faults of the text itself, as (line,
    what); whoever asks for the values gets them as one InputError.
    """

    source: Path | str
    root: Node
    broken: tuple[tuple[int, str], ...] = ()

    def where(self, *place: int | str) -> str:
        """`file:line` of the field at `place`, or of the nearest one above it that is there."""
        return self._at(self.line(*place))

    def line(self, *place: int | str) -> int:
        """The line of the field at `place`, or of the nearest one above it that is there."""
        node, line = self.root, self.root.line
        for part in place:
            found = node.child(part)
            if found is None:
                break
            line, node = found
        return line

    def _at(self, line: int) -> str:
        return f"{self.source}:{line}" if isinstance(self.source, Path) else self.source

    def mapping(self, fix: str) -> dict[str, Any]:
        """The fields of a map, as plain values. Raises InputError where the text is broken or no map."""
        value = self.value(fix)
        if not isinstance(value, dict):
            raise InputError("a map of fields is expected", self._at(self.root.line), fix)
        return value

    def value(self, fix: str) -> Any:
        """Whatever the text holds, as plain values. Raises InputError with all faults of the text."""
        if self.broken:
            raise self.refusal(fix)
        return self.root.plain()

    def check(self, schema: type[Schema], fix: str, at: Place = ()) -> Schema:
        """The map at `at`, checked. Raises InputError with all faults of text and fields, each with file and line."""
        node = self.root
        for part in at:
            found = node.child(part)
            node = Node(node.line, None) if found is None else found[1]
        if not isinstance(node.value, dict):
            self.mapping(fix)
        data = node.plain()
        try:
            checked = schema.model_validate(data)
        except ValidationError as error:
            faults = [((*at, *place), what) for place, what in faults_of(error, schema, data)]
            raise self.refusal(fix, faults) from None  # pydantic's own message shows values, which may be secret
        if self.broken:
            raise self.refusal(fix)
        return checked

    def refusal(self, fix: str, faults: Sequence[tuple[Place, str]] = ()) -> InputError:
        """One error for the text's faults and those of some fields, in the order of the lines."""
        found = [*self.broken, *((self.line(*place), with_name(place, what)) for place, what in faults)]
        return refusal([Fault(self._at(line), what) for line, what in sorted(found, key=lambda fault: fault[0])], fix)


def parse(text: str, source: Path | str) -> Document:
    """YAML text as a Document. Raises InputError for what keeps it from being read at all."""
    if wrong := UNPRINTABLE.search(text):
        line = text.count("\n", 0, wrong.start()) + 1
        what = f"the character U+{ord(wrong[0]):04X} cannot stand in a YAML file"
        raise InputError(what, f"{source}:{line}" if isinstance(source, Path) else source, "remove it")
    builder = _Builder(text)
    try:
        root = builder.document()
    except _Fatal as error:
        builder.faults.append((error.line, error.what))
        broken = Document(source, Node(1, None), tuple(builder.faults))
        raise broken.refusal("indentation, colons and quotes matter") from error
    return Document(source, root, tuple(builder.faults))


def read_document(path: Path) -> Document:
    """A YAML file. Raises InputError with file and line where it cannot be read."""
    return parse(read_text(path), path)


def read_yaml(path: Path, schema: type[Schema], fix: str = "correct the file") -> Schema:
    """A YAML file as a schema. Raises InputError with all faults, each with file, line and field."""
    return read_document(path).check(schema, fix)


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """`["lr=0.001", "rank=8"]` -> {"lr": 0.001, "rank": 8}; values are YAML. Raises InputError."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"cannot read {pair!r}", "--set", "write KEY=VALUE, such as --set lr=0.001")
        settings[key] = parse(value, f"--set {key}").value("quote the value")
    return settings


def kind_of(path: Path) -> Literal["file", "directory"] | None:
    """What is at `path`, if anything. Pipes and what cannot be looked at are files: the reader refuses them."""
    try:
        return "directory" if stat.S_ISDIR(path.stat().st_mode) else "file"
    except PermissionError:
        return "file"
    except (OSError, ValueError):
        return None


def read_text(path: Path) -> str:
    """A UTF-8 text file, with or without a byte order mark.

    Raises InputError when it is missing, no regular file, larger than MAX_BYTES, or not UTF-8.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError("a directory exists where a file is expected", path, "give the file")
        if not stat.S_ISREG(mode):
            raise InputError("this is no regular file", path, "give a file, not a pipe or a device")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path, "check the path and its permissions") from error
    except ValueError as error:  # a NUL in the path
        raise InputError(f"cannot be read ({error})", repr(str(path)), "check the path") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"larger than {MAX_BYTES // 2**20} MiB", path, "split the file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError("not UTF-8", f"{path}:{line}", "save the file as UTF-8") from error
