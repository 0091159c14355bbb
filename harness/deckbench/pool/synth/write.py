"""The pool on disk: sessions rendered by several processes, streamed into one artifact."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from deckbench import artifact, progress
from deckbench.artifact import Manifest
from deckbench.cores import WorkerPool, prepare_worker, usable_cores
from deckbench.csvfile import csv_text
from deckbench.errors import InputError, OutsideError
from deckbench.pool.synth.anomalies import WEIGHTS
from deckbench.pool.synth.protocol_run import Moment, moments_of, run_session, session_moments
from deckbench.pool.synth.scene import CLASSES, CLASSES_ZH
from deckbench.pool.synth.session import make_session
from deckbench.pool.synth.staging import check_drawable
from deckbench.pool.tables import CHECK_COLUMNS
from deckbench.protocol import Analysis, analysis_of, fold
from deckbench.resources import data_folder

FRAME_COLUMNS = ("frame", "group", "time_s", "step", "anomalies")
MIN_SIZE, MAX_SIDE = (160, 90), 4096
JPEG = {"quality": 90, "subsampling": 1}
Emphasis = tuple[tuple[str, float], ...]
Job = tuple[str, int, int, int, tuple[int, int], bool, Emphasis]
RunJob = tuple[str, int, int, tuple[Moment, ...], int, tuple[int, int], bool]
SHIPPED = "protocols"  # below tasks/


def render_session(job: Job) -> tuple[list[tuple[str, ...]], str]:
    """Write one session's pictures and labels; returns its frames.csv rows and scenes.jsonl lines."""
    folder, seed, session, frames, size, shifted, emphasis = job
    rows: list[tuple[str, ...]] = []
    lines = []
    for made in make_session(seed, session, frames, size, shifted, emphasis):
        write_frame(Path(folder), made.name, made.picture, made.labels)
        rows.append(made.row)
        lines.append(json.dumps(made.scene, separators=(",", ":")) + "\n")
    return rows, "".join(lines)


def render_run(job: RunJob) -> tuple[list[tuple[str, ...]], str, list[tuple[str, ...]]]:
    """Write the pictures and labels of one run of a protocol; also returns its rows of checks.csv."""
    folder, seed, session, moments, frames, size, shifted = job
    rows, lines, checks = list[tuple[str, ...]](), list[str](), list[tuple[str, ...]]()
    for made in islice(run_session(seed, session, moments, size, shifted), frames):
        write_frame(Path(folder), made.name, made.picture, made.labels)
        rows.append(made.row)
        lines.append(json.dumps(made.scene, separators=(",", ":"), ensure_ascii=False) + "\n")
        checks += [check.cells() for check in made.checks]
    return rows, "".join(lines), checks


