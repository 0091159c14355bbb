"""Broken checkpoints are refused with the file and what is wrong in it; no code in them is run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from deckbench.errors import InputError
from deckbench.models.glm4v.model import Glm4v, load_glm4v
from tests.models.models_helpers import edit_json, edit_weights


@pytest.fixture
def folder(small: Glm4v, tmp_path: Path) -> Path:
    small.save(tmp_path / "model")
    return tmp_path / "model"


def test_the_untouched_folder_loads(small: Glm4v, folder: Path) -> None:
    loaded = load_glm4v(folder)
    for name, tensor in small.module.state_dict().items():
        assert torch.equal(tensor, loaded.module.state_dict()[name])


def edit_config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", change)


def shard(folder: Path) -> None:
    """Split the weights over two files and lose the second."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    save_file({name: state[name] for name in names[:10]}, folder / "model-00001-of-00002.safetensors")
    weight_map = {name: f"model-0000{1 if name in names[:10] else 2}-of-00002.safetensors" for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def escape(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    weight_map = {"transformer.vision.boi": "../model.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


QKV = "transformer.encoder.layers.1.self_attention.query_key_value.weight"
BAD: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json", "has no config.json"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{'a'"), "config.json", "not readable as JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "config.json", "not a JSON object"),
    "missing key": (edit_config(lambda c: c.pop("ffn_hidden_size")), "config.json", "'ffn_hidden_size' is missing"),
    "missing vision key": (
        edit_config(lambda c: c["vision_config"].pop("scaling_factor")),
        "config.json",
        "vision_config.'scaling_factor' is missing",
    ),
    "no vision": (edit_config(lambda c: c.pop("vision_config")), "config.json", "'vision_config' is missing"),
    "unknown key": (edit_config(lambda c: c.update(rope_scaling=2)), "config.json", "unknown key 'rope_scaling'"),
    "other model": (edit_config(lambda c: c.update(model_type="llama")), "config.json", "'model_type' must be"),
    "text for a number": (edit_config(lambda c: c.update(hidden_size="48")), "config.json", "'hidden_size' must be"),
    "true for a number": (edit_config(lambda c: c.update(num_layers=True)), "config.json", "'num_layers' must be"),
    "no end token": (edit_config(lambda c: c.update(eos_token_id=[])), "config.json", "'eos_token_id' must be"),
    "id outside": (edit_config(lambda c: c.update(boi_token_id=99999)), "config.json", "outside the vocabulary"),
    "unsupported": (edit_config(lambda c: c.update(rmsnorm=False)), "config.json", "'rmsnorm' = False"),
    "positions": (
        edit_config(lambda c: c["vision_config"].update(num_positions=3)),
        "config.json",
        "'num_positions' must be 17",
    ),
    "heads": (edit_config(lambda c: c.update(multi_query_group_num=3)), "config.json", "must be a multiple of"),
    "wider than the weights": (
        edit_config(lambda c: c.update(ffn_hidden_size=128)),
        "model.safetensors",
        "the config asks for",
    ),
    "fewer layers than the weights": (
        edit_config(lambda c: c.update(num_layers=1)),
        "model.safetensors",
        "layers.1.* belongs to no part",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model", "neither model.safetensors nor"),
    "pickled": (pickled, "pytorch_model.bin", "pickled weights are not read"),
    "truncated": (truncated, "model.safetensors", "not readable as safetensors"),
    "not safetensors": (
        lambda f: (f / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 3),
        "model.safetensors",
        "not readable as safetensors",
    ),
    "tensor missing": (lambda f: edit_weights(f, lambda s: s.pop(QKV)), "model.safetensors", "is missing"),
    "tensor too many": (
        lambda f: edit_weights(f, lambda s: s.update(extra=torch.zeros(2))),
        "model.safetensors",
        "'extra' belongs to no part",
    ),
    "wrong shape": (
        lambda f: edit_weights(f, lambda s: s.update({QKV: torch.zeros(8, 8)})),
        "model.safetensors",
        r"has shape \[8, 8\]",
    ),
    "integers": (
        lambda f: edit_weights(f, lambda s: s.update({QKV: s[QKV].to(torch.int8)})),
        "model.safetensors",
        "not floating point",
    ),
    "shard missing": (shard, "model-00002-of-00002.safetensors", "the shard is missing"),
    "shard elsewhere": (escape, "model.safetensors.index.json", "not the name of a safetensors file"),
    "no tokenizer": (lambda f: (f / "tokenizer.model").unlink(), "tokenizer.model", "has no tokenizer.model"),
    "tokenizer garbage": (
        lambda f: (f / "tokenizer.model").write_bytes(b"\x0a\x05<unk>\x15\x00 a b c\n"),
        "tokenizer.model:2",
        "not `base64 rank`",
    ),
    "token twice": (
        lambda f: (f / "tokenizer.model").write_bytes((f / "tokenizer.model").read_bytes() + b"QQ== 9999\n"),
        "tokenizer.model:",
        "given twice",
    ),
    "bytes missing": (
        lambda f: (f / "tokenizer.model").write_bytes(b"QQ== 0\n"),
        "tokenizer.model",
        "255 of the 256 single bytes",
    ),
    "no special tokens": (
        lambda f: edit_json(f / "tokenizer_config.json", lambda c: c.pop("added_tokens_decoder")),
        "tokenizer_config.json",
        "'added_tokens_decoder' is missing",
    ),
    "a special token missing": (
        lambda f: edit_json(
            f / "tokenizer_config.json",
            lambda c: c.update(
                added_tokens_decoder={k: v for k, v in c["added_tokens_decoder"].items() if v["content"] != "<sop>"}
            ),
        ),
        "tokenizer_config.json",
        "'<sop>' is missing",
    ),
    "ids disagree": (
        edit_config(lambda c: c.update(boi_token_id=c["eoi_token_id"])),
        "config.json",
        "'boi_token_id' is not",
    ),
    "small vocabulary": (
        edit_config(lambda c: c.update(padded_vocab_size=c["eoi_token_id"] + 1)),
        "config.json",
        "tokenizer has ids up to",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_checkpoint(folder: Path, name: str) -> None:
    damage, where, message = BAD[name]
    damage(folder)
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(InputError, match=message) as error:
        load_glm4v(folder)
    assert error.value.exit_code == 2 and where in str(error.value.where)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_pickle_beside_good_weights_is_left_alone(folder: Path) -> None:
    """Old checkpoints ship both; only the safetensors are opened."""
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    load_glm4v(folder)


def test_keys_of_newer_exports_are_accepted(folder: Path) -> None:
    extra = {"_name_or_path": "x", "transformers_version": "5.0", "dtype": "float32", "attn_implementation": "sdpa"}
    edit_json(folder / "config.json", lambda c: c.update(extra))
    load_glm4v(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saving_twice_gives_the_same_bytes(folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    model = load_glm4v(folder, dtype=dtype)
    model.save(tmp_path / "a")
    load_glm4v(tmp_path / "a").save(tmp_path / "b")
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert json.loads((tmp_path / "b/config.json").read_text())["torch_dtype"] == str(dtype).removeprefix("torch.")


def test_identity_names_content_and_no_path(folder: Path, tmp_path: Path) -> None:
    one, again = load_glm4v(folder), load_glm4v(folder, name="other")
    assert str(tmp_path) not in json.dumps(one.identity)
    assert one.base_hash == again.base_hash
    edit_weights(folder, lambda s: s[QKV].add_(1e-3))
    assert load_glm4v(folder).base_hash != one.base_hash
