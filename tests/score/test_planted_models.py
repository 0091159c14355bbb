"""Models with a planted fault, as prediction files: each is exposed by the number that is meant for it, and an honest
model is not."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from deckbench.build.audit import audit
from deckbench.calibrate import calibrate
from deckbench.score import score
from deckbench.score.locate import PLACES, locate
from tests.build.test_audit import drawn
from tests.calibrate.calibrate_helpers import world
from tests.score.score_helpers import COLUMNS, answered, choice, make_data, make_predictions, scene, write_csv
from tests.score.test_locate import FRAMES, stage


def block(result: dict[str, Any], kind: str = "choice") -> dict[str, Any]:
    found: dict[str, Any] = result["kinds"][kind]
    return found


def value(result: dict[str, Any], name: str, kind: str = "choice") -> float:
    found: float = block(result, kind)["metrics"][name]["value"]
    return found


# Reads only boxes


def reads_boxes(data: Path, out: Path) -> Path:
    """Answers "anomaly" where the box is wider than high, and looks at nothing else."""
    with (data / "samples.csv").open(encoding="utf-8", newline="") as file:
        boxes = {row["id"]: [float(part) for part in row["box"].split()] for row in csv.DictReader(file)}
    rows = []
    for line in (data / "test.jsonl").read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        gold = sample["messages"][1]["content"]
        x0, y0, x1, y1 = boxes[sample["id"]]
        wide = x1 - x0 > y1 - y0
        said = gold if wide == sample["anomaly"] else "AB"[gold == "A"]
        asked = {"id": sample["id"], "pair_id": sample["id"], "kind": "choice", "gold": gold, "prediction": said}
        rows.append({**asked, "question": sample["messages"][0]["content"]})
    return write_csv(out, COLUMNS, rows)


def test_a_model_that_reads_only_boxes_scores_what_box_only_says(tmp_path: Path) -> None:
    leaks, honest = (drawn(tmp_path / name, shape_tells=name == "leaks") for name in ("leaks", "honest"))
    report = audit(leaks)
    on_leaks, on_honest = (
        score(reads_boxes(data, tmp_path / f"{data.name}.csv"))["kinds"]["choice"]["metrics"]["accuracy"]
        for data in (leaks, honest)
    )
    assert not report["passed"]
    assert on_leaks["value"] == 1.0
    assert on_leaks["wilson"][0] <= report["box_only_accuracy"] <= on_leaks["wilson"][1]
    assert on_honest["wilson"][0] <= 0.5 <= on_honest["wilson"][1]  # where boxes say nothing it is guessing


# Always A


def twins(number: int = 60) -> list[dict[str, Any]]:
    return [choice(n, anomaly=bool(n % 2), swap=swap) for n in range(number) for swap in (False, True)]


def test_always_a_is_position_bias(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", twins())
    biased = score(make_predictions(tmp_path / "a.csv", [answered(s, "A") for s in twins()], data), data=data)
    honest = score(make_predictions(tmp_path / "b.csv", [answered(s) for s in twins()], data), data=data)
    assert (value(biased, "share_a"), value(biased, "gold_share_a")) == (1.0, 0.5)
    assert (value(biased, "order_consistency"), value(biased, "pair_accuracy")) == (0.0, 0.0)
    assert value(biased, "balanced_accuracy") == 0.5
    assert (value(honest, "share_a"), value(honest, "order_consistency"), value(honest, "pair_accuracy")) == (0.5, 1, 1)


# Right on crops, wrong on frames


def test_right_on_crops_and_wrong_on_frames_is_told_by_stage(tmp_path: Path) -> None:
    crops = [choice(n, anomaly=bool(n % 2), stage="S1", task="ot2-concept@1") for n in range(40)]
    frames = [choice(n, anomaly=bool(n % 2), stage="S3", task="ot2-scene@1") for n in range(40, 80)]
    data = make_data(tmp_path / "data", crops + frames)
    rows = [answered(s) for s in crops] + [answered(s, "AB"[s["gold"] == "A"]) for s in frames]
    result = score(make_predictions(tmp_path / "p.csv", rows, data), data=data)
    stages = block(result)["by_stage"]
    assert {name: part["metrics"]["accuracy"]["value"] for name, part in stages.items()} == {"S1": 1.0, "S3": 0.0}
    assert value(result, "accuracy") == 0.5  # which alone would look like guessing


@pytest.mark.parametrize(("boxed", "place"), [(True, "localisation"), (False, "judgement")])
def test_where_its_errors_sit_is_found(tmp_path: Path, boxed: bool, place: str) -> None:
    """Right on every crop and wrong on every frame: wrong in the box too, or only where nothing points to it."""
    every = set(range(FRAMES))
    parts = [
        stage(tmp_path, name, wrong)
        for name, wrong in (("S1", set()), ("S2", every if boxed else set()), ("S3", every))
    ]
    result = locate([predictions for predictions, _ in parts], [data for _, data in parts])
    assert {name: one["value"] for name, one in result["lost"].items()} == dict.fromkeys(PLACES, 0.0) | {place: 1.0}
    assert result["right"]["crop"]["value"] == 1.0


# Contradicts itself


def test_a_model_that_contradicts_itself(tmp_path: Path) -> None:
    asked = [scene(n, anomaly=bool(n % 2)) | {"task": "ot2-scene@1"} for n in range(40)]
    data = make_data(tmp_path / "data", asked)
    said = {
        True: "tip: bent. Wrong: damaged tip. Verdict: normal.",
        False: "tip: straight. Verdict: anomaly.",
    }
    torn = [answered(s, said[s["anomaly"] == "true"]) for s in asked]
    found = score(make_predictions(tmp_path / "torn.csv", torn, data), data=data)
    for name, wanted in (("contradictions", 1.0), ("names_anomaly_says_normal", 0.5), ("says_anomaly_names_none", 0.5)):
        assert value(found, name, "scene") == wanted
    honest = score(make_predictions(tmp_path / "honest.csv", [answered(s) for s in asked], data), data=data)
    assert value(honest, "contradictions", "scene") == 0.0


# Overconfident


@pytest.mark.parametrize("temperature", [0.5, 2.5])
def test_an_overconfident_model_is_told_by_its_temperature(tmp_path: Path, temperature: float) -> None:
    data, val, test = world(tmp_path, temperatures={"verdict": temperature}, n=800)
    made = calibrate(val, data=data, out=tmp_path / "c.json")
    assert made.temperatures["verdict"].temperature == pytest.approx(temperature, rel=0.05)
    found = score(test, data=data, calibration=tmp_path / "c.json")["calibration"]
    assert found["change"]["log_loss"]["cluster"][1] < 0
    assert found["after"]["ece"]["value"] < found["before"]["ece"]["value"] / 2
    accuracy = score(test, data=data)["kinds"]["choice"]["metrics"]["accuracy"]["value"]
    assert (accuracy - 0.5) / 0.5 == pytest.approx(found["chance_corrected"]["value"])  # no answer has changed
