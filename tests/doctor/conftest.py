"""An Orin to look at: once for all tests here, since its daemon takes seconds to start."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doctor import simulated_orin


@pytest.fixture(scope="session")
def orin() -> Iterator[simulated_orin.SimulatedOrin]:
    """This machine simulating an Orin behind ssh; in CI it must be possible."""
    if why := simulated_orin.missing():
        if os.environ.get("CI") == "true":
            pytest.fail(f"no machine behind ssh can be simulated: {why}")
        pytest.skip(f"no machine behind ssh can be simulated: {why}")
    with tempfile.TemporaryDirectory(prefix="orin-") as folder, simulated_orin.simulated_orin(Path(folder)) as found:
        yield found
