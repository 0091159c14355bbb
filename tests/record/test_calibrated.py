"""A record that was scored with a calibration carries it, and proves it."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deckbench import artifact
from deckbench.calibrate import calibrate
from deckbench.cli import main
from deckbench.errors import InputError
from deckbench.predictions import COLUMNS
from deckbench.record.calibration import RATES, Calibration, fit
from deckbench.record.read import read_record
from deckbench.record.recompute import differences
from deckbench.report import report
from tests.calibrate.calibrate_helpers import says, seal
from tests.record import fake
from tests.record.forge import forge

Value = dict[str, Any]
IDENTITY = fake.IDENTITY


def answers(path: Path, data: Path, part: str, seed: int) -> Path:
    """Answers of a model that is three times too sure."""
    rng = np.random.default_rng(seed)
    with (data / "samples.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == part]
    found = []
    for row in rows:
        odds = rng.normal(1, 1.5)  # of what is true
        p = float(says(odds, 3.0))
        p_a = p if row["gold"] == "A" else 1 - p
        p_anomaly = p if row["anomaly"] == "true" else 1 - p
        said = "A" if p_a >= 0.5 else "B"
        cells = {"prediction": said, "parsed": said, "tokens_in": 7, "tokens_out": 1}
        cells |= {"p_a": f"{p_a:.8f}", "p_b": f"{1 - p_a:.8f}", "p_anomaly": f"{p_anomaly:.8f}"}
        found.append({**{name: row[name] for name in ("id", "pair_id", "kind", "question", "gold")}, **cells})
    fake.write_rows(path, [list(COLUMNS), *([str(row[name]) for name in COLUMNS] for row in found)])
    return path


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record of the command line, with a calibration. Copy it."""
    work = tmp_path_factory.mktemp("calibrated")
    data = fake.dataset(work / "data", n=240, pictures=12)
    place = data / "samples.csv"
    with place.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows[:120]:
        row["split"], row["group"] = "val", f"val-{row['group']}"
    fake.write_rows(place, [list(rows[0]), *(list(row.values()) for row in rows)])
    fake.reseal(data)
    val = seal(answers(work / "val.csv", data, "val", 1), data, "val", IDENTITY)
    test = fake.manifest(answers(work / "test.csv", data, "test", 2), data)
    calibrate(val, data=data, out=work / "calibration.json")
    words = ["score", test, "--data", data, "--calibration", work / "calibration.json", "--out", work / "score.json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["deckbench", *map(str, words), "--record", "--records", str(work / "records")])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code in (0, None)
    return next((work / "records").iterdir())


@pytest.fixture
def folder(record: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(record, tmp_path / "records" / record.name))


def test_a_calibrated_record_proves_itself(folder: Path) -> None:
    run = read_record(folder)
    assert differences(run) == ()
    block = run.record.metrics.calibration
    assert block.after.log_loss.value < block.before.log_loss.value
    assert run.record.calibration == block.calibration == artifact.hash_file(folder / "calibration.json")
    assert "deckbench calibrate val.csv --data data --out calibration.json" in run.record.command


def test_a_record_without_its_calibration_is_not_written(record: Path, tmp_path: Path) -> None:
    work = record.parents[1]
    with pytest.raises(InputError, match="the calibration that was scored with is not here"):
        fake.record(
            tmp_path / "records",
            tmp_path,
            data=work / "data",
            instead={"predictions": work / "test.csv", "score": work / "score.json", "data": work / "data"},
        )


def swap(folder: Path, change: Callable[[Value], Any], *, refit: bool = False) -> None:
    """A calibration that was changed, with every hash and every number that follows from it made again."""
    place = folder / "calibration.json"
    value = json.loads(place.read_text(encoding="utf-8"))
    change(value)
    made = Calibration.model_validate(value)
    if refit:
        made = fit(made.samples, made.fitted_on, false_stops=RATES, errors=RATES, seed=made.seed)
    place.write_bytes(artifact.canonical(made.model_dump(mode="json")))
    forge(folder, samples=lambda rows: None, remeasure=True, calibration=made)


def temperature(value: Value) -> None:
    value["temperatures"][""]["temperature"] = 1.1


def threshold(value: Value) -> None:
    value["thresholds"][1]["threshold"] = 0.01


def surer(value: Value) -> None:
    value["samples"]["p_event"] = [float(event) for event in value["samples"]["event"]]


def to_test(value: Value) -> None:
    value["fitted_on"]["manifest"]["params"]["split"] = "test"


def other_adapter(value: Value) -> None:
    value["fitted_on"]["manifest"]["inputs"]["model"]["adapter"] = "9" * 64


def other_data(value: Value) -> None:
    value["fitted_on"]["data_content"] = "9" * 64


def other_data_everywhere(value: Value) -> None:
    value["fitted_on"]["data_content"] = value["fitted_on"]["manifest"]["inputs"]["data"] = "9" * 64


def other_predictions(value: Value) -> None:
    value["fitted_on"]["predictions_sha256"] = "9" * 64


def test_a_forger_who_changes_nothing_leaves_the_record_as_it_is(folder: Path) -> None:
    swap(folder, lambda value: None, refit=True)
    assert differences(read_record(folder)) == ()


@pytest.mark.parametrize(
    ("change", "refit", "why"),
    [
        (temperature, False, "the calibration's temperatures"),
        (threshold, False, "the calibration's thresholds"),
        (surer, False, "does not follow from its val answers"),
        (to_test, True, "was not fitted on val"),
        (other_adapter, True, "another model or adapter"),
        (other_data, True, "dataset is not the one that its manifest names"),
        (other_data_everywhere, True, "the command is"),  # it would have to say --transfer
        (other_predictions, True, "other predictions than its manifest names"),
        (lambda value: value["samples"]["id"].__setitem__(0, "s00200"), True, "the test question s00200"),
    ],
)
def test_a_forged_calibration_is_found(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Value], Any], refit: bool, why: str
) -> None:
    swap(folder, change, refit=refit)
    assert why in " ".join(differences(read_record(folder)))
    words = ("report", "--records", str(folder.parent), "--out", str(tmp_path / "site"), "--check")
    monkeypatch.setattr("sys.argv", ["deckbench", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 4


def test_a_forged_number_in_the_block_is_found(folder: Path) -> None:
    def better(value: Value) -> None:
        value["metrics"]["calibration"]["after"]["ece"]["value"] = 0.0

    forge(folder, record=better)
    assert any("calibration.after.ece.value" in reason for reason in differences(read_record(folder)))


def test_a_calibration_that_was_taken_away_is_found(folder: Path) -> None:
    (folder / "calibration.json").unlink()
    forge(folder)
    with pytest.raises(InputError, match="is missing"):
        read_record(folder)


def test_a_block_without_its_calibration_is_refused(folder: Path) -> None:
    (folder / "calibration.json").unlink()
    forge(folder, record=lambda value: value.pop("calibration"))
    with pytest.raises(InputError, match="the calibration is not the one that was scored with"):
        read_record(folder)


def test_the_page_shows_before_and_after(record: Path, tmp_path: Path) -> None:
    report(record.parent, out=tmp_path / "site")
    [page] = (tmp_path / "site" / "runs").glob("*.html")
    text = page.read_text(encoding="utf-8")
    block = read_record(record).record.metrics.calibration
    shown = text[text.index('class="calibration"') : text.index("</details>", text.index('class="calibration"'))]
    for side in (block.before, block.after):
        for number in (side.brier, side.log_loss, side.ece):
            assert f"<b>{number.value:.3f}</b>" in shown
    assert shown.count("<svg") == 2
    assert f"<td>{block.thresholds[1].threshold:.3f}</td>" in shown
    assert f"<b>{block.abstention[2].answered.value:.3f}</b>" in shown
