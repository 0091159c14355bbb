"""How fast the synthetic pool is rendered: frames per second by number of processes, and what a frame costs.

python benchmarks/synth.py [--frames 400] [--size 704x396] [--seed 0]
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

from deckbench.pool.synth import synth_pool


def cpu_seconds() -> float:
    """CPU time of this process and its finished children."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--size", default="704x396")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    width, height = (int(v) for v in given.size.split("x"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    print(f"{given.frames} frames of {width}x{height}, {cores} cores, load {os.getloadavg()[0]:.1f}")
    hashes = set()
    for workers in sorted({1, 2, cores}):
        with tempfile.TemporaryDirectory() as folder:
            wall, cpu = time.perf_counter(), cpu_seconds()
            out, size = Path(folder) / "pool", (width, height)
            made = synth_pool(out, frames=given.frames, size=size, seed=given.seed, workers=workers)
            wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
            hashes.add(made.content_hash)
            kib = sum(f["size"] for f in made.content["files"].values()) / given.frames / 1024
            speed, cost = given.frames / wall, 1000 * cpu / given.frames
            print(f"workers {workers}: {speed:.1f} frames/s; a frame: {cost:.1f} ms CPU, {kib:.0f} KiB")
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    print(f"peak memory of the largest process: {peak:.0f} MiB")
    print(f"same content for every number of workers: {len(hashes) == 1}")


if __name__ == "__main__":
    main()
