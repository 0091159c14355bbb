"""A family added as one folder works with every verb; nothing else is edited."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from PIL import Image

import deckbench.models
from deckbench.cli import app
from deckbench.models.families import families, served_as
from deckbench.models.load import load_model

FAMILY = '''
"""The toy family."""

from deckbench.models.interface import FamilySpec


def identity(ref):
    from deckbench.models.toy.model import folder_identity

    return folder_identity(ref.checkpoint, ref.name)


def load(ref, device, dtype):
    from deckbench.models.device import place
    from deckbench.models.toy.model import load_toy

    where, kind = place(device, dtype)
    return load_toy(ref.checkpoint, ref.name, where, kind)


SPEC = FamilySpec(
    name="toy",
    serves="toy",
    known={"FOLDER (model_type toy)": "a network of four layers"},
    identity=identity,
    load=load,
    model_types=("toy",),
    trainable=True,
)
'''
MODEL = '''
"""A network that reads a frame's mean colour and the mean of all bytes so far, and writes the next byte."""

import json
import time
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from deckbench.answer import Answer
from deckbench.models import files
from deckbench.models.loss import IGNORE, answer_loss
from deckbench.models.vision_language import VisionLanguageModel

TOY = files.Family("toy", "toy", "give a toy checkpoint")
STOP = 256


class Bytes:
    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")

    def spellings(self, letter):
        return [ord(letter)]


class ToyModule(nn.Module):
    accepts_loss_kwargs = True

    def __init__(self):
        super().__init__()
        self.embed, self.colour = nn.Embedding(257, 16), nn.Linear(3, 16)
        self.mix, self.head = nn.Linear(32, 16), nn.Linear(16, 257)

    def forward(self, input_ids, colours, labels=None, num_items_in_batch=None):
        text = self.embed(input_ids)
        mean = text.cumsum(1) / torch.arange(1, text.shape[1] + 1, device=text.device)[:, None]
        hidden = torch.tanh(self.mix(torch.cat((text + self.colour(colours)[:, None], mean), dim=-1)))
        return answer_loss(self.head, hidden, labels, num_items_in_batch)


class Toy(VisionLanguageModel):
    family, checkpoint = "toy", TOY

    def official_state(self, dtype=None):
        state = self.module.state_dict()
        return {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}

    def describe(self, weights):
        return files.identity(self.name, TOY, self.config.raw, {}, weights)

    def save_merged(self, folder, layout="official"):
        self.save(folder)

    def colour_of(self, image):
        return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32).mean((0, 1)) / 255)

    @torch.inference_mode()
    def answer(self, image, questions, blank=False):
        colour = self.colour_of(image)[None] * (not blank)
        answers = []
        for question in questions:
            start, ids, made = time.perf_counter(), self.tokenizer.encode(question.text), []
            first = self.module(torch.tensor([ids]), colour).logits[0, -1].softmax(-1)
            token = int(first.argmax())
            while token != STOP and len(made) < question.max_new_tokens:
                made.append(token)
                token = int(self.module(torch.tensor([ids + made]), colour).logits[0, -1].argmax())
            p_a, p_b = (float(first[ord(letter)]) for letter in "AB") if question.kind == "choice" else (None, None)
            seconds = {"decode": time.perf_counter() - start}
            answers.append(Answer(self.tokenizer.decode(made), p_a, p_b, len(ids), len(made) + 1, seconds))
        return answers

    def collate(self, items):
        rows = [(image, *pair) for image, pairs in items for pair in pairs]
        ids = [[*self.tokenizer.encode(question), *self.tokenizer.encode(answer), STOP] for _, question, answer in rows]
        most = max(len(row) for row in ids)
        labels = [
            [IGNORE] * len(question.encode()) + row[len(question.encode()) :] + [IGNORE] * (most - len(row))
            for row, (_, question, _) in zip(ids, rows)
        ]
        return {
            "input_ids": torch.tensor([row + [STOP] * (most - len(row)) for row in ids]),
            "colours": torch.stack([self.colour_of(row[0]) for row in rows]),
            "labels": torch.tensor(labels),
        }

    def lora_targets(self, vision):
        return "colour|mix|head"


