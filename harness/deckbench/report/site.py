"""The site: static HTML made from records alone. No network, no server; it opens from a folder.

Everything that came from a model or a file is text: the templates escape all of it, and `visible` also shows control
and direction-changing characters instead of obeying them. The pages carry a content security policy that allows nothing
but the site's own style sheet, script and pictures.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from deckbench import __version__, artifact
from deckbench.cores import processes, usable_cores
from deckbench.errors import InputError
from deckbench.progress import format_bytes
from deckbench.record.metrics_schema import Block, Metrics
from deckbench.record.read import Run, read_record, record_folders
from deckbench.record.recompute import contents_of, differences, record_differences
from deckbench.record.schema import SAMPLES
from deckbench.report import board as boards
from deckbench.report import charts, gates
from deckbench.report.board import KIND_WORDS, Board
from deckbench.report.breakdown import breakdowns, credits_of
from deckbench.report.locations import locations
from deckbench.report.words import METRIC_WORDS, TABLE_METRICS, TABLES

HERE = Path(__file__).parent
KIND = "site"
FEW, CHUNK = 24, 4  # records: fewer are quicker in one process; how many a worker takes at a time
MAX_EXAMPLES = 40
MAX_RIGHT = 12
MAX_TEXT = 1200  # characters of a question or an answer shown on a page; all of it is in the record


@dataclass(frozen=True)
class Example:
    """One answer on a run's page. picture: file name below `pictures/`, or None. twins: of the question's two orders,
    how many were answered wrongly, or None when there is only one."""

    row: Mapping[str, str]
    right: bool
    picture: str | None
    twins: int | None


HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad]|[^\x00-\u024f\u3000-\u9fff]")


def visible(text: object) -> Markup:
    """Escaped text with control, zero-width and direction characters shown as `U+202E`, so that none is obeyed."""
    shown = str(text)
    more = len(shown) - MAX_TEXT
    safe = HIDDEN.sub(name_hidden, str(escape(shown[:MAX_TEXT])))
    return Markup(safe + f'<span class="ctl">… {more} more characters</span>' if more > 0 else safe)


def name_hidden(found: re.Match[str]) -> str:
    """A character by its number when it has no picture of its own, else itself."""
    character = found.group()
    if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}:
        return f'<span class="ctl">U+{ord(character):04X}</span>'
    return character


def number(value: float | str | None, digits: int = 2) -> str:
    """A rate for people, from a number or a cell; an en dash when there is none."""
    return "–" if value is None or value == "" else f"{float(value):.{digits}f}"


def size(value: float | None) -> str:
    """Bytes for people; an en dash when there are none."""
    return "–" if value is None else format_bytes(value)


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Jinja with escaping always on and undefined names refused."""
    env = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "visible": visible,
        "number": number,
        "seconds": charts.seconds,
        "size": size,
        "short": lambda text: str(text).removeprefix("sha256:")[:12],
    }
    env.globals |= {
        "version": __version__,
        "metric_words": METRIC_WORDS,
        "kind_words": KIND_WORDS,
        "whisker": charts.whisker,
    }
    return env


def pick_examples(samples: Sequence[Mapping[str, str]], pictures: dict[str, str]) -> list[Example]:
    """At most MAX_EXAMPLES answers: wrong ones first, in turn from each class, pictures preferred, twins shown once."""
    pairs: dict[str, list[bool]] = {}
    for row in samples:
        if row["pair_id"]:
            pairs.setdefault(row["pair_id"], []).append(row["right"] == "true")
    chosen: list[Example] = []
    for right in (False, True):
        room = min(MAX_RIGHT, MAX_EXAMPLES - len(chosen)) if right else MAX_EXAMPLES
        turns: Counter[tuple[bool, str, str]] = Counter()
        seen = {example.row["pair_id"] for example in chosen}
        queue = []
        for row in sorted(samples, key=lambda row: (row["thumbnail"] == "", row["id"])):
            if (row["right"] == "true") is not right or (row["pair_id"] and row["pair_id"] in seen):
                continue
            seen.add(row["pair_id"])
            part = (row["thumbnail"] == "", row["kind"], row["class"])
            queue.append((part[0], turns[part], part, row["id"], row))
            turns[part] += 1
        for *_, row in sorted(queue, key=lambda entry: entry[:4])[:room]:
            twins = pairs.get(row["pair_id"], [])
            wrong = twins.count(False) if len(twins) == 2 else None
            chosen.append(Example(row, right, pictures.get(row["thumbnail"]), wrong))
    return chosen


