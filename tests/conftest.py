"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.docker_daemon import daemon  # noqa: F401  (a fixture)

# Programs that tests start find the helpers in `tests` too, from whichever folder they run.
ROOT = Path(__file__).resolve().parents[1]
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])

settings.register_profile("no clock", deadline=None)  # a busy machine is no failure
settings.load_profile("no clock")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and reference tensors beside the repository; skip with a reason if missing."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"real test data is not here: {folder.name}/ beside the repository is missing")
    return folder
