"""Several ranks of one training, started by torch's elastic launcher and watched: one that dies or hangs ends all."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deckbench.cores import usable_cores
from deckbench.errors import DeckBenchError, InputError, OutsideError
from deckbench.train import checkpoint
from deckbench.train.ranks import HEARTBEATS, Heartbeat, parse_heartbeat

LOOK_S = 0.2
MARGIN = 0.8  # of the time limit: the job is to be over within it
RESUME = "rerun with --resume"
TAIL = 15  # lines of a rank's own output that are shown when it failed for no known reason


@dataclass(frozen=True)
class Places:
    """Where ranks run. gpus: their numbers on this machine; empty: `nproc` processes on the CPU.

    nnodes: machines of the job. rendezvous: `host:port` where they find each other.
    """

    nproc: int
    gpus: tuple[int, ...] = ()
    nnodes: int = 1
    rendezvous: str | None = None


def parse_places(
    *, gpus: str | None, nproc: int | None, nnodes: int = 1, rendezvous: str | None = None
) -> Places | None:
    """Where ranks run, from the options; None: in this process alone. Raises InputError."""
    if gpus is None and nproc is None and nnodes == 1:
        return None
    if gpus is not None and nproc is not None:
        raise InputError("give GPUs or a number of processes, not both", "--gpus, --nproc", "remove one of them")
    if nnodes > 1 and rendezvous is None:
        fix = "give --rendezvous HOST:PORT: the first machine and a free port there, the same on all machines"
        raise InputError("several machines need a rendezvous", "--rendezvous", fix)
    chosen = parse_gpus(gpus) if gpus is not None else ()
    found = Places(len(chosen) or nproc or 1, chosen, nnodes, rendezvous)
    return found if found.nproc * nnodes > 1 or chosen else None


def parse_gpus(text: str) -> tuple[int, ...]:
    """`0,2,3` as numbers of GPUs that this machine has. Raises InputError."""
    fix = "write their numbers, such as --gpus 0,2,3"
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise InputError(f"{text!r} is no list of GPUs", "--gpus", fix)
    chosen = tuple(int(part) for part in text.split(","))
    if len(set(chosen)) < len(chosen):
        raise InputError(f"a GPU is listed twice in {text!r}", "--gpus", fix)
    import torch

    there = torch.cuda.device_count()
    missing = [str(number) for number in chosen if number >= there]
    if missing:
        what = (
            f"this machine has {there} GPUs, none with the number {', '.join(missing)}" if there else "no GPU is here"
        )
        raise InputError(what, "--gpus", fix if there else "remove --gpus, or give --nproc for the CPU")
    return chosen


def launch(command: Sequence[str], places: Places, *, out: Path, timeout_s: float) -> None:
    """Run `command` (the arguments of `python -m deckbench`) as ranks, and return when all have finished.

    out: the adapter's place, from which a broken run is resumed. timeout_s: a rank without a heartbeat, or a job
    that gets no further, for so long ends everything.
    Raises InputError (as a rank found it) and OutsideError, which names the rank and the last finished step.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory(prefix="deckbench-ranks-") as folder:
        heartbeats, logs = Path(folder, "heartbeats"), Path(folder, "logs")
        heartbeats.mkdir()
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # `cause` says it in one message
        config = LaunchConfig(
            min_nodes=places.nnodes,
            max_nodes=places.nnodes,
            nproc_per_node=places.nproc,
            run_id=out.name if places.rendezvous else uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint=places.rendezvous or "127.0.0.1:0",
            max_restarts=0,
            monitor_interval=LOOK_S,
            logs_specs=DefaultLogsSpecs(
                log_dir=str(logs), redirects={local: Std.ALL for local in range(1, places.nproc)}
            ),
        )
        watch = HangWatch(heartbeats, timeout_s * MARGIN)
        try:
            with environment(places, heartbeats), watch.looking():
                elastic_launch(config, sys.executable)("-m", "deckbench", *command)
        except ChildFailedError as error:
            raise cause(error.failures, watch, out, logs) from error
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from error
            raise OutsideError(f"stopped by {signal.Signals(error.sigval).name}", out, RESUME) from error


