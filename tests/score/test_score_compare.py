"""Paired comparison: counts, exact p, difference with its interval, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deckbench.errors import InputError
from deckbench.score.compare import compare
from tests.score.score_helpers import answered, choice, make_data, make_predictions


def test_worked_example(tmp_path: Path) -> None:
    """A right on 0-9, B right on 8-19: 8 only A, 10 only B, 2 both."""
    samples = [choice(i, anomaly=i % 2 == 0) for i in range(20)]
    data = make_data(tmp_path / "data", samples)
    a = make_predictions(
        tmp_path / "a.csv", [answered(s, None if i < 10 else "hm") for i, s in enumerate(samples)], data
    )
    rows = [answered(s, None if i >= 8 else "C") for i, s in enumerate(samples)]
    b = make_predictions(tmp_path / "b.csv", rows[::-1], data)
    result = compare(a, b, data=data)
    assert (result["only_a"], result["only_b"], result["both"], result["neither"]) == (8, 10, 2, 0)
    assert result["n"] == 20 and result["groups"] == 5
    assert result["difference"] == 0.1 and result["a"]["accuracy"]["value"] == 0.5
    assert result["a"]["unparsed"] == 10
    assert result["mcnemar_p"] == pytest.approx(0.8145, abs=1e-4)
    low, high = result["difference_interval"]
    assert low <= 0.1 <= high
    json.dumps(result)
    assert compare(a, b, data=data) == result
    assert compare(b, a, data=data)["difference"] == -0.1
    assert compare(a, b)["only_a"] == 8


def test_a_file_against_itself(tmp_path: Path) -> None:
    samples = [choice(i, anomaly=i % 2 == 0) for i in range(20)]
    a = make_predictions(tmp_path / "a.csv", [answered(s) for s in samples])
    result = compare(a, a)
    assert result["difference"] == 0 and result["mcnemar_p"] == 1 and result["difference_interval"] == [0, 0]


def test_other_samples_are_refused(tmp_path: Path) -> None:
    samples = [choice(i, anomaly=i % 2 == 0) for i in range(6)]
    a = make_predictions(tmp_path / "a.csv", [answered(s) for s in samples[:5]])
    b = make_predictions(tmp_path / "b.csv", [answered(s) for s in samples[2:]])
    with pytest.raises(InputError, match="2 are only in the first, 1 only in the second, 3 in both"):
        compare(a, b)


def test_other_gold_is_refused(tmp_path: Path) -> None:
    samples = [choice(i, anomaly=i % 2 == 0) for i in range(6)]
    a = make_predictions(tmp_path / "a.csv", [answered(s) for s in samples])
    turned = [answered(s) | {"gold": "A"} for s in samples]
    b = make_predictions(tmp_path / "b.csv", turned)
    with pytest.raises(InputError, match=r"another kind or gold answer in b\.csv"):
        compare(a, b)
