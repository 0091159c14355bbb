"""Records of single steps: `score --record` and `bench --record` read what a record needs from the manifests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deckbench import artifact
from deckbench.build import build_dataset
from deckbench.errors import InputError
from deckbench.infer import infer
from deckbench.pipeline.verify import verify
from deckbench.pool.split import split_pool
from deckbench.record.facts import adapter_words, model_facts
from deckbench.record.provenance import dataset_facts, record_score
from deckbench.record.read import read_all, read_record
from deckbench.report import report
from tests.record import fake


def deckbench(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deckbench", *words]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pool, a dataset and the answers of `rule:gold`."""
    place = tmp_path_factory.mktemp("world")
    for words in (
        ("pool", "synth", "pool", "--frames", "48", "--size", "352x198", "--seed", "3", "--workers", "1"),
        ("build", "ot2-guided@1", "--pool", "pool", "--out", "data", "--workers", "1"),
        ("infer", "--model", "rule:gold", "--data", "data", "--out", "answers.csv"),
    ):
        done = deckbench(place, *words)
        assert done.returncode == 0, done.stderr
    return place


def test_score_writes_a_record_that_proves_itself(world: Path) -> None:
    done = deckbench(world, "score", "answers.csv", "--data", "data", "--out", "score.json", "--record", "--json")
    assert done.returncode == 0, done.stderr
    runs, broken = read_all(world / "results/records")
    assert not broken and len(runs) == 1
    record = runs[0].record
    assert record.metrics is not None and record.metrics.model_dump(mode="json") == json.loads(done.stdout)
    assert (record.model.name, record.model.kind, record.model.weights) == ("rule:gold", "baseline", "none")
    assert (record.task, record.stage, record.curriculum, record.container) == ("ot2-guided@1", "S2", None, None)
    assert record.dataset == artifact.read(world / "data").content_hash
    assert record.pool.synthetic and record.pool.hash == artifact.read(world / "data").content["inputs"]["pool"]
    assert str(world) not in (runs[0].folder / "record.json").read_text()
    assert verify(runs[0].folder)["reproduced"] is True
    assert report(world / "results/records", out=world / "site")["records"] == 1


@pytest.mark.slow
@pytest.mark.torch
def test_bench_writes_a_record_of_times(world: Path) -> None:
    words = ("bench", "--model", "tiny-glm4v", "--data", "data", "--min-seconds", "0.1", "--max-queries", "8")
    done = deckbench(world, *words, "--out", "bench", "--record", "--records", "times")
    assert done.returncode == 0, done.stderr
    (folder,) = (world / "times").iterdir()
    run = read_record(folder)
    assert run.record.metrics is None and run.record.curriculum == "base"
    assert run.latency is not None and run.latency.source == "bench"


def test_what_no_manifest_tells_is_asked_for_first(world: Path, tmp_path: Path) -> None:
    words = ("bench", "--model", "tiny-glm4v", "--adapter", str(tmp_path), "--data", "data", "--out", "none")
    done = deckbench(world, *words, "--record")
    assert done.returncode == 2 and "--curriculum" in done.stderr
    assert not (world / "none").exists()
    done = deckbench(world, "score", "answers.csv", "--out", "score2.json", "--record")
    assert done.returncode == 2 and "--data" in done.stderr and not (world / "score2.json").exists()


