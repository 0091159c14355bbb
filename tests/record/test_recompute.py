"""A record proves itself: whatever is changed in it by hand, with all hashes made again, is found."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deckbench.cli import main
from deckbench.errors import InputError
from deckbench.pipeline.verify import verify
from deckbench.predictions import COLUMNS, csv_bytes
from deckbench.record.read import read_record
from deckbench.record.recompute import differences
from deckbench.report import report
from tests.record import fake
from tests.record.forge import forge

Edit = Callable[[dict[str, Any]], Any]
Rows = Callable[[list[dict[str, str]]], Any]


def block(value: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = value["metrics"]["kinds"]["choice"]
    return found


def wrong(rows: list[dict[str, str]]) -> dict[str, str]:
    return next(row for row in rows if row["right"] == "false")


def swap(rows: list[dict[str, str]], *names: str) -> None:
    """Swap columns of the first wrong and the first right sample."""
    first, second = wrong(rows), next(row for row in rows if row["right"] == "true")
    for name in names:
        first[name], second[name] = second[name], first[name]


METRICS: dict[str, Edit] = {
    "a headline": lambda v: block(v)["metrics"]["accuracy"].update(value=1.0, k=60),
    "a last digit": lambda v: block(v)["metrics"]["accuracy"].update(
        value=block(v)["metrics"]["accuracy"]["value"] + 1e-9
    ),
    "a miss rate": lambda v: block(v)["metrics"]["miss_rate"].update(value=0.0, k=0),
    "a wide interval": lambda v: block(v)["metrics"]["accuracy"].update(cluster=[0.0, 1.0]),
    "a slice": lambda v: block(v)["by_class"].pop("spill"),
    "a forged slice": lambda v: block(v)["by_question"].update(easy=block(v)["by_class"]["spill"]),
    "the confusion": lambda v: block(v)["confusion"].update(anomaly_as_normal=0),
    "the curve": lambda v: block(v)["roc"].pop(),
    "the operating point": lambda v: block(v)["operating_point"].update(miss_rate=0.0),
    "a bin": lambda v: block(v)["reliability"][0].update(n=7),
    "the seed": lambda v: v["metrics"].update(seed=1),
    "fewer resamples": lambda v: v["metrics"].update(resamples=10),
    "the groups": lambda v: v["metrics"].update(groups=30),
    "a note": lambda v: v["metrics"].update(notes=[]),
    "the task": lambda v: v.update(task="ot2-scene@1"),
    "the dataset": lambda v: v.update(dataset="0" * 64),
}
SAMPLES: dict[str, Rows] = {
    "a grade": lambda rows: wrong(rows).update(right="true", reason=""),
    "all grades": lambda rows: [row.update(right="true", reason="") for row in rows],
    "an answer": lambda rows: wrong(rows).update(prediction=wrong(rows)["gold"]),
    "a graded answer": lambda rows: wrong(rows).update(
        prediction=wrong(rows)["gold"], parsed=wrong(rows)["gold"], right="true", substring="true", reason=""
    ),
    "a gold answer": lambda rows: rows[0].update(gold="AB"[rows[0]["gold"] == "A"]),
    "a probability": lambda rows: rows[0].update(p_anomaly="0.123"),
    "a class": lambda rows: rows[0].update({"class": "tip_rack"}),
    "a group": lambda rows: rows[0].update(group="session-5"),
    "swapped answers": lambda rows: swap(rows, "prediction", "parsed", "right", "substring", "reason"),
    "swapped ids": lambda rows: swap(rows, "id", "pair_id"),
    "a sample less": lambda rows: rows.pop(),
    "a sample twice": lambda rows: rows.append(dict(rows[0], id="s99999")),
    "an id twice": lambda rows: rows[1].update(id=rows[0]["id"]),
    "no task": lambda rows: [row.update(task="") for row in rows],
    "another stage": lambda rows: rows[0].update(stage="S3"),
    "another split": lambda rows: [row.update(split="train") for row in rows],
}


def test_a_record_follows_from_its_samples(folder: Path) -> None:
    assert differences(read_record(folder)) == ()
    assert verify(folder)["verdict"] == "same bytes"


@pytest.mark.parametrize("what", METRICS)
def test_changed_metrics_are_found(one: Path, folder: Path, what: str) -> None:
    forge(folder, record=METRICS[what])
    found(one, folder)


@pytest.mark.parametrize("what", SAMPLES)
def test_changed_samples_are_found(one: Path, folder: Path, what: str) -> None:
    forge(folder, samples=SAMPLES[what])
    found(one, folder)


def test_a_sample_swapped_for_another_of_the_same_kind(one: Path, folder: Path) -> None:
    """No metric changes, but it is not what was scored."""

    def swap_alike(rows: list[dict[str, str]]) -> None:
        first, second = [row for row in rows if row["gold"] == row["parsed"] == "A"][:2]
        for name in ("prediction", "tokens_in"):
            first[name], second[name] = second[name] + " ", first[name]

    forge(folder, samples=swap_alike, rehash_scored=False)
    found(one, folder)


def found(one: Path, folder: Path) -> None:
    reasons = differences(read_record(folder))
    assert reasons
    for since in ("score", "infer", "train"):
        outcome = verify(folder, since=since)
        assert (outcome["verdict"], outcome["reproduced"]) == ("different", False)
    gate = next(
        gate for gate in report(one, out=one.parent / "site", check=True)["gates"] if gate["name"] == "reproduces"
    )
    assert not gate["holds"] and folder.name in gate["reasons"][0]


def test_such_a_record_is_shown_unranked_with_its_reason(
    one: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(folder, record=METRICS["a headline"])
    arguments = ["deckbench", "report", "--records", str(one), "--out", str(tmp_path / "site"), "--check"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 4
    page = (tmp_path / "site/index.html").read_text()
    assert "does not reproduce · not ranked" in page and 'data-ranked="0"' in page
    own = (tmp_path / f"site/runs/{folder.name}.html").read_text()
    assert "Does not reproduce" in own and "accuracy.k is 60" in own


def test_hashes_that_were_not_made_again_are_exit_2(
    one: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder / "record.json"
    place.write_text(place.read_text().replace('"k": ', '"k": 1', 1))
    monkeypatch.setattr("sys.argv", ["deckbench", "report", "--records", str(one), "--out", str(tmp_path / "site")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and not (tmp_path / "site").exists()


def test_metrics_without_samples_are_refused(folder: Path) -> None:
    (folder / "samples.csv.gz").unlink()
    forge(folder, record=lambda value: value.update(samples=None))
    with pytest.raises(InputError, match="metrics without samples"):
        read_record(folder)


@pytest.mark.parametrize("block_name", ["opinions", "events"])
def test_an_unknown_block_is_refused_by_name(folder: Path, block_name: str) -> None:
    forge(folder, record=lambda value: value["metrics"].update({block_name: {}}))
    with pytest.raises(InputError, match=f"unknown field metrics.{block_name}") as refused:
        read_record(folder)
    assert refused.value.exit_code == 2


# ---- scenes: contradictions need the ontology


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A record of scene descriptions, one of which contradicts itself."""
    data = fake.dataset(tmp_path / "data", n=24, pictures=12, task="ot2-scene@1")
    with (data / "samples.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[::2]
    for number, row in enumerate(rows):
        verdict = "anomaly" if row["anomaly"] == "true" else "normal"
        text = f"tip: straight {number}. Verdict: {verdict}."
        row.update(kind="scene", question="Describe the deck.", answer=text, gold=verdict, option_a="", option_b="")
    fake.write_rows(data / "samples.csv", [list(rows[0]), *([*row.values()] for row in rows)])
    fake.reseal(data)
    texts = ["damaged tip. Verdict: normal."] + ["tip: straight. Verdict: normal."] * 11
    answers = []
    for row, text in zip(rows, texts, strict=True):
        said = {**row, "gold": row["answer"], "prediction": text, "parsed": "normal"}
        answers.append([said.get(name, "") for name in COLUMNS])
    predictions = tmp_path / "p.csv"
    predictions.write_bytes(csv_bytes(COLUMNS, answers))
    place = fake.record(
        tmp_path / "records", tmp_path / "w", data=data, task="ot2-scene@1", instead={"predictions": predictions}
    )
    metrics = read_record(place).record.metrics
    assert metrics is not None and metrics.kinds["scene"].metrics["names_anomaly_says_normal"].k
    return place


def test_contradictions_are_counted_again_from_the_record_alone(scenes: Path, tmp_path: Path) -> None:
    for name in ("data", "p.csv", "p.json"):
        place = tmp_path / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    assert differences(read_record(scenes)) == ()
    forge(scenes, record=lambda v: v["metrics"]["kinds"]["scene"]["metrics"]["contradictions"].update(value=0.0, k=0))
    assert "contradictions" in differences(read_record(scenes))[0]


def test_an_ontology_of_other_words_is_found(scenes: Path) -> None:
    place = scenes / "ontology.json"
    ontology = json.loads(place.read_text(encoding="utf-8"))
    place.write_text(json.dumps({**ontology, "name": "other"}), encoding="utf-8")
    forge(scenes)
    assert "not the ontology the record names" in differences(read_record(scenes))[0]
    place.unlink()
    forge(scenes)
    with pytest.raises(InputError, match="missing"):
        read_record(scenes)