def copy_pictures(run: Run, site: Path) -> dict[str, str]:
    """Thumbnails into `pictures/`, named by content so that runs share them: path in the record -> file name."""
    names = {}
    for picture in run.pictures:
        data = (run.folder / picture).read_bytes()
        name = f"{hashlib.sha256(data).hexdigest()[:20]}.jpg"
        place = site / "pictures" / name
        if not place.exists():
            artifact.atomic_write(place, data, flush=False)  # another process may write the same picture
        names[picture] = name
    return names


def run_page(run: Run, samples: Sequence[Mapping[str, str]], site: Path) -> dict[str, Any]:
    """What run.html needs."""
    pictures = copy_pictures(run, site)
    if samples:
        shutil.copyfile(run.folder / SAMPLES, site / "runs" / f"{run.name}.samples.csv.gz")
    metrics = run.record.metrics
    blocks = {} if metrics is None else metrics.kinds
    order = sorted(blocks, key=lambda kind: (metrics is None or kind != metrics.primary, kind))
    pool = run.record.pool
    return {
        "run": run,
        "record": run.record,
        "heading": pool.heading,
        "label": boards.label_of(run),
        "differences": differences(run),
        "notes": () if metrics is None else metrics.notes,
        "machine": boards.machine_name(run),
        "blocks": [(kind, blocks[kind], pictures_of(blocks[kind]), tables_of(blocks[kind])) for kind in order],
        "calibration_pictures": calibration_pictures(metrics),
        "examples": pick_examples(samples, pictures),
        "wrong": sum(row["right"] != "true" for row in samples),
        "total": len(samples),
        "anchor": anchor(pool.heading, pool.synthetic),
    }


def tables_of(block: Block) -> list[dict[str, Any]]:
    """The tables of one kind of answer by class, anomaly, ...: those that part it at all."""
    found = []
    for name, words in TABLES:
        slices = getattr(block, name)
        main = name == "by_anomaly"
        if len(slices) > 1 or (slices and main):
            keys = [key for key in TABLE_METRICS if any(key in part.metrics for part in slices.values())]
            found.append({"words": words, "open": main, "slices": slices, "keys": keys})
    return found


def pictures_of(block: Block) -> list[tuple[str, Markup]]:
    """The small charts of one kind of answer, with their captions."""
    found = []
    if block.roc:
        words = "Every threshold on P(anomaly). The dot is the one that keeps false stops at or below 5%."
        found.append((words, charts.roc_chart(block.roc, block.metrics.get("auroc"), block.operating_point)))
    if block.reliability:
        words = "Points on the diagonal: what the model states is how often it is true."
        found.append((words, charts.reliability_chart(block.reliability)))
    return found


def calibration_pictures(metrics: Metrics | None) -> list[tuple[str, Markup]]:
    """The reliability of the choices before and after their calibration."""
    block = None if metrics is None else metrics.calibration
    if block is None:
        return []
    sides = (("Before calibration.", block.before), ("After: temperatures from val.", block.after))
    return [(words, charts.reliability_chart(side.reliability)) for words, side in sides]