def test_curriculum_and_condition(tmp_path: Path) -> None:
    identity = {"name": "m", "family": "glm4v", "adapter": "0" * 64, "dtype": "float32", "weights": {"a": "1"}}
    with pytest.raises(InputError, match="which stages"):
        model_facts(identity, None)
    found = model_facts(identity, "S1+S2")
    assert found["curriculum"] == "S1+S2" and found["model"]["weights"] == "trained"
    assert found["model"]["identity"] == {"name": "m", "family": "glm4v", "adapter": "0" * 64, "weights.a": "1"}
    assert model_facts({**identity, "weights": "random"}, "S1")["model"]["weights"] == "random"
    params = {"task": "ot2-guided@1", "stage": "S2", "synthetic": False, "split": "test-only"}
    with artifact.writing(tmp_path / "data", "dataset", inputs={"pool": "2" * 64}, params=params):
        pass
    with pytest.raises(InputError, match="--condition"):
        dataset_facts(tmp_path / "data", None)
    for condition, part in (("shifted", "shifted"), ("another lab", "shifted"), ("same distribution",) * 2):
        assert dataset_facts(tmp_path / "data", condition)["pool"]["part"] == part
    with artifact.writing(tmp_path / "old", "dataset"):
        pass
    with pytest.raises(InputError, match="does not say its task, synthetic, pool"):
        dataset_facts(tmp_path / "old", None)


def test_predictions_of_elsewhere_have_no_record(tmp_path: Path) -> None:
    data = fake.dataset(tmp_path / "data")
    predictions = fake.predictions(tmp_path / "p.csv", data)
    with pytest.raises(InputError, match="no manifest says what made these predictions"):
        record_score(fake.score(predictions, data), predictions=predictions, data=data, records=tmp_path / "r")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("more", [("--split", "train"), ("--split", "val"), ("--limit", "8"), ("--shard", "1/2")])
def test_a_record_holds_the_whole_test_part(world: Path, more: tuple[str, str]) -> None:
    name = more[1].replace("/", "-")
    part: dict[str, Any] = {more[0].strip("-"): 8 if more[0] == "--limit" else more[1]}
    infer(model="rule:gold", data=world / "data", out=world / f"{name}.csv", **part)
    words = ("score", f"{name}.csv", "--data", "data", "--out", f"{name}.json", "--record", "--records", "never")
    done = deckbench(world, *words)
    assert done.returncode == 2 and "whole test part" in done.stderr and more[1] in done.stderr
    assert not (world / f"{name}.json").exists() and not (world / "never").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [(("--records", "/dev/null"), "/dev/null"), (("--condition", "x" * 61), "condition"), (("--seed", "-1"), "--seed")],
)
def test_what_a_record_refuses_is_said_before_the_score(world: Path, options: tuple[str, str], named: str) -> None:
    done = deckbench(world, "score", "answers.csv", "--data", "data", "--out", "early.json", "--record", *options)
    assert done.returncode == 2 and named in done.stderr and "Traceback" not in done.stderr
    assert not (world / "early.json").exists()


def test_a_family_that_names_itself_alone_is_a_model() -> None:
    """The smallest family's identity is its name: not a baseline for all that."""
    found = model_facts({"name": "always-a"}, None)
    assert (found["model"]["family"], found["model"]["kind"], found["curriculum"]) == ("always-a", "model", "base")
    for name, weights in (("rule:gold", "none"), ("blind:always-a", "trained")):
        found = model_facts({"name": name}, None)
        assert (found["model"]["kind"], found["model"]["weights"], found["curriculum"]) == ("baseline", weights, None)


def test_the_build_command_says_what_is_not_as_published(world: Path, tmp_path: Path) -> None:
    source = dataset_facts(world / "data", None)["inputs"][0]["source"]
    assert source == "deckbench build ot2-guided@1 --pool pool --out data --split group --seed 0"
    split_pool(world / "pool", out=tmp_path / "split", seed=7)
    options = {"box_style": "source-lab", "max_test": 8}
    build_dataset(
        "ot2-guided@1", pool=world / "pool", out=tmp_path / "data", split=str(tmp_path / "split"), options=options
    )
    source = dataset_facts(tmp_path / "data", None)["inputs"][0]["source"]
    assert source.startswith("deckbench pool split pool --out split --split group --seed 7 && deckbench build")
    assert "--split split" in source and "--set box_style=source-lab" in source and "--set max_test=8" in source
    assert "--ontology" not in source and "--qa" not in source


def test_only_an_adapter_that_is_there_is_named() -> None:
    assert adapter_words({"adapter": None}) == [] and adapter_words({"adapter": "0" * 64}) == ["--adapter", "adapter"]
