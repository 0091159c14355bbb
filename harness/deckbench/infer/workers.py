"""Pictures answered by several processes at once, one thread each; or, where a server answers, by several threads.

One thread a process makes an answer independent of how many processes there are. They are forked after the model is
loaded, so its weights are in memory once; the first process keeps the journal.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from deckbench.cores import usable_cores
from deckbench.errors import DeckBenchError, InputError, OutsideError
from deckbench.models.interface import Model

AHEAD = 2  # pictures given to a process before it has answered one: it never waits for the next


@dataclass(frozen=True)
class Failed:
    """An error on its way to the first process. crash: the traceback of a bug, else it is the input's fault."""

    what: str
    where: str | None = None
    fix: str | None = None
    crash: bool = False


def on_cpu(model: Model) -> bool:
    """Whether the model's network is in this process, on the CPU."""
    return model.device is not None and model.device.type == "cpu"


def processes_for(model: Model, pictures: int) -> int:
    """How many processes answer: one a core for a network on the CPU, else the first process alone (0)."""
    if not on_cpu(model):
        return 0
    cores = min(usable_cores(), pictures)
    return cores if cores > 1 and "fork" in multiprocessing.get_all_start_methods() else 0


@contextmanager
def one_thread(model: Model) -> Iterator[None]:
    """torch on one thread where the network is on the CPU, as before afterwards."""
    if not on_cpu(model):
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def serve(line: Connection, answer: Callable[[int], Any]) -> None:
    """A process's life: a picture's number in, its answers out, until the first process is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            number = line.recv()
            try:
                result: Any = answer(number)
            except DeckBenchError as error:
                result = Failed(error.what, error.where, error.fix)
            except Exception:
                result = Failed(traceback.format_exc(), crash=True)
            line.send((number, result))
        except (EOFError, OSError):
            os._exit(0)


def answer_all(
    answer: Callable[[int], Any], numbers: Sequence[int], processes: int
) -> Generator[tuple[int, Any], None, None]:
    """(number, answer(number)) of every number, in the order they are done.

    Raises InputError as `answer` does, OutsideError when a process dies, RuntimeError for a bug in one.
    """
    if processes < 2:
        for number in numbers:
            yield number, answer(number)
        return
    context = multiprocessing.get_context("fork")
    lines: list[Connection] = []
    children = []
    left = list(reversed(numbers))
    try:
        for _ in range(processes):
            line, other = context.Pipe()

            def work(line: Connection = line, other: Connection = other) -> None:
                line.close()  # else it would never see that the first process is gone
                serve(other, answer)

            child = context.Process(target=work, daemon=True)
            child.start()
            other.close()
            lines.append(line)
            children.append(child)
        open_tasks = 0
        for line in lines * AHEAD:
            if left:
                line.send(left.pop())
                open_tasks += 1
        while open_tasks:
            heard: Any = wait(lines)
            for line in heard:
                number, result = line.recv()
                open_tasks -= 1
                if isinstance(result, Failed):
                    if result.crash:
                        raise RuntimeError(result.what)
                    raise InputError(result.what, result.where, result.fix)
                if left:
                    line.send(left.pop())
                    open_tasks += 1
                yield number, result
    except (EOFError, ConnectionError) as error:
        raise OutsideError("an answering process died", None, "rerun to resume (less memory per process?)") from error
    finally:
        for line in lines:
            line.close()
        for child in children:
            child.join(10)
            if child.is_alive():
                child.kill()


def answer_in_threads(
    answer: Callable[[int], Any], numbers: Sequence[int], threads: int
) -> Generator[tuple[int, Any], None, None]:
    """(number, answer(number)) of every number, in the order they are done: for answers that are waited for.

    The first error is raised when all that is done is handed over. Nobody waits for what is still open then: the
    threads are daemons, and whoever answers is closed by the caller.
    """
    tasks: queue.SimpleQueue[int] = queue.SimpleQueue()
    results: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()
    for number in numbers:
        tasks.put(number)
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            try:
                number = tasks.get_nowait()
            except queue.Empty:
                return
            try:
                results.put((number, answer(number), None))
            except BaseException as error:
                over.set()
                results.put((number, None, error))

    for _ in range(min(threads, len(numbers))):
        threading.Thread(target=work, daemon=True).start()
    failed: BaseException | None = None
    try:
        for _ in numbers:
            if failed is not None and results.empty():
                raise failed
            number, result, error = results.get()
            if error is None:
                yield number, result
            else:
                failed = failed or error
        if failed is not None:
            raise failed
    finally:
        over.set()
