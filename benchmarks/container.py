"""A suite inside its container image against the same suite outside, in turn, in fresh folders.

    python benchmarks/container.py --suite smoke --rounds 3

Outside runs with the Python that runs this: install the lock of the image there, to be fair. Prints the seconds of each
run and the ratio of the medians. The image must be built; the machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(suite: str, *options: str) -> float:
    """How long `deckbench run SUITE` takes, from nothing."""
    with tempfile.TemporaryDirectory(prefix="deckbench-bench-") as folder:
        command = [sys.executable, "-m", "deckbench", "run", suite, "--work", str(Path(folder) / "work"), *options]
        began = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        return time.monotonic() - began


def main() -> None:
    """Run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="smoke")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    times: dict[str, list[float]] = {"outside": [], "inside": []}
    for number in range(given.rounds):
        # Turn and turn about, and the other one first each time: a machine that slows down slows both.
        order = [("outside", ()), ("inside", ("--runner", "docker"))]
        for name, options in order if number % 2 == 0 else order[::-1]:
            times[name].append(seconds(given.suite, *options))
            print(f"round {number + 1}, {name}: {times[name][-1]:.1f} s", flush=True)
    middle = {name: statistics.median(values) for name, values in times.items()}
    print(
        f"inside / outside, medians: {middle['inside']:.1f} / {middle['outside']:.1f} = "
        f"{middle['inside'] / middle['outside']:.2f}"
    )


if __name__ == "__main__":
    main()
