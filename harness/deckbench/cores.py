"""Parallel work on all cores, results in order: threads where Pillow and hashlib release the GIL, else processes.

Starting processes takes a tenth of a second, so they are for some hundred images and more.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from deckbench.errors import OutsideError

T = TypeVar("T")
R = TypeVar("R")
# Loaded once in the server that workers are forked from. "__main__": each worker would import the program anew.
PRELOAD = ["__main__", "deckbench.picture", "deckbench.build.pictures"]
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
PR_SET_PDEATHSIG = 1  # linux/prctl.h
KEPT_BYTES = 1 << 28
CHUNK = 32  # items a process takes at a time


def usable_cores() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(work: Callable[[T], R], items: Iterator[T], ahead: int = 64) -> Iterator[R]:
    """`map` in order, with at most `ahead` items in flight, so that memory does not grow with their number."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        waiting: deque[Future[R]] = deque(pool.submit(work, item) for item in islice(items, ahead))
        while waiting:
            result = waiting.popleft().result()
            for item in islice(items, 1):
                waiting.append(pool.submit(work, item))
            yield result


def prepare_worker() -> None:
    """What a worker process starts with.

    It leaves Ctrl-C, which goes to every process of a terminal, to the command that it works for. It ends with that,
    however that ends: a killed one leaves no worker that waits for ever or writes on. It keeps freed memory: else each
    image requests its pages anew, a sixth of the time (glibc's mallopt(3)).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            libc.mallopt(option, KEPT_BYTES)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # where the command itself forked it: prctl(2), Linux
    threading.Thread(target=end_with_caller, daemon=True).start()


class WorkerPool(ProcessPoolExecutor):
    """Workers that start with Ctrl-C held back, until `prepare_worker` has them ignore it."""

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_caller() -> None:
    """Wait for the end of the process that this one works for, then end."""
    if (caller := parent_process()) is not None:
        caller.join()
        os._exit(1)


@contextlib.contextmanager
def processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes; leaving the block early cancels what has not started.

    Not forked from the caller, which may have threads (torch, progress). Raises OutsideError when a worker dies.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with WorkerPool(count, mp_context=context, initializer=prepare_worker) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            fix = "rerun with fewer --workers"
            raise OutsideError("a worker process died (out of memory?)", None, fix) from error
        finally:
            pool.shutdown(cancel_futures=True)


def in_processes(work: Callable[[T], R], items: Sequence[T], count: int) -> Iterator[R]:
    """`map` in order in `count` processes. All items are pickled at once: pass paths, not images.

    Raises OutsideError when a worker dies.
    """
    with processes(count) as pool:
        yield from pool.map(work, items, chunksize=CHUNK)
