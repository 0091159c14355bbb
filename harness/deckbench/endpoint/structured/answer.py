"""Structured answers: the schema that a server is given, and a text read by it. Nothing is guessed."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ValidationError

from deckbench.schema import with_name

FENCE = re.compile(r"^[ \t]*```(?:[ \t]*(?:json|JSON))?[ \t]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)
LONGEST = 1 << 20  # characters of an answer
MOST_FENCES = 8
LISTED = 8  # reasons that a model is told
# Not sent: what some strict servers refuse in a schema, what the model need not know, and what is checked here anyway.
LEFT_OUT = frozenset({"title", "default", "minLength", "maxLength"})
NO_JSON = "it is not one JSON object"


class NoAnswer(ValueError):
    """A text that is no answer of the form asked for. reasons: why, as the model is told."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("; ".join(self.reasons))


@lru_cache(maxsize=64)
def strict_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model as strict servers take it: every field required, none beside them, no defaults."""

    def strict(node: Any, names: bool = False) -> Any:
        if isinstance(node, list):
            return [strict(part) for part in node]
        if not isinstance(node, dict):
            return node
        if names:  # a map of names to schemas: a field may be called `title`
            return {name: strict(part) for name, part in node.items()}
        made = {key: strict(part, key in {"properties", "$defs"}) for key, part in node.items() if key not in LEFT_OUT}
        if "properties" in made:
            made |= {"additionalProperties": False, "required": list(made["properties"])}
        return made

    return dict(strict(copy.deepcopy(model.model_json_schema())))


def read_answer(text: str, model: type[BaseModel]) -> Any:
    """The answer in a text: one JSON object, alone or in the text's only fenced block.

    Args:
        text: what the model said.
        model: what the answer has to be.

    Returns:
        An instance of the model.

    Raises:
        NoAnswer: the text is none, or not of this form.
    """
    if not text.strip():
        raise NoAnswer(["it is empty"])
    if len(text) > LONGEST:
        raise NoAnswer([f"it is longer than {LONGEST} characters"])
    # Each fence that never closes is searched for to the end: with many of them that takes hours.
    blocks = FENCE.findall(text) if text.count("```") <= MOST_FENCES else []
    source = text if text.lstrip().startswith("{") or len(blocks) != 1 else blocks[0]
    try:
        value = json.loads(source, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise NoAnswer(["it is nested too deeply"]) from None
    except json.JSONDecodeError as error:
        several = f" (it has {len(blocks)} fenced blocks)" if len(blocks) > 1 else ""
        raise NoAnswer([f"{NO_JSON}{several}: {error}"]) from None
    except ValueError as error:
        raise NoAnswer([f"{NO_JSON}: {error}"]) from None
    if not isinstance(value, dict):
        raise NoAnswer([NO_JSON])
    try:
        # From JSON, so that a list may be a tuple; strictly, so that "3" is no number.
        return model.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        reasons = [with_name(tuple(fault["loc"]), fault["msg"].removeprefix("Value error, ")) for fault in faults]
        raise NoAnswer(reasons[:LISTED]) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose fields occur once: with two, either may be meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field occurs twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
