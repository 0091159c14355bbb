"""`pool from-run`: frames of a robot run, its log and its protocol analysis -> a pool with checks."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from deckbench import artifact
from deckbench.artifact import Manifest, hash_json
from deckbench.csvfile import csv_text
from deckbench.errors import InputError
from deckbench.language import LANGS, Text
from deckbench.picture import PictureError, inspect_picture
from deckbench.pool.run.clock import MAX_OFFSET_S, Clock, changes, estimate, stated
from deckbench.pool.run.log import RunAlignment, RunLog, follow, read_run
from deckbench.pool.run.timeline import Place, Timeline
from deckbench.pool.run.times import Shot, Shots, read_shots
from deckbench.pool.synth.scene import CLASSES, CLASSES_ZH
from deckbench.pool.tables import CHECK_COLUMNS, CheckRow
from deckbench.progress import say, track
from deckbench.protocol import Analysis, Texts, analysis_of, checks_of, fold, load_texts, state_checks, step_text
from deckbench.protocol.commands import LOADS
from deckbench.yolo.checkscsv import read_checks_csv
from deckbench.yolo.frame import ERROR, Check
from deckbench.yolo.table import FrameIndex

SETUP = LOADS | {"home", "comment"}  # commands that every run begins with
COLUMNS = ("frame", "time_s", "robot_time_s", "command", "key", "command_type", "phase", "why")
Which = Literal["step", "all"]


def pool_from_run(
    *,
    protocol: Path,
    run: str,
    frames: Path,
    out: Path,
    times: str | None = None,
    times_csv: Path | None = None,
    zone: str | None = None,
    offset_s: float | None = None,
    margin_s: float | None = None,
    max_offset_s: float = 120.0,
    labels: Path | None = None,
    checks: Which = "step",
    texts: Path | None = None,
) -> Manifest:
    """Make a pool of a robot run's frames: which command each shows, and what should be seen in it.

    A run says nothing about deviations, so every verdict is `unknown` unless `labels` has it. Frames that were taken
    while something moves, or within the clocks' uncertainty of a command's start or end, are marked ambiguous in
    run.csv and have no checks; so have frames outside of the run and after it has left the analysis.

    Args:
        protocol: The protocol's analysis, or the protocol itself, which is analysed first.
        run: The run log: a file, or `http://HOST:31950/runs/ID`.
        frames: Folder of the frames; sub-folders too.
        out: The pool; must not exist yet.
        times: `exif`, `name` or `name:PATTERN`; default: EXIF where every frame has it, else names.
        times_csv: A csv `frame,time` instead.
        zone: The camera's time zone where its times have none; default: UTC.
        offset_s: What is added to the frames' times to have the robot's; default: estimated.
        margin_s: How near to a command's start or end a frame is ambiguous, in seconds; default: from the estimate.
        max_offset_s: Offsets up to this are tried.
        labels: A checks.csv whose verdicts are taken over, by frame and check; step, phase and expected must be the
            run's where it has them.
        checks: `step`: what the step's command is about, all while the robot waits; `all`: everything that can be seen.
        texts: Templates of the texts; default: the package's own.

    Returns:
        The manifest of the pool.

    Raises:
        InputError: An input is wrong, or the clocks' offset cannot be told from the frames.
        OutsideError: The robot does not answer, or the disk fails.
    """
    check_numbers(offset_s, margin_s, max_offset_s)
    artifact.check_free(Path(out))
    words = load_texts(texts)
    analysis = analysis_of(Path(protocol))
    steps = fold(analysis)
    log = read_run(run)
    followed = follow(log, analysis)
    timeline = Timeline(followed, steps)
    tell_run(log, followed)
    shots = read_shots(Path(frames), times=times, table=times_csv, zone=zone)
    check_pictures(shots.frames)
    shots = on_robot_time(shots, timeline, offset_s, max_offset_s, Path(frames))
    clock = clock_of(shots, timeline, offset_s, margin_s, max_offset_s)
    places = {shot.name: timeline.place(shot.time_s + clock.offset_s, clock.margin_s) for shot in shots.frames}
    tell(shots, clock, places)
    rows = check_rows(places, analysis, checks, words)
    if labels is not None:
        rows = with_labels(rows, Path(labels), shots)
    return write_pool(Path(out), analysis, log, shots, clock, followed, timeline, places, rows, words, checks)


def check_numbers(offset_s: float | None, margin_s: float | None, max_offset_s: float) -> None:
    """Refuse numbers that mean nothing. Raises InputError."""
    if offset_s is not None and not abs(offset_s) < 1e10:
        raise InputError(f"the offset {offset_s} is none", "--offset", "give seconds")
    if margin_s is not None and not 0 <= margin_s < 3600:
        raise InputError(f"the margin {margin_s} is none", "--margin", "give seconds, at least 0")
    if not 1 <= max_offset_s <= MAX_OFFSET_S:
        fix = f"give seconds from 1 to {MAX_OFFSET_S:g}, or state the offset with --offset"
        raise InputError(f"offsets up to {max_offset_s} s cannot be tried", "--max-offset", fix)


def check_pictures(shots: Sequence[Shot]) -> None:
    """Refuse frames that cannot be read. Raises InputError with the first and their number."""
    bad: list[tuple[Shot, PictureError]] = []
    for shot in track(shots, "reading frames", total=len(shots)):
        try:
            inspect_picture(shot.path)
        except PictureError as error:
            bad.append((shot, error))
    if bad:
        what = f"{len(bad)} of {len(shots)} frames cannot be used: {bad[0][1]}"
        raise InputError(what, bad[0][0].path, "take them out of the folder")


def on_robot_time(shots: Shots, timeline: Timeline, offset_s: float | None, reach: float, folder: Path) -> Shots:
    """The frames with times that can be compared with the run's; those that count from 0 start with the run.

    Raises InputError where no frame can be of this run.
    """
    start, end = float(timeline.starts[0]), float(timeline.ends[-1])
    if shots.relative:
        moved = tuple(replace(shot, time_s=shot.time_s + start) for shot in shots.frames)
        shots = replace(shots, frames=moved)
    first, last = shots.frames[0].time_s, shots.frames[-1].time_s
    add, slack = (0.0, reach) if offset_s is None else (offset_s, 0.0)
    if first + add <= end + slack and last + add >= start - slack:
        return shots
    apart = start - first
    hours = round(apart / 900) * 900
    when = f"{abs(apart):.0f} s {'before' if apart > 0 else 'after'} its start"
    what = f"no frame was taken during the run: the first is {when}"
    fix = "check that the frames are of this run"
    if shots.zone is not None and hours and abs(hours) <= 14 * 3600 and abs(apart - hours) < max(600.0, end - start):
        sign, minutes = "-" if hours > 0 else "+", abs(hours) // 60
        what += f"; the camera's zone was taken to be {shots.zone}"
        fix += (
            f"; a camera in the zone {sign}{minutes // 60:02d}:{minutes % 60:02d} would fit: then give it with --zone"
        )
    raise InputError(what, folder, f"{fix}, or state the difference with --offset")


def clock_of(shots: Shots, timeline: Timeline, offset_s: float | None, margin_s: float | None, reach: float) -> Clock:
    """The clocks' offset, stated or estimated."""
    if offset_s is not None:
        return stated(offset_s, margin_s, shots.step_s)
    times = np.array([shot.time_s for shot in shots.frames])
    changed = changes([shot.path for shot in shots.frames])
    clock = estimate(times, changed, timeline, reach_s=reach, step_s=shots.step_s)
    return clock if margin_s is None else replace(clock, margin_s=margin_s)


