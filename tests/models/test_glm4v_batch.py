"""Asking alone, in a group, padded, packed: the same numbers; and training on what is asked for later."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deckbench.answer import Question
from deckbench.errors import InputError
from deckbench.models import pack
from deckbench.models.generate import Generated
from deckbench.models.glm4v import preprocess, prompt
from deckbench.models.glm4v.model import Glm4v, load_glm4v
from deckbench.models.loss import IGNORE
from deckbench.models.vision_language import linears_matched

TOLERANCE = 1e-5
TEXTS = [
    "What is in slot 3?",
    "Is the plate seated?\nA. yes\nB. no\nAnswer with A or B only.",
    "实验步骤:thermocycle。\n盖子是开的吗?",
    "?",
    "Name the tips from left to right, every one of them, and say which of them is bent or missing.",
]


def pixels_of(model: Glm4v, frame: Image.Image) -> torch.Tensor:
    return torch.from_numpy(preprocess.pixels(frame, model.config.vision.image_size))[None]


def logits_alone(model: Glm4v, frame: Image.Image, text: str, answer: str | None = None) -> torch.Tensor:
    """(length of branch, vocabulary): one question, one frame, no padding, a plain causal mask."""
    ids = prompt.question_ids(model.tokenizer, text) + (
        [] if answer is None else prompt.answer_ids(model.tokenizer, answer)
    )
    whole = torch.tensor([[*model.processor.shared.ids, *ids]])
    shared = model.processor.shared
    positions = torch.tensor([[*shared.positions, *range(shared.next_position, shared.next_position + len(ids))]])
    mask = torch.ones(whole.shape[1], whole.shape[1], dtype=torch.bool).tril()[None, None]
    with torch.inference_mode():
        logits = model.module(whole, mask, positions, pixels_of(model, frame)).logits
    return logits[0, len(model.processor.shared.ids) :]


def greedy(model: Glm4v, frame: Image.Image, branches: list[list[int]], limit: int) -> list[Generated]:
    limits = [limit] * len(branches)
    return model.generate(model.processor.shared, {"pixel_values": pixels_of(model, frame)}, branches, limits)[0]


def test_a_padded_batch_gives_the_logits_of_one_by_one(small: Glm4v, frames: list[Image.Image]) -> None:
    questions = [prompt.question_ids(small.tokenizer, text) for text in TEXTS[:4]]
    rows = [[pack.Picture(small.processor.shared, i, [pack.Branch(ids)])] for i, ids in enumerate(questions)]
    batch = pack.pack(rows, small.config.pad_token_id)
    batch.pop("labels")
    assert len({len(ids) for ids in questions}) == 4  # so there is padding
    pixels = torch.cat([pixels_of(small, frame) for frame in frames])
    with torch.inference_mode():
        logits = small.module(pixel_values=pixels, **batch).logits
    assert torch.isfinite(logits).all()
    for row, (frame, text, ids) in enumerate(zip(frames, TEXTS, questions, strict=False)):
        start = len(small.processor.shared.ids)
        difference = logits[row, start : start + len(ids)] - logits_alone(small, frame, text)
        assert difference.abs().max() <= TOLERANCE


def test_groups_are_answered_as_one_by_one(small: Glm4v, frames: list[Image.Image]) -> None:
    questions = [Question(text, "choice" if "A." in text else "open", 3 + 4 * i) for i, text in enumerate(TEXTS)]
    for frame in frames[:2]:
        together = small.answer(frame, questions)
        for question, answer in zip(questions, together, strict=True):
            alone = small.answer(frame, [question])[0]
            assert (answer.text, answer.tokens_in, answer.tokens_out) == (alone.text, alone.tokens_in, alone.tokens_out)
            if question.kind == "choice":
                assert answer.p_a == pytest.approx(alone.p_a, abs=TOLERANCE)
                assert answer.p_b == pytest.approx(alone.p_b, abs=TOLERANCE)
            else:
                assert answer.p_a is None and answer.p_b is None


def test_first_logits_and_every_greedy_token_are_those_of_a_plain_forward(
    small: Glm4v, frames: list[Image.Image]
) -> None:
    branches = [prompt.question_ids(small.tokenizer, text) for text in TEXTS]
    made = small.generate(
        small.processor.shared, {"pixel_values": pixels_of(small, frames[0])}, branches, [6] * len(branches)
    )[0]
    for text, answer in zip(TEXTS, made, strict=True):
        assert (answer.first - logits_alone(small, frames[0], text)[-1]).abs().max() <= TOLERANCE
        ids = prompt.question_ids(small.tokenizer, text)
        for token in answer.ids:
            whole = torch.tensor([[*small.processor.shared.ids, *ids]])
            steps = range(small.processor.shared.next_position, small.processor.shared.next_position + len(ids))
            positions = torch.tensor([[*small.processor.shared.positions, *steps]])
            mask = torch.ones(whole.shape[1], whole.shape[1], dtype=torch.bool).tril()[None, None]
            with torch.inference_mode():
                logits = small.module(whole, mask, positions, pixels_of(small, frames[0])).logits
            assert int(logits[0, -1].argmax()) == token
            ids.append(token)


def test_more_questions_than_are_decoded_at_once(
    small: Glm4v, frames: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [Question(text, "choice", 5) for text in TEXTS]
    whole = small.answer(frames[0], questions)
    monkeypatch.setattr("deckbench.models.vision_language.QUESTIONS_AT_ONCE", 2)
    calls = []
    small.module.vision.register_forward_hook(lambda *_: calls.append(1))
    parts = small.answer(frames[0], questions)
    assert [a.text for a in parts] == [a.text for a in whole]
    assert [a.p_a for a in parts] == pytest.approx([a.p_a for a in whole], abs=TOLERANCE)
    assert len(calls) == 1  # the frame is encoded once


def test_letter_probabilities_are_shares_of_the_whole_vocabulary(small: Glm4v, frames: list[Image.Image]) -> None:
    text = TEXTS[1]
    shares = logits_alone(small, frames[0], text)[-1].softmax(dim=-1)
    answer = small.answer(frames[0], [Question(text, "choice", 2)])[0]
    spelled = {
        letter: [i for i, token in small.tokenizer.bytes_of.items() if token.strip() == letter.encode()]
        for letter in "AB"
    }
    assert len(spelled["A"]) > 1  # "A" and " A" at least
    assert answer.p_a == pytest.approx(float(shares[spelled["A"]].sum()), abs=TOLERANCE)
    assert answer.p_b == pytest.approx(float(shares[spelled["B"]].sum()), abs=TOLERANCE)


def test_counts_limits_and_times(small: Glm4v, frames: list[Image.Image]) -> None:
    answer = small.answer(frames[0], [Question(TEXTS[0], "open", 4)])[0]
    assert answer.tokens_in == len(small.processor.shared.ids) + len(small.tokenizer.encode(TEXTS[0])) + 2
    assert len(small.processor.shared.ids) == 4 + 1 + small.config.vision.tokens + 1
    assert 1 <= answer.tokens_out <= 4
    assert set(answer.seconds) == {"preprocess", "vision", "prefill", "decode", "first_token"}
    stages = sum(answer.seconds[stage] for stage in ("preprocess", "vision", "prefill"))
    assert answer.seconds["first_token"] == pytest.approx(stages)
    assert small.answer(frames[0], []) == []


@pytest.mark.parametrize("which", [0, 1, 2])
def test_every_end_token_stops(small: Glm4v, frames: list[Image.Image], which: int) -> None:
    """The head is bent to write two letters and then one of the config's end tokens."""
    wanted = [*small.tokenizer.encode("A"), *small.tokenizer.encode("B"), small.config.eos_token_id[which]]
    calls = iter(wanted)

    def bend(_module: torch.nn.Module, _inputs: tuple[torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
        return logits + 1000 * torch.nn.functional.one_hot(torch.tensor(next(calls)), logits.shape[-1])

    small.module.language.lm_head.register_forward_hook(bend)
    answer = small.answer(frames[0], [Question(TEXTS[0], "open", 9)])[0]
    assert answer.text == "AB" and answer.tokens_out == 3


def test_blank_hides_the_frame(small: Glm4v, frames: list[Image.Image]) -> None:
    question = [Question(TEXTS[1], "choice", 2)]
    seen = [small.answer(frame, question)[0].p_a for frame in frames[:2]]
    hidden = [small.answer(frame, question, blank=True)[0].p_a for frame in frames[:2]]
    assert seen[0] != seen[1] and hidden[0] == hidden[1] and hidden[0] not in seen


def test_a_question_longer_than_the_model_reads(small: Glm4v, frames: list[Image.Image]) -> None:
    with pytest.raises(InputError, match="shorten the question"):
        small.answer(frames[0], [Question("plate " * 5000, "open", 4)])


ITEMS = [
    [("What is in slot 3?", "white plate"), (TEXTS[1], "A"), (TEXTS[2], "开"), (TEXTS[4], "all are straight")],
    [(TEXTS[1], "B")],
    [("?", "a"), (TEXTS[0], "tip rack, full")],
    [(TEXTS[2], "关")],
]


def items(frames: list[Image.Image]) -> list[tuple[Image.Image, list[tuple[str, str]]]]:
    return list(zip(frames, ITEMS, strict=True))


def test_packed_loss_is_the_mean_over_all_answers_alone(small: Glm4v, frames: list[Image.Image]) -> None:
    batch = small.collate(items(frames))
    assert batch["input_ids"].shape[0] < len(frames)  # short frames share a row
    packed = small.module(**batch)
    total, count = 0.0, 0
    for frame, pairs in items(frames):
        for question, answer in pairs:
            target = torch.tensor(prompt.answer_ids(small.tokenizer, answer))
            logits = logits_alone(small, frame, question, answer)
            at = len(prompt.question_ids(small.tokenizer, question)) - 1
            total += float(torch.nn.functional.cross_entropy(logits[at:-1], target, reduction="sum"))
            count += len(target)
    assert packed.logits.shape[0] == count
    assert float(packed.loss.detach()) == pytest.approx(total / count, abs=TOLERANCE)
    doubled = small.module(**batch, num_items_in_batch=torch.tensor(2 * count)).loss.detach()
    assert float(doubled) == pytest.approx(total / count / 2, abs=TOLERANCE)


def test_packed_gradients_are_those_of_one_by_one(small: Glm4v, frames: list[Image.Image]) -> None:
    small.module(**small.collate(items(frames))).loss.backward()
    packed = {name: p.grad.clone() for name, p in small.module.named_parameters() if p.grad is not None}
    small.module.zero_grad()
    count = int((small.collate(items(frames))["labels"] != IGNORE).sum())
    for frame, pairs in items(frames):
        for pair in pairs:
            small.module(**small.collate([(frame, [pair])]), num_items_in_batch=count).loss.backward()
    alone = {name: p.grad for name, p in small.module.named_parameters() if p.grad is not None}
    assert packed.keys() == alone.keys() and "vision.boi" in packed
    for name, gradient in packed.items():
        assert (gradient - alone[name]).abs().max() <= 1e-4 * max(1.0, float(gradient.abs().max()))


def test_labels_are_the_answers_and_their_stop_tokens_only(small: Glm4v, frames: list[Image.Image]) -> None:
    batch = small.collate(items(frames))
    stop = small.tokenizer.special["<|user|>"]
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        chosen = labels != IGNORE
        assert torch.equal(ids[chosen], labels[chosen])
    learnt = batch["labels"][batch["labels"] != IGNORE].tolist()
    assert learnt.count(stop) == sum(len(pairs) for pairs in ITEMS)
    texts, at = [], 0
    for place, token in enumerate(learnt):
        if token == stop:
            texts.append(small.tokenizer.decode(learnt[at:place]))
            at = place + 1
    assert sorted(texts) == sorted(answer for pairs in ITEMS for _, answer in pairs)


def test_training_and_asking_use_the_same_ids_and_positions(small: Glm4v, frames: list[Image.Image]) -> None:
    """The logits that training sees before each answer are those from which `answer` reads its first token."""
    batch = small.collate(items(frames))
    packed = small.module(**batch).logits.detach()
    first = []
    for row in batch["labels"]:
        chosen = (row != IGNORE).int()
        starts = (chosen[1:] - chosen[:-1]) == 1
        first += starts[chosen[1:].bool()].tolist()
    # Rows are filled longest picture first; the same order is rebuilt from the batch.
    seen = packed[torch.tensor(first)]
    order = batch["pixel_index"].tolist()
    asked = []
    for index in order:
        frame, pairs = items(frames)[index]
        branches = [prompt.question_ids(small.tokenizer, question) for question, _ in pairs]
        asked += [made.first for made in greedy(small, frame, branches, 1)]
    assert len(asked) == len(seen)
    assert (seen - torch.stack(asked)).abs().max() <= TOLERANCE


def test_the_mask_is_honoured_by_the_language_model(small: Glm4v, frames: list[Image.Image]) -> None:
    """A question's logits do not move when another question, another frame or the padding changes."""

    shared = small.processor.shared

    def second(first_question: str, first_frame: Image.Image) -> torch.Tensor:
        rows = [
            pack.Picture(shared, 0, [pack.Branch(prompt.question_ids(small.tokenizer, first_question))]),
            pack.Picture(shared, 1, [pack.Branch(prompt.question_ids(small.tokenizer, TEXTS[0]))]),
        ]
        batch = pack.pack([rows], small.config.pad_token_id)
        batch.pop("labels")
        pixels = torch.cat([pixels_of(small, first_frame), pixels_of(small, frames[1])])
        with torch.inference_mode():
            return small.module(pixel_values=pixels, **batch).logits[0, -len(rows[1].branches[0].question) :]

    base = second(TEXTS[1], frames[0])
    assert (second(TEXTS[4], frames[0]) - base).abs().max() <= TOLERANCE
    assert (second(TEXTS[1], frames[2]) - base).abs().max() <= TOLERANCE
    assert (base - logits_alone(small, frames[1], TEXTS[0])).abs().max() <= TOLERANCE


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40))
def test_rows_hold_every_picture_once_and_never_more_than_the_longest(lengths: list[int]) -> None:
    rows = pack.fill_rows(lengths)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in row) <= max(lengths) for row in rows)
    assert rows == pack.fill_rows(lengths)


