"""Identity of an image by its content: the same in every daemon, whenever and wherever it was built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deckbench.artifact import hash_json
from deckbench.containers.archive import SETTINGS
from deckbench.machine.daemon import LABEL

LOCKED = f"{LABEL}.locked"  # this label of an image is "true" when all that is in it came from locks


def identity(attrs: Mapping[str, Any]) -> str:
    """sha256 (hex) of an image's architecture, os, layers (diff ids) and settings.

    attrs: `docker image inspect`. Names, labels, times and history are not part of it. Nor is the order in which Env is
    listed.
    """
    config = attrs.get("Config") or {}
    settings = {name: config.get(name) or None for name in SETTINGS}
    settings["Env"] = sorted(settings["Env"] or [])
    layers = list((attrs.get("RootFS") or {}).get("Layers") or [])
    return hash_json({"architecture": attrs["Architecture"], "os": attrs["Os"], "diff_ids": layers, **settings})


def is_locked(attrs: Mapping[str, Any]) -> bool:
    """Whether an image was built from locks alone, by its label. attrs: as for `identity`."""
    labels = (attrs.get("Config") or {}).get("Labels") or {}
    return labels.get(LOCKED) == "true"
