"""`build`: a task and a pool become a dataset folder."""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench import artifact
from deckbench.bankquality import MAX_LEAK, check_leak
from deckbench.build import boxes, checks, crops, scenes
from deckbench.build.export import write_exports
from deckbench.build.pictures import (
    ANOMALY_COLOUR,
    NORMAL_COLOUR,
    PLAIN_COLOUR,
    Job,
    Picture,
    copy_suffix,
    crop_rect,
    drawn_rect,
    line_width,
    making,
)
from deckbench.build.plan import Context, Unit, View, ViewQuestion, round_robin, trim
from deckbench.build.rows import COLUMNS, SPLITS, Row, Writer, languages, shuffled, write_tables
from deckbench.cores import usable_cores
from deckbench.csvfile import csv_text
from deckbench.errors import InputError
from deckbench.gold import write_gold
from deckbench.language import LANGS, Lang
from deckbench.ontology import CropSpec, map_classes
from deckbench.progress import say, track
from deckbench.questions import ClassQuestion
from deckbench.task import Task, load_task
from deckbench.yolo.frame import Pool

if TYPE_CHECKING:
    from deckbench.split import Split

PLANNERS: dict[str, Callable[[Context, str], list[Unit]]] = {
    "crop": crops.plan,
    "box": boxes.plan,
    "frame": scenes.plan,
}
LEFT_OUT = "left_out.csv"


def build_dataset(
    task: str,
    *,
    pool: Path,
    out: Path,
    ontology: Path | str | None = None,
    qa: Path | None = None,
    lang: str = "en",
    split: str = "group",
    seed: int = 0,
    workers: int | None = None,
    skip_bad: bool = False,
    options: Mapping[str, Any] | None = None,
    max_train: int | None = None,
    max_val: int | None = None,
    max_test: int | None = None,
    export: Sequence[str] = (),
    max_leak: float = MAX_LEAK,
) -> artifact.Manifest:
    """Make a dataset from a task and a pool.

    Args:
        task: `name@version`, or a task folder.
        pool: The pool's folder or its yaml.
        out: The dataset's folder; must not exist yet.
        ontology: A lab's own ontology, by file or name.
        qa: A lab's own question banks, or what `annotate` wrote.
        lang: `en`, `zh` or `both`.
        split: `group`, `pool`, `blocks=K,gap=G`, `test-only`, or what `deckbench pool split` wrote.
        seed: Random seed.
        workers: Processes; default: all cores. The content does not depend on it.
        skip_bad: Leave out broken frames and list them.
        options: Task options (`deckbench.task.Options`).
        max_train: Most samples of the train split in one language.
        max_val: Of the val split.
        max_test: Of the test split.
        export: Formats of other tools (`deckbench.build.export`).
        max_leak: Fraction of the open questions of `qa` that may be answerable without the picture
            (`deckbench.bankquality`).

    Returns:
        The manifest of the dataset.

    Raises:
        InputError: Something given is wrong; nothing is written.
        OutsideError: The disk or a worker process fails.
    """
    from deckbench.split import read_or_split
    from deckbench.yolo.read import read_pool

    started = time.monotonic()
    if not languages(lang):
        raise InputError(f"the language {lang!r} is not known", "--lang", "one of en, zh, both")
    if workers is not None and workers < 1:
        raise InputError(f"{workers} workers cannot work", "--workers", "give a number from 1")
    limits = {"max_train": max_train, "max_val": max_val, "max_test": max_test}
    chosen = {**dict(options or {}), **{key: value for key, value in limits.items() if value is not None}}
    definition = load_task(task, ontology=ontology, qa=qa, options=chosen)
    _check_languages(definition, languages(lang))
    if qa is not None:
        check_leak(definition.bank, definition.ontology, max_leak, Path(qa))
    artifact.check_free(Path(out))
    frames = read_pool(Path(pool), skip_bad=skip_bad, workers=workers)
    used = [box.cls for frame in frames.frames for box in frame.boxes]
    classes = map_classes(frames.names, used, definition.ontology, pool) if definition.bank.asks_labels else None
    parts, split_params = read_or_split(frames, split, seed)
    ctx = _context(definition, frames, classes, parts, seed, languages(lang))
    planned = {part: _plan(ctx, part, languages(lang)) for part in SPLITS}
    if not any(planned.values()):
        _refuse_empty(ctx, definition, pool)

    inputs = {"pool": frames.content_hash, "task": definition.content_hash}
    params = {
        "task": definition.ref,
        "stage": definition.stage,
        "lang": lang,
        **split_params,
        "synthetic": frames.synthetic,
        **({"credit": frames.credit.model_dump(mode="json", exclude_none=True)} if frames.credit else {}),
        "ontology": definition.ontology.name,
        "options": definition.options.plain(),
        **({"export": list(export)} if export else {}),
        **({"max_leak": max_leak} if max_leak != MAX_LEAK else {}),
    }
    with artifact.writing(Path(out), "dataset", inputs=inputs, params=params, seed=seed) as draft:
        images = draft.path / "images"
        images.mkdir()
        pictures = {part: _pictures(ctx, units, part) for part, units in planned.items()}
        jobs = _jobs(ctx, [each for found in pictures.values() for each in found.items()])
        total = sum(len(job[1]) for job in jobs)
        many = min(workers or usable_cores(), max(1, len(jobs)))
        with making(jobs, images, many) as made:  # the tables are written while others draw
            writer = Writer(ctx, lang)
            rows: list[Row] = []
            for part, units in planned.items():
                rows += writer.rows(units, part, pictures[part])
            rows = shuffled(rows, seed)
            _check_ids(rows)
            write_tables(draft.path, rows)
            write_gold(draft.path, {definition.ref: definition.definition()}, _labels(ctx, planned.values()))
            write_exports(draft.path, rows, export)
            _write_left_out(draft.path / LEFT_OUT, ctx, frames)
            for _ in track(_each(made), f"{definition.ref}: images", total):
                pass
        draft.params["counts"] = _counts(rows)
        draft.params["left_out"] = {"samples": sum(ctx.left.counts.values()), "frames": len(frames.left_out)}
        draft.observed |= {"wall_s": round(time.monotonic() - started, 3), "workers": many, "pictures": total}
        draft.observed |= {"pool_notices": frames.notice_counts}
    _tell(definition, rows, ctx)
    return artifact.read(Path(out), "dataset")


