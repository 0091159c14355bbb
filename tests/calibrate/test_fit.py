"""The numbers of a calibration: temperatures, thresholds and conformal bounds, against planted truth and edge cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit

from deckbench import calibration
from deckbench.calibration import BOUNDS, LEAST_P, conformal_bound, fit_temperature, log_odds, threshold_at

FEW = np.arange(40) % 8


def planted(n: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 2, n)
    return odds * temperature, rng.random(n) < 1 / (1 + np.exp(-odds))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 6.0])
def test_a_planted_temperature_is_recovered_within_5_percent(temperature: float) -> None:
    odds, event = planted(6000, temperature)
    found = fit_temperature(odds, event, np.arange(6000) % 100)
    assert found.state == "fitted"
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.interval is not None and found.interval[0] < temperature < found.interval[1]


def test_the_fit_is_the_minimum_of_the_log_loss() -> None:
    odds, event = planted(300, 3.0, seed=5)
    found = fit_temperature(odds, event, np.arange(300))
    best = minimize_scalar(
        lambda t: float(calibration.log_loss(odds, event, t).mean()),
        bounds=BOUNDS,
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert found.temperature == pytest.approx(best.x, abs=1e-5)


def test_log_loss_brier_and_temperature_agree_with_scikit_learn() -> None:
    """Its own temperature scaling is in CalibratedClassifierCV from 1.8; the class that fits it is not public."""
    metrics = pytest.importorskip("sklearn.metrics")
    odds, event = planted(500, 2.0, seed=8)
    for temperature in (1.0, 2.0):
        p = expit(odds / temperature)
        ours = float(calibration.log_loss(odds, event, temperature).mean())
        assert ours == pytest.approx(metrics.log_loss(event, p), abs=1e-12)
        brier = float(((calibration.probability(odds, temperature) - event) ** 2).mean())
        assert brier == pytest.approx(metrics.brier_score_loss(event, p), abs=1e-10)
    scaling = getattr(pytest.importorskip("sklearn.calibration"), "_TemperatureScaling", None)
    if scaling is None:
        pytest.skip("this scikit-learn has no temperature scaling")
    theirs = 1 / scaling().fit(np.stack([np.zeros(500), odds], axis=1), event).beta_
    assert fit_temperature(odds, event, np.arange(500)).temperature == pytest.approx(theirs, rel=1e-4)


def test_what_decides_no_temperature_leaves_the_probabilities() -> None:
    odds, event = planted(40, 1.0)
    assert fit_temperature(odds[:29], event[:29], FEW[:29]).state == "too few samples"
    assert fit_temperature(odds, np.ones(40, dtype=bool), FEW).state == "one class"
    assert fit_temperature(np.zeros(40), event, FEW).state == "no information"
    sure = np.where(event, 1.5, -1.5)
    assert fit_temperature(sure, event, FEW).state == "all right"
    assert {
        fit_temperature(odds[:29], event[:29], FEW[:29]).temperature,
        fit_temperature(sure, event, FEW).temperature,
    } == {1.0}


def test_answers_no_better_than_chance_end_at_the_bound() -> None:
    odds, event = planted(400, 1.0)
    found = fit_temperature(-odds, event, np.arange(400))
    assert (found.temperature, found.state, found.interval) == (BOUNDS[1], "at the bound", None)


def test_one_group_gives_no_interval() -> None:
    odds, event = planted(100, 2.0)
    assert fit_temperature(odds, event, np.zeros(100, dtype=np.int64)).interval is None


def test_probabilities_of_zero_and_one_are_half_a_last_decimal_away() -> None:
    odds = log_odds(np.array([1.0, 0.0, 0.0, 1e-300]), np.array([0.0, 1.0, 0.0, 0.5]))
    assert np.isfinite(odds).all()
    assert odds[0] == -odds[1] == pytest.approx(np.log(1 / LEAST_P))
    assert odds[2] == 0.0
    assert (calibration.probability(odds) <= 1).all()


def test_probability_and_loss_neither_overflow_nor_lose_small_numbers() -> None:
    odds = np.array([-2000.0, -30.0, 0.0, 30.0, 2000.0])
    assert calibration.probability(odds, 0.01).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert np.isfinite(calibration.log_loss(odds, np.zeros(5, dtype=bool), 0.01)).all()


def test_a_temperature_keeps_every_answer_and_every_order() -> None:
    odds = np.linspace(-4, 4, 101)
    for temperature in (0.2, 1.0, 7.0):
        p = calibration.probability(odds, temperature)
        assert ((p > 0.5) == (odds > 0)).all()
        assert (np.diff(p) > 0).all()


def test_thresholds_by_hand() -> None:
    truth = np.array([True, True, False, True, False, False])
    p = np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.1])
    assert threshold_at(truth, p, 0.01) == 0.8
    assert threshold_at(truth, p, 0.34) == 0.6
    assert threshold_at(truth, p, 0.99) == 0.4
    assert threshold_at(truth, np.array([0.1, 0.2, 0.9, 0.3, 0.1, 0.1]), 0.1) is None  # a normal frame is on top
    assert threshold_at(np.ones(3, dtype=bool), p[:3], 0.1) is None


def test_conformal_bounds_by_hand() -> None:
    right = np.linspace(0.05, 0.95, 19)  # 19 samples: 20 ranks of 5%
    assert conformal_bound(right, 0.05) == pytest.approx(0.95)
    assert conformal_bound(right, 0.10) == pytest.approx(0.90)
    assert conformal_bound(right, 0.90) == 0.5  # never below: no option is left to rule out
    assert conformal_bound(right[:18], 0.05) is None  # 18 samples cannot promise 5%


@pytest.mark.parametrize("error", [0.05, 0.1])
def test_conformal_abstention_keeps_its_error_in_simulation(error: float) -> None:
    """2,000 draws of 99 val and 200 test samples: the mean error of all questions is at most what is stated."""
    rng = np.random.default_rng(3)
    wrong, given = [], []
    for _ in range(2000):
        odds = rng.normal(0, 2, 299)
        event = rng.random(299) < 1 / (1 + np.exp(-odds))
        p = calibration.probability(odds, 0.5)  # overconfident: the promise does not need calibrated numbers
        bound = conformal_bound(np.where(event, p, 1 - p)[:99], error)
        assert bound is not None
        sure = np.maximum(p, 1 - p)[99:] > bound
        wrong.append(float((sure & ((p > 0.5) != event)[99:]).mean()))
        given.append(float(sure.mean()))
    spread = np.std(wrong) / np.sqrt(len(wrong))
    assert error - 0.011 - 3 * spread <= np.mean(wrong) <= error + 3 * spread  # 1/(n + 1) below it at most
    assert 0.2 < np.mean(given) < 1
