"""Suites are read strictly: one message with the file and the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from deckbench.errors import InputError
from deckbench.pipeline.plan import Target, baseline_train_set, data_needed, targets_of, trainings_needed
from deckbench.suite import given_pools, load_suite, split_weight, task_in

GOOD: dict[str, Any] = {
    "name": "mine",
    "pools": {"deck": {"synth": {"frames": 8}}},
    "data": {"S1": {"task": "ot2-concept@1", "pool": "deck"}, "S2": {"task": "ot2-guided@1", "pool": "deck"}},
    "tests": [{"data": "S2"}],
    "train": {"S1": {"data": ["S1"]}, "S1+S2": {"init": "S1", "data": ["S2", "S1:0.3"]}},
    "models": [{"ref": "tiny-glm4v", "curricula": ["base", "S1+S2"]}],
    "baselines": ["majority"],
}


def with_changes(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        (with_changes(pool={}), r"suite\.yaml:\d+: pool: unknown field; did you mean 'pools'\?"),
        (with_changes(name="Big Name"), "name: String should match"),
        (with_changes(pools={}), "pools: "),
        (with_changes(pools={"deck": {"synth": {"frames": 0}}}), r"frames: Input should be greater than 0"),
        (with_changes(pools={"deck": {"synth": {"frames": 5}, "path": "x"}}), "give either synth or path"),
        (with_changes(data={"S2": {"task": "ot2-guided@1", "pool": "sea"}}), "the pool 'sea' is not among pools"),
        (with_changes(tests=[{"data": "S9"}]), "the dataset 'S9' is not among data"),
        (with_changes(train={"S1": {"data": ["S7:0.2"]}}), "the dataset 'S7' is not among data"),
        (with_changes(train={"S1": {"data": ["S1:0"]}}), "must be a number above 0"),
        (with_changes(train={"S2": {"init": "S1", "data": ["S2"]}}), "init 'S1' must be a curriculum defined before"),
        (with_changes(models=[{"ref": "m", "curricula": ["S9"]}]), "the curriculum 'S9' is not among train"),
        (with_changes(models=[{"ref": "m", "config": {"S9": {}}}]), "the curriculum 'S9' is not among train"),
        (with_changes(tests=[{"data": "S2"}, {"data": "S2", "condition": "again"}]), r"tests\.1: 'S2' is listed twice"),
        (with_changes(baselines=["majority", "majority"]), r"baselines\.1: 'majority' is listed twice"),
        (with_changes(models=[{"ref": "m"}, {"ref": "m"}]), r"models\.1: 'm' is listed twice"),
        (
            with_changes(models=[{"ref": "m", "curricula": ["S1", "S1"]}]),
            r"models\.0\.curricula\.1: 'S1' is listed twice",
        ),
        (with_changes(train={"base": {"data": ["S1"]}}), "base is taken"),
        (with_changes(train={"S1 then S2": {"data": ["S1"]}}), "make a curriculum's name"),
        (with_changes(tests=[{"data": "S2", "condition": "x" * 61}]), "condition: String should have at most 60"),
        ([1, 2], "a map of fields is expected"),
    ],
)
def test_wrong_suites(tmp_path: Path, suite: Any, message: str) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text(yaml.safe_dump(suite))
    with pytest.raises(InputError, match=message) as caught:
        load_suite(str(file))
    assert str(caught.value.where).startswith(str(file))
    assert caught.value.exit_code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["suite.yaml"]


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text("name: x\npools: {a: [\n")
    with pytest.raises(InputError) as caught:
        load_suite(str(file))
    assert str(caught.value.where) == f"{file}:3"


def test_unknown_name_lists_the_embedded_ones() -> None:
    with pytest.raises(InputError, match="no such suite") as caught:
        load_suite("nothing-like-it")
    assert "demo" in str(caught.value.fix)
    assert "smoke" in str(caught.value.fix)


@pytest.mark.parametrize("path", ["mine/demo.yaml", "demo.yaml", "./suites/demo", "/nowhere/smoke.yml"])
def test_a_missing_file_is_never_the_embedded_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such suite"):
        load_suite(path)
    assert load_suite("tasks/suites/demo.yaml")[0].name == "demo"


@pytest.mark.parametrize("name", ["demo", "smoke", "sdls", "protocol"])
def test_embedded_suites_are_good(name: str) -> None:
    suite, _ = load_suite(name)
    assert suite.name == name


def test_what_a_row_needs(tmp_path: Path) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text(yaml.safe_dump(GOOD))
    suite, _ = load_suite(str(file))
    labels = [target.label for target in targets_of(suite)]
    assert labels == ["tiny-glm4v:base:S2", "tiny-glm4v:S1+S2:S2", "majority:baseline:S2"]
    assert trainings_needed(suite, ["S1+S2"]) == ["S1", "S1+S2"]
    assert data_needed(suite, targets_of(suite)[:1], set()) == ["S2"]
    assert data_needed(suite, targets_of(suite)[1:2], {"S1", "S1+S2"}) == ["S1", "S2"]


def test_baselines_learn_from_the_asked_dataset_where_it_can_be_learned_from(tmp_path: Path) -> None:
    pool = {"task": "ot2-guided@1", "pool": "deck"}
    data = {
        "mine": pool,
        "yours": pool,
        "zh": {**pool, "lang": "zh"},
        "asked": {**pool, "split": "test-only"},
        "asked-zh": {**pool, "split": "test-only", "lang": "zh"},
        "scenes": {"task": "ot2-scene@1", "pool": "deck", "split": "test-only"},
    }
    file = tmp_path / "suite.yaml"
    file.write_text(yaml.safe_dump(with_changes(data=data, tests=[{"data": "mine"}], train={}, models=[])))
    suite, _ = load_suite(str(file))

    def learned(name: str, ref: str = "nearest", curriculum: str | None = None) -> str | None:
        return baseline_train_set(suite, Target(ref, curriculum, name, ""))

    assert [learned(name) for name in ("mine", "yours", "zh", "asked", "asked-zh")] == [
        *("mine", "yours", "zh", "mine", "zh")
    ]
    assert learned("mine", "blind:tiny-glm4v") is None
    assert learned("mine", "tiny-glm4v", "base") is None
    with pytest.raises(InputError, match="majority has no data to be fitted on"):
        data_needed(suite, [Target("majority", None, "scenes", "")], set())


def test_weights() -> None:
    assert split_weight("S1:0.3") == ("S1", 0.3)
    assert split_weight("S1") == ("S1", 1.0)
    for text in ("S1:0", "S1:-1", "S1:1.5", "S1:inf", "S1:x"):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            split_weight(text)


def test_a_task_folder_is_relative_to_the_suite_file(tmp_path: Path) -> None:
    file = tmp_path / "suites" / "own.yaml"
    assert task_in(file, "ot2-guided@1") == "ot2-guided@1"
    assert Path(task_in(file, "mine")) == tmp_path / "suites" / "mine"
    assert Path(task_in(file, "./mine@1")) == tmp_path / "suites" / "mine@1"
    assert task_in(file, "/lab/mine") == "/lab/mine"


def suite_of(tmp_path: Path, *names: str) -> Any:
    file = tmp_path / "suite.yaml"
    pools = {**{name: {} for name in names}, "deck": {"synth": {"frames": 8}}}
    file.write_text(yaml.safe_dump(with_changes(pools=pools)), encoding="utf-8")
    return load_suite(str(file))[0]


def test_a_pool_without_a_source_is_an_argument(tmp_path: Path) -> None:
    one, two, none = (suite_of(tmp_path, *names) for names in (["lab"], ["lab", "other"], []))
    assert (one.arguments, none.arguments) == (["lab"], [])
    assert given_pools(one, ["pools/x"]) == given_pools(one, ["lab=pools/x"]) == {"lab": Path("pools/x")}
    assert given_pools(two, ["other=b", "lab=a=c"]) == {"lab": Path("a=c"), "other": Path("b")}
    assert given_pools(none, []) == {}
    (tmp_path / "x=y").mkdir()
    assert given_pools(one, [str(tmp_path / "x=y")]) == {"lab": tmp_path / "x=y"}


@pytest.mark.parametrize(
    ("names", "texts", "what", "fix"),
    [
        (["lab"], [], "takes the pool 'lab' as an argument", "give --pool DIR"),
        (["lab", "other"], ["lab=a"], "takes the pool 'other'", "give --pool lab=DIR --pool other=DIR"),
        (["lab", "other"], ["a"], "takes the pools lab, other, not 'a'", "give --pool lab=DIR --pool other=DIR"),
        (["lab"], ["deck=a"], "takes the pools lab, not 'deck=a'", "give --pool DIR"),
        (["lab"], ["a", "lab=b"], "given twice", "give --pool DIR"),
        ([], ["a"], "takes no pool", "remove --pool"),
    ],
)
def test_wrong_pools(tmp_path: Path, names: list[str], texts: list[str], what: str, fix: str) -> None:
    with pytest.raises(InputError, match=what) as raised:
        given_pools(suite_of(tmp_path, *names), texts)
    assert raised.value.fix == fix
