"""The original implementation's tensors are met."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deckbench.models.check import check
from deckbench.models.phi3v.model import load_phi3v
from tests.models.models_helpers import edit_json, split_in_shards


@pytest.fixture
def one_case(shared: Path, tmp_path: Path) -> Path:
    """The smallest of the reference cases alone, with nothing but its frame and question."""
    for name in ("case1.png", "case1.safetensors"):
        shutil.copy(shared / "oracles/phi3v/cases" / name, tmp_path / name)
    case = {"case": 1, "image": "case1.png", "question": "What is in slot 7?"}
    (tmp_path / "cases-0.json").write_text(json.dumps({"cases": [case]}))
    return tmp_path


@pytest.mark.slow
def test_reference_cases_pass(shared: Path) -> None:
    result = check(shared / "oracles/phi3v/model", shared / "oracles/phi3v/cases")
    assert result["passed"] and result["max_abs_diff"] <= 1e-5
    assert len(result["cases"]) == 4
    for case in result["cases"]:
        assert case["ids"] and case["positions"] and case["pixels"] and case["generated"]
    assert 1e-5 < result["max_abs_diff_bf16"] < 1


@pytest.mark.slow
def test_a_slightly_wrong_separator_fails(shared: Path, one_case: Path) -> None:
    model = Path(shutil.copytree(shared / "oracles/phi3v/model", one_case / "model"))
    state = load_file(model / "model.safetensors")
    state["model.vision_embed_tokens.glb_GN"] += 0.05
    save_file(state, model / "model.safetensors")
    result = check(model, one_case)
    assert not result["passed"] and result["max_abs_diff"] > 1e-5
    assert result["cases"][0]["ids"] and result["cases"][0]["pixels"]


def test_a_folder_in_shards_saves_as_it_was(shared: Path, tmp_path: Path) -> None:
    source = shared / "oracles/phi3v/model"
    model = Path(shutil.copytree(source, tmp_path / "model"))
    state = load_file(model / "model.safetensors")
    split_in_shards(model)
    load_phi3v(model).save(tmp_path / "out")
    after = load_file(tmp_path / "out/model.safetensors")
    assert state.keys() == after.keys()
    assert all(torch.equal(state[name], after[name]) and state[name].dtype == after[name].dtype for name in state)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json"):
        assert (source / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert json.loads((source / "config.json").read_text()) == json.loads((tmp_path / "out/config.json").read_text())


def test_fewer_crops_than_the_checkpoint_says(shared: Path, tmp_path: Path) -> None:
    from PIL import Image

    source = shared / "oracles/phi3v/model"
    with Image.open(shared / "oracles/phi3v/cases/case2.png") as frame:
        whole, one = load_phi3v(source), load_phi3v(source, num_crops=1)
        assert whole.processor.tiles(frame)[1] == (2, 2) and one.processor.tiles(frame)[1] == (1, 1)
    assert whole.base_hash != one.base_hash
    model = Path(shutil.copytree(source, tmp_path / "model"))
    edit_json(model / "preprocessor_config.json", lambda c: c.update(num_crops=1))
    assert load_phi3v(model).base_hash == one.base_hash
