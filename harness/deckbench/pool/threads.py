"""`map` over threads for pictures: Pillow and hashlib release the interpreter's lock, so threads use all cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def workers() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(work: Callable[[T], R], items: Iterator[T], ahead: int = 64) -> Iterator[R]:
    """`map` in order, with at most `ahead` items under way, so that memory stays flat whatever their number."""
    with ThreadPoolExecutor(workers()) as pool:
        waiting: deque[Future[R]] = deque(pool.submit(work, item) for item in islice(items, ahead))
        while waiting:
            result = waiting.popleft().result()
            for item in islice(items, 1):
                waiting.append(pool.submit(work, item))
            yield result
