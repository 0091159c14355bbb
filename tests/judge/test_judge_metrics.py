"""What a judge's verdicts make of a score: each fault of a judge is seen in the number meant for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deckbench.score import score
from tests.judge import judging
from tests.judge.judging import many, part, world

Offline = Callable[..., dict[str, Any]]


def test_a_judge_that_errs_is_seen_and_corrected(offline: Offline, tmp_path: Path) -> None:
    """Open answers are right in 3 of 4; the judge errs in a fifth of all."""
    predictions, data = world(tmp_path, 400)
    offline(predictions, data, judging.judge(0.2), calibration=300)
    found = score(predictions, data=data)["judge"]
    errors = found["errors"]["choice"]
    assert errors["right"] + errors["wrong"] == sum(not (i % 5 == 1 or i % 10 == 7) for i in range(400))
    kind = found["kinds"]["open"]
    assert kind["n"] == 400 and kind["ungraded"] == 0
    assert abs(kind["judge"]["value"] - (0.75 * 0.8 + 0.25 * 0.2)) < 0.05
    assert kind["corrected"]["by"] == "choice"
    low, high = kind["corrected"]["interval"]
    assert low < 0.75 < high
    assert abs(kind["corrected"]["value"] - 0.75) < abs(kind["judge"]["value"] - 0.75)
    assert found["joint_accuracy"]["n"] >= 800 - kind["ungraded"]
    assert found["position_agreement"]["value"] == 1.0 and found["position_effect"]["value"] == 0.0
    assert kind["by_substring"]["true"]["correct"] + kind["by_substring"]["true"]["incorrect"] == 300


def test_a_judge_with_a_favourite_place_is_seen(offline: Offline, tmp_path: Path) -> None:
    honest = judging.judge()

    def write(body: dict[str, Any]) -> str:
        if not judging.is_swapped(body) and judging.chance(part(body, "question")) < 0.3:
            return json.dumps({"reason": "first", "verdict": "correct"})
        return honest(body)

    predictions, data = world(tmp_path, 60)
    offline(predictions, data, write)
    found = score(predictions, data=data)["judge"]
    assert found["position_effect"]["value"] > 0.03 and found["position_agreement"]["value"] < 0.97
    assert found["kinds"]["open"]["by_strict"]["wrong"]["unclear"] > 0


def test_a_judge_that_likes_long_answers_is_seen(offline: Offline, tmp_path: Path) -> None:
    honest = judging.judge()
    more = "Much more is said here than is needed by anyone who looks at it."

    def write(body: dict[str, Any]) -> str:
        return json.dumps({"reason": "long", "verdict": "correct"}) if more in part(body, "answer") else honest(body)

    predictions, data = world(tmp_path, 80)
    longer = {f"s{i}" for i in range(0, 80, 8)} | {f"s{i}" for i in range(1, 80, 8)}
    judging.edit(predictions, lambda row: f"{more} {row['prediction']}" if row["id"] in longer else row["prediction"])
    offline(predictions, data, write)
    found = score(predictions, data=data)["judge"]
    assert found["errors"]["scene"]["verbosity"]["value"] > 0.1
    assert found["errors"]["choice"]["verbosity"] is None  # letters are equally long


def test_a_judge_that_contradicts_itself_is_seen(offline: Offline, tmp_path: Path) -> None:
    turns: dict[str, int] = {}

    def write(body: dict[str, Any]) -> str:
        key = part(body, "question") + str(judging.is_swapped(body))
        turns[key] = turns.get(key, 0) + 1
        return json.dumps({"reason": "", "verdict": "correct" if turns[key] % 2 else "incorrect"})

    predictions = many(tmp_path, 12)
    offline(predictions, None, write, repeats=2)
    found = score(predictions)["judge"]
    assert found["self_agreement"]["value"] == 0.0
    assert found["kinds"]["open"]["corrected"]["value"] is None
    assert "10 are needed" in found["kinds"]["open"]["corrected"]["why"]


def test_a_judge_that_says_yes_to_all_has_no_corrected_rate(offline: Offline, tmp_path: Path) -> None:
    predictions, data = world(tmp_path, 80)
    offline(predictions, data, lambda body: json.dumps({"reason": "fine", "verdict": "correct"}))
    found = score(predictions, data=data)["judge"]
    assert found["kinds"]["open"]["judge"]["value"] == 1.0
    assert found["kinds"]["open"]["corrected"]["value"] is None
    assert "says nothing" in found["kinds"]["open"]["corrected"]["why"]
    assert found["errors"]["choice"]["kappa"]["value"] == 0.0 and found["errors"]["choice"]["bias"]["value"] > 0.2
