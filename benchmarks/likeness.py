"""How fast is the search for near-duplicates, and what does it miss, against a search that compares every pair?

    python benchmarks/likeness.py [--pool POOL] [--fixed 1000] [--audit 400] [--exact 150] [--varied 8000]
        [--growth 8000 32000]

`exact` is `likeness_exact.py`. It explodes on a fixed camera, so it runs on --exact frames and twice as many there, and
its time at the full number is extrapolated by the exponent between them. `fixed`: one camera, known sessions of 50
frames; the groups must be the same. `audit`: one camera, N test against N train images; the verdict (copies or none)
must be the same.
`varied`: frames of POOL (rendered where none is given) and shifted, re-lit, noisy copies of 5% of them; `recall` is of
the copies that `exact` joins to their frames. `growth`: the new search alone, on both numbers. An N of 0 leaves a part
out. Times are CPU seconds of all threads, BLAS on one; thumbnails are made before and not counted.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy: its threads spin while waiting

import argparse
import math
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from likeness_exact import exact_cluster, exact_matches

from deckbench.likeness import cluster, fingerprint, matches


def fixed_camera(frames: int, scenes: Any, seed: int = 0) -> Any:
    """Thumbnails of one camera: sixteen places that change now and then, and an arm somewhere in most frames."""
    rng = np.random.default_rng(seed)
    places = [(6 + 25 * row, 8 + 45 * column) for row in range(4) for column in range(4)]
    state = rng.integers(0, 2, len(places))
    out = np.empty((frames, 108, 192), np.uint8)
    for number in range(frames):
        if rng.random() < 0.15:
            state[rng.integers(len(places))] ^= 1
        image = scenes[0].astype(np.float32)
        for (y, x), changed in zip(places, state, strict=True):
            if changed:
                image[y : y + 14, x : x + 14] = scenes[len(scenes) // 2][y : y + 14, x : x + 14]
        if rng.random() < 0.8:
            y, x = rng.integers(0, 88), rng.integers(0, 172)
            image[y : y + 20, x : x + 20] = scenes[rng.integers(1, len(scenes))][40:60, 90:110]
        image = image * rng.uniform(0.95, 1.05) + rng.normal(0, 2, image.shape)
        out[number] = np.clip(image, 0, 255)
    return out


def one_camera(scenes: Any, frames: int) -> tuple[Any, list[int]]:
    """A fixed camera, and its sessions of 50 frames."""
    return fixed_camera(frames, scenes), [number // 50 for number in range(frames)]


def two_parts(scenes: Any, frames: int) -> tuple[Any, Any]:
    """Two halves of what a fixed camera saw, of so many frames each."""
    both = fixed_camera(2 * frames, scenes, seed=1)
    return both[:frames], both[frames:]


def with_copies(thumbs: Any, seed: int = 0) -> tuple[Any, Any]:
    """The thumbnails and copies of 5% of them at the end; and of which each is a copy."""
    rng = np.random.default_rng(seed)
    of = rng.choice(len(thumbs), len(thumbs) // 20, replace=False)
    copies = thumbs[of].astype(np.float32)
    for number, image in enumerate(copies):
        dx, dy = rng.integers(-8, 9), rng.integers(-4, 5)
        image = np.roll(image, (dy, dx), (0, 1)) * rng.uniform(0.8, 1.2) + rng.normal(0, 3, image.shape)
        copies[number] = image
    return np.concatenate([thumbs, np.clip(copies, 0, 255).astype(np.uint8)]), of


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds, and what was made."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def frames_of(pool: Path | None, count: int) -> tuple[Any, list[str]]:
    """Thumbnails and sessions of so many frames, rendered where no pool is given."""
    from deckbench.pool.synth import synth_pool
    from deckbench.yolo.read import read_pool

    with tempfile.TemporaryDirectory() as folder:
        if pool is None:
            synth_pool(pool := Path(folder) / "pool", frames=count, seed=11, size=(192, 108))
        frames = read_pool(pool).frames[:count]
        return fingerprint([frame.path for frame in frames]), [str(frame.group) for frame in frames]


def cluster_of(thumbs: Any, known: list[int]) -> list[int]:
    return cluster(thumbs, known=known)


def has_copies(left: Any, right: Any) -> bool:
    return bool(matches(left, right))


def exact_copies(left: Any, right: Any) -> bool:
    return bool(exact_matches(left, right))


def against_exact(
    name: str, sizes: tuple[int, int], make: Callable[[int], Any], new: Callable[..., Any], exact: Callable[..., Any]
) -> None:
    """Print the time of the new search at the full size, and what the exact one would take there.

    sizes: where the exact one starts, and the full size.
    """
    small, full = sizes
    seconds = []
    same = True
    for size in (small, 2 * small):
        inputs = make(size)
        used, expected = timed(lambda inputs=inputs: exact(*inputs))
        seconds.append(used)
        same = same and new(*inputs) == expected
    inputs = make(full)
    used, _ = timed(lambda: new(*inputs))
    exponent = math.log2(seconds[1] / seconds[0])
    expected = seconds[1] * (full / (2 * small)) ** exponent
    text = f"exact {seconds[0]:.1f} s at {small}, {seconds[1]:.1f} s at {2 * small}, so {expected:.0f} s"
    print(f"{name}, {full}: {text} (exponent {exponent:.2f}); new {used:.1f} s, 1/{expected / used:.0f}; ", end="")
    print("the same result" if same else "ANOTHER RESULT", "at the small sizes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path)
    parser.add_argument("--fixed", type=int, default=1000)
    parser.add_argument("--audit", type=int, default=400)
    parser.add_argument("--exact", type=int, default=150)
    parser.add_argument("--varied", type=int, default=8000)
    parser.add_argument("--growth", type=int, nargs=2, default=(8000, 32000))
    asked = parser.parse_args()
    thumbs, sessions = frames_of(asked.pool, max(asked.varied, *asked.growth, 400))
    scenes = thumbs[:400:8]
    if asked.fixed:
        against_exact(
            "fixed camera", (asked.exact, asked.fixed), partial(one_camera, scenes), cluster_of, exact_cluster
        )
    if asked.audit:
        against_exact("audit", (asked.exact, asked.audit), partial(two_parts, scenes), has_copies, exact_copies)
    if asked.varied:
        many, of = with_copies(thumbs[: asked.varied])
        known = [*sessions[: asked.varied], *(f"copy {number}" for number in range(len(of)))]
        new, groups = timed(lambda: cluster(many, known=known))
        old, expected = timed(lambda: exact_cluster(many, known))
        joined = [number for number, source in enumerate(of) if expected[asked.varied + number] == expected[source]]
        kept = sum(groups[asked.varied + number] == groups[of[number]] for number in joined)
        text = f"exact {old:.1f} s, new {new:.1f} s, ratio {new / old:.2f}; recall {kept} of {len(joined)}"
        print(f"varied, {asked.varied}: {text}, {len(set(expected))} and {len(set(groups))} groups", flush=True)
    if asked.growth[0]:
        seconds = [
            timed(lambda count=count: cluster(thumbs[:count], known=sessions[:count]))[0] for count in asked.growth
        ]
        exponent = math.log(seconds[1] / seconds[0]) / math.log(asked.growth[1] / asked.growth[0])
        print(
            f"growth, {asked.growth[0]} to {asked.growth[1]}: {seconds[0]:.1f} and {seconds[1]:.1f} s, {exponent:.2f}"
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
