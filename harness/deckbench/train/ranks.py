"""What one rank of a training knows of the others: torch's process group, and signs of life for who launched it.

A rank is a process that torch's elastic launcher started (`launch`, or a bare `torchrun -m deckbench train ...`); it
finds its number in RANK, LOCAL_RANK and WORLD_SIZE. Without these a training is rank 0 of 1, and no group is made.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from deckbench.errors import OutsideError

SIGNS = "DECKBENCH_SIGNS"  # the folder where ranks leave signs of life; set by `launch`
BEAT_S = 0.5
RANK_NAMES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))  # as torch calls them, and for one alone
SLACK = 1.5  # the group's own time limit over the launcher's, which knows better which rank hangs


@dataclass
class Sign:
    """A rank's sign of life.

    step: the last finished one. doing: what its main thread is at. since: since when, in seconds since 1970.
    """

    pid: int = field(default_factory=os.getpid)
    step: int = 0
    doing: str = "starting"
    since: float = field(default_factory=time.time)

    def text(self) -> str:
        return f"{self.pid} {self.step} {self.since:.3f} {self.doing}\n"


def parse_sign(text: str) -> Sign | None:
    """The sign that `Sign.text` wrote, or None where it is not whole."""
    parts = text.split(maxsplit=3)
    if len(parts) < 4 or not text.endswith("\n"):
        return None
    return Sign(int(parts[0]), int(parts[1]), parts[3].strip(), float(parts[2]))


class Ranks:
    """This process among its equals.

    number: this one's rank. world: how many there are. local: its number on this machine.
    """

    def __init__(self, number: int = 0, world: int = 1, local: int = 0, signs: Path | None = None) -> None:
        self.number, self.world, self.local, self.signs = number, world, local, signs
        self.sign = Sign()

    @property
    def first(self) -> bool:
        """Whether this rank writes and speaks for all."""
        return self.number == 0

    def now(self, doing: str, step: int | None = None) -> None:
        """Say what the main thread begins to do, and which step it has finished."""
        self.sign.doing, self.sign.since = doing, time.time()
        if step is not None:
            self.sign.step = step
        self.beat()

    def beat(self) -> None:
        if self.signs is not None:
            place = self.signs / f"{self.number}"
            aside = place.with_name(f".{place.name}.{threading.get_ident()}")
            aside.write_text(self.sign.text())
            aside.replace(place)

    def wait(self) -> None:
        """Return when all ranks are here."""
        if self.world > 1:
            import torch.distributed as dist

            dist.barrier()

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order, at the first one; an empty list elsewhere."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] | None = [None] * self.world if self.first else None
        dist.gather_object(value, found)
        return found or []

    def total(self, *values: int) -> list[int]:
        """Sums over all ranks."""
        if self.world == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        sums = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(sums)
        return [int(value) for value in sums]


def from_environment() -> Ranks:
    """As the launcher set it; rank 0 of 1 where there was none."""
    number, world, local = (int(os.environ.get(name, alone)) for name, alone in RANK_NAMES)
    signs = os.environ.get(SIGNS)
    return Ranks(number, world, local, Path(signs) if signs else None)


@contextmanager
def joined(timeout_s: float) -> Iterator[Ranks]:
    """This process's rank, its group made and left again. timeout_s: the longest wait for another rank.

    Raises OutsideError where the link to another rank breaks.
    """
    ranks = from_environment()
    stop = threading.Event()
    if ranks.world > 1 or ranks.signs is not None:
        threading.Thread(target=keep_beating, args=(ranks, stop), daemon=True).start()
    try:
        if ranks.world == 1:
            yield ranks
        else:
            with process_group(ranks, timeout_s):
                yield ranks
    finally:
        stop.set()


@contextmanager
def process_group(ranks: Ranks, timeout_s: float) -> Iterator[None]:
    """Within, torch connects the ranks. timeout_s: as for `joined`, which raises what this raises."""
    import torch
    import torch.distributed as dist

    limit = timedelta(seconds=timeout_s * (SLACK if ranks.signs else 1.0))
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.local)
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=limit)
        yield
        dist.destroy_process_group()
    except RuntimeError as error:
        if not is_broken_link(error):
            raise
        what = f"rank {ranks.number} lost another rank after step {ranks.sign.step} ({str(error).splitlines()[0]})"
        raise OutsideError(what, None, "run again with --resume") from error


def is_broken_link(error: RuntimeError) -> bool:
    """Whether torch says that another rank is gone or does not answer; gloo has no exception of its own."""
    import torch.distributed as dist

    text = str(error)
    return isinstance(error, dist.DistError) or "gloo" in text or "Connection closed by peer" in text


def keep_beating(ranks: Ranks, stop: threading.Event) -> None:
    """Signs of life as long as the process runs; ends the process when its launcher is gone."""
    launcher = os.getppid()
    while not stop.wait(BEAT_S):
        if os.getppid() != launcher:
            os._exit(OutsideError.exit_code)
        ranks.beat()