@pytest.mark.slow
def test_it_learns_and_then_answers(small: Glm4v) -> None:
    """Two frames told apart by their colour, a question each way, an answer of several tokens and its end."""
    red, blue = Image.new("RGB", (40, 40), (220, 20, 20)), Image.new("RGB", (40, 40), (20, 20, 220))
    ask = "Which colour?\nA. red\nB. blue\nAnswer with A or B only."
    lessons = [
        (red, [(ask, "A"), ("What is in slot 3?", "white plate")]),
        (blue, [(ask, "B"), ("What is in slot 3?", "tip rack")]),
    ]
    optimizer = torch.optim.AdamW(small.module.parameters(), lr=3e-3)
    batch = small.collate(lessons)
    for _ in range(60):
        optimizer.zero_grad()
        loss = small.module(**batch).loss
        loss.backward()
        optimizer.step()
    for frame, pairs in lessons:
        answers = small.answer(frame, [Question(question, "choice", 12) for question, _ in pairs])
        assert [answer.text for answer in answers] == [answer for _, answer in pairs]
    assert small.answer(red, [Question(ask, "choice", 1)])[0].p_a > 0.9
    assert small.answer(blue, [Question(ask, "choice", 1)])[0].p_b > 0.9


def test_adapters_reach_all_linears_of_the_part_asked_for(small: Glm4v) -> None:
    names = {name for name, part in small.module.named_modules() if isinstance(part, torch.nn.Linear)}
    language = set(linears_matched(small.module, small.lora_targets(False)))
    both = set(linears_matched(small.module, small.lora_targets(True)))
    assert language == {name for name in names if name.startswith("language.model.")}
    assert both == names - {"language.lm_head"}
    assert {"language.model.layers.0.self_attn.v_proj", "language.model.layers.1.mlp.gate_up_proj"} <= language
    assert {"vision.transformer.layers.0.attention.query_key_value", "vision.linear_proj.gate_proj"} <= both - language


def test_bfloat16_runs(small: Glm4v, frames: list[Image.Image], tmp_path: Path) -> None:
    small.save(tmp_path / "model")
    model = load_glm4v(tmp_path / "model", dtype=torch.bfloat16)
    assert {p.dtype for p in model.module.parameters()} == {torch.bfloat16}
    answer = model.answer(frames[0], [Question(TEXTS[1], "choice", 3)])[0]
    exact = small.answer(frames[0], [Question(TEXTS[1], "choice", 3)])[0]
    assert answer.p_a == pytest.approx(exact.p_a, rel=0.2, abs=0.02)
    loss = model.module(**model.collate(items(frames))).loss
    loss.backward()
    assert torch.isfinite(loss)


def test_answering_leaves_training_mode_as_it_was(small: Glm4v, frames: list[Image.Image]) -> None:
    small.module.train()
    small.answer(frames[0], [Question("?", "open", 1)])
    assert small.module.training
