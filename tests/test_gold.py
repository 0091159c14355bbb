"""A dataset stands alone: `rule:gold` reads the labels and the task that the dataset carries, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from deckbench import artifact
from deckbench.build.dataset import build_dataset
from deckbench.build.mix import mix
from deckbench.dataset import Sample, read_samples
from deckbench.errors import InputError
from deckbench.gold import LABELS, TASKS, read_labels, read_tasks
from deckbench.infer import infer
from deckbench.models import baselines
from deckbench.resources import tasks_folder
from tests.build.build_helpers import NAMES, SCENES, SIZE, WRONG, picture, write_pool

STAGES = ("ot2-concept@1", "ot2-guided@1", "ot2-scene@1")


def answers(dataset: Path) -> list[str]:
    return [answer.text for answer in baselines.load("rule:gold").answer_samples(samples_of(dataset))]


def samples_of(dataset: Path) -> list[Sample]:
    return read_samples(dataset, "test")


def emptied(pool: Path) -> None:
    for path in (pool / "labels").iterdir():
        path.write_text("")


def moved(pool: Path) -> None:
    pool.rename(pool.with_name("elsewhere"))


@pytest.mark.parametrize("ruin", [emptied, moved, shutil.rmtree])
@pytest.mark.parametrize("task", STAGES)
def test_the_pool_is_not_needed(tmp_path: Path, task: str, ruin: Callable[[Path], None]) -> None:
    pool = write_pool(tmp_path / "pool")
    data = tmp_path / "data"
    build_dataset(task, pool=pool, out=data, split="pool", workers=1)
    before = infer(model="rule:gold", data=data, out=tmp_path / "before.csv").content_hash
    pooled = [answer.text for answer in baselines.load(f"rule:{pool}").answer_samples(samples_of(data))]
    ruin(pool)
    assert infer(model="rule:gold", data=data, out=tmp_path / "after.csv").content_hash == before
    assert answers(data) == pooled and sum(map(bool, pooled)) > len(pooled) / 2
    assert str(tmp_path) not in (data / "manifest.json").read_text()


def test_labels_are_part_of_the_identity(tmp_path: Path) -> None:
    """The same questions with the same answers about the same pictures, but a label that reaches further."""
    pools = [write_pool(tmp_path / "one"), write_pool(tmp_path / "two")]
    label = pools[1] / "labels" / "s09f0.txt"
    label.write_text(label.read_text().replace("0.5 0.6 0.2 0.2", "0.5 0.6 0.3 0.2"))
    made = [build_dataset("ot2-scene@1", pool=pool, out=pool / "data", split="pool", workers=1) for pool in pools]
    files = [manifest.content["files"] for manifest in made]
    assert {name for name in files[0] if files[0][name] != files[1][name]} == {LABELS}


def test_what_a_line_holds(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool")
    build_dataset("ot2-scene@1", pool=pool, out=tmp_path / "data", split="pool", workers=1)
    labels = read_labels(tmp_path / "data")
    found = labels["ot2-scene@1", "images/s08f3"]
    assert (found.width, found.height, found.step) == (*SIZE, "thermocycle")
    assert found.anomalies == ("pcr_lid_open@thermocycle", "plate_crooked")
    assert [box.cls for box in found.boxes] == ["pcr_lid_open", "plate_crooked"]
    assert found.boxes[0].box == pytest.approx((0.55, 0.25, 0.85, 0.55))
    assert {frame for _, frame in labels} == {sample.frame for part in ("train", "val", "test")
                                             for sample in read_samples(tmp_path / "data", part)}  # fmt: skip


def test_the_task_is_the_one_that_was_built(tmp_path: Path) -> None:
    made = build_dataset("ot2-guided@1", pool=write_pool(tmp_path / "pool"), out=tmp_path / "data", split="pool")
    (task,) = read_tasks(tmp_path / "data").values()
    assert task.ref == made.content["params"]["task"] and task.content_hash == made.content["inputs"]["task"]
    assert artifact.hash_json(task.definition()) == task.content_hash
    assert list(task.ontology.classes) == list(
        json.loads((tmp_path / "data" / TASKS).read_text())[task.ref]["ontology"]["classes"]
    )


def test_an_ontology_of_ones_own_travels_with_the_dataset(tmp_path: Path) -> None:
    """Its file is gone when the rule is asked; the lab's class is in no published ontology."""
    own = yaml.safe_load((tasks_folder() / "ontology" / "ot2.yaml").read_text(encoding="utf-8"))
    own["classes"]["spill"]["aliases"] = []
    own["classes"]["puddle_of_reagent"] = own["classes"].pop("spill")
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(own, allow_unicode=True, sort_keys=False), encoding="utf-8")
    names = [name.replace("spill", "puddle_of_reagent") for name in NAMES]
    scenes = [
        (step, tuple((cls.replace("spill", "puddle_of_reagent"), *box) for cls, *box in labels))
        for step, labels in SCENES
    ]  # type: ignore[misc]
    wrong = [word.replace("spill", "puddle_of_reagent") for word in WRONG]
    pool = write_pool(tmp_path / "pool", names=names, scenes=scenes, wrong=wrong)  # type: ignore[arg-type]
    build_dataset("ot2-scene@1", pool=pool, out=tmp_path / "data", split="pool", ontology=file, workers=1)
    file.unlink()
    shutil.rmtree(pool)
    samples = [sample for sample in samples_of(tmp_path / "data") if sample.kind == "choice"]
    found = [answer.text for answer in baselines.load("rule:gold").answer_samples(samples)]
    assert found == [sample.gold for sample in samples] and "+" in str(samples[0].task)


