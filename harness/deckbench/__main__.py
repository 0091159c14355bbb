"""`python -m deckbench`, `deckbench`, and `torchrun -m deckbench train ...`."""

import sys


def main() -> None:
    """The command line; Ctrl-C while it is loaded has its line too."""
    try:
        from deckbench.cli import main as run
    except KeyboardInterrupt:
        print("deckbench: interrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
