"""Records arranged as boards: rows are model x curriculum, columns are test sets.

What may be compared stands together and nothing else does: synthetic and real pools are never on one board, a column
holds one test set (same task, kind of answer, condition and dataset hash), and a row one set of weights on one machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deckbench import artifact
from deckbench.grade import Kind
from deckbench.record.metrics_schema import Block, Estimate
from deckbench.record.read import Run
from deckbench.record.recompute import differences
from deckbench.record.schema import Latency
from deckbench.report.charts import COLOURS, Point, curriculum_order

CHANCE = 0.5  # a choice has two options, and both orders are in the test set; a verdict is anomaly or normal
LAST = 9
CHART_MODELS = 6


@dataclass(frozen=True)
class Shown:
    """A number a board can show. key: its name on the page; metric: its name in a score."""

    key: str
    metric: str
    words: str
    more_is_better: bool


SHOWN = (
    Shown("accuracy", "accuracy", "Accuracy", True),
    Shown("balanced", "balanced_accuracy", "Balanced accuracy", True),
    Shown("auroc", "auroc", "AUROC", True),
    Shown("miss", "miss_rate", "Miss rate", False),
    Shown("miss5", "miss_rate_at_5", "Miss rate at 5% false stops", False),
    Shown("stops", "false_stop_rate", "False-stop rate", False),
    Shown("order", "order_consistency", "Order consistency", True),
)
STAGE_ORDER = {"S1": 1, "S2": 2, "S3": 3, None: LAST}
KIND_ORDER = {"open": 1, "scene": 2, "choice": 3}
KIND_WORDS = {"choice": "A/B answer", "open": "open answer", "scene": "scene description"}


@dataclass(frozen=True)
class Column:
    """One test set of a board and one kind of answer."""

    task: str
    stage: str | None
    kind: Kind
    condition: str
    dataset: str
    shifted: bool

    @property
    def key(self) -> str:
        return artifact.hash_json([self.task, self.kind, self.condition, self.dataset])[:12]

    def order(self) -> tuple[int, str, int, bool, str, str]:
        stage = STAGE_ORDER.get(self.stage, LAST)
        return stage, self.task, KIND_ORDER[self.kind], self.shifted, self.condition, self.dataset

    @property
    def chance(self) -> float | None:
        return None if self.kind == "open" else CHANCE


@dataclass
class Cell:
    """The newest run of a row on a test set, and how many older ones there are."""

    run: Run
    block: Block
    older: int = 0
    near_best: bool = False
    answered: tuple[int, int] = (0, 0)

    @property
    def partial(self) -> bool:
        """Whether questions of this kind have no answer."""
        return self.answered[0] < self.answered[1]

    def estimate(self, metric: str) -> Estimate | None:
        """A metric when it has a value."""
        found = self.block.metrics.get(metric)
        return found if found is not None and found.value is not None else None


@dataclass
class Row:
    """One model after one curriculum on one machine. label: why it is not ranked, or empty."""

    model: str
    family: str
    curriculum: str | None
    machine: str
    baseline: bool
    label: str
    cells: dict[str, Cell]
    note: str = ""
    latency: Latency | None = None

    @property
    def ranked(self) -> bool:
        return not self.label

    @property
    def name(self) -> str:
        """Model, curriculum and note in one line."""
        return " ".join(part for part in (self.model, self.curriculum, self.note) if part)

    def order(self) -> tuple[bool, bool, str, tuple[int, str], str, str]:
        return not self.ranked, self.baseline, self.model, curriculum_order(self.curriculum), self.machine, self.note


@dataclass
class Board:
    """All rows and columns of one family of pools."""

    name: str
    synthetic: bool
    columns: list[Column]
    rows: list[Row]

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(column.task for column in self.columns))

    @property
    def conditions(self) -> list[str]:
        found = {(column.shifted, column.condition) for column in self.columns}
        return [name for _, name in sorted(found)]

    @property
    def kinds(self) -> list[Kind]:
        found = {column.kind for column in self.columns}
        return sorted(found, key=lambda kind: -KIND_ORDER[kind])

    @property
    def machines(self) -> list[str]:
        return sorted({row.machine for row in self.rows})

    @property
    def schedule(self) -> str:
        """Whether the times that are compared were measured in one schedule, in which the models took turns."""
        times = [row.latency.schedule for row in self.rows if row.latency and not row.latency.incomparable]
        if len(times) < 2:
            return ""
        if len(set(times)) == 1:
            return "All times were measured in one schedule, in which the models took turns."
        return "The times were not measured in one schedule: the machine may have changed in between."

    @property
    def first_kind(self) -> str:
        """The kind of answer shown at first."""
        return self.kinds[0] if self.kinds else "choice"

    @property
    def first_sort(self) -> str | None:
        """The column the board is sorted by at first: the last stage on frames like those of training.

        Of several, the one that most rows have, or the last of those.
        """
        shown = [column for column in self.columns if column.kind == self.first_kind]
        own = [column for column in shown if not column.shifted] or shown
        keys = [column.key for column in own if column.stage == own[-1].stage]
        counts = {key: sum(row.ranked and key in row.cells for row in self.rows) for key in keys}
        return max(reversed(keys), key=lambda key: counts[key], default=None)

    @property
    def best(self) -> tuple[Row, list[tuple[Column, Cell]]] | None:
        """The ranked model with the highest accuracy in the first column, and its cells on that task."""
        key = self.first_sort
        cells = [(row, row.cells[key]) for row in self.rows if row.ranked and not row.baseline and key in row.cells]
        found = [(e.value, row) for row, cell in cells if (e := cell.estimate("accuracy")) and e.value is not None]
        if key is None or not found:
            return None
        row = max(found, key=lambda entry: entry[0])[1]
        first = next(column for column in self.columns if column.key == key)
        same = [c for c in self.columns if (c.task, c.kind) == (first.task, first.kind) and c.key in row.cells]
        return row, [(column, row.cells[column.key]) for column in same]

    @property
    def shown(self) -> list[Shown]:
        """The numbers that at least one cell has."""
        have = {name for row in self.rows for cell in row.cells.values() for name in cell.block.metrics}
        return [item for item in SHOWN if item.metric in have]


RowKey = tuple[str, str, str | None, str, str]


def machine_name(run: Run) -> str:
    """What the model ran on: the first accelerator when it was used, else the processor."""
    hard = run.record.hardware
    if hard.device == "server":
        return hard.cpu
    if hard.device != "cpu" and hard.accelerators:
        return hard.accelerators[0].name
    return f"{hard.cpu}, {hard.threads} thread{'s' if hard.threads != 1 else ''}"


def label_of(run: Run) -> str:
    """Why a run is not ranked, or nothing."""
    labels = []
    if run.record.model.weights == "random":
        labels.append("random weights")
    if run.record.hardware.emulated:
        labels.append("emulated")
    if differences(run):
        labels.append("does not reproduce")
    if run.record.metrics is not None and not run.record.metrics.complete:
        labels.append("not all answered")
    return ", ".join(labels)


def row_key(run: Run) -> RowKey:
    """Runs of one row. A baseline is one row whatever it was fitted on; a model is one row per set of weights."""
    model = run.record.model
    identity = "" if model.kind == "baseline" else artifact.hash_json(model.identity)
    return model.name, identity, run.record.curriculum, machine_name(run), label_of(run)


def columns_of(run: Run) -> dict[Column, Block]:
    """The test sets a run answered, by kind of answer. Nothing for a record that holds only times."""
    record = run.record
    kinds = record.metrics.kinds if record.metrics else {}
    data = record.dataset.removeprefix("sha256:")
    return {
        Column(record.task, record.stage, k, record.pool.words, data, record.pool.part == "shifted"): block
        for k, block in kinds.items()
    }


def boards_of(runs: Iterable[Run]) -> list[Board]:
    """The boards: real pools first, then by name."""
    pools: dict[tuple[bool, str], list[Run]] = {}
    for run in runs:
        pool = run.record.pool
        pools.setdefault((pool.synthetic, pool.heading), []).append(run)
    return [board_of(name, synthetic, own) for (synthetic, name), own in sorted(pools.items())]


def board_of(name: str, synthetic: bool, runs: Sequence[Run]) -> Board:
    """One board."""
    groups: dict[RowKey, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.observed.written, run.name), reverse=True):
        groups.setdefault(row_key(run), []).append(run)
    alike = Counter((key[0], *key[2:]) for key in groups)
    columns: set[Column] = set()
    rows = []
    for key, own in groups.items():
        cells: dict[str, Cell] = {}
        for run in own:
            for column, block in columns_of(run).items():
                columns.add(column)
                if column.key in cells:
                    cells[column.key].older += 1
                else:
                    metrics = run.record.metrics
                    cells[column.key] = Cell(run, block, answered=metrics.coverage(column.kind) if metrics else (0, 0))
        model, curriculum, machine, label = key[0], *key[2:]
        first = own[0].record.model
        row = Row(model, first.family, curriculum, machine, first.kind == "baseline", label, cells)
        row.latency = latency_of(own)
        row.note = key[1][:6] if alike[(model, curriculum, machine, label)] > 1 else ""
        rows.append(row)
    rows.sort(key=Row.order)
    ordered = sorted(columns, key=Column.order)
    for column in ordered:
        mark_near_best([row for row in rows if row.ranked and not row.baseline], column)
    return Board(name, synthetic, ordered, rows)


def latency_of(runs: Sequence[Run]) -> Latency | None:
    """A row's time of an answer: one that can be compared before others, the last stage's before others."""
    timed = [
        (
            bool(run.latency.incomparable),
            run.latency.source != "bench",
            -STAGE_ORDER.get(run.record.stage, 0),
            run.name,
            run.latency,
        )
        for run in runs
        if run.latency is not None
    ]
    return min(timed, key=lambda entry: entry[:4])[4] if timed else None


def mark_near_best(rows: Sequence[Row], column: Column) -> None:
    """Mark the models whose accuracy interval reaches the best model's value, and lies above chance."""
    found = [(cell, cell.estimate("accuracy")) for row in rows if (cell := row.cells.get(column.key))]
    best = max((e.value for _, e in found if e is not None and e.value is not None), default=None)
    for cell, estimate in found:
        if best is not None and estimate is not None and estimate.interval is not None:
            low, high = estimate.interval
            cell.near_best = high >= best and (column.chance is None or low > column.chance)