def _check_languages(task: Task, langs: Sequence[Lang]) -> None:
    """Refuse a bank with a question that has no text in one of the languages."""
    for question in task.bank.questions:
        if isinstance(question, ClassQuestion) and question.only is not None and set(langs) - {question.only}:
            lang = next(lang for lang in langs if lang != question.only)
            fix = f"write it, or build with --lang {question.only}"
            raise InputError(f"the question has no text in {lang}", question.where, fix)


def _context(
    task: Task, pool: Pool, classes: Mapping[int, str] | None, parts: Split, seed: int, langs: Sequence[Lang]
) -> Context:
    """classes: class id of the pool -> class of the ontology; None for a task that asks nothing about labels."""
    ctx = Context(
        task=task,
        frames=pool.frames,
        classes=[[] if classes is None else [classes[box.cls] for box in frame.boxes] for frame in pool.frames],
        split=[parts.parts.get(frame.id) for frame in pool.frames],
        groups=[parts.groups.get(frame.id, frame.id) for frame in pool.frames],
        synthetic=pool.synthetic,
        seed=seed,
        langs=langs,
    )
    for frame, part in zip(ctx.frames, ctx.split, strict=True):
        if part is None:
            ctx.left.add("in a gap between blocks", "", "frame", frame.id)
            for check in frame.checks if task.bank.asks_checks else ():
                ctx.left.add_check("in a gap between blocks", "", check, frame.id)
    return ctx


