"""Runs one job as a process of its own, as the command line would: for tests that kill the caller.

    python caller.py OUTPUT CODE [FIELD=JSON ...]

CODE is Python, run in the test image in place of deckbench; FIELD, one of `Job`'s.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from pathlib import Path

from deckbench.errors import DeckBenchError
from deckbench.machine import daemon
from deckbench.runners.job import Job
from deckbench.runners.local.container import run_job
from tests.docker_daemon import program, python_image


def job(output: Path, code: str, **fields: object) -> Job:
    """A job of the test image; `fields` as in `Job`."""
    made = Job(
        python_image(daemon.connect()), ("-c", code), (), output, f"/out/{output.name}", program=program(), minutes=2
    )
    return dataclasses.replace(made, **fields)  # type: ignore[arg-type]


def main() -> int:
    output, code, *fields = sys.argv[1:]
    try:
        given = {name: json.loads(value) for name, value in (field.split("=", 1) for field in fields)}
        given["inputs"] = tuple((inside, Path(path)) for inside, path in given.get("inputs", ()))
        asked = job(Path(output), code, **given)
        return run_job(asked, daemon.connect())
    except DeckBenchError as error:
        print(f"deckbench: {error.message()}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background inherit it ignored
    sys.exit(main())
