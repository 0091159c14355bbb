"""A small suite of baselines on a pool made by hand: no torch, seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.build.build_helpers import write_pool

SMALL: dict[str, Any] = {
    "name": "small",
    "pools": {"deck": {"path": "pool"}},
    "data": {"S3": {"task": "ot2-scene@1", "pool": "deck", "split": "pool"}},
    "tests": [{"data": "S3"}],
    "baselines": ["majority"],
}


def write_suite(file: Path, suite: dict[str, Any]) -> Path:
    """A suite's yaml."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(suite), encoding="utf-8")
    return file


def small_suite(folder: Path) -> Path:
    """The suite SMALL and its pool in a folder; returns the yaml."""
    write_pool(folder / "pool", sessions=5)
    return write_suite(folder / "small.yaml", SMALL)
