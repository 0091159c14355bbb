"""Scene texts beside a question bank, `scenes.jsonl`: what a frame, or a check of one, shows, in words.

One line each: `{"frame": "images/f0", "en": "...", "zh": "..."}`, with `step`, `phase` and `check` for a check. A text
describes; the verdict that follows it in a dataset comes from the labels, so a text that states one is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, model_validator

from deckbench.artifact import hash_json
from deckbench.disk import read_bytes
from deckbench.errors import InputError
from deckbench.language import Lang
from deckbench.parse import states_verdict
from deckbench.schema import Strict, check

FILE = "scenes.jsonl"
MAX_BYTES = 1 << 30
LONGEST = 4000  # characters of a text
FIX = "edit or remove the line"
Key = tuple[str, str, str, str]  # frame; step, phase and check, empty for the whole frame


class SceneText(Strict):
    """One line of `scenes.jsonl`. step, phase, check: as `Check.key` of the pool has them."""

    frame: str = Field(min_length=1)
    step: str = ""
    phase: str = ""
    check: str = ""
    en: str | None = Field(default=None, min_length=1, max_length=LONGEST)
    zh: str | None = Field(default=None, min_length=1, max_length=LONGEST)

    @model_validator(mode="after")
    def describes(self) -> SceneText:
        texts = [text for text in (self.en, self.zh) if text is not None]
        if not texts:
            raise ValueError("there is no text: give `en`, `zh` or both")
        if any(states_verdict(text) for text in texts):
            raise ValueError("a text states a verdict (`Verdict:`, `结论:`); that follows from the labels")
        return self

    @property
    def key(self) -> Key:
        return self.frame, self.step, self.phase, self.check


@dataclass(frozen=True)
class SceneTexts:
    """The texts of a file, by what they are about. content_hash: of all of them, in any order."""

    texts: Mapping[Key, SceneText]
    content_hash: str

    def get(self, key: Key, lang: Lang) -> str | None:
        """The text about a frame or a check, without the full stop that ends it."""
        found = self.texts.get(key)
        text = None if found is None else found.en if lang == "en" else found.zh
        return None if text is None else text.strip().rstrip(".。").rstrip() or None


def read_scene_texts(path: Path) -> SceneTexts:
    """Read `scenes.jsonl`. Raises InputError with file and line."""
    texts: dict[Key, SceneText] = {}
    try:
        lines = read_bytes(path, MAX_BYTES).decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", path, "give a JSONL file in UTF-8") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"not valid JSON ({error})", where, FIX) from error
        text = check(data, SceneText, where, FIX)
        if text.key in texts:
            raise InputError(f"a second text about {' / '.join(filter(None, text.key))}", where, "keep one of them")
        texts[text.key] = text
    return SceneTexts(texts, hash_json(sorted(line_of(text) for text in texts.values())))


def line_of(text: SceneText) -> str:
    """A text as its line, without the line feed."""
    return json.dumps(text.model_dump(exclude_none=True, exclude_defaults=True), ensure_ascii=False)


def write_scene_texts(path: Path, texts: Iterable[SceneText]) -> None:
    """Write `scenes.jsonl`."""
    path.write_text("".join(line_of(text) + "\n" for text in texts), encoding="utf-8", newline="\n")
