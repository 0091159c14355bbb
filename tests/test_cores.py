"""Work on all cores: order, memory, and a worker that dies."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from deckbench.cores import CHUNK, in_processes, in_threads, prepare_worker
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


def note_and_wait(place: Path) -> None:
    place.with_name("half").write_text(str(os.getpid()))
    place.with_name("half").rename(place)
    time.sleep(60)


def wait_for_one(place: Path) -> None:
    list(in_processes(note_and_wait, [place], 1))


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie that nobody waits for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def fork_one(place: Path) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork"), initializer=prepare_worker) as pool:
        list(pool.map(note_and_wait, [place]))


@pytest.mark.parametrize("caller_of", [wait_for_one, fork_one])
def test_workers_end_with_a_killed_command(tmp_path: Path, caller_of: Callable[[Path], None]) -> None:
    caller = multiprocessing.get_context("spawn").Process(target=caller_of, args=(tmp_path / "pid",))
    caller.start()
    until = time.monotonic() + 60
    while not (tmp_path / "pid").is_file() and time.monotonic() < until:
        time.sleep(0.05)
    worker = int((tmp_path / "pid").read_text())
    assert is_running(worker)
    caller.kill()
    caller.join()
    until = time.monotonic() + 20
    while is_running(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(worker)
