"""A record of a judged score proves itself: what the judge said lies in it, and all its numbers follow from there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deckbench.errors import InputError
from deckbench.pipeline.verify import verify
from deckbench.record.judged import judged_path
from deckbench.record.provenance import record_score
from deckbench.record.read import read_record
from deckbench.record.recompute import differences
from deckbench.report import report
from deckbench.score import score
from tests.judge import judging
from tests.record import fake
from tests.record.forge import forge, seal

Value = dict[str, Any]


@pytest.fixture
def record(offline: Callable[..., Any], tmp_path: Path) -> Path:
    """A record of choices, some of which could not be parsed, judged in both orders; free to break."""
    data = fake.dataset(tmp_path / "data", n=60)
    texts = {i: "I am sure that it is <b>damaged</b>" for i in range(0, 60, 5)}
    predictions = fake.manifest(fake.predictions(tmp_path / "p.csv", data, texts=texts), data)
    offline(predictions, data, judging.judge(0.2), calibration=30)
    score(predictions, data=data, out=tmp_path / "score.json")
    return record_score(tmp_path / "score.json", predictions=predictions, data=data, records=tmp_path / "records")


def test_it_proves_itself_and_shows_the_judge(record: Path, tmp_path: Path) -> None:
    run = read_record(record)
    assert differences(run) == () and verify(record)["reproduced"]
    judge = run.record.metrics.judge
    assert judge is not None and judge.kinds["choice"].n == 12 and judge.errors["choice"].right > 10
    assert "--judge endpoint:nobody --judge-calibration 30" in run.record.command
    made = report(record.parent, out=tmp_path / "site", check=True)
    assert "reproduces" not in made["failed"] and not made["broken"]
    page = next((tmp_path / "site/runs").glob("*.html")).read_text(encoding="utf-8")
    table = re.search(r'<section id="judge">.*?</section>', page, re.DOTALL)
    assert table is not None and "nobody" in table[0] and "Judge, corrected" in table[0]
    assert f"{judge.kinds['choice'].judge.value:.3f}" in table[0]
    assert "<b>damaged</b>" not in page


def forge_judged(folder: Path, change: Callable[[Value], Any]) -> None:
    """Change what the judge said, and every hash of it."""
    from deckbench.record.judged import Judged

    place = folder / "judged.json"
    value = json.loads(place.read_text(encoding="utf-8"))
    change(value)
    made = Judged.model_validate(value)
    place.write_text(json.dumps(made.model_dump(mode="json")), encoding="utf-8")

    def name(record: Value) -> None:
        record["judged"] = record["metrics"]["judge"]["judged"] = made.content_hash

    forge(folder, record=name)


def first_judge(value: Value) -> Value:
    found: Value = value["metrics"]["judge"]
    return found


FORGED: dict[str, Callable[[Path], Any]] = {
    "its rate": lambda f: forge(f, record=lambda v: first_judge(v)["kinds"]["choice"]["judge"].update(value=1.0)),
    "the corrected rate": lambda f: forge(
        f, record=lambda v: first_judge(v)["kinds"]["choice"]["corrected"].update(value=0.99)
    ),
    "the interval": lambda f: forge(
        f, record=lambda v: first_judge(v)["kinds"]["choice"]["corrected"].update(interval=[0.9, 1.0])
    ),
    "its kappa": lambda f: forge(f, record=lambda v: first_judge(v)["errors"]["choice"]["kappa"].update(value=1.0)),
    "the joint accuracy": lambda f: forge(f, record=lambda v: first_judge(v)["joint_accuracy"].update(value=1.0)),
    "its verdicts in the samples": lambda f: forge(
        f, samples=lambda rows: [row.update(judge="correct") for row in rows if row["judge"]]
    ),
    "its verdicts everywhere but in the metrics": lambda f: forge_judged(
        f, lambda v: [answer.update(calls="c/c") for answer in v["answers"]]
    ),
    "what it was not asked": lambda f: forge_judged(f, lambda v: v["answers"].pop()),
    "the seed of the calibration": lambda f: forge_judged(f, lambda v: v["judge"].update(seed=5)),
    "the model": lambda f: forge(f, record=lambda v: first_judge(v)["ref"].update(model="better")),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_is_forged_is_found(name: str, record: Path) -> None:
    FORGED[name](record)
    assert differences(read_record(record))
    assert not verify(record)["reproduced"]


def test_a_judge_that_is_taken_out_or_damaged_is_refused(record: Path) -> None:
    text = (record / "judged.json").read_text(encoding="utf-8")
    (record / "judged.json").write_text(text.replace('"calls":"c', '"calls":"i', 1), encoding="utf-8")
    seal(record)
    assert "not what the judge" in differences(read_record(record))[0]
    (record / "judged.json").unlink()
    seal(record)
    with pytest.raises(InputError, match="missing"):
        read_record(record)


def test_a_judge_that_said_something_else_since_the_score_is_refused(
    offline: Callable[..., Any], record: Path, tmp_path: Path
) -> None:
    predictions = tmp_path / "p.csv"
    offline(predictions, tmp_path / "data", judging.judge(0.5), calibration=30)
    with pytest.raises(InputError, match="since the score"):
        record_score(
            tmp_path / "score.json", predictions=predictions, data=tmp_path / "data", records=tmp_path / "other"
        )
    judged_path(predictions).unlink()
    with pytest.raises(InputError, match="judge"):
        record_score(
            tmp_path / "score.json", predictions=predictions, data=tmp_path / "data", records=tmp_path / "other"
        )
    assert not (tmp_path / "other").exists()
