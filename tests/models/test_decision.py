"""Decision heads answer as transformers' own pipeline does, and merged folders decide there as they answer here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image, ImageDraw
from transformers import pipeline

from deckbench.answer import Question
from deckbench.csvfile import csv_records
from deckbench.errors import InputError
from deckbench.infer import infer
from deckbench.models.auto.decision_files import SETTINGS, TEMPLATE, decision_files, label_of
from deckbench.models.auto.model import Auto, load_auto
from deckbench.models.load import load_model, load_trainable, model_identity
from tests.models.auto_small import ASK, MAKE, save_small
from tests.models.decision_small import save_decision
from tests.models.models_helpers import edit_json, edit_weights
from tests.train import micro_world

pytestmark = pytest.mark.skipif(
    not hasattr(transformers, "AutoModelForDecision"), reason="this transformers has no decision models (before 5.24)"
)
ZH = "方块是红的吗?\nA. {a}\nB. {b}\n只回答 A 或 B。"
PROMPTS = [ASK.format(a="red", b="blue"), ASK.format(a="blue", b="red"), ZH.format(a="是", b="否")]


def frame(colour: str = "red") -> Image.Image:
    picture = Image.new("RGB", (64, 36), "white")
    ImageDraw.Draw(picture).rectangle((8, 5, 40, 30), fill=colour)
    return picture


def request(picture: Image.Image, prompts: list[str]) -> dict[str, Any]:
    """What a user of the pipeline writes for these prompts."""
    asked = {}
    for number, prompt in enumerate(prompts):
        stem, a, b, _ = prompt.splitlines()
        options = {a.removeprefix("A. "): None, b.removeprefix("B. "): None}
        asked[f"q{number}"] = {"type": "choice", "instructions": stem, "criteria": options}
    return {"state": "img-1", "assets": {"img-1": picture}, "questions": asked}


# Decision heads


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decision(tmp_path_factory.mktemp("head") / "jev")


def test_a_head_answers_as_the_pipeline(head: Path) -> None:
    model = load_model(str(head), device="cpu")
    decide = pipeline("decision", model=str(head), device="cpu", dtype="float32")
    seen = set()
    for colour in ("red", "blue"):
        made = decide(request(frame(colour), PROMPTS))
        answers = model.answer(frame(colour), [Question(prompt, "choice", 16) for prompt in PROMPTS])
        for number, answer in enumerate(answers):
            there = list(made[f"q{number}"]["probabilities"].values())
            assert [answer.p_a, answer.p_b] == pytest.approx(there, abs=1e-6)
            assert answer.text == ("A" if there[0] >= there[1] else "B") and answer.tokens_out == 0
            seen.add(round(there[0], 4))
    assert len(seen) > 3  # it looks at frame and question
    blank = model.answer(frame(), [Question(PROMPTS[0], "choice", 16)], blank=True)[0]
    other = model.answer(frame("blue"), [Question(PROMPTS[0], "choice", 16)], blank=True)[0]
    assert blank.p_a == other.p_a


def test_a_head_through_infer(head: Path, tmp_path: Path) -> None:
    """Choice questions have answers; open ones have none, and are listed."""
    data = micro_world.make_dataset(tmp_path / "d", 3)
    made = infer(model=str(head), data=data, out=tmp_path / "p.csv")
    rows = [row for _, row in csv_records(tmp_path / "p.csv")]
    assert [row["id"] for row in rows] == [f"{n}-{kind}" for n in range(3) for kind in ("red", "blue")]
    assert all(abs(float(row["p_a"]) + float(row["p_b"]) - 1) < 1e-6 and row["parsed"] in "AB" for row in rows)
    left = [row for _, row in csv_records(tmp_path / "p.unanswered.csv")]
    assert [row["id"] for row in left] == [f"{n}-open" for n in range(3)] and "writes no text" in left[0]["reason"]
    again = infer(model=str(head), data=data, out=tmp_path / "again.csv")
    assert again.content_hash == made.content_hash


def test_what_a_head_is(head: Path, tmp_path: Path) -> None:
    """Its settings decide the answers, so they are part of its identity; it is neither trained nor adapted."""
    identity = model_identity(str(head))
    loaded = load_model(str(head), device="cpu")
    assert identity["family"] == "auto" and loaded.identity["hash"] == identity["hash"]
    other = save_decision(tmp_path / "jev")
    assert model_identity(str(other))["hash"] == identity["hash"]
    edit_json(other / SETTINGS, lambda settings: settings.update(temperature={"choice": 1.0}))
    assert model_identity(str(other))["hash"] != identity["hash"]
    with pytest.raises(InputError, match="has a decision head"):
        load_trainable(str(head))
    with pytest.raises(InputError, match="has a decision head"):
        load_model(str(head), adapter=tmp_path)
    with pytest.raises(InputError, match="writes no text"):
        loaded.answer(frame(), [Question("Describe.", "open", 32)])


def test_a_broken_head_is_refused(tmp_path: Path) -> None:
    folder = save_decision(tmp_path / "jev")
    edit_weights(folder, lambda tensors: tensors.pop("proj.bias"))
    with pytest.raises(InputError, match=r"proj\.bias"):
        load_model(str(folder), device="cpu")


# Merged folders


@pytest.mark.parametrize("kind", ["idefics3", "llava"])
def test_a_merged_folder_decides_as_it_answers(kind: str, tmp_path: Path) -> None:
    """The prompt is ours, token for token; P is the softmax of ours over the letters as the model was taught them."""
    base = load_auto(save_small(kind, tmp_path / "base"), dtype=torch.float32)
    merged = tmp_path / "merged"
    merged.mkdir()
    base.save_merged(merged)
    assert {SETTINGS, TEMPLATE} <= {path.name for path in merged.iterdir()}
    model = load_model(str(merged), device="cpu")
    assert isinstance(model, Auto)
    decide = pipeline("decision", model=str(merged), device="cpu", dtype="float32")
    made = decide(request(frame(), PROMPTS))
    prompts = decide.preprocess(request(frame(), PROMPTS))["prompts"]
    prompter = model.tokenizer
    taught = [prompter.answer_ids(prompter.text("What?"), letter)[0] for letter in "AB"]
    for number, prompt in enumerate(PROMPTS):
        ours = prompter.encode([frame()], [prompter.text(prompt)])
        inputs, _ = prompts[number]
        assert inputs["input_ids"].tolist() == ours["input_ids"].tolist()
        assert torch.equal(inputs["pixel_values"], ours["pixel_values"])
        (answered,) = model.generate([ours], [1])
        shares = answered.first[taught].softmax(-1).tolist()
        assert list(made[f"q{number}"]["probabilities"].values()) == pytest.approx(shares, abs=1e-5)


def test_the_pipeline_takes_no_paligemma(tmp_path: Path) -> None:
    """Its processor makes `labels` of every prompt, and transformers' pipeline hands them to the network."""
    base = load_auto(save_small("paligemma", tmp_path / "base"), dtype=torch.float32)
    merged = tmp_path / "merged"
    merged.mkdir()
    base.save_merged(merged)
    with pytest.raises(ValueError, match="to match target batch_size"):
        pipeline("decision", model=str(merged), device="cpu", dtype="float32")(request(frame(), PROMPTS))


