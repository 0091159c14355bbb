"""Graded answers -> metrics. `score` and records both measure here; nothing here reads or writes files.

Rules that hold everywhere: an unparsed answer is wrong and stays in every denominator; positive means anomaly; an
unparsed verdict counts as the wrong verdict (a miss on an anomaly, a false stop on a normal frame).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from deckbench import grade, stats
from deckbench.record.answers import Answers, Terms, groups_of, mean, proportion
from deckbench.record.calibrated import apply
from deckbench.record.calibration import Calibration
from deckbench.record.choice_odds import reliability
from deckbench.record.judge_metrics import judge_metrics
from deckbench.record.judged import Judged
from deckbench.record.metrics_schema import (
    Block,
    Confusion,
    Estimate,
    Metrics,
    OperatingPoint,
    ReliabilityBin,
    ScoreInputs,
    Slice,
)
from deckbench.record.table import scored_sha256
from deckbench.record.text_metrics import open_metrics, scene_metrics
from deckbench.stats import Ints

KIND_ORDER: tuple[grade.Kind, ...] = ("choice", "scene", "open")  # the first that was asked is the headline
FEW_GROUPS = 20  # measured: docs/metrics.md
FALSE_STOPS = 0.05  # the false-stop rate at which miss rates are compared
ROC_POINTS = 200
SEVERAL = frozenset({"class", "view"})  # columns whose cells may hold several values


def measure(
    table: pd.DataFrame,
    *,
    seed: int,
    inputs: ScoreInputs,
    terms: Terms | None = None,
    notes: Sequence[str] = (),
    asked: Mapping[str, int] | None = None,
    resamples: int = stats.RESAMPLES,
    calibration: Calibration | None = None,
    judged: Judged | None = None,
) -> Metrics:
    """The metrics of a graded table: what `score.json` holds.

    Args:
        table: of `table.grade_table`.
        seed: of the bootstrap.
        inputs: what was scored, by hash.
        terms: what names an anomaly at a step, looked for in scene descriptions; None: it is not known.
        notes: what else is to be said; comes before what is found here.
        asked: kind -> how many questions of it the dataset asks; None: it is not known.
        resamples: of the bootstrap.
        calibration: fitted on other answers of the same model to the same dataset.
        judged: what a judge said of the answers; the column `judge` holds its verdicts.

    Returns:
        The same metrics for the same table, terms and seed, to the last digit.
    """
    labels, group_by, found = groups_of(table)
    clusters = stats.clusters_of(labels, seed, resamples)
    answers = Answers(table, clusters, terms)
    kinds = [kind for kind in KIND_ORDER if (answers.kind == kind).any()]
    if clusters.count < FEW_GROUPS:
        found.append(f"only {clusters.count} groups: cluster intervals are too narrow")
    if "scene" in kinds and terms is None:
        found.append("no ontology found: contradictions in scene texts are not counted")
    if asked is not None and len(table) < sum(asked.values()):
        found.insert(0, coverage_note(len(table), asked))
    rows = np.arange(len(table))
    return Metrics(
        inputs=inputs,
        scored_sha256=scored_sha256(table),
        seed=seed,
        resamples=resamples,
        confidence=stats.CONFIDENCE,
        n=len(table),
        asked=None if asked is None else {kind: asked[kind] for kind in KIND_ORDER if asked.get(kind)},
        unparsed=answers.unparsed(rows),
        groups=clusters.count,
        group_by=group_by,
        primary=kinds[0],
        metrics={
            "accuracy": answers.share(answers.right, rows),
            "unparsed_rate": answers.share(~answers.parsed, rows),
        },
        kinds={kind: block(answers, kind) for kind in kinds},
        calibration=None
        if calibration is None
        else apply(answers, calibration, asked=asked, data_content=inputs.data_content),
        judge=None if judged is None else judge_metrics(answers, judged),
        notes=(*notes, *found),
    )


def coverage_note(n: int, asked: Mapping[Any, int]) -> str:
    """What is said of a score that lacks answers."""
    total = sum(asked.values())
    return f"{n} of {total} questions answered; {total - n} have no prediction and are not in the score"


def block(answers: Answers, kind: str) -> Block:
    """Everything about the samples of one kind."""
    rows = np.flatnonzero(answers.kind == kind)
    metrics = {
        "accuracy": answers.share(answers.right, rows),
        "unparsed_rate": answers.share(~answers.parsed, rows),
    }
    verdict = rows[answers.known[rows]]
    ranked = verdict[np.isfinite(answers.p[verdict])]
    if kind == "choice":
        metrics["balanced_accuracy"] = balanced(answers, rows, verdict)
    if len(verdict):
        metrics |= verdict_metrics(answers, verdict)
    operating = None
    curve: list[tuple[float, float]] | None = None
    if len(ranked):
        ranks, operating, curve = rank_metrics(answers, ranked)
        metrics |= ranks
    bars = None
    if kind == "choice":
        metrics |= order_metrics(answers, rows)
        calibration, bars = calibrate(answers, rows)
        metrics |= calibration
    elif kind == "open":
        metrics |= open_metrics(answers, rows)
    else:
        metrics |= scene_metrics(answers, rows)
    if kind != "scene":
        metrics["substring_accuracy"] = answers.share(answers.substring, rows)
        metrics["substring_agreement"] = answers.share(answers.substring == answers.right, rows)
    anomalies = rows[answers.truth[rows]]
    return Block(
        n=len(rows),
        unparsed=answers.unparsed(rows),
        metrics=metrics,
        by_class=slices(answers, rows, "class"),
        by_anomaly=by_anomaly(answers, anomalies, operating),
        by_step=slices(answers, rows, "step"),
        by_stage=slices(answers, rows, "stage"),
        by_lang=slices(answers, rows, "lang"),
        by_question=slices(answers, rows, "question_type"),
        by_view=slices(answers, rows, "view", balance=True),
        by_context=slices(answers, rows, "context", balance=True),
        confusion=confusion(answers, verdict) if len(verdict) else None,
        roc=None if curve is None else tuple(curve),
        operating_point=operating,
        reliability=bars,
    )


def verdict_metrics(answers: Answers, rows: Ints) -> dict[str, Estimate]:
    """Detection metrics of the samples whose truth is anomaly or normal."""
    right, truth = answers.right[rows], answers.truth[rows].astype(np.float64)
    found, missed = truth * right, truth * (1 - right)
    stopped = (1 - truth) * (1 - right)
    positive, negative = rows[truth == 1], rows[truth == 0]
    sums = answers.clusters.sums(np.stack([found, missed, stopped], axis=1), rows)
    tp, fn, fp = found.sum(), missed.sum(), stopped.sum()
    many = answers.many(rows)
    f1 = stats.interval(stats.divide(2 * sums[:, 0], 2 * sums[:, 0] + sums[:, 1] + sums[:, 2])) if many else None
    precision = stats.interval(stats.divide(sums[:, 0], sums[:, 0] + sums[:, 2])) if many else None
    claimed = int(tp + fp)
    return {
        "precision": Estimate(
            value=tp / claimed if claimed else None,
            n=claimed,
            k=int(tp),
            wilson=stats.wilson(tp, claimed),
            cluster=precision,
        ),
        "recall": answers.share(answers.right, positive),
        "f1": Estimate(value=2 * tp / (2 * tp + fn + fp) if tp + fn + fp else None, n=len(rows), cluster=f1),
        "miss_rate": answers.share(answers.wrong, positive),
        "false_stop_rate": answers.share(answers.wrong, negative),
        "balanced_accuracy": balanced(answers, rows, rows),
    }


def balanced(answers: Answers, rows: Ints, verdict: Ints) -> Estimate:
    """Mean of the accuracies on both truths: anomaly and normal, or gold A and gold B where no verdict is asked."""
    if len(verdict):
        rows, side = verdict, answers.truth[verdict]
    else:
        side = answers.gold[rows] == "A"
    if side.all() or not side.any():
        return Estimate(value=None, n=len(rows))
    right = answers.right[rows]
    value = (right[side].mean() + right[~side].mean()) / 2
    columns = np.stack([right * side, side, right * ~side, ~side], axis=1)
    sums = answers.clusters.sums(columns, rows)
    spread = (stats.divide(sums[:, 0], sums[:, 1]) + stats.divide(sums[:, 2], sums[:, 3])) / 2
    many = answers.many(rows)
    return Estimate(value=float(value), n=len(rows), cluster=stats.interval(spread) if many else None)


def rank_metrics(
    answers: Answers, rows: Ints
) -> tuple[dict[str, Estimate], OperatingPoint | None, list[tuple[float, float]] | None]:
    """AUROC of p_anomaly, the miss rate at a false-stop rate of at most 5%, and the curve itself."""
    truth, p = answers.truth[rows], answers.p[rows]
    area = stats.auroc(truth, p)
    curve = stats.roc(truth, p)
    at = stats.point_at(curve, FALSE_STOPS)
    if area is None or at is None:
        return {"auroc": Estimate(value=None, n=len(rows))}, None, None
    areas, misses = stats.ranked_bootstrap(truth, p, answers.clusters, rows, FALSE_STOPS)
    many = answers.many(rows)
    positives = int(curve.positives)
    missed = positives - int(curve.hits[at])
    metrics = {
        "auroc": Estimate(value=area, n=len(rows), cluster=stats.interval(areas) if many else None),
        "miss_rate_at_5": Estimate(
            value=missed / positives,
            n=positives,
            k=missed,
            wilson=stats.wilson(missed, positives),
            cluster=stats.interval(misses) if many else None,
        ),
    }
    operating = OperatingPoint(
        allowed_false_stop_rate=FALSE_STOPS,
        threshold=float(curve.thresholds[at]) if np.isfinite(curve.thresholds[at]) else None,
        false_stop_rate=float(curve.false_stops[at] / curve.negatives),
        miss_rate=missed / positives,
    )
    keep = np.unique(np.linspace(0, len(curve.hits) - 1, ROC_POINTS + 1).round().astype(int))
    points = [(float(curve.false_stops[i] / curve.negatives), float(curve.hits[i] / curve.positives)) for i in keep]
    return metrics, operating, points


def order_metrics(answers: Answers, rows: Ints) -> dict[str, Estimate]:
    """Position bias, and what swapped-order twins (two samples with one pair_id) agree on."""
    table = answers.table
    answer = table["parsed"].to_numpy(dtype=object)
    readable = rows[answers.parsed[rows]]
    metrics = {
        "share_a": answers.share((answer == "A").astype(np.float64), readable),
        "gold_share_a": answers.share((answers.gold == "A").astype(np.float64), rows),
    }
    one, two = twins(table["pair_id"].to_numpy(dtype=object)[rows], rows)
    a, b = (table[name].to_numpy(dtype=object) for name in ("option_a", "option_b"))
    swapped = (a[one] != "") & (a[one] != b[one]) & (a[one] == b[two]) & (b[one] == a[two])
    one, two = one[swapped], two[swapped]
    if len(one):
        chosen = np.where(answer == "A", a, b)
        same = answers.parsed[one] & answers.parsed[two] & (chosen[one] == chosen[two])
        both = answers.right[one] * answers.right[two]
        metrics["order_consistency"] = proportion(same.astype(np.float64), answers.clusters, one)
        metrics["pair_accuracy"] = proportion(both, answers.clusters, one)
    return metrics


def twins(pairs: npt.NDArray[Any], rows: Ints) -> tuple[Ints, Ints]:
    """The rows whose pair_id exactly one other row has: first and second of each pair. pairs: of `rows`."""
    codes, names = pd.factorize(pairs)
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes, minlength=len(names))
    two = (sizes == 2) & (names != "")
    first = order[(np.cumsum(sizes) - sizes)[two]]
    second = order[(np.cumsum(sizes) - 1)[two]]
    return rows[first], rows[second]


def calibrate(answers: Answers, rows: Ints) -> tuple[dict[str, Estimate], tuple[ReliabilityBin, ...] | None]:
    """Brier score and expected calibration error of the predicted probability.

    The event is "anomaly" with p_anomaly where a verdict is asked, else "A is right" with p_a.
    """
    verdict = answers.known[rows] & np.isfinite(answers.p[rows])
    p = np.where(verdict, answers.p[rows], answers.p_a[rows])
    event = np.where(verdict, answers.truth[rows], answers.gold[rows] == "A")
    good = np.isfinite(p)
    if not good.any():
        return {}, None
    rows, p, event = rows[good], p[good], event[good].astype(bool)
    bins = stats.bins_of(p)
    clusters = answers.clusters
    total = bins.totals(event, p)[0]
    with np.errstate(invalid="ignore"):
        sums = clusters.resample(bins.totals(event, p, clusters.codes[rows], clusters.count))
        spread = stats.interval(stats.ece(sums)) if answers.many(rows) else None
    metrics = {
        "brier": mean(stats.brier(event, p), answers.clusters, rows),
        "ece": Estimate(value=float(stats.ece(total)), n=len(rows), cluster=spread),
    }
    mass = answers.p_a[rows] + answers.p_b[rows]
    if np.isfinite(mass).all():
        metrics["letter_mass"] = mean(np.minimum(mass, 1.0), answers.clusters, rows)
    return metrics, reliability(bins, total)


def confusion(answers: Answers, rows: Ints) -> Confusion:
    """Verdict counts; `rows` are the samples whose truth is known."""
    truth, right, parsed = answers.truth[rows], answers.right[rows] == 1, answers.parsed[rows]
    return Confusion(
        anomaly_as_anomaly=int((truth & right).sum()),
        anomaly_as_normal=int((truth & ~right & parsed).sum()),
        anomaly_unparsed=int((truth & ~parsed).sum()),
        normal_as_normal=int((~truth & right).sum()),
        normal_as_anomaly=int((~truth & ~right & parsed).sum()),
        normal_unparsed=int((~truth & ~parsed).sum()),
    )


def members(answers: Answers, rows: Ints, column: str) -> dict[str, Ints]:
    """Value -> rows that have it, sorted by value. A cell of SEVERAL may hold several values joined by ";"."""
    if column not in answers.table:
        return {}
    codes, cells = pd.factorize(answers.table[column].to_numpy(dtype=object)[rows])
    found: dict[str, list[Ints]] = {}
    cut = np.split(rows[np.argsort(codes, kind="stable")], np.cumsum(np.bincount(codes))[:-1])
    for cell, part in zip(cells, cut, strict=False):  # of no rows there is one part, and no cell
        values = {value.strip() for value in (cell.split(";") if column in SEVERAL else (cell,))} - {""}
        for value in values:
            found.setdefault(value, []).append(part)
    return {value: np.sort(np.concatenate(parts)) for value, parts in sorted(found.items())}


def slices(answers: Answers, rows: Ints, column: str, *, balance: bool = False) -> dict[str, Slice]:
    """Accuracy, miss rate and false-stop rate for each value of a column; balance: balanced accuracy too."""
    result = {}
    for value, part in members(answers, rows, column).items():
        metrics = {"accuracy": answers.share(answers.right, part)}
        known = part[answers.known[part]]
        positive, negative = known[answers.truth[known]], known[~answers.truth[known]]
        if len(positive):
            metrics["miss_rate"] = answers.share(answers.wrong, positive)
        if len(negative):
            metrics["false_stop_rate"] = answers.share(answers.wrong, negative)
        if balance and len(known):
            metrics["balanced_accuracy"] = balanced(answers, known, known)
        result[value] = Slice(n=len(part), unparsed=answers.unparsed(part), metrics=metrics)
    return result


def by_anomaly(answers: Answers, rows: Ints, operating: OperatingPoint | None) -> dict[str, Slice]:
    """For each kind of anomaly: miss rate, and miss rate at the threshold where 5% of normal frames stop."""
    result = {}
    threshold = np.inf if operating is None or operating.threshold is None else operating.threshold
    below = answers.p < threshold
    for value, part in members(answers, rows, "class").items():
        metrics = {"miss_rate": answers.share(answers.wrong, part)}
        ranked = part[np.isfinite(answers.p[part])]
        if operating is not None and len(ranked):
            metrics["miss_rate_at_5"] = answers.share(below, ranked)
        result[value] = Slice(n=len(part), unparsed=answers.unparsed(part), metrics=metrics)
    return result
