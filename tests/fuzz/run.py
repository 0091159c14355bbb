"""`python -m tests.fuzz --seconds 300 [--reader NAME] [--seed N]`: break input until the time is over, on all cores.

Each reader runs in a process of its own with RLIMIT_AS a gigabyte above what it starts with, and a watchdog. Whatever
is not "done", or one DeckBench error with exit code 2, 3 or 4, is a bug: it is printed, its input kept in
`tests/fuzz/found/`, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from deckbench.cores import usable_cores
from deckbench.errors import DeckBenchError
from tests.fuzz.mutate import mutate
from tests.fuzz.readers import NEED_TORCH, READERS, Target

HERE = Path(__file__).resolve().parent
FOUND = HERE / "found"
MAX_BYTES = 1 << 30
MAX_S = 20
MAX_MESSAGE = 20_000  # characters of one error


class TooLong(BaseException):
    """An input took more than MAX_S seconds."""


def over(*_: Any) -> None:
    raise TooLong


def limit_memory() -> None:
    """From now on this process may map a gigabyte more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MAX_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def attempt(target: Target, data: bytes) -> tuple[int, str]:
    """(exit code, what went wrong if that is 1) of one input."""
    target.write(data)
    signal.setitimer(signal.ITIMER_REAL, MAX_S)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            target.read()
        return 0, ""
    except DeckBenchError as error:
        if error.exit_code not in (2, 3, 4) or len(str(error)) > MAX_MESSAGE:
            return 1, f"exit {error.exit_code}, a message of {len(str(error))} characters: {str(error)[:200]}"
        return error.exit_code, ""
    except target.refusals:
        return 2, ""
    except (Exception, TooLong):
        return 1, traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def fuzz(name: str, seed: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Break one reader's input for so long. Returns inputs, exits by code, bugs, seconds of the slowest, peak bytes."""
    target = READERS[name](folder)
    good = target.good()
    signal.signal(signal.SIGALRM, over)
    exits: Counter[int] = Counter()
    bugs: list[tuple[str, bytes]] = []
    slowest = 0.0
    code, what = attempt(target, good)
    if code not in (0, 4):
        return {"bugs": [(f"the good input is not read: exit {code} {what}", good)], "exits": {code: 1}}
    limit_memory()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rng = random.Random(f"{name} {seed}")
    corpus = [path.read_bytes() for path in sorted((HERE / "corpus" / name).glob("*"))]
    suffix = target.suffix or target.file.suffix
    end = time.monotonic() + seconds
    inputs = iter(corpus)
    while len(bugs) < 5:
        data = next(inputs, None)
        if data is None:
            if time.monotonic() > end:
                break
            data = mutate(rng.choice([good, good, good, *corpus]), suffix, rng)
        faulthandler.dump_traceback_later(2 * MAX_S, exit=True)  # where not even Python's signals come through
        began = time.monotonic()
        code, what = attempt(target, data)
        slowest = max(slowest, time.monotonic() - began)
        exits[code] += 1
        if what:
            bugs.append((what, data))
    faulthandler.cancel_dump_traceback_later()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"exits": dict(exits), "bugs": bugs, "slowest": slowest, "mb": (peak - before) // 1024}


def in_child(name: str, seed: int, seconds: float) -> dict[str, Any]:
    """`fuzz` in a process that started anew; a process that dies is a bug."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    with tempfile.TemporaryDirectory(prefix="deckbench-fuzz-") as folder:
        child = multiprocessing.get_context("spawn").Process(target=report, args=(name, seed, seconds, folder, theirs))
        child.start()
        theirs.close()
        try:
            found: dict[str, Any] = ours.recv()
        except EOFError:
            child.join()
            found = {"exits": {}, "bugs": [(f"the process ended with {child.exitcode}", b"")]}
        child.join()
    return found


def report(name: str, seed: int, seconds: float, folder: str, line: Any) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    line.send(fuzz(name, seed, seconds, Path(folder)))


def names_here() -> list[str]:
    """The readers whose packages are installed."""
    import importlib.util

    return [name for name in READERS if name not in NEED_TORCH or importlib.util.find_spec("torch")]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("DECKBENCH_FUZZ_S", "300")))
    parser.add_argument("--seed", type=int, default=int(time.time()) // 86400, help="default: the day")
    parser.add_argument("--reader", choices=sorted(READERS), action="append")
    given = parser.parse_args()
    names = given.reader or names_here()
    each = given.seconds * usable_cores() / len(names)
    print(f"fuzz: {len(names)} readers, {each:.0f} s each, seed {given.seed}", flush=True)
    total: Counter[int] = Counter()
    with ThreadPoolExecutor(usable_cores()) as pool:
        results = pool.map(partial(in_child, seed=given.seed, seconds=each), names)
        for name, found in zip(names, results, strict=True):
            exits = {int(code): count for code, count in found["exits"].items()}
            total.update(exits)
            by_code = ", ".join(f"{exits[code]} x exit {code}" for code in sorted(exits))
            print(
                f"{name}: {sum(exits.values())} inputs, {by_code}; slowest {found.get('slowest', 0):.2f} s, "
                f"{found.get('mb', 0)} MB more",
                flush=True,
            )
            for number, (what, data) in enumerate(found["bugs"]):
                (FOUND / name).mkdir(parents=True, exist_ok=True)
                (FOUND / name / f"{given.seed}-{number}").write_bytes(data)
                print(f"  BUG {number}: {json.dumps(what[-1500:])}", flush=True)
                total[1] += not exits
    print(f"fuzz: {sum(total.values())} inputs; exits by code: {dict(sorted(total.items()))}", flush=True)
    return 1 if total[1] else 0
