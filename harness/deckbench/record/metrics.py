"""Predictions -> metrics. The table comes from `read.join`; nothing here reads or writes files.

Rules that hold everywhere: an unparsed answer is wrong and stays in every denominator; positive means anomaly; an
unparsed verdict counts as the wrong verdict (a miss on an anomaly, a false stop on a normal frame).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from deckbench import grade, stats
from deckbench.score.schema import Bin, Block, Confusion, Metric, Operating, Slice
from deckbench.stats import Clusters, Floats, Ints

FALSE_STOPS = 0.05  # the false-stop rate at which miss rates are compared
ROC_POINTS = 200
Terms = Callable[[str | None, str | None], Sequence[str]]  # (step, language) -> names of what is an anomaly then


def judge(table: pd.DataFrame) -> pd.DataFrame:
    """Parse every prediction and mark it: adds the columns below to a copy of the table.

    answer: "A"/"B", True/False (scene verdict), the text (open), or None when unparsed. correct: bool; for a scene, is
    the verdict right. truth: True/False/None, is the frame an anomaly, where the sample asks for a verdict. lax: the
    substring check. options come from the joined columns; where they are missing only letters can be read.
    """
    out: pd.DataFrame = table.copy()
    answers: list[object] = []
    correct: list[bool] = []
    truths: list[bool | None] = []
    for row in out.to_dict("records"):
        known = bool(row["anomaly"]) if isinstance(row["anomaly"], bool | np.bool_) else None
        options = (row["option_a"] or "", row["option_b"] or "")
        answer, right, truth = grade.mark(str(row["prediction"]), str(row["gold"]), row["kind"], options, known)
        answers.append(answer)
        correct.append(right)
        truths.append(truth)
    out["answer"] = pd.Series(answers, index=out.index, dtype=object)
    out["correct"] = np.asarray(correct, dtype=bool)
    out["truth"] = pd.Series(truths, index=out.index, dtype=object)
    out["lax"] = [grade.substring_match(str(p), str(g)) for p, g in zip(out["prediction"], out["gold"], strict=True)]
    return out


def overlap_f1(said: Sequence[str], gold: Sequence[str]) -> float:
    """F1 of two bags (Rajpurkar et al. 2016, SQuAD). Two empty bags agree."""
    if not said or not gold:
        return float(not said and not gold)
    shared = sum((Counter(said) & Counter(gold)).values())
    return 2 * shared / (len(said) + len(gold))


def statements(text: str) -> list[str]:
    """The sentences of a scene description without its verdict, each as `plain` text."""
    parts = re.split(r"[.;。;\n]+", grade.description(text))
    return [sentence for part in parts if (sentence := grade.plain(part))]


def proportion(hits: Floats, clusters: Clusters, rows: Ints) -> Metric:
    """A share of samples with both intervals. hits: 0/1 of shape (k,), for the samples `rows`."""
    n, k = len(hits), round(float(hits.sum()))
    return Metric(
        value=k / n if n else None,
        n=n,
        k=k,
        wilson=stats.wilson(k, n),
        cluster=stats.cluster_bootstrap(hits, clusters, rows),
    )


def mean(values: Floats, clusters: Clusters, rows: Ints) -> Metric:
    """A mean with its cluster interval."""
    value = float(values.mean()) if len(values) else None
    return Metric(value=value, n=len(values), cluster=stats.cluster_bootstrap(values, clusters, rows))


class Judged:
    """A judged table with its clusters and its columns as arrays; `rows` arguments are positions in it."""

    def __init__(self, table: pd.DataFrame, clusters: Clusters, terms: Terms | None = None) -> None:
        self.table = table
        self.clusters = clusters
        self.terms = terms
        self.correct = table["correct"].to_numpy(dtype=np.float64)
        self.lax = table["lax"].to_numpy(dtype=np.float64)
        self.parsed = np.array([answer is not None for answer in table["answer"]], dtype=bool)
        self.kind = table["kind"].to_numpy(dtype=object)
        self.known = np.array([truth is not None for truth in table["truth"]], dtype=bool)
        self.truth = np.array([truth is True for truth in table["truth"]], dtype=bool)
        self.p = table["p_anomaly"].to_numpy(dtype=np.float64)
        self.p_a = table["p_a"].to_numpy(dtype=np.float64)
        self.p_b = table["p_b"].to_numpy(dtype=np.float64)

    def share(self, hits: Floats, rows: Ints) -> Metric:
        return proportion(np.asarray(hits, dtype=np.float64)[rows], self.clusters, rows)

    def unparsed(self, rows: Ints) -> int:
        return int((~self.parsed[rows]).sum())


def overall(judged: Judged) -> dict[str, Metric]:
    """Metrics over all kinds together."""
    rows = np.arange(len(judged.table))
    return {"accuracy": judged.share(judged.correct, rows), "unparsed_rate": judged.share(~judged.parsed, rows)}


def block(judged: Judged, kind: str) -> Block:
    """Everything about the samples of one kind."""
    rows = np.flatnonzero(judged.kind == kind)
    metrics = {
        "accuracy": judged.share(judged.correct, rows),
        "unparsed_rate": judged.share(~judged.parsed, rows),
    }
    verdict = rows[judged.known[rows]]
    ranked = verdict[np.isfinite(judged.p[verdict])]
    if kind == "choice":
        metrics["balanced_accuracy"] = balanced(judged, rows, verdict)
    if len(verdict):
        metrics |= verdict_metrics(judged, verdict)
    operating = None
    curve: list[tuple[float, float]] | None = None
    if len(ranked):
        ranks, operating, curve = rank_metrics(judged, ranked)
        metrics |= ranks
    bars = None
    if kind == "choice":
        metrics |= order_metrics(judged, rows)
        calibration, bars = calibrate(judged, rows)
        metrics |= calibration
    elif kind == "open":
        metrics |= open_metrics(judged, rows)
    else:
        metrics |= scene_metrics(judged, rows)
    if kind != "scene":
        metrics["substring_accuracy"] = judged.share(judged.lax, rows)
        metrics["substring_agreement"] = judged.share(judged.lax == judged.correct, rows)
    anomalies = rows[judged.truth[rows]]
    return Block(
        n=len(rows),
        unparsed=judged.unparsed(rows),
        metrics=metrics,
        by_class=slices(judged, rows, "class"),
        by_anomaly=by_anomaly(judged, anomalies, operating),
        by_step=slices(judged, rows, "step"),
        by_stage=slices(judged, rows, "stage"),
        by_lang=slices(judged, rows, "lang"),
        by_question=slices(judged, rows, "question_type"),
        confusion=confusion(judged, verdict) if len(verdict) else None,
        roc=curve,
        operating=operating,
        reliability=bars,
    )


def verdict_metrics(judged: Judged, rows: Ints) -> dict[str, Metric]:
    """Detection metrics of the samples whose truth is anomaly or normal."""
    right, truth = judged.correct[rows], judged.truth[rows].astype(np.float64)
    found, missed = truth * right, truth * (1 - right)
    stopped = (1 - truth) * (1 - right)
    positive, negative = rows[truth == 1], rows[truth == 0]
    sums = judged.clusters.sums(np.stack([found, missed, stopped], axis=1), rows)
    tp, fn, fp = found.sum(), missed.sum(), stopped.sum()
    many = len(np.unique(judged.clusters.codes[rows])) > 1
    f1 = stats.interval(stats.divide(2 * sums[:, 0], 2 * sums[:, 0] + sums[:, 1] + sums[:, 2])) if many else None
    precision = stats.interval(stats.divide(sums[:, 0], sums[:, 0] + sums[:, 2])) if many else None
    claimed = int(tp + fp)
    return {
        "precision": Metric(
            value=tp / claimed if claimed else None,
            n=claimed,
            k=int(tp),
            wilson=stats.wilson(tp, claimed),
            cluster=precision,
        ),
        "recall": judged.share(judged.correct, positive),
        "f1": Metric(value=2 * tp / (2 * tp + fn + fp) if tp + fn + fp else None, n=len(rows), cluster=f1),
        "miss_rate": judged.share(1 - judged.correct, positive),
        "false_stop_rate": judged.share(1 - judged.correct, negative),
        "balanced_accuracy": balanced(judged, rows, rows),
    }


def balanced(judged: Judged, rows: Ints, verdict: Ints) -> Metric:
    """Mean of the accuracies on both truths: anomaly and normal, or gold A and gold B where no verdict is asked."""
    if len(verdict):
        rows, side = verdict, judged.truth[verdict]
    else:
        side = judged.table["gold"].to_numpy(dtype=object)[rows] == "A"
    if side.all() or not side.any():
        return Metric(value=None, n=len(rows))
    right = judged.correct[rows]
    value = (right[side].mean() + right[~side].mean()) / 2
    columns = np.stack([right * side, side, right * ~side, ~side], axis=1)
    sums = judged.clusters.sums(columns, rows)
    spread = (stats.divide(sums[:, 0], sums[:, 1]) + stats.divide(sums[:, 2], sums[:, 3])) / 2
    many = len(np.unique(judged.clusters.codes[rows])) > 1
    return Metric(value=float(value), n=len(rows), cluster=stats.interval(spread) if many else None)


def rank_metrics(
    judged: Judged, rows: Ints
) -> tuple[dict[str, Metric], Operating | None, list[tuple[float, float]] | None]:
    """AUROC of p_anomaly, the miss rate at a false-stop rate of at most 5%, and the curve itself."""
    truth, p = judged.truth[rows], judged.p[rows]
    area = stats.auroc(truth, p)
    curve = stats.roc(truth, p)
    at = stats.point_at(curve, FALSE_STOPS)
    if area is None or at is None:
        return {"auroc": Metric(value=None, n=len(rows))}, None, None
    areas, misses = stats.ranked_bootstrap(truth, p, judged.clusters, rows, FALSE_STOPS)
    many = len(np.unique(judged.clusters.codes[rows])) > 1
    positives = int(curve.positives)
    missed = positives - int(curve.hits[at])
    metrics = {
        "auroc": Metric(value=area, n=len(rows), cluster=stats.interval(areas) if many else None),
        "miss_rate_at_5": Metric(
            value=missed / positives,
            n=positives,
            k=missed,
            wilson=stats.wilson(missed, positives),
            cluster=stats.interval(misses) if many else None,
        ),
    }
    operating = Operating(
        allowed_false_stop_rate=FALSE_STOPS,
        threshold=float(curve.thresholds[at]) if np.isfinite(curve.thresholds[at]) else None,
        false_stop_rate=float(curve.false_stops[at] / curve.negatives),
        miss_rate=missed / positives,
    )
    keep = np.unique(np.linspace(0, len(curve.hits) - 1, ROC_POINTS + 1).round().astype(int))
    points = [(float(curve.false_stops[i] / curve.negatives), float(curve.hits[i] / curve.positives)) for i in keep]
    return metrics, operating, points


def order_metrics(judged: Judged, rows: Ints) -> dict[str, Metric]:
    """Position bias, and what swapped-order twins (two samples with one pair_id) agree on."""
    table = judged.table
    answer = table["answer"].to_numpy(dtype=object)
    said = rows[judged.parsed[rows]]
    gold = table["gold"].to_numpy(dtype=object)
    metrics = {
        "share_a": judged.share((answer == "A").astype(np.float64), said),
        "gold_share_a": judged.share((gold == "A").astype(np.float64), rows),
    }
    first: list[int] = []
    same: list[float] = []
    both: list[float] = []
    options = {"A": table["option_a"].to_numpy(dtype=object), "B": table["option_b"].to_numpy(dtype=object)}
    pairs: dict[str, list[int]] = {}
    for row, pair in zip(rows, table["pair_id"].to_numpy(dtype=object)[rows], strict=True):
        if pair:
            pairs.setdefault(str(pair), []).append(int(row))
    for members in pairs.values():
        if len(members) != 2:
            continue
        one, two = members
        if options["A"][one] is None or options["A"][one] == options["B"][one]:
            continue
        if (options["A"][one], options["B"][one]) != (options["B"][two], options["A"][two]):
            continue
        first.append(one)
        heard = judged.parsed[one] and judged.parsed[two]
        same.append(float(heard and options[str(answer[one])][one] == options[str(answer[two])][two]))
        both.append(float(judged.correct[one] and judged.correct[two]))
    if first:
        at = np.asarray(first, dtype=np.int64)
        metrics["order_consistency"] = proportion(np.asarray(same), judged.clusters, at)
        metrics["pair_accuracy"] = proportion(np.asarray(both), judged.clusters, at)
    return metrics


def calibrate(judged: Judged, rows: Ints) -> tuple[dict[str, Metric], list[Bin] | None]:
    """Brier score and expected calibration error of the stated probability.

    The event is "anomaly" with p_anomaly where a verdict is asked, else "A is right" with p_a.
    """
    verdict = judged.known[rows] & np.isfinite(judged.p[rows])
    p = np.where(verdict, judged.p[rows], judged.p_a[rows])
    event = np.where(verdict, judged.truth[rows], judged.table["gold"].to_numpy(dtype=object)[rows] == "A")
    good = np.isfinite(p)
    if not good.any():
        return {}, None
    rows, p, event = rows[good], p[good], event[good].astype(bool)
    bins = stats.bins_of(p)
    columns = bins.table(event, p)
    total = columns.sum(axis=0)
    many = len(np.unique(judged.clusters.codes[rows])) > 1
    with np.errstate(invalid="ignore"):
        spread = stats.interval(stats.ece(judged.clusters.sums(columns, rows))) if many else None
    metrics = {
        "brier": mean(stats.brier(event, p), judged.clusters, rows),
        "ece": Metric(value=float(stats.ece(total)), n=len(rows), cluster=spread),
    }
    mass = judged.p_a[rows] + judged.p_b[rows]
    if np.isfinite(mass).all():
        metrics["letter_mass"] = mean(np.minimum(mass, 1.0), judged.clusters, rows)
    count, stated, true = np.split(total, 3)
    bars = [
        Bin(
            low=bins.edges[i],
            high=bins.edges[i + 1],
            n=int(count[i]),
            stated=stated[i] / count[i] if count[i] else None,
            true=true[i] / count[i] if count[i] else None,
        )
        for i in range(len(count))
    ]
    return metrics, bars


def open_metrics(judged: Judged, rows: Ints) -> dict[str, Metric]:
    """Exact match of the raw text, and token F1; `accuracy` is the match after normalising."""
    said = judged.table["prediction"].to_numpy(dtype=object)[rows]
    gold = judged.table["gold"].to_numpy(dtype=object)[rows]
    exact = np.array([str(s).strip() == str(g).strip() for s, g in zip(said, gold, strict=True)], dtype=np.float64)
    near = np.array([overlap_f1(grade.tokens(str(s)), grade.tokens(str(g))) for s, g in zip(said, gold, strict=True)])
    return {
        "exact_match": proportion(exact, judged.clusters, rows),
        "token_f1": mean(near, judged.clusters, rows),
    }


def scene_metrics(judged: Judged, rows: Ints) -> dict[str, Metric]:
    """How near the description is to the gold one, and whether it contradicts its own verdict."""
    records = judged.table.iloc[rows].to_dict("records")
    words = np.array([overlap_f1(grade.tokens(str(r["prediction"])), grade.tokens(str(r["gold"]))) for r in records])
    facts = np.array([overlap_f1(statements(str(r["prediction"])), statements(str(r["gold"]))) for r in records])
    metrics = {
        "token_f1": mean(words, judged.clusters, rows),
        "statement_f1": mean(facts, judged.clusters, rows),
    }
    if judged.terms is not None:
        found = [
            grade.contradiction(str(r["prediction"]), judged.terms(_text(r["step"]), _text(r["lang"]))) for r in records
        ]
        for name in ("names_anomaly_says_normal", "says_anomaly_names_none"):
            hits = np.array([kind == name for kind in found], dtype=np.float64)
            metrics[name] = proportion(hits, judged.clusters, rows)
        metrics["contradictions"] = proportion(
            np.array([kind is not None for kind in found], dtype=np.float64), judged.clusters, rows
        )
    return metrics


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def confusion(judged: Judged, rows: Ints) -> Confusion:
    """Verdict counts; `rows` are the samples whose truth is known."""
    truth, right, said = judged.truth[rows], judged.correct[rows] == 1, judged.parsed[rows]
    return Confusion(
        anomaly_as_anomaly=int((truth & right).sum()),
        anomaly_as_normal=int((truth & ~right & said).sum()),
        anomaly_unparsed=int((truth & ~said).sum()),
        normal_as_normal=int((~truth & right).sum()),
        normal_as_anomaly=int((~truth & ~right & said).sum()),
        normal_unparsed=int((~truth & ~said).sum()),
    )


def members(judged: Judged, rows: Ints, column: str) -> dict[str, Ints]:
    """Value -> rows that have it, sorted by value. A cell may hold several values joined by ";"."""
    found: dict[str, list[int]] = {}
    for row, cell in zip(rows, judged.table[column].to_numpy(dtype=object)[rows], strict=True):
        for value in sorted({part.strip() for part in cell.split(";")} - {""}) if isinstance(cell, str) else ():
            found.setdefault(value, []).append(int(row))
    return {value: np.asarray(found[value], dtype=np.int64) for value in sorted(found)}


def slices(judged: Judged, rows: Ints, column: str) -> dict[str, Slice]:
    """Accuracy, miss rate and false-stop rate for each value of a column."""
    result = {}
    for value, part in members(judged, rows, column).items():
        metrics = {"accuracy": judged.share(judged.correct, part)}
        known = part[judged.known[part]]
        positive, negative = known[judged.truth[known]], known[~judged.truth[known]]
        if len(positive):
            metrics["miss_rate"] = judged.share(1 - judged.correct, positive)
        if len(negative):
            metrics["false_stop_rate"] = judged.share(1 - judged.correct, negative)
        result[value] = Slice(n=len(part), unparsed=judged.unparsed(part), metrics=metrics)
    return result


def by_anomaly(judged: Judged, rows: Ints, operating: Operating | None) -> dict[str, Slice]:
    """For each kind of anomaly: miss rate, and miss rate at the threshold where 5% of normal frames stop."""
    result = {}
    for value, part in members(judged, rows, "class").items():
        metrics = {"miss_rate": judged.share(1 - judged.correct, part)}
        ranked = part[np.isfinite(judged.p[part])]
        if operating is not None and len(ranked):
            threshold = np.inf if operating.threshold is None else operating.threshold
            metrics["miss_rate_at_5"] = judged.share((judged.p < threshold).astype(np.float64), ranked)
        result[value] = Slice(n=len(part), unparsed=judged.unparsed(part), metrics=metrics)
    return result
