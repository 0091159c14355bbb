"""What annotate asks for: one item a frame, a check or a class, its request, and what becomes of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, create_model

from deckbench.endpoint.structured import Request
from deckbench.language import LANGS, Lang
from deckbench.schema import Strict

MOST_BYTES = 200  # of a file's name
NAMES = {"en": "English", "zh": "Chinese"}


def one_line(value: Any) -> Any:
    """A text without line breaks and blanks around it."""
    return " ".join(value.split()) if isinstance(value, str) else value


Line = Annotated[str, BeforeValidator(one_line), Field(min_length=1, max_length=600)]
Texts = Annotated[str, BeforeValidator(one_line), Field(min_length=1, max_length=1500)]


def can_name_file(cls: str) -> bool:
    """Whether a class's name can be that of a file in a folder."""
    plain = bool(cls) and cls.isprintable() and Path(cls).name == cls and not cls.startswith(".")
    return plain and len(cls.encode()) <= MOST_BYTES


@dataclass(frozen=True)
class Item:
    """One thing to be annotated. id: in lists and requests. facts: plain values that go into its line of a shard."""

    id: str
    facts: Mapping[str, Any]
    request: Request


@dataclass(frozen=True)
class Skipped:
    """What is not asked about, and why."""

    id: str
    reason: str


def in_languages(names: Sequence[str], langs: Sequence[Lang], kind: Any) -> dict[str, Any]:
    """Fields of an answer: each name in each language."""
    return {f"{name}_{lang}": (kind, ...) for name in names for lang in langs}


@lru_cache(maxsize=8)
def scene_answer(langs: tuple[Lang, ...]) -> type[BaseModel]:
    """The answer about a frame or a check."""
    fields = in_languages(("description", "judgement"), langs, Texts)
    fields |= {"anomalies": (tuple[str, ...], ...), "verdict": (Literal["normal", "anomaly"], ...)}
    return create_model("Scene", __base__=Strict, **fields)


@lru_cache(maxsize=64)
def concept_answer(langs: tuple[Lang, ...], topics: tuple[str, ...]) -> type[BaseModel]:
    """The answer about a class in S1: a question and an answer for each topic."""
    fields = {"topic": (Literal[topics], ...), **in_languages(("question", "answer"), langs, Line)}
    pair = create_model("Pair", __base__=Strict, **fields)
    return create_model("Concept", __base__=Strict, pairs=(tuple[pair, ...], ...))  # type: ignore[valid-type]


@lru_cache(maxsize=8)
def guided_answer(langs: tuple[Lang, ...]) -> type[BaseModel]:
    """The answer about a class in S2: verdict questions with their options."""
    parts = ("question", "normal", "anomaly", "answer")
    pair = create_model("Pair", __base__=Strict, **in_languages(parts, langs, Line))
    return create_model("Guided", __base__=Strict, pairs=(tuple[pair, ...], ...))  # type: ignore[valid-type]


def languages_line(langs: Sequence[Lang]) -> str:
    return " and ".join(f"{NAMES[lang]} ({lang})" for lang in LANGS if lang in langs)
