from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deckbench import artifact
from deckbench.errors import DeckBenchError, InputError, OutsideError
from deckbench.train import checkpoint, lora, step, train
from deckbench.train.config import TrainConfig
from tests.train import micro_world


@pytest.fixture
def go(model: Path, data: Path, tmp_path: Path) -> Callable[..., artifact.Manifest]:
    """train() with small settings; keywords that are settings go over them."""

    def call(name: str = "out", **given: Any) -> artifact.Manifest:
        settings = {key: given.pop(key) for key in list(given) if key in TrainConfig.model_fields}
        arguments = {"model": str(model), "data": data, "out": tmp_path / name, **given}
        return train(**arguments, overrides={**micro_world.SETTINGS, **settings})

    return call


@pytest.fixture(scope="session")
def whole(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> artifact.Manifest:
    """The adapter of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return train(model=str(model), data=data, out=out, overrides=micro_world.SETTINGS)


def test_same_inputs_and_seed_give_the_same_bytes(go: Callable[..., artifact.Manifest], whole: Any) -> None:
    assert go().content_hash == whole.content_hash
    assert go("other", seed=1).content_hash != whole.content_hash


@pytest.mark.parametrize("settings", [{"workers": 1}, {"workers": 2, "cache_mb": 0}, {"cache_mb": 0}])
def test_loading_changes_nothing(go: Callable[..., artifact.Manifest], whole: Any, settings: dict[str, int]) -> None:
    assert go(**settings).content_hash == whole.content_hash


def test_it_learns_and_says_so(go: Callable[..., artifact.Manifest], tmp_path: Path) -> None:
    made = go(max_steps=60, dropout=0.0)
    rows = list(csv.DictReader((made.path / "curve.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows[:5]] == [2, 4, 5, 6, 8]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) / 3
    assert float(rows[-1]["token_accuracy"]) > 0.8
    assert float(rows[-1]["epoch"]) == pytest.approx(60 * 4 / 10)
    assert list((tmp_path / "out.logs").glob("events.*"))
    assert not (tmp_path / "out.partial").exists()
    assert not list(made.path.glob("events*"))


def test_of_several_gpus_one_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from deckbench.train.trainer import arguments

    for name, value in (("is_available", True), ("device_count", 2), ("set_device", None), ("is_bf16_supported", True)):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    given = arguments(TrainConfig(), partial=tmp_path, steps=1, seed=0, device="cuda")
    assert given.train_batch_size == 1  # one planned batch at a time


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_any_whole_number_is_a_seed(go: Callable[..., artifact.Manifest], seed: int) -> None:
    assert go(seed=seed, max_steps=1).content["seed"] == seed


def test_accumulated_steps_are_the_mean_over_tokens(go: Callable[..., artifact.Manifest]) -> None:
    from safetensors.torch import load_file

    same = {"max_steps": 3, "dropout": 0.0, "schedule": "constant", "lr": 1e-3}
    one, two = go("one", batch=4, **same), go("two", batch=2, accumulate=2, **same)
    weights = [load_file(made.path / "adapter_model.safetensors") for made in (one, two)]
    for name in weights[0]:
        assert (weights[0][name] - weights[1][name]).abs().max() < 2e-4, name


# Several processes

SHARED = {"processes": 2, "batch": 5, "accumulate": 2, "workers": 1}


def test_processes_share_a_batch(go: Callable[..., artifact.Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    """And each ends by itself: one that has to be killed at the end costs ten seconds."""
    from safetensors.torch import load_file

    from deckbench.train.parallel import Helper

    ended: list[int | None] = []
    stop = Helper.stop
    monkeypatch.setattr(Helper, "stop", lambda helper: (stop(helper), ended.append(helper.process.exitcode)))
    same = {"max_steps": 3, "dropout": 0.0, "schedule": "constant", "lr": 1e-3, "batch": 5, "accumulate": 2}
    one, two, three = (go(f"n{count}", **same, processes=count) for count in (1, 2, 3))
    assert ended == [0, 0, 0]
    weights = [load_file(made.path / "adapter_model.safetensors") for made in (one, two, three)]
    for name in weights[0]:
        assert (weights[0][name] - weights[1][name]).abs().max() < 2e-4, name
        assert (weights[0][name] - weights[2][name]).abs().max() < 2e-4, name
    curves = [(made.path / "curve.csv").read_text().splitlines() for made in (one, two)]
    for row, other in zip(*curves, strict=True):
        assert row.split(",")[:2] == other.split(",")[:2]
    assert float(curves[0][1].split(",")[2]) == pytest.approx(float(curves[1][1].split(",")[2]), abs=1e-5)
    assert curves[0][1].split(",")[3] == curves[1][1].split(",")[3]


def test_processes_killed_and_resumed(go: Callable[..., artifact.Manifest], tmp_path: Path) -> None:
    whole = go("whole", **SHARED)

    def work() -> None:
        micro_world.kill_at(checkpoint, "write", 2)
        go(**SHARED)

    assert micro_world.in_child(work) == -9
    assert go(**SHARED, resume=True).content_hash == whole.content_hash
    with pytest.raises(InputError, match="processes"):
        go("third", processes=2, threads=2)
    with pytest.raises(InputError, match=r"processes is 6"):
        go("third", processes=6)


def test_a_dead_helper_can_be_resumed(go: Callable[..., artifact.Manifest], tmp_path: Path) -> None:
    from deckbench.train import parallel

    whole = go("whole", **SHARED)
    with pytest.MonkeyPatch.context() as patch:
        real = parallel.sum_gradients

        def dying(batches: Any, indices: Any, *rest: Any, **named: Any) -> Any:
            return real(batches, indices, *rest, **named) if indices[0] < 15 else os._exit(1)

        patch.setattr(parallel, "sum_gradients", dying)
        with pytest.raises(OutsideError, match="a training process died") as caught:
            go(**SHARED)
    assert caught.value.exit_code == 3
    assert (tmp_path / "out.partial/checkpoint-5").is_dir()
    assert go(**SHARED, resume=True).content_hash == whole.content_hash


# Killed and resumed

KILLS = {
    "before the first step": (lora, "check_reached", 1, False),
    "before the first checkpoint": (checkpoint, "write", 1, False),
    "inside the first checkpoint": (checkpoint.artifact, "list_files", 2, False),
    "after the first checkpoint": (checkpoint, "write", 1, True),
    "inside the second checkpoint": (checkpoint.disk, "fsync_path", 10, False),
    "before the last checkpoint": (checkpoint, "write", 3, False),
    "after the last checkpoint": (checkpoint, "write", 3, True),
    "before the adapter is there": (step, "publish", 1, False),
    "while the adapter is written": (lora, "config_json", 1, False),
    "after the adapter is there": (step, "publish", 1, True),
}


@pytest.mark.parametrize("when", KILLS)
def test_sigkill_and_resume(go: Callable[..., artifact.Manifest], whole: Any, tmp_path: Path, when: str) -> None:
    def work() -> None:
        micro_world.kill_at(*KILLS[when][:3], after=KILLS[when][3])
        go()

    assert micro_world.in_child(work) == -9
    partial = tmp_path / "out.partial"
    last = checkpoint.latest_good(partial)
    if "first" not in when or when == "after the first checkpoint":
        assert last is not None
        assert checkpoint.step_of(last) > 0
    steps: list[int] = []
    real = checkpoint.write

    def counted(folder: Path, step: int, files: Any) -> Path:
        steps.append(step)
        return real(folder, step, files)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write", counted)
        made = go(resume=True)
    assert made.content_hash == whole.content_hash
    assert steps == [step for step in (5, 10, 12) if last is None or step > checkpoint.step_of(last)]
    assert not partial.exists()
    assert not list(tmp_path.glob(".*.draft")) or when == "while the adapter is written"


def test_killed_again_and_again(go: Callable[..., artifact.Manifest], whole: Any) -> None:
    for call in (3, 4, 2, 3):

        def work(call: int = call) -> None:
            from deckbench.train.trainer import LoraTrainer

            micro_world.kill_at(LoraTrainer, "compute_loss", call)
            go(resume=True)

        assert micro_world.in_child(work) == -9
    assert go(resume=True, workers=1).content_hash == whole.content_hash


def test_a_broken_checkpoint_is_not_resumed_from(
    go: Callable[..., artifact.Manifest], whole: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        micro_world.kill_at(checkpoint, "write", 2, after=True)
        go()

    assert micro_world.in_child(work) == -9
    state = tmp_path / "out.partial/checkpoint-10/state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    assert go(resume=True).content_hash == whole.content_hash
    assert "resuming from step 5 of 12" in capsys.readouterr().err


def test_a_pickle_in_a_checkpoint_is_not_run(go: Callable[..., artifact.Manifest], tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "owned",))

    def work() -> None:
        micro_world.kill_at(checkpoint, "write", 1, after=True)
        go()

    micro_world.in_child(work)
    place = tmp_path / "out.partial/checkpoint-5"
    (place / "state.pt").write_bytes(pickle.dumps(Evil()))
    (place / checkpoint.SEAL).unlink()
    seal = {"step": 5, "files": artifact.list_files(place)}
    (place / checkpoint.SEAL).write_text(json.dumps(seal))
    with pytest.raises(OutsideError, match="cannot be read"):
        go(resume=True)
    assert not (tmp_path / "owned").exists()


def interrupted(go: Callable[..., artifact.Manifest]) -> None:
    def work() -> None:
        micro_world.kill_at(checkpoint, "write", 1, after=True)
        go()

    assert micro_world.in_child(work) == -9


def test_an_unfinished_run_is_not_trodden_on(go: Callable[..., artifact.Manifest], tmp_path: Path) -> None:
    interrupted(go)
    with pytest.raises(InputError, match="--resume"):
        go()
    assert (tmp_path / "out.partial/checkpoint-5").is_dir()


def test_resume_looks_at_the_output_before_it_trains(go: Callable[..., artifact.Manifest], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/x").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        go(resume=True)
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lr": 0.5}, "params.lr"),
        ({"rank": 8}, "params.rank"),
        ({"seed": 3}, "seed"),
        ({"data": "other"}, "inputs.dataset"),
        ({"model": "other"}, "inputs.base.hash"),
        ({"init": "whole"}, "inputs.init"),
    ],
)
def test_resume_with_something_else_is_refused(
    go: Callable[..., artifact.Manifest], whole: Any, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    interrupted(go)
    if "data" in change:
        change = {"data": micro_world.make_dataset(tmp_path / "d2", 8)}
    if "model" in change:
        change = {"model": str(micro_world.make_model(tmp_path / "m2/micro", seed=5))}
    if "init" in change:
        change = {"init": whole.path}
    with pytest.raises(InputError, match="other inputs or settings") as caught:
        go(resume=True, **change)
    assert named in str(caught.value)
    assert (tmp_path / "out.partial/checkpoint-5").is_dir()


def test_full_disk_keeps_the_last_good_checkpoint(
    go: Callable[..., artifact.Manifest], whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = Path.write_bytes, [2]

    def filling(self: Path, data: bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", filling)
        with pytest.raises(OutsideError, match="No space left"):
            go()
    assert not (tmp_path / "out").exists()
    assert checkpoint.latest_good(tmp_path / "out.partial") == tmp_path / "out.partial/checkpoint-5"
    assert go(resume=True).content_hash == whole.content_hash


def test_a_curve_that_cannot_be_written_can_be_gone_on_from(
    go: Callable[..., artifact.Manifest], whole: Any, tmp_path: Path
) -> None:
    (tmp_path / "out.logs").write_text("no folder")
    with pytest.raises(OutsideError, match="learning curve"):
        go()
    (tmp_path / "out.logs").unlink()
    assert go(resume=True).content_hash == whole.content_hash


# Stages


def test_the_next_stage_goes_on_with_the_same_weights(go: Callable[..., artifact.Manifest], whole: Any) -> None:
    from safetensors.torch import load_file

    second = go(init=whole.path, max_steps=1, lr=1e-9)
    assert second.content["inputs"]["init"] == whole.content_hash
    old, new = (load_file(made.path / "adapter_model.safetensors") for made in (whole, second))
    assert set(old) == set(new)
    assert all((old[name] - new[name]).abs().max() < 1e-6 for name in old)
    assert any(old[name].abs().max() > 1e-3 for name in old if "lora_B" in name)


def test_the_shape_comes_from_the_adapter(go: Callable[..., artifact.Manifest], model: Path, data: Path) -> None:
    first = go("first", vision="absent", rank=2, alpha=3)
    settings = {"max_steps": 2, "batch": 2}
    second = train(model=str(model), data=data, out=first.path.with_name("second"), init=first.path, overrides=settings)
    assert second.content["params"]["rank"] == 2
    assert second.content["params"]["alpha"] == 3
    assert second.content["params"]["vision"] == "absent"
    with pytest.raises(InputError, match="rank is 4 in the config and 2 in the adapter"):
        go("third", init=first.path)


def test_vision_adapters_are_trained_or_absent(go: Callable[..., artifact.Manifest], whole: Any) -> None:
    from safetensors.torch import load_file

    absent = load_file(go(vision="absent").path / "adapter_model.safetensors")
    trained = load_file(whole.path / "adapter_model.safetensors")
    assert not [name for name in absent if ".vision." in name]
    on_vision = [name for name in trained if ".vision." in name and "lora_B" in name]
    assert on_vision
    assert all(trained[name].abs().max() > 0 for name in on_vision)


def test_a_frozen_adapter_is_noticed(model: Path) -> None:
    from deckbench.models.load import load_model

    config = TrainConfig.model_validate({})
    loaded = load_model(str(model))
    wrapped = lora.wrap(loaded, config, 0)
    lora.check_trained(wrapped, loaded, config)
    name, parameter = next((n, p) for n, p in wrapped.named_parameters() if ".vision." in n and "lora_A" in n)
    parameter.requires_grad_(False)
    with pytest.raises(DeckBenchError, match=f"{name} is frozen by accident"):
        lora.check_trained(wrapped, loaded, config)
    parameter.requires_grad_(True)
    with pytest.raises(DeckBenchError, match="vision is set to absent"):
        lora.check_trained(wrapped, loaded, config.model_copy(update={"vision": "absent"}))
    with pytest.raises(DeckBenchError, match="does not reach"):
        lora.check_reached(wrapped)


def test_a_cut_off_tower_is_noticed(go: Callable[..., artifact.Manifest], tmp_path: Path) -> None:
    from deckbench.models.glm4v.network import Glm4vModule

    real = Glm4vModule.embed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Glm4vModule, "embed", lambda self, ids, features: real(self, ids, [one.detach() for one in features])
        )
        with pytest.raises(DeckBenchError, match=r"does not reach the adapter .*vision"):
            go()


def test_gradient_checkpointing_changes_nothing_but_memory(go: Callable[..., artifact.Manifest]) -> None:
    from safetensors.torch import load_file

    short = {"max_steps": 2, "dropout": 0.0}
    plain, saved = go("plain", **short), go("saved", gradient_checkpointing=True, **short)
    old, new = (load_file(made.path / "adapter_model.safetensors") for made in (plain, saved))
    assert all((old[name] - new[name]).abs().max() < 1e-6 for name in old)


def test_a_last_gradient_that_is_no_number_is_noticed(
    go: Callable[..., artifact.Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deckbench.train.trainer import LoraTrainer

    real = LoraTrainer.training_step

    def overflowing(self: Any, model: Any, *given: Any) -> Any:
        loss = real(self, model, *given)
        next(parameter for parameter in model.parameters() if parameter.grad is not None).grad.fill_(float("inf"))
        return loss

    monkeypatch.setattr(LoraTrainer, "training_step", overflowing)
    with pytest.raises(OutsideError, match="diverged: the gradient is inf at step 1"):
        go(max_steps=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lr", [1e20, 1e30, 1e38])
def test_a_last_step_that_diverges_is_noticed(go: Callable[..., artifact.Manifest], tmp_path: Path, lr: float) -> None:
    wild = {"lr": lr, "max_grad_norm": 1e30, "schedule": "constant", "max_steps": 1}
    with pytest.raises(OutsideError, match="diverged: the loss is nan at step 1") as caught:
        go(**wild)
    assert caught.value.exit_code == 3 and not (tmp_path / "out").exists()
    with pytest.raises(OutsideError, match="diverged"):
        go(**wild, resume=True)
    assert not (tmp_path / "out").exists()


def test_after_diverging_the_way_out_is_named(go: Callable[..., artifact.Manifest], tmp_path: Path) -> None:
    wild = {"lr": 1e30, "max_grad_norm": 1e30, "schedule": "constant", "save_every": 1}
    with pytest.raises(OutsideError, match="diverged") as caught:
        go(**wild)
    assert (tmp_path / "out.partial").is_dir() and str(tmp_path / "out.partial") in str(caught.value)


# The adapter folder


def test_the_adapter_is_a_standard_one_without_paths(whole: Any, model: Path, data: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    from deckbench.models.load import load_model

    texts = [path.read_text() for path in whole.path.iterdir() if path.suffix in {".json", ".yaml", ".csv"}]
    assert not any(str(place) in text for text in texts for place in (model, data, whole.path.parent))
    config = json.loads((whole.path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "micro"
    assert config["revision"] == whole.content["inputs"]["base"]["hash"]
    loaded = PeftModel.from_pretrained(load_model(str(model)).module, str(whole.path))
    tensors = lora.weights(loaded)
    assert any(tensor.abs().max() > 0 for name, tensor in tensors.items() if "lora_B" in name)
    artifact.read(whole.path, "adapter", verify=True)


# Broken inputs: message, exit code 2, nothing left behind


def copy(made: artifact.Manifest, place: Path) -> Path:
    shutil.copytree(made.path, place)
    return place


def break_input(kind: str, whole: artifact.Manifest, data: Path, tmp_path: Path) -> tuple[dict[str, Any], str]:
    """Keywords for `go` that are wrong in one way, and what the message says."""
    match kind:
        case "no dataset":
            return {"data": tmp_path / "nowhere"}, "not found"
        case "no train part":
            return {"data": micro_world.make_dataset(tmp_path / "d", 2, ("test",))}, "no train part"
        case "a sample without answer":
            place = micro_world.make_dataset(tmp_path / "d", 2)
            row = {"messages": [{"role": "user", "content": "?", "image": "images/0.png"}]}
            row["messages"].append({"role": "assistant", "content": " "})
            (place / "train.jsonl").write_text(json.dumps(row) + "\n")
            return {"data": place}, "has no answer to learn"
        case "a broken picture":
            place = micro_world.make_dataset(tmp_path / "d", 6)
            (place / "images/3.png").write_bytes((place / "images/3.png").read_bytes()[:60])
            return {"data": place}, "3.png"
        case "a broken picture in a worker":
            return {**break_input("a broken picture", whole, data, tmp_path)[0], "workers": 1}, "3.png"
        case "a broken picture in a helper":
            return {**break_input("a broken picture", whole, data, tmp_path)[0], "processes": 4}, "3.png"
        case "a picture that is missing":
            place = micro_world.make_dataset(tmp_path / "d", 2)
            (place / "images/1.png").unlink()
            return {"data": place}, "missing"
        case "an edited dataset":
            place = micro_world.make_dataset(tmp_path / "raw", 2)
            with artifact.writing(tmp_path / "d", "dataset") as draft:
                shutil.copytree(place, draft.path, dirs_exist_ok=True)
            text = (tmp_path / "d/train.jsonl").read_text()
            (tmp_path / "d/train.jsonl").write_text(text.replace("Describe", "describe"))
            return {"data": tmp_path / "d"}, "was changed since"
        case "no such model":
            return {"model": "no-such-model"}, "no such model"
        case "a model that cannot learn":
            return {"model": "majority"}, "majority cannot be trained"
        case "a pickled adapter":
            place = copy(whole, tmp_path / "a")
            (place / "adapter_model.bin").write_bytes(b"\x80\x04.")
            return {"init": place}, "pickled"
        case "an adapter without manifest":
            place = copy(whole, tmp_path / "a")
            (place / "manifest.json").unlink()
            return {"init": place}, "no manifest.json"
        case "an edited adapter":
            place = copy(whole, tmp_path / "a")
            (place / "adapter_config.json").write_text("{}")
            return {"init": place}, "was changed since"
        case "another kind of artifact":
            with artifact.writing(tmp_path / "a", "dataset") as draft:
                (draft.path / "x").write_text("x")
            return {"init": tmp_path / "a"}, "this is a dataset, not an adapter"
        case "an adapter of another base":
            other = micro_world.make_model(tmp_path / "m/micro", seed=9)
            return {"init": whole.path, "model": str(other)}, "another base"
        case "an output that is there":
            (tmp_path / "out").mkdir()
            (tmp_path / "out/x").write_text("mine")
            return {}, "not empty"
    raise AssertionError(kind)


BROKEN = [
    "no dataset",
    "no train part",
    "a sample without answer",
    "a broken picture",
    "a broken picture in a worker",
    "a broken picture in a helper",
    "a picture that is missing",
    "an edited dataset",
    "no such model",
    "a model that cannot learn",
    "a pickled adapter",
    "an adapter without manifest",
    "an edited adapter",
    "another kind of artifact",
    "an adapter of another base",
    "an output that is there",
]


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_input(go: Callable[..., artifact.Manifest], whole: Any, data: Path, tmp_path: Path, kind: str) -> None:
    given, message = break_input(kind, whole, data, tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError) as caught:
        go(**given)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) <= 3
    assert sorted(tmp_path.iterdir()) == before
