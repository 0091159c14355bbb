"""Which frame goes to train, val and test: decided once, by group, for every stage.

A pure function of the pool's content and the seed. Groups (sessions) come from frames.csv; near-duplicate frames of two
groups merge them. In a pool without groups the clusters of alike frames are the groups. The search for near-duplicates
takes longest of all, so a split can be an artifact (`deckbench pool split`) that the datasets of all stages share.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.csvfile import csv_records, csv_text
from deckbench.errors import InputError
from deckbench.likeness import cluster, fingerprint
from deckbench.progress import say
from deckbench.yolo.frame import Frame, Pool
from deckbench.yolo.sources import FORMS, shared_sources

FRACTIONS = {"train": 0.70, "val": 0.10, "test": 0.20}
WAYS = "group, pool, blocks=K,gap=G, or test-only"
ADVICE = (
    "cut one session into stretches with --split blocks=K,gap=G (like blocks=10,gap=3), "
    "use every frame for testing with --split test-only, or tell sessions apart in frames.csv"
)
MAX_BLOCKS = 10_000
TABLE = "split.csv"
COLUMNS = ("frame", "split", "group")
SEEDLESS = ("pool", "test-only")  # ways to split that draw nothing


@dataclass(frozen=True)
class Split:
    """parts: frame id -> train, val or test; frames in a gap are absent. groups: frame id -> group, for every frame.

    Groups are what statistics cluster by and what never stands on both sides: sessions merged by near-duplicates, or
    blocks. dropped: ids of the frames in gaps.
    """

    parts: dict[str, str]
    groups: dict[str, str]
    dropped: tuple[str, ...] = ()


def split_pool(pool: Pool, how: str, seed: int, cache: Path | None = None) -> Split:
    """Split a pool.

    Args:
        pool: The frames.
        how: `group`, `pool` (as its yaml has it), `blocks=K,gap=G`, or `test-only`.
        seed: Decides which groups or blocks go where; `pool` and `test-only` draw nothing.
        cache: File that keeps thumbnails, as for `fingerprint`.

    Returns:
        The split of every frame. It depends on the pool's content, `how` and `seed` alone.

    Raises:
        InputError: Another word, a pool with too few groups, or a yaml that has no splits.
    """
    if how == "group":
        return by_group(pool, seed, cache)
    if how == "pool":
        return by_yaml(pool, cache)
    if how == "test-only":
        return Split({frame.id: "test" for frame in pool.frames}, known_groups(pool, cache))
    blocks, gap = parse_blocks(how)
    return by_blocks(pool, blocks, gap, seed)


def write_split(pool: Pool, how: str, seed: int, out: Path, cache: Path | None = None) -> artifact.Manifest:
    """Split a pool as `split_pool` does and keep it as an artifact: `split.csv`, one row a frame, in pool order.

    Raises InputError and OutsideError; nothing is written then.
    """
    artifact.check_free(out)
    if artifact_of(how) is not None and not how.startswith("blocks="):
        what = "a split is made from words only, not from a folder or file (build takes the folder of a split)"
        raise InputError(what, "--split", f"use {WAYS}")
    found = split_pool(pool, how, seed, cache)
    with artifact.writing(out, "split", inputs={"pool": pool.content_hash}, params={"split": how}, seed=seed) as draft:
        rows = [(frame.id, found.parts.get(frame.id, ""), found.groups.get(frame.id, "")) for frame in pool.frames]
        (draft.path / TABLE).write_text(csv_text(COLUMNS, rows), encoding="utf-8", newline="\n")
        counts = Counter(found.parts.values())
        draft.params["frames"] = {part: counts[part] for part in FRACTIONS} | {"dropped": len(found.dropped)}
    return artifact.read(out, "split")


def artifact_of(split: str) -> Path | None:
    """The folder of the split artifact that `--split` names (it, or its `split.csv`); None where it says how to split.

    A word such as `group` is always taken as the way to split, even where a folder is called so.
    """
    path = Path(split)
    if not split.strip() or split in {"group", *SEEDLESS} or not path.exists():
        return None
    return path.parent if path.name in {TABLE, artifact.MANIFEST} and path.is_file() else path


def read_or_split(pool: Pool, split: str, seed: int) -> tuple[Split, dict[str, Any]]:
    """The split that `--split` asks for: made now, or read from an artifact.

    Args:
        pool: The frames.
        split: As for `split_pool`, or the folder (or `split.csv`) that `deckbench pool split` wrote.
        seed: For a split that is made now.

    Returns:
        The split, and what tells it from others in a manifest: `split` (how it was made), and `split_seed` where that
        is not `seed`.

    Raises:
        InputError: As `split_pool`, and for an artifact that was changed or is of another pool.
    """
    folder = artifact_of(split)
    if folder is None:
        return split_pool(pool, split, seed), {"split": split}
    manifest = artifact.read(folder, "split", verify=True)
    made_of = manifest.content["inputs"]["pool"]
    if made_of != pool.content_hash:
        raise InputError(
            f"the split is of another pool ({made_of[:12]}, this one is {pool.content_hash[:12]})",
            folder,
            f"split this one: deckbench pool split {pool.root} --out ANOTHER_FOLDER",
        )
    rows = [row for _, row in csv_records(folder / TABLE, required=COLUMNS)]
    parts = {row["frame"]: row["split"] for row in rows if row["split"]}
    groups = {row["frame"]: row["group"] for row in rows if row["group"]}
    dropped = tuple(row["frame"] for row in rows if not row["split"])
    how, own_seed = manifest.content["params"]["split"], manifest.content["seed"]
    other = own_seed != seed and how not in SEEDLESS
    return Split(parts, groups, dropped), {"split": how, **({"split_seed": own_seed} if other else {})}


def parse_blocks(how: str) -> tuple[int, int]:
    """`blocks=K,gap=G` -> (K, G); the gap may be left out (0). Raises InputError."""
    match = re.fullmatch(r"blocks=(\d{1,9})(?:,gap=(\d{1,9}))?", how.strip(), re.ASCII)
    if match is None:
        raise InputError(f"{how!r} is not a way to split", "--split", f"use {WAYS}, or a folder that `pool split` made")
    blocks, gap = int(match[1]), int(match[2] or 0)
    if not 3 <= blocks <= MAX_BLOCKS:
        raise InputError(f"{blocks} blocks cannot fill train, val and test", "--split", f"use 3 to {MAX_BLOCKS} blocks")
    return blocks, gap


def share_out(sizes: Mapping[str, int], seed: int) -> dict[str, str]:
    """Give whole groups to train, val and test (0.70, 0.10, 0.20 by frames): group -> part.

    sizes: frames per group, at least three groups. Groups are taken in the order of sha256(seed, name); test and val
    take each group that brings them closer to their share, train gets the rest. Every part gets at least one.
    """
    order = sorted(sizes, key=lambda name: (hashlib.sha256(f"{seed}\0{name}".encode()).digest(), name))
    total = sum(sizes.values())
    parts: dict[str, str] = {}
    for part, keep in (("test", 2), ("val", 1)):
        target, filled = FRACTIONS[part] * total, 0
        free = [name for name in order if name not in parts]
        for name in free:
            left = sum(other not in parts for other in free)
            if left <= keep:
                break
            if abs(filled + sizes[name] - target) < abs(filled - target):
                parts[name] = part
                filled += sizes[name]
        if not filled:  # every group is more than twice the share: take the smallest
            parts[min(free, key=lambda name: (sizes[name], order.index(name)))] = part
    return {name: parts.get(name, "train") for name in sorted(sizes)}


def known_groups(pool: Pool, cache: Path | None = None) -> dict[str, str]:
    """frame id -> group as frames.csv has it (a frame without one is its own), else by alike frames."""
    if all(frame.group is None for frame in pool.frames):
        return merged_groups(pool, cache)
    return {frame.id: frame.group if frame.group is not None else frame.id for frame in pool.frames}


def sessions(frames: Sequence[Frame]) -> list[tuple[str, str] | None]:
    """What is known of each frame before it is compared: its group, else the picture that it was made from.

    Frames without a group whose names show one source picture belong together; a line says so.
    """
    sources = shared_sources(frames)
    groups: dict[str, str] = {}
    for frame, source in zip(frames, sources, strict=True):
        if source is not None and frame.group is not None:
            groups.setdefault(source, frame.group)
    known: list[tuple[str, str] | None] = []
    derived = []
    for frame, source in zip(frames, sources, strict=True):
        if frame.group is None and source is not None:
            derived.append(source)
            known.append(("group", groups[source]) if source in groups else ("source", source))
        else:
            known.append(None if frame.group is None else ("group", frame.group))
    if derived:
        say(
            f"{len(derived)} frames without a group share their source picture with others, by their names ({FORMS}): "
            f"frames of one source are one group ({len(set(derived))} sources)"
        )
    return known


def merged_groups(pool: Pool, cache: Path | None = None) -> dict[str, str]:
    """frame id -> group, where groups that share a near-duplicate are one (named after the first of them).

    Without any group, clusters of frames that show one scene are the groups: unknown sessions are taken to be one as
    long as the camera stands still.
    """
    frames = sorted(pool.frames, key=lambda frame: frame.id)
    thumbs = fingerprint([Path(frame.path) for frame in frames], cache)
    labels = cluster(thumbs, known=sessions(frames), scene=all(frame.group is None for frame in frames))
    names: dict[int, str] = {}
    for frame, label in zip(frames, labels, strict=True):
        if frame.group is not None:
            names[label] = min(names.get(label, frame.group), frame.group)
    for frame, label in zip(frames, labels, strict=True):
        names.setdefault(label, frame.id)
    return {frame.id: names[label] for frame, label in zip(frames, labels, strict=True)}


def by_group(pool: Pool, seed: int, cache: Path | None = None) -> Split:
    groups = merged_groups(pool, cache)
    sizes: dict[str, int] = {}
    for name in groups.values():
        sizes[name] = sizes.get(name, 0) + 1
    if len(sizes) < 3:
        given = len({frame.group for frame in pool.frames if frame.group is not None})
        known = f"{given} in frames.csv, merged where frames are near-duplicates" if given else "by alike frames"
        count = "one group" if len(sizes) == 1 else f"{len(sizes)} groups"
        raise InputError(
            f"the {len(groups)} frames are {count} ({known}): too few to fill train, val and test", pool.root, ADVICE
        )
    parts = share_out(sizes, seed)
    return Split({key: parts[group] for key, group in groups.items()}, groups)


def by_yaml(pool: Pool, cache: Path | None = None) -> Split:
    parts = {frame.id: frame.split for frame in pool.frames if frame.split is not None}
    missing = [part for part in ("train", "test") if part not in parts.values()]
    if missing:
        raise InputError(
            f"the pool's yaml gives no frames to {' and '.join(missing)}",
            pool.root,
            "name train and test folders in the yaml, or use another --split (group, blocks=K,gap=G, test-only)",
        )
    tested = {frame.sha256: frame.id for frame in pool.frames if frame.split == "test"}
    again = {frame.id: tested[frame.sha256] for frame in pool.frames if frame.split == "val" and frame.sha256 in tested}
    if again:  # what val decides must not be decided by test
        first, same = next(iter(again.items()))
        say(f"{len(again)} val frames are test frames too, and are left out of val; the first: {first} is {same}")
    dropped = tuple(frame.id for frame in pool.frames if frame.split is None or frame.id in again)
    return Split({key: part for key, part in parts.items() if key not in again}, known_groups(pool, cache), dropped)


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sorting key that puts frame_2 before frame_10."""
    return tuple(
        (0, int(part), part) if part.isdigit() and part.isascii() else (1, 0, part)
        for part in re.split(r"([0-9]+)", text)
        if part
    )