def models_of(board: Board) -> list[str]:
    """What the charts show, in the order of its colours: the CHART_MODELS best ranked models, then the baselines."""
    key = board.first_sort
    best: dict[str, float] = {}
    for row in board.rows:
        estimate = row.cells[key].estimate("accuracy") if key in row.cells else None
        if row.ranked and not row.baseline:
            value = estimate.value if estimate is not None and estimate.value is not None else -1.0
            best[row.model] = max(best.get(row.model, -1.0), value)
    models = sorted(best, key=lambda name: (-best[name], name))[:CHART_MODELS]
    return models + list(dict.fromkeys(row.model for row in board.rows if row.ranked and row.baseline))


def points_of(board: Board, task: str, kind: str) -> list[Point]:
    """What the charts of one task show. With more models than colours the last colour is shared."""
    models, conditions = models_of(board), board.conditions
    points = []
    for row in board.rows:
        for column in board.columns:
            cell = row.cells.get(column.key)
            if cell is None or column.task != task or column.kind != kind:
                continue
            if not row.ranked or row.model not in models:
                continue
            estimate = cell.estimate("accuracy")
            times = (cell.run.observed.latency.get(column.kind), row.latency)
            latency = next((time for time in times if time is not None and not time.incomparable), None)
            if estimate is not None:
                points.append(
                    Point(
                        series=f"{row.model}|{row.machine}|{row.note}",
                        colour=min(models.index(row.model), COLOURS - 1),
                        label=row.name,
                        curriculum=row.curriculum,
                        estimate=estimate,
                        seconds=latency.answer.p50 if latency else None,
                        condition=column.condition,
                        place=conditions.index(column.condition),
                    )
                )
    return points
