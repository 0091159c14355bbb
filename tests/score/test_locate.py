"""Where errors sit, and more than two models: planted answers come out where they were planted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deckbench.errors import InputError
from deckbench.record.location import PLACES
from deckbench.score.locate import locate, location_plot
from deckbench.score.plots import write_plots
from deckbench.score.several import compare_several
from deckbench.stats import holm
from tests.score.score_helpers import answered, choice, make_data, make_predictions

FRAMES = 24


def stage(tmp_path: Path, name: str, wrong: set[int]) -> tuple[Path, Path]:
    """A stage of FRAMES anomalies in six sessions, both orders; `wrong`: those answered wrongly in one order."""
    samples: list[dict[str, Any]] = [
        choice(i, anomaly=True, swap=swap, group=f"g{i % 6}") | {"stage": name}
        for i in range(FRAMES)
        for swap in (False, True)
    ]
    data = make_data(tmp_path / f"{name}-data", samples)
    flip = {"A": "B", "B": "A"}
    rows = [
        answered(s, flip[s["gold"]] if int(s["pair_id"][1:]) in wrong and "swapped" in s["id"] else None)
        for s in samples
    ]
    return make_predictions(tmp_path / f"{name}.csv", rows, data), data


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        (({0, 1, 2}, {0, 1, 2}, {0, 1, 2}), "perception"),
        ((set(), {0, 1, 2}, {0, 1, 2}), "localisation"),
        ((set(), set(), {0, 1, 2}), "judgement"),
        (({0, 1, 2}, set(), {0, 1, 2}), "perception"),
    ],
)
def test_errors_are_located(tmp_path: Path, wrong: tuple[set[int], ...], place: str) -> None:
    made = [stage(tmp_path, name, bad) for name, bad in zip(("S1", "S2", "S3"), wrong, strict=True)]
    result = locate([p for p, _ in made], [d for _, d in made])
    assert result["n"] == FRAMES and result["groups"] == 6 and result["found"]["k"] == FRAMES - 3
    assert {name: one["k"] for name, one in result["lost"].items()} == dict.fromkeys(PLACES, 0) | {place: 3}
    low, high = result["lost"][place]["cluster"]
    assert low < 3 / FRAMES < high
    write_plots({"kinds": {}}, tmp_path / "plots", more=[location_plot(result)])
    assert (tmp_path / "plots" / "location.svg").is_file()
    assert json.dumps(result)


def test_found_in_spite_of_it_is_counted(tmp_path: Path) -> None:
    made = [stage(tmp_path, name, bad) for name, bad in (("S1", {5}), ("S2", set()), ("S3", set()))]
    result = locate([p for p, _ in made], [d for _, d in made])
    assert result["despite"]["k"] == 1 and result["paths"] == {"right,right,right": 23, "wrong,right,right": 1}


def test_stages_of_different_pools_are_refused(tmp_path: Path) -> None:
    first, data = stage(tmp_path, "S1", set())
    other = make_data(tmp_path / "other", [choice(100, anomaly=True)])
    alone = make_predictions(tmp_path / "o.csv", [answered(choice(100, anomaly=True))], other)
    with pytest.raises(InputError, match="no anomaly is asked about in all three"):
        locate([first, first, alone], [data, data, other])
    with pytest.raises(InputError, match="three prediction files"):
        locate([first, first], [data])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_models_that_cannot_be_told_apart_share_a_rank(tmp_path: Path) -> None:
    samples = [choice(i, anomaly=i % 2 == 0, group=f"g{i % 12}") for i in range(120)]
    data = make_data(tmp_path / "data", samples)

    def model(name: str, wrong: range) -> Path:
        rows = [answered(s, "AB"[s["gold"] == "A"] if i in wrong else None) for i, s in enumerate(samples)]
        return make_predictions(tmp_path / f"{name}.csv", rows, data)

    files = [model("bad", range(0, 70)), model("good", range(0, 3)), model("better", range(0, 2))]
    result = compare_several(files, data=data)
    assert [(Path(one["file"]).stem, one["rank"]) for one in result["files"]] == [
        ("better", 1),
        ("good", 1),
        ("bad", 3),
    ]
    assert [pair["differ"] for pair in result["pairs"]] == [True, True, False]
    with pytest.raises(InputError, match="given twice"):
        compare_several([files[0], files[0], files[1]])
