"""The yaml files in `tasks/`: what their schemas share, and reading them with file, line and field in every message."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deckbench.errors import InputError

Lang = Literal["en", "zh"]
LANGS: tuple[Lang, ...] = ("en", "zh")
Schema = TypeVar("Schema", bound=BaseModel)


class Strict(BaseModel):
    """A schema that refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Text(Strict):
    """One text in every language DeckBench speaks."""

    en: str = Field(min_length=1)
    zh: str = Field(min_length=1)

    def get(self, lang: Lang) -> str:
        return self.en if lang == "en" else self.zh


class _Loader(yaml.SafeLoader):
    """Plain yaml that refuses a key given twice (yaml itself silently keeps the last)."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool) or key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} occurs twice", key_node.start_mark)
        seen.add(key)
    return dict(yaml.SafeLoader.construct_mapping(loader, node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _line_of(text: str, place: Sequence[int | str]) -> int:
    """The line (from 1) in which the field at `place` stands, or the nearest one above it that exists."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    line = 1
    for part in place:
        found = None
        if isinstance(node, yaml.MappingNode):
            for key_node, value_node in node.value:
                if key_node.value == str(part):
                    line, found = key_node.start_mark.line + 1, value_node
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = node.value[part]
            line = found.start_mark.line + 1
        if found is None:
            break
        node = found
    return line


def read_text(path: Path) -> str:
    """A UTF-8 text file. Raises InputError when it is missing, a folder, or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8", path, "save the file as UTF-8") from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path, "check the path") from error


def read_yaml(path: Path, schema: type[Schema]) -> Schema:
    """A yaml file checked against a schema. Raises InputError with file, line and field."""
    text = read_text(path)
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"not valid yaml: {error.problem}", f"{path}:{line}", "fix this line") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"not valid yaml: {error}", path, "fix the file") from error
    if not isinstance(data, dict):
        raise InputError("a map of fields is expected", path, "see docs/tasks.md")
    return check(data, schema, path, text)


def check(data: Any, schema: type[Schema], path: Path | str, text: str | None = None) -> Schema:
    """`data` as `schema`. Raises InputError naming the field (and, with the yaml `text`, its line)."""
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        fault = error.errors()[0]
        loc = [part for part in fault["loc"] if part != "function-after"]
        field = ".".join(str(part) for part in loc)
        where = f"{path}:{_line_of(text, loc)}" if text is not None else str(path)
        said = "unknown field" if fault["type"] == "extra_forbidden" else fault["msg"].removeprefix("Value error, ")
        fix = f"known fields: {', '.join(schema.model_fields)}" if len(loc) <= 1 else "see docs/tasks.md"
        raise InputError(f"{field}: {said}" if field else said, where, fix) from error
