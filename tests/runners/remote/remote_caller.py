"""Runs one job at a host as a process of its own: for tests that kill the caller, and to time what it says.

    python remote_caller.py HOST OUTPUT INPUT CODE

CODE is Python, run in the test image in place of deckbench; it finds INPUT at /in/data.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from deckbench.errors import DeckBenchError
from deckbench.machine import daemon
from deckbench.runners.job import Job
from deckbench.runners.remote.run import run_job_at
from tests.docker_daemon import program, python_image


def remote_job(output: Path, data: Path, code: str) -> Job:
    """A job of the test image that reads /in/data."""
    image = python_image(daemon.connect())
    inputs = (("/in/data", data),)
    return Job(image, ("-c", code), inputs, output, f"/out/{output.name}", program=program(), minutes=10)


def main() -> int:
    host, output, data, code = sys.argv[1:]
    try:
        return run_job_at(remote_job(Path(output), Path(data), code), host)
    except DeckBenchError as error:
        print(f"deckbench: {error.message()}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background inherit it ignored
    sys.exit(main())
