"""What a judge says of a table of answers, how far it can be trusted, and what that makes of its rates."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from deckbench import grade, stats
from deckbench.agreement import cohen_kappa, corrected_rate
from deckbench.parse import answer_text
from deckbench.record.answers import Answers, mean, proportion
from deckbench.record.judged import UNGRADED, VERDICTS, Judged, verdict_of
from deckbench.record.metrics_schema import (
    CorrectedRate,
    Difference,
    Estimate,
    JudgedKind,
    JudgeErrors,
    JudgeMetrics,
)
from deckbench.stats import Bools, Floats, Ints

KINDS: tuple[grade.Kind, ...] = ("choice", "scene", "open")
SEVERAL_VERDICTS = ("correct", "incorrect", "unclear", UNGRADED)
MIN_KNOWN = 10  # right and wrong answers each: fewer say too little about a judge's errors


def to_judge(table: pd.DataFrame) -> list[int]:
    """Positions of the answers a judge grades: open, scenes, and choices that could not be parsed."""
    rows = enumerate(zip(table["kind"], table["reason"], strict=True))
    return [at for at, (kind, reason) in rows if kind != "choice" or reason in {"empty", "unparsed"}]


def of_known_truth(table: pd.DataFrame) -> list[int]:
    """Positions of the answers whose truth the labels know, whatever a judge says: verdicts that could be parsed."""
    rows = enumerate(zip(table["kind"], table["reason"], strict=True))
    return [at for at, (kind, reason) in rows if kind != "open" and reason in {"", "wrong"}]


def select(table: pd.DataFrame, calibration: int, seed: int) -> list[int]:
    """Positions of the answers to judge, in order: all that need a judge, and choices whose truth is known.

    Half of these are right and half wrong as far as there are so many; they are drawn by the hash of their ids.
    """
    wanted = set(to_judge(table))
    ids, right = table["id"].tolist(), table["right"].tolist()
    known = sorted(
        set(of_known_truth(table)) - wanted, key=lambda at: hashlib.sha256(f"{seed}\n{ids[at]}".encode()).digest()
    )
    good, bad = ([at for at in known if right[at] == flag] for flag in ("true", "false"))
    fewer = min(len(good), len(bad), calibration // 2)
    more = calibration - fewer
    chosen = (*good[:more], *bad[:fewer]) if len(good) > len(bad) else (*good[:fewer], *bad[:more])
    return sorted(wanted | set(chosen))


class Said:
    """A judge's verdicts by position in a graded table. calls: of each judged answer."""

    def __init__(self, answers: Answers, judged: Judged) -> None:
        place = {key: at for at, key in enumerate(answers.table["id"].tolist())}
        self.calls = {place[answer.id]: answer.calls for answer in judged.answers if answer.id in place}
        self.verdict = {at: verdict_of(calls) for at, calls in self.calls.items()}
        self.correct = np.zeros(len(answers.table))
        self.correct[[at for at, verdict in self.verdict.items() if verdict == "correct"]] = 1
        self.graded = np.zeros(len(answers.table), dtype=bool)
        self.graded[[at for at, verdict in self.verdict.items() if verdict != UNGRADED]] = True


def judge_metrics(answers: Answers, judged: Judged) -> JudgeMetrics:
    """The judge's part of a score.

    Args:
        answers: the graded table.
        judged: what the judge said of it.

    Returns:
        The same for the same table and file, to the last digit.
    """
    said = Said(answers, judged)
    wanted, known = to_judge(answers.table), of_known_truth(answers.table)
    rows = {kind: positions(answers, wanted, kind) for kind in KINDS}
    truths = {kind: positions(answers, known, kind) for kind in KINDS}
    truths = {kind: at[said.graded[at]] for kind, at in truths.items()}
    errors = {kind: judge_errors(answers, said, at) for kind, at in truths.items() if len(at)}
    every = "".join(said.calls.values()).replace("/", "")
    joint, both = joint_accuracy(
        answers, said, np.concatenate([positions(answers, None, k) for k in ("choice", "open")])
    )
    return JudgeMetrics(
        ref=judged.judge,
        judged=judged.content_hash,
        calls=len(every),
        failed=every.count("x"),
        kinds={kind: judged_kind(answers, said, kind, at, truths) for kind, at in rows.items() if len(at)},
        errors=errors,
        joint_accuracy=joint,
        joint_both_accuracy=both,
        **consistency(answers, said),
    )


