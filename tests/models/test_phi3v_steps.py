"""Training, merging, asking and predicting take Phi-3-vision as they take every model."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from deckbench.answer import Question
from deckbench.errors import InputError
from deckbench.infer.predict import infer
from deckbench.models.load import load_model
from deckbench.train import train
from deckbench.train.merge import merge
from tests.models.phi3v_small import make_phi

ASK = "Which colour?\nA. red\nB. blue\nAnswer with A or B only."


def make_dataset(folder: Path) -> Path:
    """Red and blue frames of several shapes, a question each; the test frames are none of the trained ones."""
    (folder / "images").mkdir(parents=True)
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        lines = []
        for number in range(count):
            name, red = f"{split}{number}", number % 2 == 0
            colour = (220, 20 + number, 20) if red else (20, 20 + number, 220)
            size = (40 + 9 * number, 30 + 3 * len(split))
            Image.new("RGB", size, colour).save(folder / f"images/{name}.png")
            user = {"role": "user", "content": ASK, "image": f"images/{name}.png"}
            answer = {"role": "assistant", "content": "A" if red else "B"}
            sample = {"messages": [user, answer], "id": name, "kind": "choice", "option_a": "red", "option_b": "blue"}
            lines.append(json.dumps(sample) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


@pytest.mark.slow
def test_it_is_trained_merged_and_asked(tmp_path: Path) -> None:
    make_phi().save(tmp_path / "base")
    data, base, adapter = make_dataset(tmp_path / "data"), str(tmp_path / "base"), tmp_path / "adapter"
    train(model=base, data=data, out=adapter, overrides={"max_steps": 30, "batch": 4, "lr": 1e-2, "rank": 8})
    names = load_file(adapter / "adapter_model.safetensors")
    assert any("vision.img_processor.vision_model.encoder.layers.1." in name for name in names)
    assert not any("encoder.layers.2." in name for name in names)  # the tower's last layer is never run

    infer(model=base, adapter=adapter, data=data, out=tmp_path / "answers.csv")
    with (tmp_path / "answers.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["prediction"] for row in rows] == [row["gold"] for row in rows] == ["A", "B"]

    merge(model=base, adapter=adapter, out=tmp_path / "merged")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "merged"))
    untouched = ("model.embed_tokens.weight", "lm_head.weight", "model.vision_embed_tokens.sub_GN")
    assert all(torch.equal(before[name], after[name]) for name in untouched)
    assert not torch.equal(*(state["model.layers.0.self_attn.qkv_proj.weight"] for state in (before, after)))
    with_adapter = load_model(base, adapter=adapter, device="cpu")
    merged = load_model(str(tmp_path / "merged"), device="cpu")
    frame, question = Image.open(data / "images/test0.png"), Question(ASK, "choice", 3)
    one, two = with_adapter.answer(frame, [question])[0], merged.answer(frame, [question])[0]
    assert one.text == two.text == "A" and one.p_a == pytest.approx(two.p_a, abs=1e-5)

    with pytest.raises(InputError, match="was trained on"):
        load_model(f"{base}?num_crops=1", adapter=adapter, device="cpu")
