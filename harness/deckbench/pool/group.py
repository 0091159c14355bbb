"""`pool group`: propose frames.csv for a pool that has no groups, for a person to look over."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from deckbench.artifact import atomic_write, check_name
from deckbench.csvfile import csv_text
from deckbench.errors import InputError
from deckbench.likeness import cluster, fingerprint
from deckbench.picture import taken_at
from deckbench.split import natural, sessions
from deckbench.yolo.frame import Frame
from deckbench.yolo.read import raise_on, scan_pool, tell_notices

FORMS = "regex:R, time:60s or phash"
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
# 20231012_143501, 2023-10-12T14-35-01, 2023-10-12 14.35.01, ...
STAMP = re.compile(r"(?<!\d)(20\d\d)[-_.]?(\d\d)[-_.]?(\d\d)[-_ T.]?(\d\d)[-_.:h]?(\d\d)[-_.:m]?(\d\d)(?!\d)", re.ASCII)


def group_pool(path: Path, *, by: str, out: Path) -> dict[str, str]:
    """Propose groups for a pool that has none, as a frames.csv for a person to look over.

    What an existing frames.csv says about time, step, anomalies and view is kept.

    Args:
        path: The pool's folder or its yaml.
        by: `regex:R` (first capture group, or the whole match, in the file name), `time:60s` (a new group after a
            longer pause; time from frames.csv, EXIF or a date in the file name), or `phash` (near-duplicates).
        out: The file to write; must not exist yet.

    Returns:
        Frame id -> group.

    Raises:
        InputError: The pool is broken or cannot be grouped so; nothing is written.
    """
    out = Path(out)
    check_name(out)
    if out.exists():
        fix = "write another --out, then replace the old file: its times are kept only while it is there"
        raise InputError("the output exists already", out, fix)
    method = parse_by(by)
    scan = scan_pool(Path(path), groups=False)
    raise_on(scan.errors, Path(path))
    if not scan.frames:
        raise InputError("the pool has no frames", path, "see `deckbench pool check`")
    tell_notices(scan.problems, f"pool {scan.yaml.name}")
    groups = method(sorted(scan.frames, key=lambda frame: natural(frame.id)))
    # An empty cell of anomalies says "none"; without the column nothing is said.
    labelled = "anomalies" in scan.columns
    viewed = "view" in scan.columns
    more = (*(("anomalies",) if labelled else ()), *(("view",) if viewed else ()))
    rows = []
    for frame in scan.frames:
        time_s = "" if frame.time_s is None else repr(frame.time_s)
        anomalies = (";".join(frame.anomalies or ()),) if labelled else ()
        view = (frame.view or "",) if viewed else ()
        rows.append((frame.id, groups[frame.id], time_s, frame.step or "", *anomalies, *view))
    atomic_write(out, csv_text(("frame", "group", "time_s", "step", *more), rows))
    return groups


Method = Callable[[Sequence[Frame]], dict[str, str]]


def parse_by(by: str) -> Method:
    """`regex:R`, `time:60s` or `phash` -> what groups the frames. Raises InputError."""
    word, _, rest = by.partition(":")
    if word == "regex" and rest:
        try:
            pattern = re.compile(rest)
        except re.error as error:
            raise InputError(
                f"the pattern {rest!r} is not valid ({error})", "--by", "test it on one file name"
            ) from error
        return lambda frames: by_regex(frames, pattern)
    if word == "time" and rest:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|min|h)?", rest, re.ASCII)
        if match is None or float(match[1]) <= 0:
            raise InputError(f"{rest!r} is not a length of time", "--by", "write it like time:60s, time:5m or time:1h")
        pause = float(match[1]) * UNITS[match[2] or ""]
        return lambda frames: by_time(frames, pause)
    if by == "phash":
        return by_likeness
    raise InputError(f"{by!r} is not a way to group", "--by", f"use {FORMS}")


def by_regex(frames: Sequence[Frame], pattern: re.Pattern[str]) -> dict[str, str]:
    """Groups named by what the pattern finds in each file name."""
    groups: dict[str, str] = {}
    missed = []
    for frame in frames:
        match = pattern.search(frame.path.name)
        text = "" if match is None else (match[1] if pattern.groups else match[0]) or ""
        if text.strip():
            groups[frame.id] = text.strip()
        else:
            missed.append(frame.path.name)
    if missed:
        raise InputError(
            f"the pattern {pattern.pattern!r} finds nothing in {len(missed)} of {len(frames)} names: {missed[0]!r}",
            "--by",
            "a pattern like regex:(run[0-9]+)_ must fit every file name",
        )
    return groups


def named_time(frame: Frame) -> float | None:
    """Seconds from a date and time in the file name, or None."""
    match = STAMP.search(frame.path.name)
    if match is None:
        return None
    try:
        moment = datetime.strptime("".join(match.groups()), "%Y%m%d%H%M%S")
        return moment.replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None


def by_time(frames: Sequence[Frame], pause: float) -> dict[str, str]:
    """A new group after every pause longer than `pause` seconds. File dates are not trusted: copying sets them."""
    sources: tuple[Callable[[Frame], float | None], ...] = (
        lambda frame: frame.time_s,
        lambda frame: taken_at(frame.path),
        named_time,
    )
    missing = Counter[str]()
    for name, source in zip(("frames.csv", "EXIF", "the file name"), sources, strict=True):
        times = {frame.id: source(frame) for frame in frames}
        missing[name] = sum(value is None for value in times.values())
        if not missing[name]:
            break
    else:
        least = min(missing, key=lambda name: missing[name])
        raise InputError(
            f"the frames have no times: even from {least}, {missing[least]} of {len(frames)} have none",
            "--by",
            "give time_s in frames.csv, or group by regex:R or phash",
        )
    known = sorted((value, frame.id) for frame in frames if (value := times[frame.id]) is not None)
    groups: dict[str, str] = {}
    number, last = 0, None
    for value, key in known:
        number += last is None or value - last > pause
        groups[key], last = f"t{number:04d}", value
    return groups


def by_likeness(frames: Sequence[Frame]) -> dict[str, str]:
    """Connected components of alike frames: one camera standing still, copies, and what was made from one picture."""
    alone = [replace(frame, group=None) for frame in frames]
    labels = cluster(fingerprint([frame.path for frame in frames]), known=sessions(alone), scene=True)
    order = {label: number for number, label in enumerate(dict.fromkeys(labels), 1)}
    return {frame.id: f"g{order[label]:04d}" for frame, label in zip(frames, labels, strict=True)}
