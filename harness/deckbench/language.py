"""The languages DeckBench speaks, and texts in all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from deckbench.schema import Strict

Lang = Literal["en", "zh"]
LANGS: tuple[Lang, ...] = ("en", "zh")


class Text(Strict):
    """One text in every language DeckBench speaks."""

    en: str = Field(min_length=1)
    zh: str = Field(min_length=1)

    def get(self, lang: Lang) -> str:
        """The text in one language."""
        return self.en if lang == "en" else self.zh


@dataclass(frozen=True)
class AnyText:
    """A text from outside, in one language at least; None where it is not given in the other."""

    en: str | None = None
    zh: str | None = None

    def get(self, lang: Lang) -> str | None:
        """The text in one language, where there is one."""
        return self.en if lang == "en" else self.zh

    @property
    def any(self) -> str:
        """The text in the language that it has, English first: its name where no language is asked for."""
        return self.en or self.zh or ""
