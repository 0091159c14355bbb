"""The words that name an anomaly at a protocol step, from the ontology: what a scene text is searched for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deckbench import artifact
from deckbench.errors import InputError

LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class Terms:
    """classes: of the ontology as read. content_hash: of the ontology's content."""

    classes: Mapping[str, Mapping[str, Any]]
    content_hash: str

    def at(self, step: str | None, lang: str | None = None) -> list[str]:
        """Names and states that mean an anomaly at `step`, sorted.

        A state word that some normal class also has at this step ("open" where one lid may be open) says nothing and is
        left out.
        """
        bad, good = set[str](), set[str]()
        for entry in self.classes.values():
            words = _words(entry, lang)
            (bad if is_anomaly(entry, step) else good).update(words)
        return sorted(bad - good)


def is_anomaly(entry: Mapping[str, Any], step: str | None) -> bool:
    """Is a class of the ontology an anomaly at this protocol step (None: step not known)?"""
    if entry.get("verdict") == "depends":
        return step in entry.get("anomaly_at", ()) if step else entry.get("without_step") == "anomaly"
    return entry.get("verdict") == "anomaly"


def _words(entry: Mapping[str, Any], lang: str | None) -> set[str]:
    found = set()
    for field in ("name", "state"):
        texts = entry.get(field) or {}
        if isinstance(texts, Mapping):
            found |= {str(texts[code]).casefold() for code in ([lang] if lang else LANGUAGES) if code in texts}
    return found


def read_terms(path: Path) -> Terms:
    """The terms of one ontology yaml. Raises InputError when it cannot be read."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
        classes = data["classes"]
        good = isinstance(classes, Mapping) and all(isinstance(entry, Mapping) for entry in classes.values())
    except OSError as error:
        raise InputError(f"the ontology cannot be read: {error.strerror}", path, "check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise InputError(f"this is not an ontology ({type(error).__name__})", path, "see tasks/ontology/") from error
    if not good:
        raise InputError("`classes` is not a map of classes", path, "see tasks/ontology/")
    return Terms(classes, artifact.hash_json(data))


def find_terms(ontology: Path | None, data: Path | None) -> Terms | None:
    """Terms of the given ontology, else of the one the dataset was built with; None when neither is known."""
    if ontology is not None:
        return read_terms(ontology)
    beside = None if data is None else data / "ontology.yaml"
    return read_terms(beside) if beside is not None and beside.is_file() else None
