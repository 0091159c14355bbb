"""Fixtures of the build tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from deckbench.build.plan import Context
from deckbench.task import load_task
from deckbench.yolo.frame import Frame
from tests.build.build_helpers import write_pool


@pytest.fixture(scope="session")
def hand_pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(tmp_path_factory.mktemp("pools") / "hand")


@pytest.fixture
def context() -> Callable[..., Context]:
    def make(task: str, frames: Sequence[Frame], split: str = "train", **more: Any) -> Context:
        synthetic = more.pop("synthetic", False)
        seed = more.pop("seed", 0)
        return Context(
            task=load_task(task, **more),
            frames=frames,
            classes=[[box.name for box in each.boxes] for each in frames],
            split=[split] * len(frames),
            groups=[each.group or each.id for each in frames],
            synthetic=synthetic,
            seed=seed,
        )

    return make