@contextmanager
def environment(places: Places, heartbeats: Path) -> Iterator[None]:
    """What the ranks are to find in their environment; this process's own is as before afterwards."""
    wanted = {HEARTBEATS: str(heartbeats), "CUDA_VISIBLE_DEVICES": ",".join(map(str, places.gpus))}
    if "OMP_NUM_THREADS" not in os.environ:
        wanted["OMP_NUM_THREADS"] = str(max(1, usable_cores() // places.nproc))
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class HangWatch:
    """Watches the ranks' heartbeats and kills one that hangs: the launcher then ends the others.

    limit_s: how long a rank may send no heartbeat, or all ranks stand at one place once the training has begun.
    """

    def __init__(self, heartbeats: Path, limit_s: float) -> None:
        self.heartbeats, self.limit_s = heartbeats, limit_s
        self.hanging: dict[int, str] = {}
        self.last: dict[int, Heartbeat] = {}

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look now and then, in a thread of its own."""
        stop = threading.Event()
        thread = threading.Thread(target=self._look, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.read()

    def _look(self, stop: threading.Event) -> None:
        while not stop.wait(LOOK_S):
            ages = self.read()
            self.hanging = self.find(ages, time.time())
            for number in self.hanging:
                try:
                    os.kill(self.last[number].pid, signal.SIGKILL)
                except ProcessLookupError:  # it died meanwhile, and the launcher has seen it
                    continue
            if self.hanging:
                return

    def read(self) -> dict[int, float]:
        """Seconds since each rank's last heartbeat, which is kept in `last`."""
        ages = {}
        for place in self.heartbeats.glob("[0-9]*"):
            try:
                beat, beaten = parse_heartbeat(place.read_text()), place.stat().st_mtime
            except OSError:
                continue
            if beat is not None:
                self.last[int(place.name)] = beat
                ages[int(place.name)] = time.time() - beaten
        return ages

    def find(self, ages: Mapping[int, float], now: float) -> dict[int, str]:
        """Rank -> why it is taken to hang."""
        dead = {number: age for number, age in ages.items() if age > self.limit_s}
        if dead:
            return {number: f"sent no heartbeat for {age:.0f} s" for number, age in dead.items()}
        beats = {number: self.last[number] for number in ages}
        if not beats or any(now - beat.since < self.limit_s or not beat.step for beat in beats.values()):
            return {}
        # Those that wait stand further on than the one they wait for.
        behind = min((beat.step, beat.since) for beat in beats.values())
        return {
            number: f"was stuck in {beat.activity} for {now - beat.since:.0f} s"
            for number, beat in beats.items()
            if (beat.step, beat.since) == behind
        }


def cause(failures: Mapping[int, Any], watch: HangWatch, out: Path, logs: Path) -> DeckBenchError | RuntimeError:
    """What ended the job, as the error to raise. failures: rank -> torch's ProcessFailure."""
    step = max((beat.step for beat in watch.last.values()), default=0)
    saved = checkpoint.all_of(out.with_name(f"{out.name}.partial"))
    kept = f"the last checkpoint is of step {checkpoint.step_of(saved[0])}" if saved else "there is no checkpoint yet"
    state = f"the last finished step is {step}, {kept}"
    if watch.hanging:
        number, why = sorted(watch.hanging.items())[0]
        return OutsideError(f"rank {number} {why} and was killed; {state}", out, RESUME)
    number, failure = min(failures.items(), key=lambda item: (suspicion(item[1].exitcode), item[0]))
    if failure.exitcode < 0:
        return OutsideError(
            f"rank {number} was killed ({signal.Signals(-failure.exitcode).name}); {state}", out, RESUME
        )
    said = failure.error_file_data.get("deckbench")
    if said is not None and failure.exitcode == InputError.exit_code:
        return InputError(said["what"], said["where"], said["fix"])
    if said is not None:
        return OutsideError(f"rank {number}: {said['what']}; {state}", said["where"] or out, said["fix"] or RESUME)
    text = "".join(path.read_text(errors="replace") for path in sorted(logs.rglob(f"{failure.local_rank}/stderr.log")))
    tail = "\n".join(text.splitlines()[-TAIL:])
    return RuntimeError(f"rank {number} ended with exit code {failure.exitcode}; {state}\n{tail}")


def suspicion(exit_code: int) -> int:
    """Whose end came first, by how it ended: 0 is the likeliest cause, the rest may have come of it."""
    if exit_code == -signal.SIGTERM:  # the launcher ends the others so
        return 4
    if exit_code < 0:
        return 0
    return {InputError.exit_code: 1, OutsideError.exit_code: 3}.get(exit_code, 2)


def report_error(error: DeckBenchError) -> bool:
    """Write an error where the launcher looks for it. False where this process has no launcher of ours."""
    place = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not place or HEARTBEATS not in os.environ:
        return False
    word = {
        "message": {"message": error.message(), "extraInfo": {"timestamp": str(int(time.time()))}},
        "deckbench": {"what": error.what, "where": error.where, "fix": error.fix},
    }
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    Path(place).write_text(json.dumps(word), encoding="utf-8")
    return True
