"""benchmarks/train.py compares what it says it compares; how fast either side is, is no matter of tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/train.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_train", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmark_train", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_both_sides_learn_the_same(benchmark: Any, model: Path, data: Path) -> None:
    wish = benchmark.Wish(
        str(model), data, steps=6, batch=3, rank=4, alpha=8.0, lr=1e-3, warmup=0.3, threads=1, workers=0
    )
    ours, plain = benchmark.deckbench_side(wish), benchmark.plain_side(wish)
    assert len(ours.loss) == len(plain.loss) == len(ours.wall) == len(plain.cpu) == 6
    assert benchmark.apart(ours, plain) < 1e-4 < abs(ours.loss[0] - ours.loss[-1])
    assert benchmark.apart(ours, benchmark.plain_side(benchmark.Wish(**{**vars(wish), "seed": 1}))) > 1e-3