def in_time(frames: Sequence[Frame]) -> list[Frame]:
    """By group and time where every frame has a time, else by file name in natural order (folders do not count)."""
    if all(frame.time_s is not None for frame in frames):
        return sorted(frames, key=lambda f: (f.group or "", f.time_s, natural(f.id)))
    return sorted(frames, key=lambda f: (natural(f.id.rpartition("/")[2]), natural(f.id)))


def by_blocks(pool: Pool, blocks: int, gap: int, seed: int) -> Split:
    """Consecutive frames in `blocks` stretches of equal length, `gap` frames dropped before each but the first."""
    frames = in_time(pool.frames)
    kept = len(frames) - gap * (blocks - 1)
    if kept < blocks:
        raise InputError(
            f"{len(frames)} frames cannot be cut into {blocks} blocks with gaps of {gap}",
            "--split",
            "use fewer blocks or a smaller gap",
        )
    groups: dict[str, str] = {}
    sizes: dict[str, int] = {}
    dropped = []
    start = 0
    for number in range(blocks):
        name = f"block-{number:0{len(str(blocks - 1))}d}"
        if number:
            dropped += [frame.id for frame in frames[start : start + gap]]
            start += gap
        sizes[name] = kept * (number + 1) // blocks - kept * number // blocks
        for frame in frames[start : start + sizes[name]]:
            groups[frame.id] = name
        start += sizes[name]
    parts = share_out(sizes, seed)
    return Split({key: parts[name] for key, name in groups.items()}, groups, tuple(dropped))
