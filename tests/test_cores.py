"""Work on all cores: order, memory, and a worker that dies."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from deckbench.cores import CHUNK, in_processes, in_threads
from deckbench.errors import OutsideError


@pytest.mark.parametrize(
    "spread", [lambda work, items: in_processes(work, items, 2), lambda work, items: in_threads(work, iter(items))]
)
def test_results_come_in_order(spread: Callable[..., Iterator[int]]) -> None:
    numbers = list(range(-3 * CHUNK, 0))
    assert list(spread(abs, numbers)) == [-number for number in numbers]


def test_threads_do_not_run_ahead_of_who_reads_them() -> None:
    taken = []
    results = in_threads(abs, (taken.append(number) or number for number in range(1000)), ahead=8)
    next(results)
    assert len(taken) == 9


def test_a_worker_that_dies_is_an_outside_failure() -> None:
    with pytest.raises(OutsideError, match="a worker process died") as caught:
        list(in_processes(os._exit, [1], 1))
    assert "--workers" in str(caught.value.fix)