def _plan(ctx: Context, split: str, langs: Sequence[Lang]) -> list[Unit]:
    units = PLANNERS[ctx.task.spec.picture](ctx, split) if ctx.task.bank.asks_labels else []
    if ctx.task.bank.asks_checks:
        units = round_robin({"labels": units, "checks": checks.plan(ctx, split, langs)})
    return trim(units, split, ctx.task.options.most(split), ctx.left, ctx.frames)


def _refuse_empty(ctx: Context, task: Task, pool: Path) -> None:
    counts: Counter[str] = Counter()
    for reason, _, _, count, _ in ctx.left.rows():
        counts[reason] += int(count)
    what = f"the pool gives no sample for {task.ref}"
    fix = "give a pool with labels of both answers, or another task or ontology"
    if counts:
        listed = [f"{reason} ({count})" for reason, count in counts.most_common()]
        what += f" ({'; '.join(listed[:4])}{f'; and {len(listed) - 4} more' if len(listed) > 4 else ''})"
        most = counts.most_common(1)[0][0]
        if most == checks.UNKNOWN:
            fix = "write verdicts into its checks.csv, or give them to `pool from-run --labels`"
        elif checks.NO_TEXT in most:
            every = [check for frame in ctx.frames for check in frame.checks]
            langs = [lang for lang in LANGS if any(checks.why_not(check, (lang,)) is None for check in every)]
            fix = f"write those texts{f', or build with --lang {langs[0]}' if langs else ''}"
    if task.bank.asks_checks and not any(frame.checks for frame in ctx.frames):
        what += "; it has no checks"
        fix = "write its checks.csv (docs/pools.md)"
    raise InputError(what, pool, fix)


def slug(frame_id: str) -> str:
    """A flat, safe and unique file stem for a frame: what is readable of its name, and a hash of all of it."""
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", frame_id.rpartition("/")[2]).strip("-")[:32]
    digest = hashlib.sha256(frame_id.encode()).hexdigest()[:10]
    return f"{readable}-{digest}" if readable else digest


def _pictures(ctx: Context, units: list[Unit], split: str) -> dict[View, Picture]:
    """View -> picture, in the order in which the views are first asked about."""
    options = ctx.task.options
    found: dict[View, Picture] = {}
    stage = ctx.task.stage.lower()
    for unit in units:
        for asked in unit:
            view = asked.view
            if view in found:
                continue
            frame = ctx.frames[view.frame]
            stem = f"{stage}-{slug(frame.id)}" + (f"-{_short(view.key)}" if view.key else "")
            rng = ctx.rng("picture", frame.id, view.key)
            if view.box is None:
                suffix = copy_suffix(frame.path) or ".jpg"
                found[view] = Picture(f"{stem}{suffix}", frame.width, frame.height)
            elif ctx.task.spec.picture == "crop":
                # A decoy is cropped as its twin is.
                cls = view.cls or (unit[0].view.cls if unit[0].view.cls else None)
                spec = CropSpec() if asked.check is not None else ctx.ontology.classes[str(cls)].crop
                rect = crop_rect(view.box, frame.width, frame.height, spec.margin, spec.min_size, rng)
                training = split == "train"
                found[view] = Picture(
                    f"{stem}.jpg",
                    rect[2] - rect[0],
                    rect[3] - rect[1],
                    crop=rect,
                    turn=rng.uniform(-1, 1) * options.rotate_degrees if training else 0.0,
                    speckle=rng.uniform(0, 1) * options.speckle if training else 0.0,
                    seed=rng.getrandbits(32),
                )
            else:
                colour = PLAIN_COLOUR
                if options.box_style == "source-lab":
                    colour = ANOMALY_COLOUR if _wrong(ctx, asked) else NORMAL_COLOUR
                found[view] = Picture(
                    f"{stem}.jpg",
                    frame.width,
                    frame.height,
                    box=drawn_rect(view.box, frame.width, frame.height, options.box_margin, rng),
                    colour=colour,
                    line=line_width(frame.width, options.box_width),
                )
    return found


def _wrong(ctx: Context, asked: ViewQuestion) -> bool:
    """Whether the asked object, or region, is an anomaly."""
    view = asked.view
    if asked.check is not None:
        return asked.check.verdict == "anomaly"
    return view.cls is not None and ctx.verdict(view.frame, view.cls) == "anomaly"


