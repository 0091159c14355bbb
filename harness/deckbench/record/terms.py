"""The words that name an anomaly at a protocol step, from the ontology: what a scene text is searched for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.language import LANGS
from deckbench.ontology import Ontology, load_ontology
from deckbench.task import load_task


@dataclass(frozen=True)
class Terms:
    """An ontology as a word list."""

    ontology: Ontology

    @property
    def content_hash(self) -> str:
        return artifact.hash_json(self.ontology.model_dump(mode="json"))

    def at(self, step: str | None, lang: str | None = None) -> list[str]:
        """Names and states that mean an anomaly at `step`, sorted; None: of both languages.

        A word that some class that is no anomaly at this step also has ("open", where one lid may be open) says
        nothing and is left out.
        """
        bad, good = set[str](), set[str]()
        for cls, spec in self.ontology.classes.items():
            texts = [text for text in (spec.name, spec.state) if text is not None]
            words = {text.get(code).casefold() for text in texts for code in LANGS if lang in (None, code)}
            (bad if self.ontology.verdict(cls, step) == "anomaly" else good).update(words)
        return sorted(bad - good)


def find_terms(ontology: Path | None, tasks: Iterable[object]) -> Terms | None:
    """Terms of the given ontology, else of the one published task in `tasks` (column `task` of the samples).

    None when neither is known: a task with an ontology of its own (`name@1+hash`) does not say where that lies, and one
    that asks about checks only has none: its descriptions are those of the pool.
    Raises InputError when the given ontology cannot be read.
    """
    if ontology is not None:
        return Terms(load_ontology(ontology))
    named = {task for task in tasks if isinstance(task, str) and task}
    if len(named) != 1:
        return None
    try:
        task = load_task(named.pop())
        return Terms(task.ontology) if task.bank.asks_labels else None
    except InputError:
        return None
