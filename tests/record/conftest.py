"""A records folder that many tests only read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.record import fake


@pytest.fixture(scope="session")
def suite_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a suite leaves (48 runs), one run that is not ranked, and two runs on a real pool. Do not change it."""
    work = tmp_path_factory.mktemp("suite")
    fake.suite(work / "records", work / "work", n=60, pictures=6)
    fake.record(work / "records", work / "work", model="big", weights="random", task="ot2-scene@1", skill=1.0)
    for name, kind in (("tiny-glm4v", "model"), ("majority", "baseline")):
        fake.record(work / "records", work / "work", model=name, kind=kind, synthetic=False, board="Bench camera")
    return work / "records"


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A records folder with one record, free to break."""
    fake.record(tmp_path / "records", tmp_path / "work")
    return tmp_path / "records"


@pytest.fixture
def folder(one: Path) -> Path:
    """The only record of `one`."""
    return next(one.iterdir())