def tell_run(log: RunLog, followed: RunAlignment) -> None:
    """Say how far the run followed its analysis. Raises InputError where it left while things were only set up."""
    if followed.why is not None:
        if all(ran.command_type in SETUP for ran, _ in followed.commands):
            what = f"the run is not of this protocol: {followed.why}"
            raise InputError(what, log.name, "give the analysis of the protocol that was run")
        say(f"the run has left the analysis: {followed.why}; later frames have no checks")
    for note in followed.notes:
        say(note)


def tell(shots: Shots, clock: Clock, places: Mapping[str, Place]) -> None:
    """Say what was assumed and found."""
    if shots.relative:
        say(f"{len(shots.frames)} frames; their times count from the run's first command")
    elif shots.zone is not None:
        say(f"{len(shots.frames)} frames; times from {shots.source}, the camera's time zone: {shots.zone}")
    sign = "behind" if clock.offset_s >= 0 else "ahead of"
    if clock.score is None:
        say(f"clocks: the camera is {abs(clock.offset_s):g} s {sign} the robot (stated); margin {clock.margin_s:g} s")
    else:
        say(
            f"clocks: the camera is {abs(clock.offset_s):.2f} s {sign} the robot, +- {clock.uncertainty_s:.2f} s "
            f"(95%; {clock.score:.0%} of the changes explained); frames within {clock.margin_s:.2f} s of a command's "
            "start or end are ambiguous"
        )
    counts = Counter(place.phase for place in places.values())
    say("frames: " + ", ".join(f"{count} {phase}" for phase, count in counts.most_common()))


