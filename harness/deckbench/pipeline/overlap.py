"""A suite never tests on what it trained on: all frames that it trains on against all that it tests on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deckbench import artifact
from deckbench.csvfile import csv_records
from deckbench.errors import InputError
from deckbench.gold import FrameLabels, read_labels
from deckbench.likeness import cluster, fingerprint
from deckbench.likeness.copies import ImageContext, copies
from deckbench.pipeline.state import Run
from deckbench.progress import say
from deckbench.yolo.frame import Frame

TRAINED, TESTED = ("train", "val"), ("test",)  # val decides which weights are kept
SHOWN = 3
FIX = (
    "give all datasets of a pool one split; test on frames of other sessions, or put the pools into one and split it "
    "by group. Sessions that only share a name need names of their own in frames.csv"
)


@dataclass(frozen=True)
class Side:
    """A frame that a suite trains or tests on.

    data: the dataset. split: how its pool is split. named: a person named its session.
    """

    data: str
    pool: str
    split: str
    named: bool
    frame: Frame
    view: ImageContext

    def __str__(self) -> str:
        return f"{self.frame.id} of the pool {self.pool} (data {self.data})"


@dataclass
class Overlap:
    """What two sides share. pairs: (tested, trained, how). near: near views that are no copies."""

    pairs: list[tuple[Side, Side, str]] = field(default_factory=list)
    near: int = 0

    def tested(self) -> set[Path]:
        return {pair[0].frame.path for pair in self.pairs}


def check_overlap(run: Run, trained: Sequence[str], tested: Sequence[str]) -> None:
    """Compare what a suite trains on with what it tests on; the result is an artifact, so it is done once.

    Args:
        run: Its pools and datasets are there.
        trained: Names of the datasets that models and baselines are trained on.
        tested: Names of those that are tested on.

    Raises:
        InputError: A frame, a session or a copy is on both sides; frames of both are named.
    """
    if not trained:
        return
    splits = {name: run.suite.data[name].split for name in {*trained, *tested}}
    key = {
        "trained": [[run.data[name].content_hash, splits[name]] for name in trained],
        "tested": [[run.data[name].content_hash, splits[name]] for name in tested],
    }

    def write(out: Path) -> None:
        found = compare(list(sides(run, trained, TRAINED)), list(sides(run, tested, TESTED)), run.thumbnails)
        if found.pairs:
            refuse(run, found, sum(1 for _ in sides(run, tested, TESTED)))
        if found.near:
            say(f"{found.near} tested frames have a near view in training: one camera, other states")
        with artifact.writing(out, "overlap", inputs={"datasets": artifact.hash_json(key)}) as draft:
            (draft.path / "overlap.json").write_text(json.dumps({"copies": 0, "near_views": found.near}) + "\n")

    run.step("overlaps", run.suite.name, key, ("pipeline.overlap",), write)


def refuse(run: Run, found: Overlap, total: int) -> None:
    """Raises InputError naming frames of both sides."""
    shown: dict[Path, str] = {}
    for test, train, how in found.pairs:
        shown.setdefault(test.frame.path, f"test frame {test} and train frame {train}: {how}")
    more = f"; and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    what = f"{len(shown)} of {total} tested frames are trained on: {'; '.join([*shown.values()][:SHOWN])}{more}"
    raise InputError(what, run.ref, FIX)


def sides(run: Run, names: Iterable[str], parts: Sequence[str]) -> Iterator[Side]:
    """The frames of some parts of some datasets, each once for a pool and a split."""
    seen = set()
    for name in names:
        spec, data = run.suite.data[name], run.data[name].path
        pool = run.frames(spec.pool)
        frames = {frame.id: frame for frame in pool.frames}
        named = (pool.root / "frames.csv").is_file() and not pool.synthetic
        labels = {frame: found for (_, frame), found in read_labels(data).items()}
        for _, row in csv_records(data / "samples.csv", required=("frame", "group", "split")):
            key = (spec.pool, spec.split, row["frame"])
            if row["split"] in parts and key not in seen:
                seen.add(key)
                view = view_of(labels.get(row["frame"]), f"{spec.pool}/{row['group'] or row['frame']}")
                yield Side(name, spec.pool, spec.split, named, frames[row["frame"]], view)


def view_of(labels: FrameLabels | None, group: str) -> ImageContext:
    """What is known of a frame beside its pixels."""
    if labels is None:
        return ImageContext(group)
    return ImageContext(group, tuple((box.cls, box.box) for box in labels.boxes), labels.task.partition("+")[2])


def compare(trained: Sequence[Side], tested: Sequence[Side], cache: Path | None = None) -> Overlap:
    """What two sides share: frames and bytes, then sessions, then what is alike."""
    found = Overlap([*same_bytes(trained, tested), *same_sessions(trained, tested)])
    if found.pairs:
        return found
    by_split: dict[tuple[str, str], list[Side]] = {}
    for side in tested:
        by_split.setdefault((side.pool, side.split), []).append(side)
    for (pool, split), tests in by_split.items():
        # A split by group has compared its own frames already.
        others = [side for side in trained if (side.pool, side.split) != (pool, split) or split != "group"]
        left, right = ({side.frame.path: side for side in part} for part in (others, tests))
        if not left or not right:
            continue
        known, asked = ({path: side.view for path, side in part.items()} for part in (left, right))
        copied, near = copies(known, asked, cache)
        found.near += near
        for copy in copied:
            train, test = left[copy.train], right[copy.test]
            # Stretches of one session have like views by design; the gap between them is what keeps them apart.
            if copy.how == "near" and split.startswith("blocks") and (train.pool, train.split) == (pool, split):
                found.near += 1
            else:
                found.pairs.append((test, train, copy.how))
    return found


def same_bytes(trained: Sequence[Side], tested: Sequence[Side]) -> Iterator[tuple[Side, Side, str]]:
    """The same frame of one pool, or the same file under another name."""
    known = {side.frame.sha256: side for side in trained}
    for test in tested:
        if (train := known.get(test.frame.sha256)) is not None:
            same = (test.pool, test.frame.id) == (train.pool, train.frame.id)
            yield test, train, "the same frame under two splits" if same else "the same bytes"


def same_sessions(trained: Sequence[Side], tested: Sequence[Side]) -> Iterator[tuple[Side, Side, str]]:
    """Two frames of each session that is on both sides.

    `blocks` cuts sessions on purpose. Names that no person gave may be numbers that occur in many pools: there, frames
    of a session also have to show one scene.
    """
    known = by_session(trained)
    for name, tests in by_session(tested).items():
        for test in first_of_splits(tests):
            for train in first_of_splits(known.get(name, [])):
                within = (test.pool, test.split) == (train.pool, train.split)
                if within and test.split.startswith("blocks"):
                    continue
                if test.pool == train.pool or (test.named and train.named) or one_scene(tests, known[name]):
                    yield test, train, f"one session, {name!r}"


def by_session(side: Sequence[Side]) -> Mapping[str, list[Side]]:
    """The frames of each session."""
    found: dict[str, list[Side]] = {}
    for each in side:
        if each.frame.group is not None:
            found.setdefault(each.frame.group, []).append(each)
    return found


def first_of_splits(sides: Sequence[Side]) -> list[Side]:
    """The first frame of each pool and split."""
    return list({(side.pool, side.split): side for side in reversed(sides)}.values())


def one_scene(a: Sequence[Side], b: Sequence[Side]) -> bool:
    """Whether frames of two sides show one scene, from one place."""
    paths = [side.frame.path for side in (*a, *b)]
    labels = cluster(fingerprint(paths), scene=True)
    return bool({*labels[: len(a)]} & {*labels[len(a) :]})
