"""Evaluation while a model learns: as score counts, without a trace in the training, killed and resumed or not."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.train import checkpoint, train
from deckbench.train.config import TrainConfig, read_source, settle
from deckbench.train.evaluate import EvalCounts, History, count_answers, make_eval_set
from deckbench.train.lora import WEIGHTS
from tests.train import micro_world


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro_world.make_dataset(tmp_path_factory.mktemp("val") / "squares", splits=("train", "val", "test"))


@pytest.fixture
def go(model: Path, data: Path, tmp_path: Path) -> Callable[..., artifact.Manifest]:
    def call(name: str = "out", *, resume: bool = False, **settings: Any) -> artifact.Manifest:
        overrides = {**micro_world.SETTINGS, **settings}
        return train(model=str(model), data=data, out=tmp_path / name, overrides=overrides, resume=resume)

    return call


def evaluations(made: artifact.Manifest) -> list[dict[str, str]]:
    return list(csv.DictReader((made.path / "evaluations.csv").read_text().splitlines()))


# A run whose first evaluation stays the best one: it does not learn
STUCK = {"lr": 1e-9, "eval_every": 2, "patience": 2}


def test_it_counts_as_infer_and_score_do(
    go: Callable[..., artifact.Manifest], model: Path, data: Path, tmp_path: Path
) -> None:
    from deckbench.infer.predict import infer
    from deckbench.score import score

    made = go(max_steps=40, dropout=0.0, eval_every=39)
    infer(model=str(model), adapter=made.path, data=data, split="val", out=tmp_path / "val.csv")
    block = score(tmp_path / "val.csv", data=data)["kinds"]["choice"]
    first, last = evaluations(made)
    assert (first["step"], last["step"]) == ("39", "40")  # the last step is evaluated in any case
    assert (last["metric"], last["samples"]) == ("accuracy", str(block["n"]))
    assert float(last["value"]) == pytest.approx(block["metrics"]["accuracy"]["value"], abs=1e-6)
    assert float(last["value"]) > 0
    assert list((tmp_path / "out.logs").glob("events.*"))


def test_training_does_not_notice(go: Callable[..., artifact.Manifest]) -> None:
    plain, watched = go("plain"), go("watched", eval_every=3)
    assert (plain.path / WEIGHTS).read_bytes() == (watched.path / WEIGHTS).read_bytes()
    assert (plain.path / "curve.csv").read_bytes() == (watched.path / "curve.csv").read_bytes()
    assert watched.content["params"]["eval_every"] == 3
    assert not {"eval_every", "patience", "eval_limit", "keep_best"} & set(plain.content["params"])
    assert not (plain.path / "evaluations.csv").exists()


@pytest.mark.slow
def test_it_stops_early_with_the_best_weights(go: Callable[..., artifact.Manifest], tmp_path: Path) -> None:
    constant = {"schedule": "constant", "warmup": 0.0}
    made = go(**STUCK, **constant)
    assert [row["step"] for row in evaluations(made)] == ["2", "4", "6"]
    assert made.content["params"]["steps"] == 12
    assert not (tmp_path / "out.partial").exists()
    best = go("best", lr=STUCK["lr"], max_steps=2, **constant)
    assert (made.path / WEIGHTS).read_bytes() == (best.path / WEIGHTS).read_bytes()
    kept = go("kept", **{**STUCK, "patience": None}, **constant, keep_best=True)
    assert [row["step"] for row in evaluations(kept)] == ["2", "4", "6", "8", "10", "12"]
    assert (kept.path / WEIGHTS).read_bytes() == (best.path / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({**STUCK, "save_every": 3}, marks=pytest.mark.slow),
        {"eval_every": 2, "keep_best": True, "processes": 2, "group_by_length": True},
    ],
)
def test_killed_and_resumed(go: Callable[..., artifact.Manifest], settings: dict[str, Any]) -> None:
    whole = go("whole", **settings)
    assert evaluations(whole)
    for call, after in ((1, True), (1, False), (1, True)):

        def work(call: int = call, after: bool = after) -> None:
            micro_world.kill_at(checkpoint, "write", call, after=after)
            go(**settings, resume=True)

        assert micro_world.in_child(work) == -9
    made = go(**settings, resume=True)
    assert made.content_hash == whole.content_hash
    assert (made.path / "evaluations.csv").read_bytes() == (whole.path / "evaluations.csv").read_bytes()


def test_shares_add_up(model: Path, data: Path) -> None:
    from deckbench.models.load import load_model

    loaded, eval_set = load_model(str(model)), make_eval_set(data, limit=None, seed=0)
    whole = count_answers(loaded, eval_set)
    assert whole == sum((count_answers(loaded, eval_set, (part, 3)) for part in range(3)), EvalCounts())
    assert sum(whole.total) == eval_set.samples == 20


def test_processes_evaluate_what_one_does(go: Callable[..., artifact.Manifest]) -> None:
    same = {"lr": 1e-9, "eval_every": 12}
    one, two = go("one", **same), go("two", **same, processes=2)
    assert evaluations(one) == evaluations(two)


def test_a_limit_draws_by_seed(data: Path) -> None:
    ids = [
        [sample.id for group in make_eval_set(data, limit=limit, seed=seed).pictures for sample in group]
        for limit, seed in ((5, 0), (5, 0), (5, 1), (20, 0), (1000, 0))
    ]
    assert ids[0] == ids[1] == ids[3][:5] != ids[2]
    assert [len(found) for found in ids] == [5, 5, 5, 20, 20]


def rewritten(folder: Path, **fields: Any) -> Path:
    """A dataset whose val rows have other fields; None removes one, `kinds` keeps rows of these kinds alone."""
    place = micro_world.make_dataset(folder, 4, splits=("train", "val"))
    rows = [json.loads(line) for line in (place / "val.jsonl").read_text().splitlines()]
    kinds = fields.pop("kinds", ("choice", "open"))
    rows = [{**row, **fields} for row in rows if row["kind"] in kinds]
    (place / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def test_the_metric_is_the_stages(tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        "guided": {"task": "ot2-guided@1"},
        "own": {"task": "ot2-scene@1+0123abcd"},
        "concept": {"task": "ot2-concept@1"},
        "other": {"task": "somebody's"},
        "open": {"kinds": ("open",)},
    }
    eval_sets = {
        name: make_eval_set(rewritten(tmp_path / name, **fields), limit=None, seed=0) for name, fields in cases.items()
    }
    assert [eval_set.metric for eval_set in eval_sets.values()] == [*["balanced_accuracy"] * 2, *["accuracy"] * 3]
    assert {sample.kind for group in eval_sets["open"].pictures for sample in group} == {"open"}
    assert {sample.kind for group in eval_sets["guided"].pictures for sample in group} == {"choice"}


def test_balanced_accuracy_is_the_mean_of_both_sides() -> None:
    counted = EvalCounts((9, 1), (10, 2)) + EvalCounts((0, 0), (0, 2))
    assert counted.value("balanced_accuracy") == pytest.approx((0.9 + 0.25) / 2)
    assert counted.value("accuracy") == pytest.approx(10 / 14)
    assert EvalCounts((3, 0), (4, 0)).value("balanced_accuracy") == 0.75


def test_an_equal_value_is_no_better_one() -> None:
    history = History()
    found = [
        history.add(step, "accuracy", EvalCounts((right, 0), (4, 0))) for step, right in enumerate((1, 1, 2, 1, 2))
    ]
    assert found == [True, False, True, False, False]
    assert (history.best, history.bad) == (0.5, 2)
    other = History()
    other.load(history.state())
    assert other == history


def test_no_val_part(go: Callable[..., artifact.Manifest], model: Path, tmp_path: Path) -> None:
    place = micro_world.make_dataset(tmp_path / "d", 2, splits=("train", "test"))
    (tmp_path / "out").mkdir()
    for text in (None, "\n"):
        if text is not None:
            (place / "val.jsonl").write_text(text)
        with pytest.raises(InputError, match=r"val part.* while training") as caught:
            train(model=str(model), data=place, out=tmp_path / "out", overrides={"eval_every": 2, "max_steps": 2})
        assert caught.value.exit_code == 2
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("setting", [{"patience": 2}, {"eval_limit": 5}, {"keep_best": True}])
def test_settings_that_need_an_evaluation(setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(setting))} needs eval_every"):
        settle(read_source(None), setting)
    assert TrainConfig.model_validate({**setting, "eval_every": 1}).content()["eval_every"] == 1


def test_a_broken_picture_in_val(model: Path, tmp_path: Path) -> None:
    for processes in (1, 3):
        place = micro_world.make_dataset(tmp_path / f"d{processes}", 4, splits=("train", "val"))
        (place / "images/extra.png").write_bytes((place / "images/3.png").read_bytes()[:60])
        text = (place / "val.jsonl").read_text().replace("images/3.png", "images/extra.png")
        (place / "val.jsonl").write_text(text)
        settings = {**micro_world.SETTINGS, "eval_every": 1, "max_steps": 2, "processes": processes}
        with pytest.raises(InputError, match=r"extra\.png"):
            train(model=str(model), data=place, out=tmp_path / f"o{processes}", overrides=settings)
        assert not (tmp_path / f"o{processes}.partial").exists()