def write_frame(folder: Path, name: str, picture: Image.Image, labels: str) -> None:
    """A frame's picture and labels."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", **JPEG)
    (folder / f"{name}.jpg").write_bytes(buffer.getvalue())
    (folder / "labels" / f"{Path(name).name}.txt").write_text(labels, encoding="utf-8", newline="\n")


def run_jobs(work: Callable[[Any], Any], jobs: Sequence[Any], workers: int) -> Iterator[Any]:
    """Results in the order of the jobs, whatever the number of processes."""
    if workers == 1:
        yield from map(work, jobs)
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    # Not multiprocessing.Pool: it waits for ever for a process that was killed.
    with WorkerPool(workers, mp_context=context, initializer=prepare_worker) as pool:
        try:
            yield from pool.map(work, jobs)
        except BrokenProcessPool as error:
            fix = "rerun with fewer --workers"
            raise OutsideError("a worker process died (out of memory?)", None, fix) from error
        finally:
            pool.shutdown(cancel_futures=True)


def check_request(frames: int, size: tuple[int, int], seed: int, workers: int | None, per_session: int) -> None:
    """Refuse what cannot be rendered. Raises InputError."""
    if frames < 1:
        raise InputError(f"{frames} frames were asked for", "--frames", "give a number of at least 1")
    if len(size) != 2 or size[0] < MIN_SIZE[0] or size[1] < MIN_SIZE[1] or max(size) > MAX_SIDE:
        raise InputError(
            f"the size {'x'.join(map(str, size))} cannot be rendered",
            "--size",
            f"give WxH from {MIN_SIZE[0]}x{MIN_SIZE[1]} to {MAX_SIDE}x{MAX_SIDE}, for example 704x396",
        )
    if seed < 0:
        raise InputError(f"the seed {seed} is negative", "--seed", "give 0 or a positive number")
    if workers is not None and workers < 1:
        raise InputError(f"{workers} workers were asked for", "--workers", "give a number of at least 1")
    if per_session < 1:
        raise InputError(f"{per_session} frames per session were asked for", "frames_per_session", "give at least 1")


def check_emphasis(emphasis: Mapping[str, float]) -> dict[str, float]:
    """The factors in the order of their kinds. Raises InputError for an unknown kind, or a factor that is none."""
    for kind, factor in emphasis.items():
        if kind not in WEIGHTS:
            raise InputError(f"{kind!r} is no kind of anomaly", "--emphasis", f"known kinds: {', '.join(WEIGHTS)}")
        if not 0 <= factor < float("inf"):
            raise InputError(f"the factor {factor} of {kind} is none", "--emphasis", "give a number of at least 0")
    return dict(sorted(emphasis.items()))


def synth_pool(
    out: Path,
    *,
    frames: int,
    size: tuple[int, int] = (704, 396),
    seed: int = 0,
    shifted: bool = False,
    workers: int | None = None,
    frames_per_session: int = 8,
    emphasis: Mapping[str, float] | None = None,
    protocol: str | Path | None = None,
) -> Manifest:
    """Render a synthetic pool of labelled OT-2 frames.

    Args:
        out: The pool's folder; must not exist yet.
        frames: Number of frames.
        size: Width and height in pixels.
        seed: Random seed.
        shifted: Camera poses, lighting, labware and anomaly shapes outside the normal range.
        workers: Processes; default: all cores. The bytes do not depend on it.
        frames_per_session: Frames with one camera pose and one deck.
        emphasis: Kind of anomaly (those of `anomalies.WEIGHTS`) -> how many times as likely as usual.
        protocol: A protocol's analysis, or the name of one in tasks/protocols/: its runs are rendered instead, with
            deviations from what it expects, and checks.csv as truth.

    Returns:
        The manifest of the pool.

    Raises:
        InputError: Something given cannot be rendered; nothing is written.
        OutsideError: The disk or a worker process fails.
    """
    size = (int(size[0]), int(size[1])) if len(size) == 2 else size
    check_request(frames, size, seed, workers, frames_per_session)
    emphasis = check_emphasis(emphasis or {})
    analysis, moments = (None, ()) if protocol is None else story_of(protocol)
    if emphasis and analysis is not None:
        raise InputError("kinds of anomaly cannot be emphasised in a protocol's runs", "--emphasis", "leave it out")
    sessions = -(-frames // frames_per_session)
    workers = min(workers or usable_cores(), sessions)
    params: dict[str, Any] = {
        "frames": frames,
        "size": list(size),
        "shifted": shifted,
        "frames_per_session": frames_per_session,
    }
    if emphasis:
        params["emphasis"] = emphasis
    inputs: dict[str, Any] = {}
    if analysis is not None:
        inputs["protocol"] = analysis.sha256
        params["story"] = analysis.name
    start = time.monotonic()
    with artifact.writing(Path(out), "pool", inputs=inputs, params=params, seed=seed) as draft:
        for name in ("images", "labels"):
            (draft.path / name).mkdir()
        counts = [min(frames_per_session, frames - k * frames_per_session) for k in range(sessions)]
        place, header = str(draft.path), FRAME_COLUMNS[: 5 if analysis is None else 4]
        if analysis is not None:
            drawn = [session_moments(moments, seed, k, count) for k, count in enumerate(counts)]
            runs: list[RunJob] = [
                (place, seed, k, chosen, count, size, shifted)
                for k, (chosen, count) in enumerate(zip(drawn, counts, strict=True))
            ]
            made = run_jobs(render_run, runs, workers)
        else:
            more = tuple(emphasis.items())
            jobs: list[Job] = [(place, seed, k, count, size, shifted, more) for k, count in enumerate(counts)]
            made = run_jobs(render_session, jobs, workers)
        checks: list[tuple[str, ...]] = []
        with (
            (draft.path / "frames.csv").open("w", encoding="utf-8", newline="") as table,
            (draft.path / "scenes.jsonl").open("w", encoding="utf-8", newline="\n") as scenes,
        ):
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(header)
            for rows, lines, *more_checks in progress.track(made, "rendering sessions", sessions):
                writer.writerows(rows)
                scenes.write(lines)
                checks += more_checks[0] if more_checks else []
        if analysis is not None:
            put_checks(draft.path / "checks.csv", checks)
        (draft.path / "dataset.yaml").write_text(dataset_yaml(), encoding="utf-8", newline="\n")
        names = "".join(f"{name}\n" for name in CLASSES)
        (draft.path / "obj.names").write_text(names, encoding="utf-8", newline="\n")  # where datumaro looks for them
        wall = time.monotonic() - start
        draft.observed.update(wall_s=round(wall, 2), frames_per_s=round(frames / wall, 2), workers=workers)
    return artifact.read(Path(out), "pool")


def protocol_file(protocol: str | Path, folder: Path = Path()) -> Path:
    """The analysis that is meant: a file in `folder`, else the one of this name that ships with DeckBench."""
    shipped = data_folder("tasks") / SHIPPED / f"{protocol}.analysis.json"
    return shipped if shipped.is_file() and not (folder / protocol).exists() else folder / protocol


def story_of(protocol: str | Path) -> tuple[Analysis, tuple[Moment, ...]]:
    """A protocol's analysis and the moments of its run that can be rendered. Raises InputError."""
    place = protocol_file(protocol)
    analysis = analysis_of(place)
    steps = fold(analysis)
    moments = moments_of(analysis, steps)
    if not moments:
        raise InputError(
            "after no command of the protocol anything can be seen", place, "give one that moves something"
        )
    for moment in moments:
        check_drawable(moment.state)
    return analysis, moments


def put_checks(path: Path, rows: list[tuple[str, ...]]) -> None:
    """Write checks.csv."""
    path.write_text(csv_text(CHECK_COLUMNS, rows), encoding="utf-8", newline="\n")


def dataset_yaml() -> str:
    """dataset.yaml of a synthetic pool: classes in English and Chinese, no `path`, no parts of its own.

    Ultralytics asks for `train` and `val`; a split is by the groups of frames.csv.
    """
    content = {
        "train": "images",
        "val": "images",
        "synthetic": True,
        "names": dict(enumerate(CLASSES)),
        "names_zh": dict(enumerate(CLASSES_ZH)),
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
