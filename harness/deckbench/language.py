"""The languages DeckBench speaks, and texts in all of them."""

from __future__ import annotations

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
