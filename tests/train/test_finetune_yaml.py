"""The lab's own finetune config: loaded unchanged, said in our settings, what means nothing listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from deckbench.errors import InputError
from deckbench.train import lora, train
from deckbench.train.config import Source, TrainConfig, read_source, settle
from tests.train import micro_world

# The keys and values of finetune_demo/configs/lora.yaml with `freezeV`, as the finetune script for pictures reads it.
LAB: dict[str, Any] = {
    "data_config": {"train_file": "train.jsonl", "val_file": "dev.jsonl", "test_file": "dev.jsonl", "num_proc": 1},
    "combine": True,
    "freezeV": True,
    "max_input_length": 512,
    "max_output_length": 512,
    "training_args": {
        "output_dir": "./output",
        "max_steps": 3000,
        "learning_rate": "5e-4",  # as PyYAML reads it
        "per_device_train_batch_size": 1,
        "dataloader_num_workers": 16,
        "remove_unused_columns": False,
        "save_strategy": "steps",
        "save_steps": 500,
        "log_level": "info",
        "logging_strategy": "steps",
        "logging_steps": 10,
        "per_device_eval_batch_size": 4,
        "eval_strategy": "steps",
        "eval_steps": 500,
        "adam_epsilon": 1e-6,
        "predict_with_generate": True,
        "generation_config": {"max_new_tokens": 512},
        "deepspeed": "configs/ds_zero_3.json",
    },
    "peft_config": {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 8,
        "lora_alpha": 32,
        "lora_dropout": 0.1,
        "target_modules": ["query_key_value"],
    },
}
NOTHING = [
    "data_config.train_file",
    "data_config.val_file",
    "data_config.test_file",
    "data_config.num_proc",
    "combine",
    "max_input_length",
    "max_output_length",
    "training_args.output_dir",
    "training_args.log_level",
    "training_args.per_device_eval_batch_size",
    "training_args.adam_epsilon",
    "training_args.generation_config",
]


def written(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """The lab's file with some keys changed: dotted name -> value, or ... for none."""
    values = json.loads(json.dumps(LAB))
    for key, value in (changes or {}).items():
        section, _, name = key.rpartition(".")
        place = values[section] if section else values
        if value is ...:
            del place[name]
        else:
            place[name] = value
    path = folder / "lora.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def read(path: Path) -> tuple[Source, TrainConfig]:
    source = read_source(path)
    return source, settle(source, {})


def test_it_is_loaded_unchanged(tmp_path: Path) -> None:
    source, config = read(written(tmp_path))
    wanted = {
        "max_steps": 3000,
        "lr": 5e-4,
        "batch": 1,
        "workers": 16,
        "save_every": 500,
        "log_every": 10,
        "eval_every": 500,
        "keep_best": False,
        "group_by_length": False,
        "rank": 8,
        "alpha": 32.0,
        "dropout": 0.1,
        "targets": ("query_key_value",),
        "vision": "absent",
        "gradient_checkpointing": True,
        "schedule": "linear",
        "warmup": 0.0,
    }
    assert {name: getattr(config, name) for name in wanted} == wanted
    assert list(source.ignored) == NOTHING


def test_yaml_numbers_as_people_write_them(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text().replace("'5e-4'", "5e-4"))
    assert "learning_rate: 5e-4\n" in path.read_text()
    assert read(path)[1].lr == 5e-4


@pytest.mark.parametrize(
    ("changes", "setting", "value"),
    [
        ({"freezeV": False}, "vision", "train"),
        ({"freezeV": ...}, "vision", "absent"),
        ({"training_args.bf16": True}, "precision", "bf16"),
        ({"training_args.max_steps": -1, "training_args.num_train_epochs": 2}, "epochs", 2.0),
        ({"training_args.num_train_epochs": 2}, "max_steps", 3000),
        ({"training_args.gradient_checkpointing": False}, "gradient_checkpointing", False),
        ({"training_args.lr_scheduler_type": "cosine"}, "schedule", "cosine"),
        ({"training_args.learning_rate": ...}, "lr", 5e-5),
        ({"peft_config.target_modules": "all-linear"}, "targets", None),
        ({"peft_config.lora_dropout": None}, "dropout", 0.0),
        ({"training_args.group_by_length": True}, "group_by_length", True),
        ({"training_args.eval_strategy": "no"}, "eval_every", None),
        ({"training_args.eval_strategy": False}, "eval_every", None),
        ({"training_args.eval_strategy": "epoch"}, "eval_every", None),
        ({"training_args.eval_strategy": ...}, "eval_every", None),
        ({"training_args.eval_strategy": ..., "training_args.evaluation_strategy": "steps"}, "eval_every", 500),
        ({"training_args.eval_steps": ...}, "eval_every", 10),
        ({"data_config.val_file": ...}, "eval_every", None),
        ({"training_args.load_best_model_at_end": True}, "keep_best", True),
        ({"training_args.load_best_model_at_end": True, "data_config.val_file": ...}, "keep_best", False),
    ],
)
def test_variants(tmp_path: Path, changes: dict[str, Any], setting: str, value: Any) -> None:
    assert getattr(read(written(tmp_path, changes))[1], setting) == value


def test_what_is_otherwise_here_is_listed(tmp_path: Path) -> None:
    changes = {"training_args.save_strategy": "epoch", "training_args.num_train_epochs": 3, "swanlab": "cloud"}
    changes |= {"training_args.eval_strategy": "epoch", "training_args.load_best_model_at_end": True}
    ignored = read(written(tmp_path, changes))[0].ignored
    assert set(ignored) - set(NOTHING) == {*changes, "training_args.eval_steps"}
    ignored = read(written(tmp_path, {"training_args.eval_strategy": "no"}))[0].ignored
    assert set(ignored) - set(NOTHING) == {"training_args.eval_steps"}