@pytest.mark.parametrize("name", [LABELS, TASKS])
def test_a_changed_file_is_refused(tmp_path: Path, name: str) -> None:
    build_dataset("ot2-scene@1", pool=write_pool(tmp_path / "pool"), out=tmp_path / "data", split="pool", workers=1)
    path = tmp_path / "data" / name
    path.write_text(path.read_text().replace("trash", "trush"))
    with pytest.raises(InputError, match="was changed since") as caught:
        answers(tmp_path / "data")
    assert caught.value.where == str(path)


def test_a_dataset_without_labels_says_so(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg", 1)
    turns = [{"role": "user", "content": "Q?\nA. yes\nB. no", "image": "images/a.jpg"}]
    row = {"messages": [*turns, {"role": "assistant", "content": "A"}], "task": "ot2-scene@1", "frame": "images/a"}
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match="carries no labels"):
        answers(tmp_path)


def test_a_mix_carries_the_labels_of_its_parts(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool")
    for task in STAGES[:2]:
        build_dataset(task, pool=pool, out=tmp_path / task, split="pool", workers=1)
    shutil.rmtree(pool)
    mix([(tmp_path / STAGES[1], 1.0), (tmp_path / STAGES[0], 0.3)], out=tmp_path / "mix")
    assert set(read_tasks(tmp_path / "mix")) == set(STAGES[:2])
    parts = {
        sample.id: text
        for task in STAGES[:2]
        for sample, text in zip(samples_of(tmp_path / task), answers(tmp_path / task), strict=True)
    }
    mixed = {
        sample.id: text for sample, text in zip(samples_of(tmp_path / "mix"), answers(tmp_path / "mix"), strict=True)
    }
    assert mixed == parts
    used = {(s.task, s.frame) for part in ("train", "val", "test") for s in read_samples(tmp_path / "mix", part)}
    assert set(read_labels(tmp_path / "mix")) == used


def test_two_pools_with_the_same_names_are_not_confused(tmp_path: Path) -> None:
    """Their frames are called alike; a mix of both cannot say which label is whose, and does not guess."""
    other = [(step, labels[:1]) for step, labels in SCENES]
    build_dataset("ot2-scene@1", pool=write_pool(tmp_path / "a"), out=tmp_path / "one", split="pool", workers=1)
    pool = write_pool(tmp_path / "b", scenes=other, wrong=None)
    for number, path in enumerate(sorted((tmp_path / "b/images").glob("*.jpg"))):
        picture(path, 5000 + number)  # one picture asked the same question twice is refused by `mix`
    build_dataset("ot2-scene@1", pool=pool, out=tmp_path / "two", split="pool", workers=1)
    mix([(tmp_path / "one", 1.0), (tmp_path / "two", 1.0)], out=tmp_path / "mix")
    with pytest.raises(InputError, match="carries no labels of the frame"):
        answers(tmp_path / "mix")
