"""Fixtures every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from docker_daemon import daemon  # noqa: F401  (a fixture)

settings.register_profile("no clock", deadline=None)  # a busy machine is no failure
settings.load_profile("no clock")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and reference tensors beside the repository; skip with a reason if missing."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"real test data is not here: {folder.name}/ beside the repository is missing")
    return folder