def folder_identity(folder, name):
    raw = files.read_json(folder / "config.json", family=TOY)
    return files.identity(name, TOY, without_dtype(raw), {}, files.weight_hashes(folder, TOY))


def without_dtype(raw):
    return {key: value for key, value in raw.items() if key != "torch_dtype"}


def load_toy(folder, name, device, dtype):
    module = ToyModule()
    module.load_state_dict(load_file(folder / files.SINGLE))
    raw = without_dtype(files.read_json(folder / "config.json", family=TOY))
    module.to(device, dtype).eval()
    return Toy(module, SimpleNamespace(raw=raw), Bytes(), name=name, small_files={}, source=folder)
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of the toy family, whose code is a folder outside the package."""
    import torch
    from safetensors.torch import save_file

    code = tmp_path / "families" / "toy"
    code.mkdir(parents=True)
    for name, text in (("__init__.py", ""), ("family.py", FAMILY), ("model.py", MODEL)):
        (code / name).write_text(textwrap.dedent(text))
    monkeypatch.setattr(deckbench.models, "__path__", [*deckbench.models.__path__, str(code.parent)])
    from deckbench.models.toy.model import ToyModule  # type: ignore[import-not-found,import-untyped]

    torch.manual_seed(0)
    folder = tmp_path / "tiny-toy"
    folder.mkdir()
    save_file(ToyModule().state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "toy"}))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Is the frame red? A says yes."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for split in ("train", "test"):
        lines = []
        for number in range(6):
            name = f"images/{split}{number}.png"
            Image.new("RGB", (16, 16), (250, 0, 0) if number % 2 else (0, number * 20, 250)).save(folder / name)
            user = {"role": "user", "content": "Is it red?\nA. yes\nB. no\nAnswer with A or B only.", "image": name}
            answer = {"role": "assistant", "content": "A" if number % 2 else "B"}
            extra = {"id": f"{split}{number}", "kind": "choice", "option_a": "yes", "option_b": "no"}
            lines.append(json.dumps({"messages": [user, answer], **extra}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def run(*words: object) -> None:
    app.app([str(word) for word in words], standalone_mode=False)


@pytest.mark.slow
def test_a_family_is_one_folder(toy: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert families()["toy"].trainable and served_as(str(toy)) == "toy"
    run("models", "ls")
    assert "model_type toy" in capsys.readouterr().out
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    settings = [f"--set={word}" for word in ("lr=0.05", "max_steps=60", "batch=6", "rank=4")]
    run("train", "--model", toy, "--data", data, "--out", adapter, *settings)
    run("merge", "--model", toy, "--adapter", adapter, "--out", merged)
    adapted = ("--model", toy, "--adapter", adapter)
    for name, model in {"base": ("--model", toy), "tuned": adapted, "merged": ("--model", merged)}.items():
        run("infer", *model, "--data", data, "--out", tmp_path / f"{name}.csv")
    run("infer", "--model", f"blind:{toy}", "--data", data, "--out", tmp_path / "blind.csv")
    run("score", tmp_path / "tuned.csv", "--data", data, "--out", tmp_path / "score.json")
    run("bench", *adapted, "--data", data, "--engine", "torch", "--min-seconds", 0.01, "--out", tmp_path / "bench")
    run("bench", "--model", toy, "--data", data, "--weights", "random", "--min-seconds", 0.01, "--out", tmp_path / "r")
    run("ask", *adapted, data / "images" / "test1.png", "Is it red?\nA. yes\nB. no\nAnswer with A or B only.")
    tables = {name: (tmp_path / f"{name}.csv").read_bytes() for name in ("base", "tuned", "merged")}
    assert tables["merged"] == tables["tuned"] != tables["base"]
    assert load_model(str(merged)).identity["family"] == "toy"
