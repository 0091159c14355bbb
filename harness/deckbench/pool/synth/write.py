"""The pool on disk: sessions rendered by several processes, streamed into one artifact."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import yaml

from deckbench import artifact, progress
from deckbench.artifact import Manifest
from deckbench.cores import prepare_worker, usable_cores
from deckbench.errors import InputError, OutsideError
from deckbench.pool.synth.anomalies import WEIGHTS
from deckbench.pool.synth.scene import CLASSES, CLASSES_ZH
from deckbench.pool.synth.session import make_session

MIN_SIZE, MAX_SIDE = (160, 90), 4096
JPEG = {"quality": 90, "subsampling": 1}
Emphasis = tuple[tuple[str, float], ...]
Job = tuple[str, int, int, int, tuple[int, int], bool, Emphasis]


def render_session(job: Job) -> tuple[list[tuple[str, ...]], str]:
    """Write one session's pictures and labels; returns its frames.csv rows and scenes.jsonl lines."""
    folder, seed, session, frames, size, shifted, emphasis = job
    rows: list[tuple[str, ...]] = []
    lines = []
    for made in make_session(seed, session, frames, size, shifted, emphasis):
        buffer = io.BytesIO()
        made.picture.save(buffer, "JPEG", **JPEG)
        (Path(folder) / f"{made.name}.jpg").write_bytes(buffer.getvalue())
        label = Path(folder) / "labels" / f"{Path(made.name).name}.txt"
        label.write_text(made.labels, encoding="utf-8", newline="\n")
        rows.append(made.row)
        lines.append(json.dumps(made.scene, separators=(",", ":")) + "\n")
    return rows, "".join(lines)


def run_jobs(jobs: list[Job], workers: int) -> Iterator[tuple[list[tuple[str, ...]], str]]:
    """Results in the order of the jobs, whatever the number of processes."""
    if workers == 1:
        yield from map(render_session, jobs)
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    # Not multiprocessing.Pool: it waits for ever for a process that was killed.
    with ProcessPoolExecutor(workers, mp_context=context, initializer=prepare_worker) as pool:
        try:
            yield from pool.map(render_session, jobs)
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

    Returns:
        The manifest of the pool.

    Raises:
        InputError: Something given cannot be rendered; nothing is written.
        OutsideError: The disk or a worker process fails.
    """
    size = (int(size[0]), int(size[1])) if len(size) == 2 else size
    check_request(frames, size, seed, workers, frames_per_session)
    emphasis = check_emphasis(emphasis or {})
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
    start = time.monotonic()
    with artifact.writing(Path(out), "pool", params=params, seed=seed) as draft:
        for name in ("images", "labels"):
            (draft.path / name).mkdir()
        jobs: list[Job] = []
        for session in range(sessions):
            count = min(frames_per_session, frames - session * frames_per_session)
            jobs.append((str(draft.path), seed, session, count, size, shifted, tuple(emphasis.items())))
        with (
            (draft.path / "frames.csv").open("w", encoding="utf-8", newline="") as table,
            (draft.path / "scenes.jsonl").open("w", encoding="utf-8", newline="\n") as scenes,
        ):
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(("frame", "group", "time_s", "step", "anomalies"))
            for rows, lines in progress.track(run_jobs(jobs, workers), "rendering sessions", sessions):
                writer.writerows(rows)
                scenes.write(lines)
        (draft.path / "dataset.yaml").write_text(dataset_yaml(), encoding="utf-8", newline="\n")
        names = "".join(f"{name}\n" for name in CLASSES)
        (draft.path / "obj.names").write_text(names, encoding="utf-8", newline="\n")  # where datumaro looks for them
        wall = time.monotonic() - start
        draft.observed.update(wall_s=round(wall, 2), frames_per_s=round(frames / wall, 2), workers=workers)
    return artifact.read(Path(out), "pool")


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
