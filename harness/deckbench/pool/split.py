"""`pool split`: which frames train, validate and test, as an artifact that the datasets of all stages share."""

from __future__ import annotations

from pathlib import Path

from deckbench import artifact
from deckbench.split import write_split
from deckbench.yolo.read import read_pool


def split_pool(
    path: Path,
    *,
    out: Path,
    split: str = "group",
    seed: int = 0,
    skip_bad: bool = False,
    workers: int | None = None,
    cache: Path | None = None,
) -> artifact.Manifest:
    """Split a pool once, for `build --split OUT`.

    Args:
        path: The pool's folder or its yaml.
        out: The artifact's folder; must not exist yet.
        split: `group`, `pool`, `blocks=K,gap=G` or `test-only`.
        seed: Random seed; a build with the same one makes the same dataset as with `--split` and the same words.
        skip_bad: Leave out broken frames; the build must do so too.
        workers: Processes that read the pool; default: all cores. The result does not depend on it.
        cache: File that keeps thumbnails for the next step.

    Returns:
        The manifest of the artifact.

    Raises:
        InputError: The pool is broken or cannot be split so.
        OutsideError: The disk fails.
    """
    artifact.check_free(Path(out))
    return write_split(read_pool(Path(path), skip_bad=skip_bad, workers=workers), split, seed, Path(out), cache)
