"""`deckbench` commands in a process of their own, measured: none may hang, or need much time or memory.

`measured(["pool", "check", pool], ...)` runs them one after the other in one new Python, which imports once.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MAX_RSS = 1 << 30  # bytes, of the process or of the largest that it started
MAX_CPU_S = 20.0  # of each command with all its processes; a busy machine adds nothing to it
HANG_S = 120.0  # of all commands together, by the clock


@dataclass(frozen=True)
class Done:
    """How a command ended. cpu_s: with its processes; rss: bytes resident at most, of it or those before it."""

    code: int
    stdout: str
    stderr: str
    cpu_s: float = 0.0
    rss: int = 0

    def refused(self, *words: str, code: int = 2) -> bool:
        """Whether it ended with one message that holds `words`, and no traceback."""
        assert self.code == code, self.stderr
        assert "Traceback" not in self.stderr
        assert all(word in self.stderr for word in words), self.stderr
        return True


def measured(
    *commands: Sequence[object], cwd: Path | None = None, interrupt_after: float | None = None, hang_s: float = HANG_S
) -> list[Done]:
    """Run the commands; interrupt_after: Ctrl-C so many seconds after the first one began, to all its processes.

    Fails when a command takes more than MAX_CPU_S or MAX_RSS, or when all have not ended after `hang_s`.
    """
    given = json.dumps([[str(word) for word in words] for words in commands])
    python = [sys.executable, "-m", "tests.measure"]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [*python, given], stdout=subprocess.PIPE, stderr=errors, cwd=cwd, start_new_session=True, text=True
        )
        assert process.stdout is not None
        try:
            if interrupt_after is not None:
                process.stdout.readline()
                time.sleep(interrupt_after)
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGINT)
            lines = process.communicate(timeout=hang_s)[0].splitlines()
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not ended after {hang_s} s: {given}") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        errors.seek(0)
        found = [Done(**json.loads(line)) for line in lines if line.startswith("{")]
        assert len(found) == len(commands), f"ended with {process.returncode}: {errors.read()}"
    for words, done in zip(commands, found, strict=True):
        assert done.cpu_s < MAX_CPU_S, f"{done.cpu_s:.1f} s of CPU time: {words}"
        assert done.rss < MAX_RSS, f"{done.rss >> 20} MiB: {words}"
    return found


def used() -> tuple[float, int]:
    """(CPU seconds, bytes resident at most) of this process and those that it started and waited for.

    Its own memory is VmHWM of proc(5): ru_maxrss of a new process is at least what its parent held (Linux).
    """
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    own = int(status.partition("VmHWM:")[2].split()[0])
    return sum(one.ru_utime + one.ru_stime for one in both), max(own, both[1].ru_maxrss) * 1024


def run(main: Callable[[], None], words: list[str]) -> Done:
    """Run one command in this process."""
    sys.argv = ["deckbench", *words]
    before, code, kept = used()[0], 0, (os.dup(1), os.dup(2))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        for file, number in ((out, 1), (err, 2)):
            os.dup2(file.fileno(), number)
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, handle in zip((1, 2), kept, strict=True):
                os.dup2(handle, number)
                os.close(handle)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    after, rss = used()
    return Done(code, texts[0], texts[1], after - before, rss)


if __name__ == "__main__":
    from deckbench.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background inherits it ignored
    for words in json.loads(sys.argv[1]):
        print("begins", flush=True)
        print(json.dumps(vars(run(main, words))), flush=True)
