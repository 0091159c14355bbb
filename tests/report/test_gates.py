"""The gates of `report --check`: each one holds on good records and fails on what it is there for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deckbench.record.read import read_all
from deckbench.report import gates, report
from tests.record import fake
from tests.record.forge import forge


def failed(records: Path) -> list[str]:
    runs, broken = read_all(records)
    return [gate.name for gate in gates.check(runs, broken) if not gate.holds]


def test_all_hold_on_good_records(suite_records: Path) -> None:
    assert failed(suite_records) == []


def test_a_broken_record(one: Path, folder: Path, tmp_path: Path) -> None:
    fake.record(one, tmp_path / "work", seed=1)
    (folder / "record.json").write_text("{")
    assert failed(one) == ["records"]
    result = report(one, out=tmp_path / "site", check=True)
    assert result["failed"] == ["records"] and result["records"] == 1
    assert folder.name in result["gates"][0]["reasons"][0]
    assert (tmp_path / "site/index.html").is_file()


def test_only_broken_records_give_no_site(one: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "record.json").write_text("{")
    result = report(one, out=tmp_path / "site", check=True)
    assert result["failed"] == ["records"] and result["site"] is None
    assert not (tmp_path / "site").exists()


def test_a_pool_that_is_synthetic_here_and_real_there(one: Path, tmp_path: Path) -> None:
    fake.record(one, tmp_path / "work", synthetic=False, model="other")
    assert failed(one) == ["worlds"]


def test_a_suite_may_ask_of_rendered_and_of_real_frames(one: Path, tmp_path: Path) -> None:
    """One heading, two pools: they stand on two boards."""
    data = fake.dataset(tmp_path / "data")
    pool = {"name": "camera", "board": "Invented deck", "hash": fake.sha("camera"), "synthetic": False}
    fake.record(one, tmp_path / "work", data=data, model="other", instead={"pool": pool})
    assert failed(one) == []


def test_one_dataset_with_two_truths(one: Path, folder: Path, tmp_path: Path) -> None:
    data = next((tmp_path / "work").glob("data-*"))
    other = fake.record(one, tmp_path / "work", data=data, model="other")
    assert failed(one) == []
    forge(other, samples=lambda rows: rows[0].update(gold="AB"[rows[0]["gold"] == "A"]))
    assert failed(one) == ["reproduces", "golds"]


def test_fewer_samples_of_one_dataset(one: Path, folder: Path, tmp_path: Path) -> None:
    dataset = json.loads((folder / "record.json").read_text())["dataset"]
    fake.record(one, tmp_path / "work", model="other", board="half", n=30)
    other = next(place for place in one.iterdir() if place != folder)
    forge(other, record=lambda value: value.update(dataset=dataset))
    assert "golds" in failed(one)


def test_too_few_answers(one: Path, tmp_path: Path) -> None:
    fake.record(one, tmp_path / "work", model="other", board="small", n=28)
    assert failed(one) == ["answers"]


def headline(value: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = value["metrics"]["kinds"]["choice"]["metrics"][name]
    return found


def test_a_number_without_an_interval(one: Path, folder: Path) -> None:
    forge(folder, record=lambda value: headline(value, "accuracy").update(wilson=None, cluster=None))
    assert failed(one) == ["reproduces", "intervals"]


def test_an_interval_that_misses_its_value(one: Path, folder: Path) -> None:
    forge(folder, record=lambda value: headline(value, "miss_rate").update(wilson=[0.98, 0.99]))
    assert failed(one) == ["reproduces", "intervals"]


def test_a_failed_audit(one: Path, tmp_path: Path) -> None:
    fake.record(one, tmp_path / "work", model="other", audit=False)
    assert failed(one) == ["audit"]


def test_a_blind_model_that_sees(one: Path, tmp_path: Path) -> None:
    fake.record(one, tmp_path / "work", model="blind:tiny-glm4v", kind="baseline", skill=0.95)
    assert failed(one) == ["blind"]


def test_samples_that_are_fewer_than_were_scored(one: Path, folder: Path) -> None:
    forge(folder, record=lambda value: value["metrics"].update(n=61))
    assert failed(one) == ["samples", "reproduces"]


def test_the_page_names_what_fails(one: Path, tmp_path: Path) -> None:
    fake.record(one, tmp_path / "work", model="other", audit=False)
    result = report(one, out=tmp_path / "site", check=True)
    assert result["failed"] == ["audit"]
    assert json.dumps(result)
    page = (tmp_path / "site/index.html").read_text()
    assert 'class="fails"' in page and "audit of its dataset failed" in page


def test_an_image_that_is_not_locked(one: Path, tmp_path: Path) -> None:
    image = {"name": "x86-cpu", "identity": fake.sha("image")}
    fake.record(one, tmp_path / "work", model="other", instead={"container": {**image, "locked": True}})
    assert failed(one) == []
    fake.record(one, tmp_path / "work2", model="third", instead={"container": image})
    assert failed(one) == ["images"]
    report(one, out=tmp_path / "site")
    pages = "".join(path.read_text() for path in (tmp_path / "site").rglob("*.html"))
    assert pages.count(", not locked") == 1
    again = [line for line in pages.splitlines() if '<pre class="command">' in line]
    assert sum("--runner docker --image x86-cpu</code>" in line for line in again) == 2 < len(again)
