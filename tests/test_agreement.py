"""Kappa and the corrected rate of a judge: worked out by hand, against scikit-learn, and by simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deckbench.agreement import Corrected, cohen_kappa, corrected_rate
from deckbench.stats import Clusters, Floats, clusters_of


def flags(*counts: tuple[bool, int]) -> np.ndarray:
    return np.concatenate([np.full(n, value) for value, n in counts])


def corrected(judged: np.ndarray, said: np.ndarray, truth: np.ndarray, groups: int = 50) -> Corrected:
    """Independent answers: each stands in one of many groups."""
    n, m = len(judged), len(said)
    clusters = clusters_of([str(i % groups) for i in range(n + m)])
    return corrected_rate(judged, np.arange(n), said, truth, np.arange(n, n + m), clusters)


def test_kappa_by_hand() -> None:
    # Fleiss, Statistical Methods: 100 subjects, agreement 0.75, expected 0.5 -> 0.5
    first = ["a"] * 50 + ["b"] * 50
    second = ["a"] * 37 + ["b"] * 13 + ["a"] * 12 + ["b"] * 38
    expected = (0.5 * 0.49) + (0.5 * 0.51)
    assert cohen_kappa(first, second) == pytest.approx((0.75 - expected) / (1 - expected), abs=1e-12)
    assert cohen_kappa(["a", "b"], ["a", "b"]) == 1.0
    assert cohen_kappa(["a", "b"], ["b", "a"]) == -1.0
    assert cohen_kappa(["a", "a"], ["a", "a"]) is None
    assert cohen_kappa([], []) is None


def test_kappa_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(0)
    for names in (("x", "y"), ("correct", "incorrect", "unclear")):
        for _ in range(20):
            one, two = (list(rng.choice(names, 57)) for _ in range(2))
            assert cohen_kappa(one, two) == pytest.approx(metrics.cohen_kappa_score(one, two), abs=1e-12)


def test_the_corrected_rate_by_hand() -> None:
    """60% called right by a judge of sensitivity 0.9 and specificity 0.8: (0.6 + 0.8 - 1) / 0.7."""
    found = corrected(
        flags((True, 60), (False, 40)),
        flags((True, 90), (False, 10), (False, 80), (True, 20)),
        flags((True, 100), (False, 100)),
    )
    assert found.value == pytest.approx(0.4 / 0.7) == found.raw
    assert found.interval is not None and found.interval[0] < 0.4 / 0.7 < found.interval[1] and not found.why


def test_a_perfect_judge_changes_nothing_but_the_interval() -> None:
    found = corrected(flags((True, 30), (False, 70)), flags((True, 50), (False, 50)), flags((True, 50), (False, 50)))
    assert found.value == pytest.approx(0.3)
    assert found.interval is not None and 0.19 < found.interval[0] < 0.3 < found.interval[1] < 0.42


@pytest.mark.parametrize(("right", "wrong"), [(50, 50), (30, 60), (10, 100)])
def test_a_judge_that_says_nothing_gives_no_number(right: int, wrong: int) -> None:
    """Sensitivity + specificity at most 1."""
    said = flags((True, right), (False, 100 - right), (True, wrong), (False, 100 - wrong))
    found = corrected(flags((True, 60), (False, 40)), said, flags((True, 100), (False, 100)))
    assert found.value is None and found.interval is None and "says nothing" in found.why


def test_a_judge_that_cannot_be_told_from_chance_has_no_interval() -> None:
    said = flags((True, 6), (False, 4), (False, 6), (True, 4))
    found = corrected(flags((True, 55), (False, 45)), said, flags((True, 10), (False, 10)))
    assert found.value is not None and found.interval is None and "any rate fits" in found.why


def test_bounds_are_cut_off_and_the_raw_value_kept() -> None:
    """The judge calls fewer right than its false alarms alone would be."""
    said = flags((True, 90), (False, 10), (False, 80), (True, 20))
    found = corrected(flags((True, 17), (False, 83)), said, flags((True, 100), (False, 100)))
    assert found.value == 0.0 and found.raw == pytest.approx(-0.03 / 0.7)
    assert found.interval is not None and found.interval[0] == 0.0 < found.interval[1]


def test_a_rate_that_cannot_be_is_said() -> None:
    said = flags((True, 900), (False, 100), (False, 500), (True, 500))
    found = corrected(flags((True, 10), (False, 990)), said, flags((True, 1000), (False, 1000)))
    assert found.value == 0.0 and found.interval is None and "errs otherwise" in found.why


@pytest.mark.parametrize(("truth", "word"), [(True, "wrong"), (False, "right")])
def test_without_both_truths_there_is_none(truth: bool, word: str) -> None:
    found = corrected(flags((True, 5)), flags((True, 5)), flags((truth, 5)))
    assert found.value is None and word in found.why


def test_without_judged_answers_or_groups() -> None:
    none = corrected(flags((True, 0)), flags((True, 5), (False, 5)), flags((True, 5), (False, 5)))
    assert none.value is None and none.why
    one = corrected(flags((True, 5)), flags((True, 5), (False, 5)), flags((True, 5), (False, 5)), groups=1)
    assert one.value == 1.0 and one.interval is None and "group" in one.why


def rates(rng: np.random.Generator, mean: float, correlation: float, groups: int) -> Floats:
    """A rate for each group: two answers of a group then correlate by `correlation`."""
    if correlation == 0:
        return np.full(groups, mean)
    total = (1 - correlation) / correlation
    return rng.beta(mean * total, (1 - mean) * total, groups)


def coverage(
    rate: float, error: float, *, groups: int, each: int, known: int, within: float, judge: float, repeats: int
) -> float:
    """How often the interval holds the rate. within, judge: correlation of answers, and of the judge's errors, in a
    group; each, known: answers of a group that are judged, and whose truth is known too."""
    rng = np.random.default_rng(7)
    codes = np.repeat(np.arange(groups), each)
    of_known = np.repeat(np.arange(groups), known)
    clusters = Clusters(np.concatenate([codes, of_known]), groups)
    held = 0
    for _ in range(repeats):
        right, wrong = (rates(rng, 1 - error, judge, groups) for _ in range(2))
        true = rng.random(len(codes)) < rates(rng, rate, within, groups)[codes]
        judged = rng.random(len(codes)) < np.where(true, right[codes], 1 - wrong[codes])
        truth = rng.random(len(of_known)) < 0.5
        said = rng.random(len(of_known)) < np.where(truth, right[of_known], 1 - wrong[of_known])
        at = np.arange(len(codes))
        found = corrected_rate(judged, at, said, truth, np.arange(len(codes), len(clusters.codes)), clusters)
        low, high = found.interval or (0.0, 1.0)
        held += low <= rate <= high
    return held / repeats


DESIGNS: dict[str, dict[str, Any]] = {
    "independent": {"groups": 300, "each": 1, "known": 1, "within": 0.0, "judge": 0.0},
    "correlated": {"groups": 40, "each": 10, "known": 5, "within": 0.1, "judge": 0.0},
    "both correlated": {"groups": 40, "each": 10, "known": 5, "within": 0.1, "judge": 0.05},
    "strongly correlated": {"groups": 40, "each": 10, "known": 5, "within": 0.3, "judge": 0.05},
    "eight groups": {"groups": 8, "each": 25, "known": 20, "within": 0.1, "judge": 0.05},
}


@pytest.mark.slow
@pytest.mark.parametrize("error", [0.05, 0.1, 0.2, 0.3])
@pytest.mark.parametrize("design", DESIGNS)
def test_the_interval_holds_the_rate_in_95_of_100(design: str, error: float) -> None:
    for rate in (0.5, 0.8):
        held = coverage(rate, error, **DESIGNS[design], repeats=2000)
        assert 0.93 <= held <= 0.97, (rate, held)


def test_the_interval_holds_the_rate_briefly() -> None:
    held = [coverage(0.7, 0.1, **DESIGNS[name], repeats=300) for name in ("correlated", "eight groups")]
    assert all(0.91 <= value <= 0.99 for value in held), held
