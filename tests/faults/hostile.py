"""Hostile input, and the readers that it is given to."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tests.measure import measured


def copy_of(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def first(folder: Path) -> Path:
    return sorted(folder.iterdir())[0]


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def circle(path: Path) -> None:
    """Put a link that leads to itself where something stands."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def row(folder: Path, text: str = "?", image: str = "x.jpg", **more: Any) -> Path:
    """A JSONL file of one row, with its picture."""
    Image.new("RGB", (32, 32)).save(folder / "x.jpg")
    turns = [{"role": "user", "content": text, "image": image}, {"role": "assistant", "content": "A"}]
    path = folder / "rows.jsonl"
    path.write_text(json.dumps({"messages": turns, **more}) + "\n")
    return path


def refused_by_every_reader(pools: Sequence[Path]) -> None:
    """Every verb that reads a pool refuses these, within bounds of time and memory, and writes nothing."""
    commands = []
    for pool in pools:
        out = pool.with_name(f"{pool.name}-out")
        commands += [
            ("pool", "check", pool),
            ("pool", "split", pool, "--split", "test-only", "--out", out),
            ("pool", "group", pool, "--by", "regex:(.)", "--out", out),
            ("build", "ot2-guided@1", "--pool", pool, "--split", "test-only", "--out", out),
        ]
    for done in measured(*commands):
        assert done.refused("fix:")
    assert not list(pools[0].parent.glob("*-out"))


YAMLS: dict[str, Callable[[Path], list[object]]] = {
    "suite": lambda file: ["run", file, "--work", file.with_name("work")],
    "endpoint": lambda file: ["infer", "--model", f"endpoint:{file}", "--data", file.with_name("rows.jsonl"), "--out",
                              file.with_name("p.csv")],
    "ontology": lambda file: ["build", "ot2-guided@1", "--pool", file.with_name("pool"), "--split", "test-only",
                              "--out", file.with_name("out"), "--ontology", file],
    "pool": lambda file: ["pool", "check", file],
    "training": lambda file: ["train", "--model", "tiny-glm4v", "--data", file.with_name("d"), "--config", file,
                              "--out", file.with_name("a")],
}  # fmt: skip
