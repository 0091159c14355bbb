"""`python -m deckbench`, `deckbench`, and `torchrun -m deckbench train ...`."""

import os
import platform
import sys


def main() -> None:
    """The command line; Ctrl-C while it is loaded has its line too."""
    # The threads of numpy's BLAS fight with our own for the cores: a split cost six times the CPU time. One thread also
    # adds up in one order on every machine. On arm64 torch has the same library inside, and needs its threads.
    if platform.machine() in {"x86_64", "AMD64"}:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from deckbench.cli import main as run
    except KeyboardInterrupt:
        print("deckbench: interrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
