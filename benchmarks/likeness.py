"""How fast is the search for near-duplicates, and what does it miss, against a search that compares every pair?

    python benchmarks/likeness.py [--pool POOL] [--fixed 1000] [--audit 400] [--varied 8000] [--growth 8000 32000]

`exact` compares all pairs at 63 shifts and scales, aligns all that are at least 0.72 alike, and looks at the groups
again after every 512 images, as the package did before. `fixed`: one camera, known sessions of 50 frames; the groups
must be the same. `audit`: one camera, N test against N train images; the verdict (copies or none) must be the same.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from deckbench.likeness import cluster, fingerprint, matches
from deckbench.likeness.candidates import COARSE_X, COARSE_Y, TRIES, Coarse, unit
from deckbench.likeness.decide import Levels, decide
from deckbench.likeness.search import Groups
from deckbench.likeness.thumbnails import WIDTH

BLOCK, PROPOSE_COPY = 512, 0.72


def every_pair(left: Any, right: Any | None = None) -> Iterator[tuple[Any, Any, Any]]:
    """All pairs that are alike enough under some shift or scale, block by block of left images."""
    other = left if right is None else right
    fixed = np.empty((len(other), COARSE_Y, COARSE_X), np.float32)
    for start in range(0, len(other), 1024):
        fixed[start : start + 1024] = Coarse(other[start : start + 1024]).sample()[0]
    for start in range(0, len(left), BLOCK):
        part = left[start : start + BLOCK]
        skip = start if right is None else 0
        best = np.full((len(part), len(other) - skip), -1.0, np.float32)
        which = np.zeros(best.shape, np.uint8)
        scaled: dict[tuple[float, float], Coarse] = {}
        for number, (sx, sy, dx, dy) in enumerate(TRIES):
            if (sx, sy) not in scaled:
                scaled[sx, sy] = Coarse(part, 1 / sx, 1 / sy)
            moved, both = scaled[sx, sy].sample(-dx / sx, -dy / sy)
            likeness = unit(moved[:, both]) @ unit(fixed[skip:, both]).T
            np.copyto(which, number, where=likeness > best)
            np.maximum(best, likeness, out=best)
        if right is None:
            best[np.arange(len(other) - skip)[None, :] <= np.arange(len(part))[:, None]] = -1.0
        rows, columns = np.nonzero(best >= PROPOSE_COPY)
        params = np.asarray(TRIES, np.float32)[which[rows, columns]].reshape(-1, 4)
        params[:, 2:] *= WIDTH / 96
        yield rows + start, columns + skip, params


def exact_cluster(thumbs: Any, known: list[Any]) -> list[int]:
    groups, levels = Groups(len(thumbs)), Levels(thumbs)
    first: dict[Any, int] = {}
    for number, label in enumerate(known):
        if label is not None:
            groups.join(first.setdefault(label, number), number)
    for i, j, params in every_pair(thumbs):
        apart = groups.labels[i] != groups.labels[j]
        for pair in decide(levels, levels, i[apart], j[apart], params[apart]):
            groups.join(pair.left, pair.right)
    return [int(label) for label in groups.labels]


def exact_matches(left: Any, right: Any) -> set[int]:
    levels = Levels(left), Levels(right)
    return {pair.left for i, j, params in every_pair(left, right) for pair in decide(*levels, i, j, params)}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path)
    parser.add_argument("--fixed", type=int, default=1000)
    parser.add_argument("--audit", type=int, default=400)
    parser.add_argument("--varied", type=int, default=8000)
    parser.add_argument("--growth", type=int, nargs=2, default=(8000, 32000))
    asked = parser.parse_args()
    thumbs, sessions = frames_of(asked.pool, max(asked.varied, *asked.growth, 400))
    scenes = thumbs[:400:8]
    if asked.fixed:
        one, known = fixed_camera(asked.fixed, scenes), [number // 50 for number in range(asked.fixed)]
        new, groups = timed(lambda: cluster(one, known=known))
        old, expected = timed(lambda: exact_cluster(one, known))
        same = "the same groups" if groups == expected else "OTHER GROUPS"
        text = f"exact {old:.1f} s, new {new:.1f} s, 1/{old / new:.0f}; {same} ({len(set(groups))})"
        print(f"fixed camera, {asked.fixed}: {text}", flush=True)
    if asked.audit:
        one = fixed_camera(2 * asked.audit, scenes, seed=1)
        left, right = one[: asked.audit], one[asked.audit :]
        new, pairs = timed(lambda: matches(left, right))
        old, wanted = timed(lambda: exact_matches(left, right))
        same = "same verdict" if bool(pairs) == bool(wanted) else "OTHER VERDICT"
        same += f", {len(wanted)} and {len(pairs)} test images have a copy"
        print(f"audit, {asked.audit} x {asked.audit}: exact {old:.1f} s, new {new:.1f} s, 1/{old / new:.0f}; {same}")
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
