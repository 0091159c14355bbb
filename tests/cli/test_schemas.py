"""`deckbench schema`: what is printed is true of the files that there are."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from deckbench.annotate.run import PROMPTS
from deckbench.cli.schemas import KINDS, schema_of
from deckbench.containers.spec import FILE, containers_folder
from deckbench.errors import InputError
from deckbench.resources import tasks_folder
from deckbench.train.config import CONFIGS
from tests.record import fake

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TESTS = Path(__file__).parents[1]


def read(path: Path) -> Any:
    """A file as the plain JSON that a schema is about: no tuples, no dates."""
    text = path.read_text(encoding="utf-8")
    value = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    return json.loads(json.dumps(value))


def files() -> Iterator[tuple[str, Path]]:
    tasks = tasks_folder()
    yield from (("suite", path) for path in [*tasks.glob("suites/*.yaml"), *TESTS.glob("real/*.yaml")])
    yield from (("task", path) for path in tasks.glob("*/v*/task.yaml"))
    yield from (("questions", path) for path in tasks.glob("*/v*/questions.yaml"))
    yield from (("ontology", path) for path in tasks.glob("ontology/*.yaml"))
    yield from (("train", path) for path in CONFIGS.glob("*.yaml"))
    yield from (("prompt", path) for path in PROMPTS.glob("*.yaml"))
    yield "image", containers_folder() / FILE
    yield from (("record", path) for path in (TESTS.parent / "results" / "records").glob("*/record.json"))


FILES = sorted(files())


def faults(kind: str, value: Any) -> list[str]:
    return [error.message for error in Draft202012Validator(schema_of(kind)).iter_errors(value)]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_schema(kind: str) -> None:
    schema = schema_of(kind)
    Draft202012Validator.check_schema(schema)
    assert schema["title"] == KINDS[kind].about and json.loads(json.dumps(schema)) == schema


def test_every_kind_of_file_of_the_package_is_looked_at() -> None:
    assert {kind for kind, _ in FILES} >= {"suite", "task", "questions", "ontology", "train", "image"}


@pytest.mark.parametrize(("kind", "path"), FILES, ids=lambda value: getattr(value, "stem", value))
def test_the_files_that_ship_fit_it(kind: str, path: Path) -> None:
    value = read(path)
    assert faults(kind, value) == []
    assert faults(kind, {**copy.deepcopy(value), "no_such_field": 1}) != []


def test_a_container_definition_may_not_hold_what_the_reader_adds() -> None:
    value = read(containers_folder() / FILE)
    value["x86-cpu"]["folder"] = "elsewhere"
    assert faults("image", value) != []


def test_samples_records_and_scores_fit(tmp_path: Path) -> None:
    """What the steps write, on a pool of eight frames with a baseline for a model."""

    def deckbench(*words: str) -> None:
        command = [sys.executable, "-m", "deckbench", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr

    deckbench("pool", "synth", "pool", "--frames", "24", "--size", "352x198", "--seed", "3", "--workers", "1")
    deckbench("build", "ot2-guided@1", "--pool", "pool", "--out", "data", "--split", "test-only", "--workers", "1")
    deckbench("infer", "--model", "rule:gold", "--data", "data", "--out", "answers.csv")
    deckbench("score", "answers.csv", "--data", "data", "--out", "score.json")
    for line in (tmp_path / "data/test.jsonl").read_text().splitlines():
        assert faults("sample", json.loads(line)) == [] == faults("messages", json.loads(line))
    assert faults("messages", {"messages": [{"role": "user", "content": "?", "image": "a.png"}], "other": 1}) == []
    assert faults("sample", {"messages": [{"role": "user", "content": "?"}], "other": 1}) != []
    assert faults("score", json.loads((tmp_path / "score.json").read_text())) == []


def test_records_fit(tmp_path: Path) -> None:
    folder = fake.record(tmp_path / "records", tmp_path / "work")
    assert faults("record", json.loads((folder / "record.json").read_text())) == []
    observed = json.loads((folder / "manifest.json").read_text())["observed"]
    assert faults("observed", observed) == []


def test_an_unknown_name() -> None:
    with pytest.raises(InputError, match="there is no schema 'manifest'"):
        schema_of("manifest")
