"""What the schemas of files share: unknown fields refused, all faults in one message, a guess at what was meant."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from deckbench.errors import InputError

SHOWN = 8  # faults in one message
LISTED = 20  # fields that are named where none of them is like the unknown one
Place = tuple[int | str, ...]
Schema = TypeVar("Schema", bound=BaseModel)


class Strict(BaseModel):
    """A schema that refuses fields it does not know, and numbers that are none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Fault(NamedTuple):
    """What is wrong with one field. where: `file:line`, or what the text came from."""

    where: str
    what: str


class FieldFaults(ValueError):
    """For a schema's validators: faults of several fields, each with its place in the validated data."""

    def __init__(self, faults: Sequence[tuple[Place, str]]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(what for _, what in faults))


def check(data: Any, schema: type[Schema], where: Path | str, fix: str) -> Schema:
    """`data`, from no YAML file, as a schema. Raises InputError with all faults."""
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        faults = [Fault(str(where), with_name(place, what)) for place, what in faults_of(error, schema, data)]
    raise refusal(faults, fix)


def refusal(faults: Sequence[Fault], fix: str) -> InputError:
    """One error for all faults, of which the first SHOWN are shown."""
    first, *others = faults
    lines = [first.what, *(f"{fault.where}: {fault.what}" for fault in others[: SHOWN - 1])]
    if len(faults) > SHOWN:
        lines.append(f"... and {len(faults) - SHOWN} more")
    return InputError("\n".join(lines), first.where, fix)


def faults_of(error: ValidationError, schema: type[BaseModel], data: Any) -> list[tuple[Place, str]]:
    """The faults that pydantic found, one for each field, as (place of the field, what is wrong)."""
    found: dict[Place, list[str]] = {}
    for fault in error.errors(include_url=False, include_input=False):
        place = place_in(data, fault["loc"], missing=fault["type"] == "missing")
        raised = fault.get("ctx", {}).get("error")
        if isinstance(raised, FieldFaults):
            for inner, what in raised.faults:
                found.setdefault((*place, *inner), []).append(what)
            continue
        if fault["type"] == "extra_forbidden":
            known = fields_at(schema, place[:-1])
            close = get_close_matches(str(place[-1]), known, 1)
            what = "unknown field"
            if close:
                what += f"; did you mean {close[0]!r}?"
            elif len(known) <= LISTED:
                what += f"; there are {', '.join(known)}"
        else:
            what = fault["msg"].removeprefix("Value error, ")
        found.setdefault(place, []).append(what)
    return [(place, "; or ".join(dict.fromkeys(texts))) for place, texts in found.items()]


def place_in(data: Any, loc: Sequence[int | str], *, missing: bool) -> Place:
    """pydantic's place without the names of union members and validators that it puts in between."""
    place: list[int | str] = []
    for part in loc:
        inside = (isinstance(data, Mapping) and part in data) or (
            isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)
        )
        if inside:
            data = data[part]
            place.append(part)
    return (*place, loc[-1]) if missing else tuple(place)


def fields_at(annotation: Any, place: Place) -> list[str]:
    """Names of the fields that a schema knows at a place."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not place:
            return list(annotation.model_fields)
        field = annotation.model_fields.get(str(place[0]))
        return [] if field is None else fields_at(field.annotation, place[1:])
    origin, members = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return [name for member in members for name in fields_at(member, place)]
    if origin in (dict, list, tuple) and place:
        return fields_at(members[1 if origin is dict else 0], place[1:])
    return []


def with_name(place: Place, what: str) -> str:
    """A fault with the field's name before it."""
    name = ".".join(shown(str(part)) for part in place)
    return f"{name}: {what}" if name else what


def shown(text: str) -> str:
    """A text from a file in a message: one short line."""
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= 60 else f"{text[:57]}..."


def repeated(names: Iterable[str]) -> list[tuple[int, str]]:
    """The names that stood earlier in the list already, each with its number from 0."""
    seen: set[str] = set()
    found = []
    for number, name in enumerate(names):
        if name in seen:
            found.append((number, name))
        seen.add(name)
    return found