def _short(key: str) -> str:
    """A view's key as part of a file name."""
    return key if re.fullmatch(r"[a-z][0-9]+", key) else "d" + hashlib.sha256(key.encode()).hexdigest()[:6]


def _jobs(ctx: Context, pictures: Iterable[tuple[View, Picture]]) -> list[Job]:
    by_frame: dict[int, list[Picture]] = {}
    for view, picture in pictures:
        by_frame.setdefault(view.frame, []).append(picture)
    return [(str(ctx.frames[index].path), tuple(by_frame[index])) for index in sorted(by_frame)]


def _each(made: Iterable[int]) -> Iterator[int]:
    for count in made:
        yield from range(count)


def _labels(ctx: Context, planned: Iterable[list[Unit]]) -> Iterator[dict[str, Any]]:
    """The labels of every frame that is asked about, in pool order, as lines of `labels.jsonl` (deckbench.gold)."""
    used = {asked.view.frame for units in planned for unit in units for asked in unit}
    for index in sorted(used):
        frame = ctx.frames[index]
        # A task that asks nothing about labels knows no classes.
        boxes = [
            {"class": cls, "box": [box.x0, box.y0, box.x1, box.y1]}
            for box, cls in zip(frame.boxes, ctx.classes[index], strict=False)
        ]
        table = [{**asdict(check), "line": 0} for check in frame.checks]
        yield {
            "task": ctx.task.ref,
            "frame": frame.id,
            "width": frame.width,
            "height": frame.height,
            "step": frame.step,
            "anomalies": None if frame.anomalies is None else list(frame.anomalies),
            "boxes": boxes,
            **({"checks": table} if table else {}),
        }


def _check_ids(rows: list[Row]) -> None:
    again = [key for key, count in Counter(row[0] for row in rows).items() if count > 1]
    assert not again, f"sample ids occur twice: {again[:3]}"


def _counts(rows: list[Row]) -> dict[str, dict[str, int]]:
    """Split -> question type -> samples."""
    split, about = COLUMNS.index("split"), COLUMNS.index("question_type")
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        counts = found.setdefault(row[split], {})
        counts[row[about]] = counts.get(row[about], 0) + 1
    return {part: dict(sorted(found[part].items())) for part in sorted(found)}


def _write_left_out(path: Path, ctx: Context, pool: Pool) -> None:
    """What could not be given: samples by reason with counts and examples, and the pool's frames that were skipped."""
    skipped = [[f"{p.kind}: {p.text}", "", "pool", "1", p.frame or p.where] for p in pool.left_out]
    text = csv_text(("reason", "split", "what", "count", "examples"), [*ctx.left.rows(), *skipped])
    path.write_text(text, encoding="utf-8", newline="\n")


def _tell(task: Task, rows: list[Row], ctx: Context) -> None:
    place = COLUMNS.index("split")
    counts = Counter(row[place] for row in rows)
    parts = ", ".join(f"{counts[part]} {part}" for part in SPLITS if counts[part])
    left = sum(ctx.left.counts.values())
    say(f"{task.ref}: {parts}" + (f"; left out {left} (see {LEFT_OUT})" if left else ""))
    if undecided := _undecided(rows):
        say(
            f"{task.ref}: {undecided} choices have image and question in common with one of the other answer: "
            "nothing in them tells which is right"
        )


def _undecided(rows: Iterable[Row]) -> int:
    """How many choices ask the same of the same image as another one whose answer differs."""
    at = {name: COLUMNS.index(name) for name in ("kind", "image", "question", "option_a", "option_b", "gold")}
    answers: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row[at["kind"]] == "choice":
            options = {"A": row[at["option_a"]], "B": row[at["option_b"]]}
            key = (row[at["image"]], row[at["question"]], *sorted(options.values()))
            answers[key][options[row[at["gold"]]]] += 1
    return sum(counts.total() for counts in answers.values() if len(counts) > 1)
