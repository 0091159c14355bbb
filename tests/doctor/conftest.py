"""An Orin to look at: once for all tests here, since its daemon takes seconds to start."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doctor import acted_orin


@pytest.fixture(scope="session")
def orin() -> Iterator[acted_orin.ActedOrin]:
    """This machine acting as an Orin behind ssh; in CI it must be possible."""
    if why := acted_orin.missing():
        if os.environ.get("CI") == "true":
            pytest.fail(f"no machine behind ssh can be acted: {why}")
        pytest.skip(f"no machine behind ssh can be acted: {why}")
    with tempfile.TemporaryDirectory(prefix="orin-") as folder, acted_orin.acted_orin(Path(folder)) as found:
        yield found
