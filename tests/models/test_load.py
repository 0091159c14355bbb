"""Models by name or folder, adapters on their base and on no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from deckbench import artifact
from deckbench.answer import Question
from deckbench.errors import InputError
from deckbench.models.device import pick_dtype
from deckbench.models.families import known_models, packaged
from deckbench.models.glm4v.model import Glm4v
from deckbench.models.load import Blind, load_model, model_identity
from deckbench.models.pretrain_questions import slot_truth
from deckbench.pool.synth import synth_pool
from deckbench.train.lora import read_adapter
from deckbench.train.merge import merge
from tests.models.models_helpers import edit_json, make_adapter

QUESTIONS = [Question("What is in slot 3?\nA. white plate\nB. tip rack", "choice", 3)]


@pytest.fixture
def base(small: Glm4v, tmp_path: Path) -> Path:
    small.save(tmp_path / "base")
    return tmp_path / "base"


def reseal(adapter: Path) -> None:
    """Make the manifest fit a changed folder, so that the change itself is what is found."""
    data = json.loads((adapter / "manifest.json").read_text())
    data["content"]["files"] = artifact.list_files(adapter)
    data["content_hash"] = artifact.hash_json(data["content"])
    (adapter / "manifest.json").write_text(json.dumps(data))


def test_an_adapter_changes_the_answers_as_peft_would(base: Path, tmp_path: Path, frames: list[Image.Image]) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    plain, adapted = load_model(str(base), device="cpu"), load_model(str(base), adapter=adapter, device="cpu")
    p_plain, p_adapted = (m.answer(frames[0], QUESTIONS)[0].p_a for m in (plain, adapted))
    assert p_plain != pytest.approx(p_adapted, rel=1e-3)
    from peft import PeftModel

    unmerged = load_model(str(base), device="cpu")
    PeftModel.from_pretrained(unmerged.module, str(adapter))
    assert unmerged.answer(frames[0], QUESTIONS)[0].p_a == pytest.approx(p_adapted, abs=1e-5)
    again = load_model(str(base), adapter=adapter, device="cpu")
    assert again.answer(frames[0], QUESTIONS)[0].p_a == p_adapted
    assert adapted.identity["adapter"] == artifact.read(adapter).content_hash
    assert adapted.identity["hash"] == plain.identity["hash"] and plain.identity["adapter"] is None


def test_an_adapted_model_saves_as_a_plain_checkpoint(base: Path, tmp_path: Path, frames: list[Image.Image]) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    adapted = load_model(str(base), adapter=adapter, device="cpu")
    adapted.save(tmp_path / "merged")
    merged = load_model(str(tmp_path / "merged"), device="cpu")
    assert merged.answer(frames[0], QUESTIONS)[0].p_a == adapted.answer(frames[0], QUESTIONS)[0].p_a
    assert sorted(p.name for p in (tmp_path / "merged").iterdir()) == sorted(p.name for p in base.iterdir())


BAD = {
    "another base": (lambda a: None, {"name": "other", "hash": "0" * 64}, "trained on other 000000000000, not on"),
    "no base": (lambda a: None, None, "does not say which base"),
    "no folder": (lambda a: a.rename(a.with_name("gone")), "its own", "not found"),
    "no manifest": (lambda a: (a / "manifest.json").unlink(), "its own", "no manifest.json"),
    "changed weights": (
        lambda a: (a / "adapter_model.safetensors").write_bytes(b"x"),
        "its own",
        "missing or was changed",
    ),
    "no weights": (
        lambda a: ((a / "adapter_model.safetensors").unlink(), reseal(a)),
        "its own",
        "has no adapter_model",
    ),
    "pickled": (
        lambda a: ((a / "adapter_model.safetensors").rename(a / "adapter_model.bin"), reseal(a)),
        "its own",
        "pickled adapters are not read",
    ),
    "garbage": (
        lambda a: ((a / "adapter_model.safetensors").write_bytes(b"x" * 99), reseal(a)),
        "its own",
        "does not fit the model",
    ),
    "no config": (lambda a: ((a / "adapter_config.json").unlink(), reseal(a)), "its own", "has no adapter_config"),
    "other rank": (
        lambda a: (edit_json(a / "adapter_config.json", lambda c: c.update(r=2)), reseal(a)),
        "its own",
        "does not fit the model",
    ),
    "no target": (
        lambda a: (edit_json(a / "adapter_config.json", lambda c: c.update(target_modules="nothing")), reseal(a)),
        "its own",
        "does not fit the model",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_adapter(base: Path, tmp_path: Path, name: str) -> None:
    damage, record, message = BAD[name]
    adapter = make_adapter(base, tmp_path / "adapter", record=record)
    damage(adapter)
    with pytest.raises(InputError, match=message) as error:
        load_model(str(base), adapter=adapter, device="cpu")
    assert error.value.exit_code == 2


@pytest.mark.parametrize("place", ["", "checkpoint-10"])
def test_foreign_adapter(base: Path, tmp_path: Path, place: str) -> None:
    adapter = make_adapter(base, tmp_path / "made")
    (adapter / "manifest.json").unlink()
    foreign = tmp_path / "output" / place
    foreign.parent.mkdir(exist_ok=True)
    adapter.rename(foreign)
    for use in (
        lambda: load_model(str(base), adapter=tmp_path / "output", device="cpu"),
        lambda: merge(model=str(base), adapter=tmp_path / "output", out=tmp_path / "merged"),
        lambda: read_adapter(tmp_path / "output"),
    ):
        with pytest.raises(InputError, match="was not made by deckbench") as error:
            use()
        assert str(error.value.where) == str(foreign) and error.value.exit_code == 2
        assert "swift export" in (error.value.fix or "") and "--model" in (error.value.fix or "")
    assert not (tmp_path / "merged").exists()
    with pytest.raises(InputError, match="this is an adapter, not a model"):
        load_model(str(foreign), device="cpu")


def test_blind_sees_no_frame(base: Path, frames: list[Image.Image]) -> None:
    model, blind = load_model(str(base), device="cpu"), load_model(f"blind:{base}", device="cpu")
    assert isinstance(blind, Blind) and blind.name == "blind:base" and blind.identity["blank"] is True
    answers = [blind.answer(frame, QUESTIONS)[0] for frame in frames[:2]]
    assert answers[0].p_a == answers[1].p_a != model.answer(frames[0], QUESTIONS)[0].p_a
    assert answers[0].tokens_in == model.answer(frames[0], QUESTIONS)[0].tokens_in


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ref": "no-such-model"}, "no such model or folder"),
        ({"ref": "blind:no-such-model"}, "no such model or folder"),
        ({"ref": "majority", "adapter": Path("x")}, "a baseline takes no adapter"),
        ({"ref": "BASE", "dtype": "int4"}, "is not a dtype"),
        ({"ref": "BASE", "device": "toaster"}, "is not a device"),
    ],
)
def test_bad_references(base: Path, arguments: dict[str, object], message: str) -> None:
    values: dict[str, Any] = {key: str(base) if value == "BASE" else value for key, value in arguments.items()}
    with pytest.raises(InputError, match=message):
        load_model(**{"device": "cpu", **values})


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(base: Path) -> None:
    with pytest.raises(InputError, match="no GPU is usable"):
        load_model(str(base), device="cuda")


def test_number_types() -> None:
    assert pick_dtype("auto", "cpu") is torch.float32 and pick_dtype("auto", "cuda") is None
    assert pick_dtype("bfloat16", "cpu") is torch.bfloat16


def test_bfloat16_weights_are_computed_in_float32_on_the_cpu(small: Glm4v, tmp_path: Path) -> None:
    small.save(tmp_path / "half", dtype=torch.bfloat16)
    model = load_model(str(tmp_path / "half"), device="cpu")
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    assert model.identity["dtype"] == "float32"


def test_identity_without_loading_is_the_loaded_one(base: Path) -> None:
    model = load_model(str(base), device="cpu")
    assert model_identity(str(base)).items() <= model.identity.items()
    blind = load_model(f"blind:{base}", device="cpu")
    assert model_identity(f"blind:{base}").items() <= blind.identity.items()
    assert {"tiny-glm4v", "tiny-phi3v"} <= set(known_models())


def test_a_baseline_is_not_blinded() -> None:
    with pytest.raises(InputError, match="sees no frame anyway"):
        load_model("blind:majority")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(packaged()))
def test_packaged_bases_name_what_they_see(name: str, tmp_path: Path) -> None:
    """Frames of a seed they have never seen: what is in each slot, and hardly so without the picture."""
    assert sum(path.stat().st_size for path in packaged()[name].iterdir()) <= 8_000_000
    synth_pool(tmp_path / "pool", frames=4, seed=4711, workers=1)
    model = load_model(name)
    right: dict[bool, list[bool]] = {True: [], False: []}
    for line in (tmp_path / "pool/scenes.jsonl").read_text().splitlines():
        scene = json.loads(line)
        with Image.open(tmp_path / f"pool/{scene['frame']}.jpg") as frame:
            for blank, marks in right.items():
                questions = [Question(f"What is in slot {slot}?", "open", 24) for slot in scene["slots"]]
                answers = model.answer(frame.convert("RGB"), questions, blank=blank)
                truths = [slot_truth(scene, slot) for slot in scene["slots"]]
                marks += [given.text.strip() == truth for given, truth in zip(answers, truths, strict=True)]
    assert sum(right[False]) / len(right[False]) > 0.85 > 0.6 > sum(right[True]) / len(right[True])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_weights_that_are_no_numbers_give_no_answers(
    base: Path, tmp_path: Path, frames: list[Image.Image], value: float
) -> None:
    model = load_model(str(base), device="cpu")
    with torch.no_grad():
        next(iter(model.module.language.model.layers)).mlp.down_proj.weight.fill_(value)
    with pytest.raises(InputError, match="not a number"):
        model.answer(frames[0], QUESTIONS)
