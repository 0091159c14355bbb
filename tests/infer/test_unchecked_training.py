"""Answers of an adapter on another dataset than it was trained on: a line says that nothing compared their frames."""

from __future__ import annotations

import pytest

from deckbench.predictions import unchecked_training


@pytest.mark.parametrize(
    ("trained", "said"), [(None, False), ("a" * 64, False), ("b" * 64, True)], ids=["base", "same", "another"]
)
def test_training_on_another_dataset_is_said(trained: str | None, said: bool) -> None:
    observed = {} if trained is None else {"trained_on": trained}
    line = unchecked_training({"inputs": {"data": "a" * 64}}, observed)
    assert (line is not None) is said
    assert line is None or "bbbbbbbbbbbb" in line
