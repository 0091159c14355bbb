"""Run `deckbench` commands one after the other, each in a fork of this process: torch is imported once for all of them.

Reads a JSON list a line from stdin: a folder and the arguments. Writes exit code and output of each as a JSON line.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback


def run(folder: str, argv: list[str]) -> tuple[int, str]:
    """Exit code and output (stdout and stderr together) of `deckbench ARGV` in `folder`, in a child of this process."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            os.chdir(folder)
            os._exit(run_here(argv))
        _, status = os.waitpid(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(status), output.read().decode(errors="replace")


def run_here(argv: list[str]) -> int:
    """`deckbench ARGV` in this process; the exit code."""
    from deckbench.cli import main

    sys.argv = ["deckbench", *argv]
    code: int | str | None = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


def main() -> None:
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    for line in sys.stdin:
        folder, *argv = json.loads(line)
        code, output = run(folder, argv)
        print(json.dumps([code, output]), flush=True)


if __name__ == "__main__":
    main()
