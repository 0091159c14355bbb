"""The gates of `report --check`: each one holds on good records and fails on what it is there for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deckbench.errors import InputError
from deckbench.record.facts import SERVER
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
    data = fake.dataset(tmp_path / "data", pool="camera", synthetic=False)
    fake.record(one, tmp_path / "work", data=data, model="other")
    assert failed(one) == []


def test_one_dataset_with_two_truths(one: Path, folder: Path, tmp_path: Path) -> None:
    data = next((tmp_path / "work").glob("data-*"))
    other = fake.record(one, tmp_path / "work", data=data, model="other")
    assert failed(one) == []
    forge(other, samples=lambda rows: rows[0].update(gold="AB"[rows[0]["gold"] == "A"]))
    assert failed(one) == ["reproduces"]  # a record carries the questions of its dataset


def test_fewer_samples_of_one_dataset(one: Path, folder: Path, tmp_path: Path) -> None:
    dataset = json.loads((folder / "record.json").read_text())["dataset"]
    other = fake.record(one, tmp_path / "work", model="other", board="half", n=30)
    forge(other, record=lambda value: value.update(dataset=dataset))
    assert failed(one) == ["reproduces", "golds"]


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
    fake.record(one, tmp_path / "work", model="other", board="leaky", audit=False)
    assert failed(one) == ["audit"]


def test_a_blind_model_that_sees(one: Path, tmp_path: Path) -> None:
    fake.record(one, tmp_path / "work", model="blind:tiny-glm4v", kind="baseline", skill=0.95)
    assert failed(one) == ["blind"]


def test_a_blind_model_that_says_neither_letter_shows_no_leak(one: Path, tmp_path: Path) -> None:
    texts = dict.fromkeys(range(0, 60, 2), "a rack") | dict.fromkeys(range(1, 60, 2), "a tip")
    fake.record(one, tmp_path / "work", model="blind:tiny-glm4v", kind="baseline", skill=0.5, texts=texts)
    assert failed(one) == []


def test_samples_that_are_fewer_than_were_scored(one: Path, folder: Path) -> None:
    forge(folder, record=lambda value: value["metrics"].update(n=61))
    assert failed(one) == ["reproduces"]


def test_the_page_names_what_fails(one: Path, tmp_path: Path) -> None:
    fake.record(one, tmp_path / "work", model="other", board="leaky", audit=False)
    result = report(one, out=tmp_path / "site", check=True)
    assert result["failed"] == ["audit"]
    assert json.dumps(result)
    page = (tmp_path / "site/index.html").read_text()
    assert 'class="fails"' in page and "audit of its dataset failed" in page


def test_an_image_that_is_not_locked(one: Path, tmp_path: Path) -> None:
    image = {"name": "x86-cpu", "identity": fake.sha("image")}
    fake.record(one, tmp_path / "work", model="other", container={**image, "locked": True})
    assert failed(one) == []
    fake.record(one, tmp_path / "work2", model="third", container={**image, "locked": False})
    assert failed(one) == ["images"]
    report(one, out=tmp_path / "site")
    pages = "".join(path.read_text() for path in (tmp_path / "site").rglob("*.html"))
    assert pages.count(", not locked") == 1
    again = [line for line in pages.splitlines() if '<pre class="command">' in line]
    assert sum("--runner docker --image x86-cpu</code>" in line for line in again) == 2 < len(again)


def test_a_row_that_leaves_questions_out_is_not_ranked(one: Path, tmp_path: Path) -> None:
    """A server that answers only what it knows: 30 of 60, shown in the cell."""
    left_out = {"endpoint": {"unanswered": [f"s{number:05d}" for number in range(30, 60)]}}
    place = fake.record(
        one, tmp_path / "work", model="sly", skill=1.0, keep=slice(30), content=left_out, machine=SERVER
    )
    assert failed(one) == ["coverage"]
    report(one, out=tmp_path / "site")
    front = (tmp_path / "site/index.html").read_text()
    assert '<span class="cover partial">30 of 60 answered</span>' in front and "60 of 60 answered" in front
    assert "not all answered · not ranked" in front and "30 of 60 answered" in front.split("<h3>Checks</h3>")[1]
    assert 'class="bestname">sly' not in front
    page = (tmp_path / f"site/runs/{place.name}.html").read_text()
    assert "30 of 60 questions answered; 30 have no prediction and are not in the score" in page


def test_a_server_that_left_out_more_than_it_says(one: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="30 samples are missing, the predictions left out 1"):
        fake.record(
            one,
            tmp_path / "work",
            model="sly",
            keep=slice(30),
            content={"endpoint": {"unanswered": ["s00059"]}},
            machine=SERVER,
        )


def test_a_gate_with_nothing_to_check_says_so(one: Path, tmp_path: Path) -> None:
    found = {gate["name"]: gate["verdict"] for gate in report(one, out=tmp_path / "site", check=True)["gates"]}
    assert {name for name, verdict in found.items() if verdict == "nothing to check"} == {"golds", "blind", "images"}
    page = (tmp_path / "site/index.html").read_text()
    assert page.count('class="unchecked"') == 3 and f"<dd>{len(found) - 3} of {len(found) - 3}</dd>" in page


def test_one_model_under_two_names(one: Path, folder: Path, tmp_path: Path) -> None:
    """Renamed with all it was made from: only another record of the same weights tells."""
    renamed = {"name": "better-model", "hash": fake.sha("tiny-glm4v"), "family": "glm4v", "adapter": None}
    data = next((tmp_path / "work").glob("data-*"))
    said = fake.predictions(tmp_path / "p.csv", data)
    fake.manifest(said, data, renamed)
    fake.record(one, tmp_path / "work", data=data, instead={"predictions": said})
    assert failed(one) == ["names"]


def test_chance_is_not_green(tmp_path: Path) -> None:
    """The best of a column that is not above chance has not learned anything."""
    fake.record(tmp_path / "records", tmp_path / "work", skill=0.5)
    report(tmp_path / "records", out=tmp_path / "site")
    assert 'class="val best"' not in (tmp_path / "site/index.html").read_text()
    fake.record(tmp_path / "records", tmp_path / "work", skill=0.95, model="other")
    report(tmp_path / "records", out=tmp_path / "site")
    assert 'class="val best"' in (tmp_path / "site/index.html").read_text()