def check_rows(places: Mapping[str, Place], analysis: Analysis, which: Which, texts: Texts) -> list[CheckRow]:
    """What should be seen in each frame that is not ambiguous."""
    rows: list[CheckRow] = []
    for name, place in places.items():
        step = place.step
        if place.phase != "after" or step is None:
            continue
        said = step_text(step, analysis.commands[step.number], texts)
        wanted = [one for one in checks_of(step, texts) if one.phase == "post"] if which == "step" else []
        for one in wanted or state_checks(step.state, texts):
            rows.append(CheckRow(frame_id(name), said, "post", one.check, one.expected, "unknown"))
    return rows


def frame_id(name: str) -> str:
    """A frame's id in the pool."""
    return f"images/{name.rpartition('.')[0]}"


def with_labels(rows: Sequence[CheckRow], labels: Path, shots: Shots) -> list[CheckRow]:
    """The rows with the verdicts of a lab. Raises InputError for a label that belongs to no row."""
    index = FrameIndex([(frame_id(shot.name), shot.path.name) for shot in shots.frames])
    found, problems = read_checks_csv(labels, index, shown=str(labels))
    errors = [problem for problem in problems if problem.severity == ERROR]
    if errors:
        more = f" ({len(errors)} errors)" if len(errors) > 1 else ""
        raise InputError(f"{errors[0].text}{more}", errors[0].where, "write rows `frame,check,verdict`")
    given: dict[tuple[str, str], list[Check]] = {}
    for frame, checks in found.items():
        for check in checks:
            for text in words(check):
                given.setdefault((frame, text), []).append(check)
    used: set[int] = set()
    others: dict[int, str] = {}
    done = []
    for row in rows:
        same = {c.line: c for text in (row.check.en, row.check.zh) for c in given.get((row.frame, text), ())}
        differ = {line: difference(check, row) for line, check in same.items()}
        fitting = next((check for line, check in same.items() if differ[line] is None), None)
        others |= {line: what for line, what in differ.items() if what is not None}
        if fitting is not None:
            used.add(fitting.line)
            row = labelled(row, fitting)
        done.append(row)
    spare = [check for checks in found.values() for check in checks if check.line not in used]
    spare = sorted((check for check in spare if check.verdict != "unknown"), key=lambda check: check.line)
    other = next((check for check in spare if check.line in others), None)
    if other is not None:
        fix = "label what is expected in this pool, or leave the row out"
        raise InputError(f"the label is of another check: {others[other.line]}", f"{labels}:{other.line}", fix)
    if spare:
        what = f"{len(spare)} labels fit no check of the run, such as {shown(spare[0])!r}"
        fix = "copy frame and check from the pool's checks.csv; ambiguous frames have none"
        raise InputError(what, f"{labels}:{spare[0].line}", fix)
    return done


