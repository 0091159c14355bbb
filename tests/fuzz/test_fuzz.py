"""A little of what `python -m tests.fuzz` does in CI for five minutes: the corpus, and some broken inputs a reader."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import mutate
from tests.fuzz.readers import READERS, Target
from tests.fuzz.run import HERE, attempt, names_here

QUICK = ("labels", "dataset-yaml", "lab-rows", "suite", "predictions", "reply", "container-wheels", "split-manifest")


@pytest.mark.parametrize("name", sorted({path.parent.name for path in (HERE / "corpus").glob("*/*")} & {*names_here()}))
def test_what_once_went_wrong_is_read_or_refused(tmp_path: Path, name: str) -> None:
    target = READERS[name](tmp_path)
    for path in sorted((HERE / "corpus" / name).iterdir()):
        code, what = attempt(target, path.read_bytes())
        assert code in (0, 2, 3), f"{path}: {what}"


@pytest.fixture(scope="module", params=QUICK)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Target, bytes]:
    made = READERS[request.param](tmp_path_factory.mktemp("fuzz"))
    return made, made.good()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_broken_input_is_read_or_refused(target: tuple[Target, bytes], seed: int) -> None:
    made, good = target
    data = mutate(good, made.suffix or made.file.suffix, random.Random(seed))
    code, what = attempt(made, data)
    assert code in (0, 2, 3), what


def test_the_corpus_belongs_to_readers() -> None:
    assert {path.name for path in (HERE / "corpus").iterdir()} <= READERS.keys()
