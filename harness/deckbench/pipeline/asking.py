"""A row of a suite that is asked: which model, and all that decides what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deckbench.pipeline.plan import Target, baseline_train_set
from deckbench.pipeline.state import Code, Run, StepOutput


@dataclass(frozen=True)
class Asking:
    """One row: a model, with the adapter of its curriculum, and the dataset of its questions."""

    run: Run
    target: Target
    adapter: StepOutput | None

    @property
    def train_set(self) -> StepOutput | None:
        """What a baseline is fitted on."""
        name = baseline_train_set(self.run.suite, self.target)
        return None if name is None else self.run.data[name]

    @property
    def key(self) -> dict[str, Any]:
        """All that decides the answers, but the code."""
        return {
            "model": self.run.identity(self.target.ref),
            "adapter": self.adapter.content_hash if self.adapter else None,
            "data": self.run.data[self.target.data].content_hash,
            "train": self.train_set.content_hash if self.train_set else None,
            "seed": self.run.suite.seed,
        }

    @property
    def code(self) -> Code:
        """The modules that answer."""
        return ("infer", *model_code(self.target.ref))

    def ask(self, out: Path, *, split: str = "test", limit: int | None = None) -> None:
        """Write predictions. Raises as `infer` does."""
        from deckbench.infer import infer

        infer(
            model=f"{self.target.ref}:{self.train_set.path}" if self.train_set else self.target.ref,
            adapter=self.adapter.path if self.adapter else None,
            data=self.run.data[self.target.data].path,
            out=out,
            split=split,
            limit=limit,
        )


def model_code(ref: str) -> Code:
    """The modules that a model runs, beside those that load it."""
    from deckbench.models.families import BLIND, resolve

    return ("models.load", f"models.{resolve(ref.removeprefix(BLIND)).family.name}.*")
