"""Prompts as versioned templates: a YAML file with Jinja texts, to be copied and edited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from deckbench.artifact import hash_json
from deckbench.questions import render
from deckbench.schema import Strict
from deckbench.yamlfile import read_yaml

FIX = "start from a prompt that comes with DeckBench (docs/annotate.md)"


class PromptFile(Strict):
    """Schema of a prompt's file. system, user: sandboxed Jinja templates; temperature, max_tokens: of the answer.

    lists: texts that the templates may use, by name.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    version: int = Field(ge=1)
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=1024, ge=1, le=1 << 20)
    lists: dict[str, dict[str, str]] = Field(default_factory=dict)
    system: str = ""
    user: str = Field(min_length=1)


@dataclass(frozen=True)
class Prompt:
    """A prompt ready to use. ref: `name@version`, with `+hash8` for one that is edited. sha256: of its content."""

    spec: PromptFile
    ref: str
    sha256: str

    def texts(self, values: Mapping[str, Any]) -> tuple[str, str]:
        """(system, user) with the values filled in. Raises InputError for a broken template."""
        known = {**self.spec.lists, **values}
        system, user = (
            render(source, known, f"{self.ref}: {field}").strip()
            for field, source in (("system", self.spec.system), ("user", self.spec.user))
        )
        return system, user


def load_prompt(shipped: Path, own: Path | None = None) -> Prompt:
    """The shipped prompt, or a user's own in its place. Raises InputError with file and line."""
    default = read_yaml(shipped, PromptFile, FIX)
    spec = default if own is None else read_yaml(own, PromptFile, FIX)
    digest = hash_json(spec.model_dump(mode="json"))
    ref = f"{spec.name}@{spec.version}"
    return Prompt(spec, ref if spec == default else f"{ref}+{digest[:8]}", digest)
