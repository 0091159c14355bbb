"""Ranks of one training: torch's process group, and heartbeats for the launcher.

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

HEARTBEATS = "DECKBENCH_HEARTBEATS"  # the folder that ranks write heartbeats to; set by `launch`
BEAT_S = 0.5
RANK_NAMES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))  # as torch calls them, and for one alone
SLACK = 1.5  # the group's own time limit over the launcher's, which knows better which rank hangs


@dataclass
class Heartbeat:
    """A rank's heartbeat.

    step: the last finished one. activity: what its main thread does. since: since when, in seconds since 1970.
    """

    pid: int = field(default_factory=os.getpid)
    step: int = 0
    activity: str = "start"
    since: float = field(default_factory=time.time)

    def text(self) -> str:
        return f"{self.pid} {self.step} {self.since:.3f} {self.activity}\n"


def parse_heartbeat(text: str) -> Heartbeat | None:
    """The heartbeat that `Heartbeat.text` wrote, or None where it is not whole."""
    parts = text.split(maxsplit=3)
    if len(parts) < 4 or not text.endswith("\n"):
        return None
    return Heartbeat(int(parts[0]), int(parts[1]), parts[3].strip(), float(parts[2]))


class Ranks:
    """Rank and world size of this process.

    number: its rank. world: how many ranks there are. local: its number on this machine. heartbeats: the folder that
    the launcher watches, if there is one.
    """

    def __init__(self, number: int = 0, world: int = 1, local: int = 0, heartbeats: Path | None = None) -> None:
        self.number, self.world, self.local, self.heartbeats = number, world, local, heartbeats
        self.heartbeat = Heartbeat()

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes files and messages."""
        return self.number == 0

    def report(self, activity: str, step: int | None = None) -> None:
        """Report to the launcher what the main thread begins to do, and which step it has finished."""
        self.heartbeat.activity, self.heartbeat.since = activity, time.time()
        if step is not None:
            self.heartbeat.step = step
        self.beat()

    def beat(self) -> None:
        """Write the heartbeat."""
        if self.heartbeats is not None:
            place = self.heartbeats / f"{self.number}"
            aside = place.with_name(f".{place.name}.{threading.get_ident()}")
            aside.write_text(self.heartbeat.text())
            aside.replace(place)

    def barrier(self) -> None:
        """Return when all ranks are here."""
        if self.world > 1:
            import torch.distributed as dist

            dist.barrier()

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, by rank, on the main one; an empty list elsewhere."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] | None = [None] * self.world if self.is_main else None
        dist.gather_object(value, found)
        return found or []

    def sum(self, *values: int) -> list[int]:
        """Sums over all ranks."""
        if self.world == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        sums = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(sums)
        return [int(value) for value in sums]


def from_environment() -> Ranks:
    """Rank and world size as the launcher set them; rank 0 of 1 where there was none."""
    number, world, local = (int(os.environ.get(name, alone)) for name, alone in RANK_NAMES)
    heartbeats = os.environ.get(HEARTBEATS)
    return Ranks(number, world, local, Path(heartbeats) if heartbeats else None)


@contextmanager
def connect(timeout_s: float) -> Iterator[Ranks]:
    """This process's rank, connected to the others within. timeout_s: the longest wait for another rank.

    Raises OutsideError where the link to another rank breaks.
    """
    ranks = from_environment()
    stop = threading.Event()
    if ranks.world > 1 or ranks.heartbeats is not None:
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
    """Within, torch connects the ranks. timeout_s: as for `connect`, which raises what this raises."""
    import torch
    import torch.distributed as dist

    limit = timedelta(seconds=timeout_s * (SLACK if ranks.heartbeats else 1.0))
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
        what = f"rank {ranks.number} lost another rank after step {ranks.heartbeat.step} ({str(error).splitlines()[0]})"
        raise OutsideError(what, None, "rerun with --resume") from error


def is_broken_link(error: RuntimeError) -> bool:
    """Whether torch says that another rank is gone or does not answer; gloo has no exception of its own."""
    import torch.distributed as dist

    text = str(error)
    return isinstance(error, dist.DistError) or "gloo" in text or "Connection closed by peer" in text


def keep_beating(ranks: Ranks, stop: threading.Event) -> None:
    """Heartbeats as long as the process runs; ends the process when its launcher is gone."""
    launcher = os.getppid()
    while not stop.wait(BEAT_S):
        if os.getppid() != launcher:
            os._exit(OutsideError.exit_code)
        ranks.beat()
