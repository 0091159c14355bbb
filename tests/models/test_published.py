"""The published models at true size on the meta device: names and counts, and what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from deckbench.answer import Question
from deckbench.errors import InputError, OutsideError
from deckbench.models import random_weights
from deckbench.models.families import published
from deckbench.models.load import load_model, model_identity
from deckbench.models.random_weights import random_model, skeleton
from tests.models.published_small import shrink


def count(module: torch.nn.Module) -> int:
    assert {parameter.device.type for parameter in module.parameters()} == {"meta"}
    return sum(parameter.numel() for parameter in module.parameters())


def test_glm4v_has_the_published_sizes() -> None:
    """The counts are those that users of the checkpoint print (zai-org/GLM-4, issue 500)."""
    model = skeleton("glm-4v-9b")
    assert count(model.module) == 13_906_320_896
    assert count(model.module.vision.transformer) == 4_279_387_392
    assert count(model.module.language.model.layers) == 8_158_433_280
    names = set(model.entries())
    # Embedding, head, last norm; 40 layers of 7, 63 of 12; patches 4, convolution 2, projector 6, ends of the image 2.
    assert len(names) == 3 + 40 * 7 + 63 * 12 + 4 + 2 + 6 + 2
    assert {
        "transformer.embedding.word_embeddings.weight",
        "transformer.encoder.layers.39.self_attention.query_key_value.bias",
        "transformer.vision.transformer.layers.62.mlp.fc2.bias",
        "transformer.vision.linear_proj.gate_proj.weight",
        "transformer.output_layer.weight",
    } <= names
    vision = model.config.vision
    assert (vision.tokens, vision.num_positions, vision.scaling_factor) == (1600, 6401, 8)
    assert model.tokenizer.special["<|user|>"] == 151336 and model.tokenizer.special["<|end_of_image|>"] == 151340


def test_phi3v_has_the_published_names_and_sizes(shared: Path) -> None:
    index = json.loads((shared / "oracles/phi3v/model.safetensors.index.json").read_text())
    model = skeleton("phi-3-vision")
    assert set(model.entries()) == set(index["weight_map"])
    # Stored in bfloat16: two bytes a weight.
    assert 2 * count(model.module) == index["metadata"]["total_size"] == 2 * 4_146_621_440
    small = json.loads((shared / "oracles/phi3v/model/config.json").read_text())["rope_scaling"]
    for key in ("short_factor", "long_factor"):
        assert model.config.raw["rope_scaling"][key][: len(small[key])] == small[key]
    assert model.preprocessor.num_crops == 16 and skeleton("phi-3-vision?num_crops=4").preprocessor.num_crops == 4


def test_questions_are_about_as_long_as_with_the_published_tokenizer(shared: Path) -> None:
    from deckbench.models.phi3v.tokenizer import read_tokenizer

    real, _ = read_tokenizer(shared / "oracles/phi3v/model")
    text = "Which state has the tip in the box?\nA. straight\nB. bent\nAnswer with A or B only."
    wanted = len(real.encode(text))
    assert all(wanted / 1.5 < len(skeleton(ref).tokenizer.encode(text)) < wanted * 1.5 for ref in published())


@pytest.mark.parametrize("ref", published())
def test_what_does_not_fit_is_refused_before_it_is_taken(ref: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_weights, "free_bytes", lambda device: 3_000_000_000)
    with pytest.raises(OutsideError) as caught:
        random_model(ref, seed=0, device="cpu", dtype="bfloat16")
    needed = {"glm-4v-9b": "13,906,320,896 weights in bfloat16, 27.8 GB", "phi-3-vision": "8.3 GB"}[ref]
    assert needed in str(caught.value) and "3.0 GB are free on cpu" in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("ref", [*published(), "phi-3-vision?num_crops=4"])
@pytest.mark.parametrize("call", [load_model, model_identity])
def test_without_a_checkpoint_they_are_sizes_alone(ref: str, call: Callable[[str], object]) -> None:
    with pytest.raises(InputError, match="its sizes alone are"):
        call(ref)


def test_a_folder_of_that_name_is_that_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "glm-4v-9b").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"the checkpoint has no config\.json"):
        load_model("glm-4v-9b")


@pytest.mark.parametrize("ref", published())
def test_it_answers_with_random_weights(
    ref: str, tmp_path: Path, frames: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink(ref, tmp_path, monkeypatch)
    first, again, other = (random_model(ref, seed=seed, device="cpu") for seed in (0, 0, 1))
    assert first.identity["name"] == ref and first.identity["weights"] == {"drawn": "random, seed 0"}
    answers = [model.answer(frames[0], [Question("Stop?\nA. yes\nB. no", "choice", 2)])[0] for model in (first, again)]
    assert answers[0].text == answers[1].text and answers[0].p_a == answers[1].p_a
    assert 0 < answers[0].p_a < 1
    pairs = zip(first.module.parameters(), other.module.parameters(), strict=True)
    assert all(not torch.equal(one, two) for one, two in pairs)
    assert first.identity["hash"] == again.identity["hash"] != other.identity["hash"]