def test_with_one_spelling_p_is_p(tmp_path: Path) -> None:
    """Where the vocabulary has one token for each letter, P is p_a and p_b of the predictions, made to add up to 1."""
    from tests.endpoint import tiny_llava

    base = load_auto(tiny_llava.make(tmp_path / "base"), dtype=torch.float32)
    merged = tmp_path / "merged"
    merged.mkdir()
    base.save_merged(merged)
    model = load_model(str(merged), device="cpu")
    made = pipeline("decision", model=str(merged), device="cpu", dtype="float32")(request(frame(), PROMPTS))
    for number, answer in enumerate(model.answer(frame(), [Question(prompt, "choice", 1) for prompt in PROMPTS])):
        assert answer.p_a is not None and answer.p_b is not None
        whole = answer.p_a + answer.p_b
        there = list(made[f"q{number}"]["probabilities"].values())
        assert there == pytest.approx([answer.p_a / whole, answer.p_b / whole], abs=1e-5)


def test_other_questions_have_a_prompt_too(tmp_path: Path) -> None:
    """More options, levels, yes and no, a state of text, an image in the middle."""
    base = load_auto(save_small("llava", tmp_path / "base"), dtype=torch.float32)
    for name, data in decision_files(base.tokenizer).items():
        (tmp_path / "base" / name).write_bytes(data)
    decide = pipeline("decision", model=str(tmp_path / "base"), device="cpu", dtype="float32")

    def words(question: dict[str, Any], state: Any = "img-1") -> str:
        assets = {"img-1": frame()} if "img-1" in json.dumps([question, state]) else {}
        ((inputs, _),) = decide.preprocess({"state": state, "questions": {"q": question}, "assets": assets})["prompts"]
        text = str(base.tokenizer.tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=False))
        return text.replace("<image>" * 16, "<image>").removeprefix("<s>")

    score = {"type": "score", "instructions": "How bad?", "criteria": ["not", "very"]}
    assert words(score) == "USER:<image> How bad?\nA. not\nB. very\nAnswer with A or B only. ASSISTANT:"
    two = {"type": "choice", "instructions": "Where?", "criteria": {"slot 1": None, "slot 2": "left"}}
    assert words(two) == "USER:<image> Where?\nA. slot 1\nB. slot 2: left\nAnswer with A or B only. ASSISTANT:"
    noul = {"type": "noul", "instructions": "Is it?"}
    end = "Is it?\nAnswer with Yes or No only. ASSISTANT:"
    assert words(noul) == f"USER:<image> {end}"
    assert words(noul, "A deck.") == f"USER: A deck.\n{end}"
    assert words(noul, {"text": "A deck."}) == f'USER: {{"text": "A deck."}}\n{end}'
    like = {"type": "noul", "instructions": "Is it like img-1?"}
    assert words(like, "A deck.").startswith("USER: A deck.\nIs it like <image> ?")


def test_labels_are_what_the_model_was_taught(tmp_path: Path) -> None:
    for kind in MAKE:
        prompter = load_auto(save_small(kind, tmp_path / kind), dtype=torch.float32).tokenizer
        labels = [label_of(prompter, letter) for letter in "AB"]
        ids = [prompter.tokenizer(label, add_special_tokens=False)["input_ids"] for label in labels]
        assert ids == [prompter.answer_ids(prompter.text("What?"), letter)[:1] for letter in "AB"]
