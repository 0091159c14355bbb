"""The original implementation's tensors are met."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deckbench.errors import InputError
from deckbench.models.check import check
from deckbench.models.glm4v.model import load_glm4v
from tests.models.models_helpers import split_in_shards


@pytest.fixture
def model_folder(shared: Path, tmp_path: Path) -> Path:
    """A writable copy of the reference checkpoint."""
    return Path(shutil.copytree(shared / "oracles/glm4v/model", tmp_path / "model"))


def test_reference_cases_pass(shared: Path) -> None:
    result = check(shared / "oracles/glm4v/model", shared / "oracles/glm4v/cases")
    assert result["passed"] and result["max_abs_diff"] <= 1e-5
    assert len(result["cases"]) == 4
    for case in result["cases"]:
        assert case["ids"] and case["positions"] and case["pixels"] and case["generated"]


def test_a_slightly_wrong_weight_fails(shared: Path, model_folder: Path) -> None:
    state = load_file(model_folder / "model.safetensors")
    state["transformer.vision.eoi"] += 0.01
    save_file(state, model_folder / "model.safetensors")
    result = check(model_folder, shared / "oracles/glm4v/cases")
    assert not result["passed"] and result["max_abs_diff"] > 1e-5


def test_another_scaling_factor_fails(shared: Path, model_folder: Path) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    config["vision_config"]["scaling_factor"] = 4
    (model_folder / "config.json").write_text(json.dumps(config))
    assert not check(model_folder, shared / "oracles/glm4v/cases")["passed"]


def test_a_logit_that_is_no_number_fails(shared: Path, tmp_path: Path) -> None:
    cases = Path(shutil.copytree(shared / "oracles/glm4v/cases", tmp_path / "cases"))
    last = max(cases.glob("case*.safetensors"))
    state = load_file(last)
    state["logits"][0, 0, 0] = float("nan")
    save_file(state, last)
    result = check(shared / "oracles/glm4v/model", cases)
    assert not result["passed"] and result["max_abs_diff"] == float("inf")


def test_only_frame_and_question_are_read_from_a_case(shared: Path, tmp_path: Path) -> None:
    cases = Path(shutil.copytree(shared / "oracles/glm4v/cases", tmp_path / "cases"))
    data = json.loads((cases / "cases-0.json").read_text())
    keep = [{key: case[key] for key in ("case", "image", "question")} for case in data["cases"]]
    (cases / "cases-0.json").write_text(json.dumps({"cases": keep}))
    assert check(shared / "oracles/glm4v/model", cases)["passed"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda cases: (cases / "cases-0.json").unlink(), "no cases-"),
        (lambda cases: (cases / "cases-0.json").write_text("{"), "not readable as JSON"),
        (lambda cases: (cases / "cases-0.json").write_text('{"cases": [{"case": 0}]}'), "lacks its number"),
        (lambda cases: (cases / "case1.png").unlink(), "a case's file is missing"),
        (lambda cases: (cases / "case1.safetensors").write_bytes(b"xx"), "cannot be read"),
        (lambda cases: (cases / "case1.png").write_bytes(b"xx"), "cannot be read as an image"),
    ],
)
def test_bad_cases(shared: Path, tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    cases = Path(shutil.copytree(shared / "oracles/glm4v/cases", tmp_path / "cases"))
    damage(cases)
    with pytest.raises(InputError, match=message) as error:
        check(shared / "oracles/glm4v/model", cases)
    assert error.value.exit_code == 2


def test_saving_gives_the_same_weights_and_files(shared: Path, tmp_path: Path) -> None:
    source = shared / "oracles/glm4v/model"
    load_glm4v(source).save(tmp_path / "out")
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    for name in ("tokenizer.model", "tokenizer_config.json", "generation_config.json"):
        assert (source / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert json.loads((tmp_path / "out/tokenizer_config.json").read_text())["image_size"] == 56
    assert json.loads((source / "config.json").read_text()) == json.loads((tmp_path / "out/config.json").read_text())


def test_a_sharded_checkpoint_is_the_same_model(shared: Path, model_folder: Path) -> None:
    split_in_shards(model_folder)
    assert check(model_folder, shared / "oracles/glm4v/cases")["passed"]