def positions(answers: Answers, among: Sequence[int] | None, kind: str) -> Ints:
    """Positions of a kind of answer."""
    at = np.arange(len(answers.table)) if among is None else np.asarray(among, dtype=np.int64)
    found: Ints = at[answers.kind[at] == kind]
    return found


def judged_kind(
    answers: Answers, said: Said, kind: grade.Kind, rows: Ints, truths: Mapping[grade.Kind, Ints]
) -> JudgedKind:
    """What the judge says of the answers of one kind. rows: those it was to grade."""
    graded = rows[said.graded[rows]]
    verdicts = [said.verdict.get(int(at), UNGRADED) for at in rows]
    right = answers.right[rows] == 1
    strict = np.where(right, "right", np.where(answers.parsed[rows], "wrong", "unparsed"))
    lax = kind != "scene"  # a scene's gold is a text that no answer holds
    joint, both = joint_accuracy(answers, said, rows) if lax else (None, None)
    return JudgedKind(
        n=len(rows),
        ungraded=len(rows) - len(graded),
        strict=answers.share(answers.right, graded),
        substring=answers.share(answers.substring, graded) if lax else None,
        judge=answers.share(said.correct, graded),
        corrected=corrected(answers, said, kind, graded, truths),
        joint=joint,
        joint_both=both,
        strict_kappa=kappa(answers, said.correct, answers.right, graded),
        substring_kappa=kappa(answers, said.correct, answers.substring, graded) if lax else None,
        by_strict=crossed(strict.tolist(), verdicts, ("right", "wrong", "unparsed")),
        by_substring=crossed([str(x == 1).lower() for x in answers.substring[rows]], verdicts, ("true", "false"))
        if lax
        else None,
    )


def crossed(first: Sequence[str], verdicts: Sequence[str], names: Sequence[str]) -> dict[Any, Any]:
    """How often each verdict was given beside each of another grader's."""
    counts = Counter(zip(first, verdicts, strict=True))
    return {name: {verdict: counts[name, verdict] for verdict in SEVERAL_VERDICTS} for name in names}


def corrected(
    answers: Answers, said: Said, kind: grade.Kind, graded: Ints, truths: Mapping[grade.Kind, Ints]
) -> CorrectedRate:
    """The corrected rate, by the judge's errors on answers of the same kind where enough are known, else another's."""

    def fewest(by: grade.Kind) -> int:
        right = int((answers.right[truths[by]] == 1).sum())
        return min(right, len(truths[by]) - right)

    order: tuple[grade.Kind, ...] = ("scene", "choice") if kind == "scene" else ("choice", "scene")
    by = next((by for by in order if fewest(by) >= MIN_KNOWN), None)
    if by is None:
        best = max(fewest(by) for by in order)
        what = f"{best} answers of the rarer known truth were graded; {MIN_KNOWN} are needed to know the judge's errors"
        return CorrectedRate(value=None, interval=None, why=what)
    known = truths[by]
    found = corrected_rate(
        said.correct[graded] == 1, graded, said.correct[known] == 1, answers.right[known] == 1, known, answers.clusters
    )
    return CorrectedRate(value=found.value, interval=found.interval, raw=found.raw, by=by, why=found.why)


def judge_errors(answers: Answers, said: Said, rows: Ints) -> JudgeErrors:
    """The judge against what the labels know. rows: graded answers of known truth."""
    right = answers.right[rows] == 1
    correct = said.correct
    return JudgeErrors(
        right=int(right.sum()),
        wrong=int((~right).sum()),
        sensitivity=answers.share(correct, rows[right]),
        specificity=answers.share(1 - correct, rows[~right]),
        agreement=answers.share(correct == answers.right, rows),
        kappa=kappa(answers, correct, answers.right, rows),
        bias=difference(answers, correct - answers.right, rows),
        verbosity=verbosity(answers, said, rows),
    )


def kappa(answers: Answers, first: Floats, second: Floats | Bools, rows: Ints) -> Difference:
    """Cohen's kappa of two columns of 0 and 1, with its interval over groups."""
    one, two = first[rows], second[rows].astype(np.float64)
    cells = np.stack([one * two, one * (1 - two), (1 - one) * two, (1 - one) * (1 - two)], axis=1)
    bounds = None
    if several_groups(answers, rows):
        both, left, other, none = answers.clusters.sums(cells, rows).T
        n = both + left + other + none
        expected = stats.divide((both + left) * (both + other) + (other + none) * (left + none), n * n)
        bounds = stats.interval(stats.divide(stats.divide(both + none, n) - expected, 1 - expected))
    return Difference(value=cohen_kappa(one.tolist(), two.tolist()), n=len(rows), interval=bounds)


