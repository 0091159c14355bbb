from __future__ import annotations

from pathlib import Path

import pytest

from tests.train import micro_world


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro_world.make_model(tmp_path_factory.mktemp("models") / "micro")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro_world.make_dataset(tmp_path_factory.mktemp("data") / "squares")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)
