"""Broken checkpoints are refused with the file and what is wrong in it; no code in them is run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deckbench.errors import InputError
from deckbench.models.load import load_model, model_identity
from deckbench.models.phi3v.model import Phi3v, load_phi3v
from tests.models.models_helpers import edit_json, edit_weights
from tests.models.phi3v_small import make_phi


@pytest.fixture(scope="module")
def phi() -> Phi3v:
    return make_phi()


@pytest.fixture
def folder(phi: Phi3v, tmp_path: Path) -> Path:
    phi.save(tmp_path / "model")
    return tmp_path / "model"


def edit_config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", change)


def edit_tokenizer(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "tokenizer.json", change)


def edit_preprocessor(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "preprocessor_config.json", change)


def lose_shard(folder: Path) -> None:
    names = {"lm_head.weight": "model-00001-of-00002.safetensors"}
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def truncate(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def pickle_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


QKV = "model.layers.1.self_attn.qkv_proj.weight"
BAD: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json", "has no config.json"),
    "other model": (edit_config(lambda c: c.update(model_type="phi3")), "config.json", "'model_type' must be"),
    "missing key": (edit_config(lambda c: c.pop("rope_theta")), "config.json", "'rope_theta' is missing"),
    "unknown key": (edit_config(lambda c: c.update(moe=2)), "config.json", "unknown key 'moe'"),
    "no tower": (edit_config(lambda c: c.pop("img_processor")), "config.json", "'img_processor' is missing"),
    "other tower": (
        edit_config(lambda c: c["img_processor"].pop("clip")),
        "config.json",
        "'model_name' must be one of openai/clip",
    ),
    "other order": (
        edit_config(lambda c: c["embd_layer"].update(hd_transform_order="glb_sub")),
        "config.json",
        "'hd_transform_order' = 'glb_sub'",
    ),
    "other layer": (edit_config(lambda c: c["img_processor"].update(layer_idx=-1)), "config.json", "'layer_idx' = -1"),
    "too few factors": (
        edit_config(lambda c: c["rope_scaling"]["long_factor"].pop()),
        "config.json",
        "'long_factor' must be a list of 6 numbers",
    ),
    "other rope": (edit_config(lambda c: c["rope_scaling"].update(type="yarn")), "config.json", "'type' must be one"),
    "heads": (edit_config(lambda c: c.update(num_key_value_heads=3)), "config.json", "must be a multiple of"),
    "small vocabulary": (edit_config(lambda c: c.update(vocab_size=32)), "config.json", "tokenizer has ids up to"),
    "fewer layers": (edit_config(lambda c: c.update(num_hidden_layers=1)), "model.safetensors", "belongs to no part"),
    "wider": (edit_config(lambda c: c.update(intermediate_size=64)), "model.safetensors", "the config asks for"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model", "neither model.safetensors nor"),
    "pickled": (pickle_weights, "pytorch_model.bin", "pickled weights are not read"),
    "truncated": (truncate, "model.safetensors", "not readable as safetensors"),
    "shard missing": (lose_shard, "model-00001-of-00002.safetensors", "the shard is missing"),
    "tensor missing": (lambda f: edit_weights(f, lambda s: s.pop(QKV)), "model.safetensors", "is missing"),
    "tower's layer missing": (
        lambda f: edit_weights(
            f, lambda s: [s.pop(name) for name in list(s) if "vision_model.encoder.layers.1." in name]
        ),
        "model.safetensors",
        "layer 1 is missing",
    ),
    "wrong shape": (
        lambda f: edit_weights(f, lambda s: s.update({QKV: torch.zeros(8, 8)})),
        "model.safetensors",
        r"has shape \[8, 8\]",
    ),
    "no preprocessor": (
        lambda f: (f / "preprocessor_config.json").unlink(),
        "preprocessor_config.json",
        "has no preprocessor_config.json",
    ),
    "no crops": (edit_preprocessor(lambda c: c.update(num_crops=0)), "preprocessor_config.json", "'num_crops' must be"),
    "two colours": (edit_preprocessor(lambda c: c["image_std"].pop()), "preprocessor_config.json", "list of 3"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json", "has no tokenizer.json"),
    "slow tokenizer alone": (
        lambda f: (f / "tokenizer.json").rename(f / "tokenizer.model"),
        "tokenizer.json",
        "has tokenizer.model and no tokenizer.json",
    ),
    "tokenizer garbage": (
        edit_tokenizer(lambda c: c.update(model={})),
        "tokenizer.json",
        "not readable as a tokenizer",
    ),
    "a special token missing": (
        edit_tokenizer(lambda c: c.update(added_tokens=[t for t in c["added_tokens"] if t["content"] != "<|end|>"])),
        "tokenizer.json",
        "'<|end|>' is missing",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_checkpoint(folder: Path, name: str) -> None:
    damage, where, message = BAD[name]
    damage(folder)
    with pytest.raises(InputError, match=message) as error:
        load_phi3v(folder)
    assert error.value.exit_code == 2 and where in str(error.value.where)


def test_the_untouched_folder_loads_and_saves_the_same_bytes(phi: Phi3v, folder: Path, tmp_path: Path) -> None:
    loaded = load_phi3v(folder)
    for name, tensor in phi.module.state_dict().items():
        assert torch.equal(tensor, loaded.module.state_dict()[name])
    loaded.save(tmp_path / "again")
    for path in sorted(folder.iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_end_tokens_of_the_generation_config_stop_too(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert {7, 9} <= load_phi3v(folder).stops
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": "x"}))
    with pytest.raises(InputError, match="'eos_token_id' must be"):
        load_phi3v(folder)


def test_crops_are_part_of_the_reference_and_of_the_identity(folder: Path, tmp_path: Path) -> None:
    plain, one = load_model(str(folder), device="cpu"), load_model(f"{folder}?num_crops=1", device="cpu")
    assert (plain.preprocessor.num_crops, one.preprocessor.num_crops) == (6, 1)
    assert one.name == "model?num_crops=1" and one.base_hash != plain.base_hash
    assert model_identity(str(folder))["hash"] == plain.base_hash
    assert model_identity(f"{folder}?num_crops=1")["hash"] == one.base_hash
    one.save(tmp_path / "one")
    assert load_model(str(tmp_path / "one"), device="cpu").base_hash == one.base_hash
    for wrong in ("?num_crops=x", "?crops=1"):
        with pytest.raises(InputError, match="not an option"):
            load_model(f"{folder}{wrong}")
    with pytest.raises(InputError, match="option of phi-3-vision models only"):
        load_model("tiny-glm4v?num_crops=1")


def test_an_unknown_family_is_named(folder: Path) -> None:
    edit_json(folder / "config.json", lambda c: c.update(model_type="llama"))
    with pytest.raises(InputError, match="'model_type' is 'llama'"):
        load_model(str(folder))
