"""Plots: each is a table that is true, and is drawn from it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.score import score
from deckbench.score.curves import parse_curves
from tests.score.score_helpers import FIELDS, answered, choice, make_predictions, write_csv


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_tables_say_what_the_score_says(tmp_path: Path) -> None:
    """Large anomalies are found, small ones are not; names hold marks of other languages."""
    samples = [choice(i, anomaly=i % 2 == 0) | {"class": "" if i % 2 else "tip $x_1$ <b>"} for i in range(80)]
    data = tmp_path / "data"
    with artifact.writing(data, "dataset", inputs={}, params={}, seed=0) as draft:
        write_csv(draft.path / "samples.csv", FIELDS, samples)
        lines = [
            {"frame": s["frame"], "boxes": [{"class": s["class"], "box": [0, 0, 0.1, 0.01 if i < 40 else 0.5]}]}
            for i, s in enumerate(samples)
        ]
        (draft.path / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    said = [
        answered(s, None if s["anomaly"] == "false" or i >= 40 else "A", p_anomaly=(i * 37 % 100) / 100)
        for i, s in enumerate(samples)
    ]
    path = make_predictions(tmp_path / "p.csv", said, data)
    base = tmp_path / "base.json"
    result = score(path, data=data, out=base)
    folder = tmp_path / "plots"
    score(path, data=data, plots=folder, curves={"base": base, "S1": base})
    cells = {(row["truth"], row["verdict"]): int(row["count"]) for row in rows_of(folder / "choice-confusion.csv")}
    assert cells["anomaly", "normal"] == 20 and cells["anomaly", "anomaly"] == 20 and cells["normal", "normal"] == 40
    sizes = rows_of(folder / "choice-size.csv")
    assert [float(row["share_of_frame"]) for row in sizes] == pytest.approx([0.001, 0.05])
    assert [(row["n"], row["found"]) for row in sizes] == [("20", "0"), ("20", "1")]
    stages = rows_of(folder / "stages.csv")
    assert [row["score"] for row in stages] == ["base", "S1"]
    assert float(stages[0]["accuracy"]) == result["kinds"]["choice"]["metrics"]["accuracy"]["value"]
    curve = rows_of(folder / "choice-precision-recall.csv")
    assert float(curve[-1]["recall"]) == 1 and float(curve[-1]["precision"]) == pytest.approx(0.5)
    assert (folder / "choice-anomalies.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("given", [["base"], ["=s.json"], ["a=s.json", "a=t.json"], ["a="]])
def test_curves_that_are_not_named_are_refused(given: list[str]) -> None:
    with pytest.raises(InputError, match="--curve"):
        parse_curves(given)


def test_a_curve_needs_a_place(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="add --plots DIR"):
        score(make_predictions(tmp_path / "p.csv", [answered(choice(1, anomaly=True))]), curves={"a": tmp_path})