def difference(check: Check, row: CheckRow) -> str | None:
    """What a label says of its step, phase or expected state that the row does not, in words."""
    for name, said, own in (("step", check.step, row.step), ("expected", check.expected, row.expected)):
        for lang in LANGS:
            one, other = said.get(lang) if said else None, own.get(lang)
            if one and one != other:
                return f"its `{name}` is {one[:80]!r}, the run's {other[:80]!r}"
    phase = check.phase.en if check.phase else None
    if phase and phase != row.phase:
        return f"its `phase` is {phase[:80]!r}, the run's {row.phase!r}"
    return None


def words(check: Check) -> list[str]:
    """A check's text in each language that it has."""
    return [text for text in (check.check.en, check.check.zh) if text]


def shown(check: Check) -> str:
    return words(check)[0][:80]


def labelled(row: CheckRow, check: Check) -> CheckRow:
    """A row with a lab's verdict, kinds of anomaly, regions and caption."""
    both = [";".join(check.anomaly), ";".join(check.anomaly_zh or check.anomaly)]
    anomaly = Text(en=both[0], zh=both[1]) if all(both) else None
    caption = None
    if check.caption is not None:
        one = check.caption.en or check.caption.zh or ""
        caption = Text(en=check.caption.en or one, zh=check.caption.zh or one)
    return replace(row, verdict=check.verdict, anomaly=anomaly, regions=check.regions, caption=caption)


def write_pool(
    out: Path, analysis: Analysis, log: RunLog, shots: Shots, clock: Clock, followed: RunAlignment, timeline: Timeline,
    places: Mapping[str, Place], rows: Sequence[CheckRow], texts: Texts, checks: Which,
) -> Manifest:  # fmt: skip
    """The pool as one artifact: pictures, dataset.yaml, frames.csv, checks.csv, run.csv, and the run log."""
    inputs = {"protocol": analysis.sha256, "run": hash_json(list(log.raw))}
    params: dict[str, Any] = {"clock": clock.as_dict(), "zone": shots.zone, "times": shots.source, "checks": checks}
    params["left_at"] = followed.why
    start = float(timeline.starts[0])
    frames, marks = [], []
    for shot in shots.frames:
        place, robot = places[shot.name], shot.time_s + clock.offset_s - start
        step, said = place.step, ""
        if step is not None:
            said = step_text(step, analysis.commands[step.number], texts).en
        frames.append((frame_id(shot.name), log.name, f"{robot:.3f}", said))
        of = ("", "", "") if step is None else (str(step.number), step.key, step.command_type)
        marks.append((frame_id(shot.name), f"{shot.time_s:.3f}", f"{robot:.3f}", *of, place.phase, place.why))
    with artifact.writing(out, "pool", inputs=inputs, params=params) as draft:
        for shot in track(shots.frames, "copying frames", total=len(shots.frames)):
            copy(shot, draft.path / "images" / shot.name)
        names = {"names": dict(enumerate(CLASSES)), "names_zh": dict(enumerate(CLASSES_ZH))}
        data = {"train": "images", **names}
        put(draft.path / "dataset.yaml", yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
        put(draft.path / "frames.csv", csv_text(("frame", "group", "time_s", "step"), frames))
        put(draft.path / "checks.csv", csv_text(CHECK_COLUMNS, (row.cells() for row in rows)))
        put(draft.path / "run.csv", csv_text(COLUMNS, marks))
        put(draft.path / "run.json", json.dumps({"data": list(log.raw)}, indent=1, ensure_ascii=False) + "\n")
    return artifact.read(out, "pool")


def put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def copy(shot: Shot, place: Path) -> None:
    """Copy a frame's bytes."""
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(shot.path, place)
