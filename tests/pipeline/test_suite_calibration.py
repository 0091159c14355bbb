"""A suite that calibrates its rows: asked on val once, applied on test, in the record."""

from __future__ import annotations

from pathlib import Path

import pytest

from deckbench.errors import InputError
from deckbench.pipeline.suite import run_suite
from deckbench.pipeline.verify import verify
from deckbench.record.read import read_record
from deckbench.suite import load_suite
from tests.build.build_helpers import write_pool
from tests.pipeline.suite_helpers import SMALL, small_suite, write_suite

CALIBRATED = {**SMALL, "baselines": ["rule:gold"], "calibrate": {"max_val": 6, "errors": [0.2]}}


def test_a_suite_calibrates_on_val_and_applies_it_on_test(tmp_path: Path) -> None:
    small_suite(tmp_path)
    suite = write_suite(tmp_path / "small.yaml", CALIBRATED)
    result = run_suite(str(suite), work=tmp_path / "work")
    assert [step for step in result["made"] if step.startswith("calibrations/")] == [
        "calibrations/rule:gold:baseline:S3"
    ]
    [folder] = (Path(record) for record in result["records"])
    block = read_record(folder).record.metrics.calibration
    assert [at.stated_error for at in block.abstention] == [0.2]
    asked = next((tmp_path / "work").glob("calibrations/*/val.csv")).read_text().splitlines()
    assert len(asked) > 1
    again = run_suite(str(suite), work=tmp_path / "work")
    assert again["records"] == result["records"]
    assert again["made"] == []
    assert verify(folder, since="infer", work=tmp_path / "work")["verdict"] == "same bytes"


def test_a_dataset_that_is_only_tested_on_takes_the_calibration_of_its_task(tmp_path: Path) -> None:
    small_suite(tmp_path)
    write_pool(tmp_path / "other", sessions=2)
    suite = {
        **CALIBRATED,
        "pools": {**SMALL["pools"], "other": {"path": "other"}},
        "data": {**SMALL["data"], "elsewhere": {"task": "ot2-scene@1", "pool": "other", "split": "test-only"}},
        "tests": [{"data": "elsewhere", "condition": "shifted"}],
    }
    result = run_suite(str(write_suite(tmp_path / "small.yaml", suite)), work=tmp_path / "work")
    assert "calibrations/rule:gold:baseline:S3" in result["made"]
    [folder] = (Path(record) for record in result["records"])
    assert read_record(folder).record.metrics.calibration.transferred
    assert verify(folder, since="infer", work=tmp_path / "work")["verdict"] == "same bytes"


@pytest.mark.parametrize("wrong", [{"max_val": 0}, {"errors": [1.0]}, {"false_stops": []}, {"temperature": 2}])
def test_a_wrong_calibration_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="calibrate"):
        load_suite(str(write_suite(tmp_path / "small.yaml", {**SMALL, "calibrate": wrong})))