def difference(answers: Answers, values: Floats, rows: Ints) -> Difference:
    """A mean of numbers from -1 to 1."""
    value = float(values[rows].mean()) if len(rows) else None
    return Difference(value=value, n=len(rows), interval=stats.cluster_bootstrap(values[rows], answers.clusters, rows))


def verbosity(answers: Answers, said: Said, rows: Ints) -> Difference | None:
    """Share called correct of the longer answers less that of the shorter ones, mean over right and wrong answers.

    Longer: above the median length of the answers of the same truth.
    """
    texts = answers.table["prediction"].to_numpy(dtype=object)
    parts = []
    for truth in (1.0, 0.0):
        at = rows[answers.right[rows] == truth]
        sizes = np.array([len(answer_text(texts[i])) for i in at])
        if len(at) and (longer := sizes > np.median(sizes)).any():
            parts.append((at[longer], at[~longer]))
    if not parts:
        return None
    values, spread = [], []
    for longer_rows, shorter_rows in parts:
        values.append(float(said.correct[longer_rows].mean() - said.correct[shorter_rows].mean()))
        rates = []
        for part in (longer_rows, shorter_rows):
            cells = np.stack([said.correct[part], np.ones(len(part))], axis=1)
            sums = answers.clusters.sums(cells, part)
            rates.append(stats.divide(sums[:, 0], sums[:, 1]))
        spread.append(rates[0] - rates[1])
    bounds = stats.interval(np.mean(spread, axis=0)) if several_groups(answers, rows) else None
    return Difference(value=float(np.mean(values)), n=sum(len(a) + len(b) for a, b in parts), interval=bounds)


def several_groups(answers: Answers, rows: Ints) -> bool:
    return len(np.unique(answers.clusters.codes[rows])) > 1


def joint_accuracy(answers: Answers, said: Said, rows: Ints) -> tuple[Estimate, Estimate]:
    """The source lab's: the substring check or else the judge; and both.

    A choice that was parsed has its own check, which no judge changes; an answer that the judge left ungraded counts
    where the substring check decides alone.
    """
    choice = (answers.kind == "choice") & answers.parsed
    lax = answers.substring == 1
    strict = np.where(choice, answers.right, said.correct) == 1
    decided = choice | said.graded
    either = rows[(decided | lax)[rows]]
    both = rows[(decided | ~lax)[rows]]
    return (
        proportion((lax | strict)[either].astype(np.float64), answers.clusters, either),
        proportion((lax & strict & decided)[both].astype(np.float64), answers.clusters, both),
    )


def consistency(answers: Answers, said: Said) -> dict[str, Any]:
    """Whether the judge says the same again, and in the other order; nothing where it was not asked."""
    again: dict[int, list[float]] = {}
    orders: dict[int, tuple[str, str]] = {}
    for at, calls in sorted(said.calls.items()):
        parts = [[letter for letter in part if letter in VERDICTS] for part in calls.split("/")]
        for part in parts:
            if len(part) > 1:
                same = sum(n * (n - 1) for n in Counter(part).values()) / (len(part) * (len(part) - 1))
                again.setdefault(at, []).append(same)
        if len(parts) == 2 and all(parts):
            first, second = (verdict_of("".join(part)) for part in parts)
            orders[at] = (first, second)
    found: dict[str, Any] = {}
    if again:
        rows = np.fromiter(again, dtype=np.int64)
        found["self_agreement"] = mean(np.array([np.mean(again[int(at)]) for at in rows]), answers.clusters, rows)
    if orders:
        rows = np.fromiter(orders, dtype=np.int64)
        pairs = [orders[int(at)] for at in rows]
        agreed = np.array([float(first == second) for first, second in pairs])
        values = np.zeros(len(answers.table))
        values[rows] = [float(first == "correct") - float(second == "correct") for first, second in pairs]
        found["position_agreement"] = proportion(agreed, answers.clusters, rows)
        found["position_effect"] = difference(answers, values, rows)
    return found
