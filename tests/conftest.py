"""Fixtures every test may use."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.docker_daemon import daemon  # noqa: F401  (a fixture)
from tests.real_images import arm64_cpu, common, definitions, kept_bases, other_checkout, x86_cpu  # noqa: F401

# Programs that tests start find the helpers in `tests` too, from whichever folder they run.
ROOT = Path(__file__).resolve().parents[1]
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])

# The rooms that train and run models. Where torch is not installed they are left out.
TORCH = importlib.util.find_spec("torch") is not None
NEED_TORCH = ("bench", "endpoint", "infer", "models", "pipeline", "real", "train")
collect_ignore = [] if TORCH else list(NEED_TORCH)

settings.register_profile("no clock", deadline=None)  # a busy machine is no failure
settings.load_profile("no clock")


def pytest_report_header() -> str | None:
    return None if TORCH else f"torch is not installed: without tests/{', tests/'.join(NEED_TORCH)}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("torch") is not None and not TORCH:
            item.add_marker(pytest.mark.skip(reason="torch is not installed"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and reference tensors beside the repository; skip with a reason if missing."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"real test data is not here: {folder.name}/ beside the repository is missing")
    return folder