def anchor(name: str, synthetic: bool) -> str:
    """The id of a board on the front page."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"board-{'synthetic' if synthetic else 'real'}-{plain}-{artifact.hash_json(name)[:4]}"


def board_charts(board: Board) -> list[dict[str, Any]]:
    """The two pictures of every task of a board, for the kind of answer the board shows first."""
    found = []
    for task in board.tasks:
        kinds = [c.kind for c in board.columns if c.task == task]
        kind = "choice" if "choice" in kinds else kinds[0]
        points = boards.points_of(board, task, kind)
        chance = None if kind == "open" else boards.CHANCE
        trained = len({p.curriculum for p in points if p.curriculum is not None}) > 1
        timed = any(p.seconds for p in points)
        found.append(
            {
                "task": task,
                "kind": kind,
                "stages": charts.stage_chart(points, f"{task}: accuracy by stage", chance) if trained else None,
                "times": charts.latency_chart(points, f"{task}: accuracy against time", chance) if timed else None,
            }
        )
    return found


def front_page(all_boards: Sequence[Board], runs: Sequence[Run], held: Sequence[gates.Gate]) -> dict[str, Any]:
    """What index.html needs."""
    return {
        "boards": [
            {
                "board": board,
                "anchor": anchor(board.name, board.synthetic),
                "charts": board_charts(board),
                "credits": credits_of(board),
                "locations": (lost := locations(board)),
                "breakdowns": [*([lost.table] if lost else []), *([] if board.synthetic else breakdowns(board))],
                "left_out": len({row.model for row in board.rows if row.ranked} - set(boards.models_of(board))),
                "legend": [(name, min(i, charts.COLOURS - 1)) for i, name in enumerate(boards.models_of(board))],
            }
            for board in all_boards
        ],
        "deck": charts.deck(),
        "runs": runs,
        "gates": held,
        "any_synthetic": any(board.synthetic for board in all_boards),
        "any_real": any(not board.synthetic for board in all_boards),
        "answers": sum(run.record.metrics.n for run in runs if run.record.metrics),
    }


def load(job: tuple[Path, Path]) -> Run | InputError:
    """Read a record, check it against itself and write its page below the site: (record, site) -> run, or why not."""
    folder, site = job
    try:
        run = read_record(folder)
        samples = check_run(run)
    except InputError as error:
        return error
    except OSError as error:
        return InputError(f"cannot be read ({error.strerror})", folder, "check its permissions")
    text = environment().get_template("run.html").render(root="../", **run_page(run, samples, site))
    (site / "runs" / f"{run.name}.html").write_text(text, encoding="utf-8")
    return run


def check_run(run: Run) -> Sequence[Mapping[str, str]]:
    """Keep with a run what `differences` finds; its samples, none where they are what is wrong."""
    try:
        contents = contents_of(run)
    except InputError as error:
        run.keep((error.message().splitlines()[0],))
        return ()
    run.keep(record_differences(run.record, contents))
    return contents.rows


@contextlib.contextmanager
def spread(count: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """`map` in order over `count` things: in worker processes where there are many."""
    cores = usable_cores()
    if count < FEW or cores < 2:
        yield map
        return
    with processes(cores) as pool:
        yield lambda work, items: pool.map(work, items, chunksize=CHUNK)


def prepare(site: Path) -> None:
    """The folders of a site, and what every site has."""
    for name in ("static", "runs", "pictures"):
        (site / name).mkdir()
    for source in sorted((HERE / "static").iterdir()):
        shutil.copyfile(source, site / "static" / source.name)


def check_place(records: Path, out: Path) -> None:
    """Raises InputError when something else than an older site, which is replaced, stands at `out`."""
    artifact.check_name(out)
    if out.resolve() == records.resolve() or records.resolve().is_relative_to(out.resolve()):
        raise InputError("the site would take the place of the records", out, "choose another --out")
    if out.resolve().is_relative_to(records.resolve()):
        raise InputError("the site would stand among the records and be read as one", out, "choose another --out")
    if (out / artifact.MANIFEST).is_file():
        artifact.read(out, KIND)
    else:
        artifact.check_free(out)


def report(records: Path, *, out: Path, check: bool = False) -> dict[str, Any]:
    """Write the site of all records below `records` to `out`; an older site is replaced once the new one is ready.

    A record that cannot be read is listed, on the page too, and the others are shown.

    Args:
        records: folder of records.
        out: the site's folder.
        check: the caller asks for the gates, so a folder of nothing but broken records is no error.

    Returns:
        {"site", "page", "records", "boards", "broken": [messages], "gates": [{"name", "holds", "checked", "verdict",
        "reasons"}], "failed": [names]}. With `check` the caller answers "no" when `failed` is not empty.

    Raises:
        InputError: the folder holds no record, none of them can be read, or something else is at `out`.
    """
    records, out = Path(records), Path(out)
    check_place(records, out)
    folders = record_folders(records)
    hashes: dict[str, str] = {}
    runs: list[Run] = []
    try:
        with (
            artifact.writing(out, KIND, inputs=hashes, replace=True) as draft,
            spread(len(folders)) as each,
        ):
            prepare(draft.path)
            loaded = list(each(load, [(folder, draft.path) for folder in folders]))
            runs += [run for run in loaded if isinstance(run, Run)]
            broken = [error for error in loaded if isinstance(error, InputError)]
            held = gates.check(runs, broken)
            if not runs:
                raise broken[0]
            hashes |= {run.name: run.hash for run in runs}
            page = front_page(boards.boards_of(runs), runs, held)
            text = environment().get_template("index.html").render(root="", **page)
            (draft.path / "index.html").write_text(text, encoding="utf-8")
    except InputError:
        if runs or not check:
            raise
    return {
        "site": str(out) if runs else None,
        "page": str(out / "index.html") if runs else None,
        "records": len(runs),
        "boards": len(boards.boards_of(runs)),
        "broken": [error.message() for error in broken],
        "gates": [
            {
                "name": gate.name,
                "holds": gate.holds,
                "checked": gate.checked,
                "verdict": gate.verdict,
                "reasons": list(gate.reasons),
            }
            for gate in held
        ],
        "failed": [gate.name for gate in held if not gate.holds],
    }