@pytest.mark.parametrize(
    ("changes", "key", "message"),
    [
        ({"training_args.learning_rate": "fast"}, "learning_rate", "training_args.learning_rate: Input should be"),
        ({"training_args.save_steps": 0}, "save_steps", "training_args.save_steps: Input should be greater"),
        ({"training_args.eval_steps": 0.1}, "eval_steps", "training_args.eval_steps: Input should be a valid integer"),
        ({"training_args.eval_step": 5}, "eval_step", "unknown field; did you mean 'eval_steps'?"),
        ({"training_args.learnig_rate": 1e-4}, "learnig_rate", "did you mean 'learning_rate'?"),
        ({"freezeVision": True, "freeze_V": True}, "freeze_V", "did you mean 'freezeV'?"),
        ({"freezeV": "yes"}, "freezeV", "freezeV is 'yes'"),
        ({"peft_config.r": 2.5}, " r", "peft_config.r: Input should be a valid integer"),
        ({"peft_config.target_modules": []}, "target_modules", "peft_config.target_modules: Tuple should have"),
        ({"peft_config.peft_type": "PREFIX_TUNING"}, "peft_type", "only LORA is trained here"),
        ({"peft_config.peft_type": ...}, "peft_config", "peft_type is missing"),
        ({"training_args": 3}, "training_args", "training_args: a map of fields is expected"),
        ({"training_args.lr_scheduler_type": "polynomial"}, "lr_scheduler_type", "Input should be 'constant'"),
    ],
)
def test_wrong_values_are_named_with_their_line(
    tmp_path: Path, changes: dict[str, Any], key: str, message: str
) -> None:
    path = written(tmp_path, changes)
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if f"{key}:" in text)
    with pytest.raises(InputError) as caught:
        read(path)
    assert message in str(caught.value) and str(caught.value).startswith(f"{path}:{line}: ")
    assert caught.value.exit_code == 2


def test_a_full_finetune_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only LORA is trained here"):
        read(written(tmp_path, {"peft_config": ...}))


SHORT = {"training_args.max_steps": 2, "training_args.dataloader_num_workers": 0, "training_args.save_steps": 5}


def test_it_trains_the_language_model_alone(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, SHORT)
    made = train(model=str(model), data=data, out=tmp_path / "first", config=path, overrides={"threads": 1})
    layers = {name.split(".lora_")[0].rpartition("layers.")[2] for name in load_file(made.path / lora.WEIGHTS)}
    assert layers == {f"{layer}.self_attn.{part}_proj" for layer in (0, 1) for part in "qkv"}
    told = [line for line in capsys.readouterr().err.splitlines() if "have no effect here" in line]
    assert len(told) == 1 and all(key in told[0] for key in NOTHING)
    assert made.observed["config"] == {"file": "lora.yaml", "ignored": NOTHING}
    assert made.content["params"]["targets"] == ["query_key_value"]

    second = train(
        model=str(model), data=data, out=tmp_path / "second", init=made.path, overrides={"max_steps": 1, "threads": 1}
    )
    assert second.content["params"]["targets"] == ["query_key_value"]
    with pytest.raises(InputError, match="targets is"):
        overrides = {"max_steps": 1, "targets": ["dense"]}
        train(model=str(model), data=data, out=tmp_path / "third", init=made.path, overrides=overrides)


def test_it_evaluates_as_its_own_tool_does(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, {**SHORT, "training_args.eval_steps": 1})
    given: dict[str, Any] = {"model": str(model), "config": path, "overrides": {"threads": 1}}
    without = train(data=data, out=tmp_path / "without", **given)
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if "eval_steps:" in text)
    assert f"{path}:{line}: the dataset has no val part" in capsys.readouterr().err
    assert "eval_every" not in without.content["params"]
    whole = micro_world.make_dataset(tmp_path / "whole", 2, splits=("train", "val"))
    made = train(data=whole, out=tmp_path / "with", **given)
    assert (made.path / "evaluations.csv").read_text().splitlines()[1].startswith("1,accuracy,")
    overrides = {"threads": 1, "eval_every": 2}
    with pytest.raises(InputError, match="no val part"):
        train(data=data, out=tmp_path / "told", **{**given, "overrides": overrides})


def test_a_tower_that_is_not_frozen_has_the_same_layers(model: Path, data: Path, tmp_path: Path) -> None:
    path = written(tmp_path, {**SHORT, "freezeV": False})
    made = train(model=str(model), data=data, out=tmp_path / "out", config=path, overrides={"threads": 1})
    parts = {name.split(".lora_")[0].rpartition(".")[2] for name in load_file(made.path / lora.WEIGHTS)}
    assert parts == {"q_proj", "k_proj", "v_proj", "query_key_value"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_config.target_modules": ["query_key_value", "W_pack"]}, "is called 'W_pack'"),
        ({"freezeV": False, "peft_config.target_modules": ["q_proj"]}, "has no layer called q_proj"),
    ],
)
def test_layers_that_are_not_there(
    model: Path, data: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = written(tmp_path, {**SHORT, **changes})
    with pytest.raises(InputError, match=message) as caught:
        train(model=str(model), data=data, out=tmp_path / "out", config=path)
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if "target_modules:" in text)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert [item.name for item in tmp_path.iterdir()] == ["lora.yaml"]
    with pytest.raises(InputError, match=r"^--set: no layer .* is called 'nothing'"):
        train(model=str(model), data=data, out=tmp_path / "out", config=path, overrides={"targets": ["nothing"]})
