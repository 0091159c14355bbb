"""Asking alone, in a group, packed, and beyond the trained length: the same numbers; training on what is asked."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from deckbench.answer import Question
from deckbench.errors import InputError
from deckbench.models.loss import IGNORE
from deckbench.models.phi3v import prompt
from deckbench.models.phi3v.model import Phi3v
from deckbench.models.vision_language import linears_matched
from tests.models.phi3v_small import make_phi

TOLERANCE = 1e-5
# The prefix takes half of the 64 trained tokens: some of these stay below, some cross while they are answered,
# some lie beyond from the start.
TEXTS = [
    "What?",
    "Is it?\nA. a\nB. b",
    "实验步骤:盖子是开的吗?",
    "What is in slot 3?\nA. white plate\nB. tip rack\nAnswer with A or B only. Answer with A or B only, white or tip.",
]


@pytest.fixture
def phi() -> Phi3v:
    return make_phi()


def plain_logits(model: Phi3v, frame: Image.Image, ids: list[int], blank: bool = False) -> torch.Tensor:
    """(length, vocabulary) of one sequence behind a frame: causal mask, rotations chosen by its length alone."""
    inputs, count = model.processor.vision_inputs(frame)
    prefix = model.processor.prefix(count)
    whole = torch.tensor([[*prefix.ids, *ids]])
    mask = torch.ones(whole.shape[1], whole.shape[1], dtype=torch.bool).tril()[None, None]
    positions = torch.arange(whole.shape[1])[None]
    with torch.inference_mode():
        return model.module(whole, mask, positions, **inputs).logits[0, len(prefix.ids) :]


def test_the_questions_lie_on_both_sides_of_the_trained_length(phi: Phi3v, frames: list[Image.Image]) -> None:
    before = len(phi.processor.prefix(phi.vision_inputs(frames[0])[1]).ids)
    lengths = [before + len(prompt.question_ids(phi.tokenizer, text)) for text in TEXTS]
    assert min(lengths) < 56 and max(lengths) > 64
    assert any(length <= 64 < length + 20 for length in lengths)


def test_every_greedy_token_is_that_of_a_plain_forward(phi: Phi3v, frames: list[Image.Image]) -> None:
    """Asked together with 20 new tokens, so that some cross the trained length: no prefix is used on both sides."""
    branches = [prompt.question_ids(phi.tokenizer, text) for text in TEXTS]
    phi.stops = frozenset()
    inputs, count = phi.vision_inputs(frames[0])
    made, _ = phi.generate(phi.processor.prefix(count), inputs, branches, [20] * len(branches))
    for ids, answer in zip(branches, made, strict=True):
        assert answer.steps == len(answer.ids) == 20
        logits = plain_logits(phi, frames[0], ids)[-1]
        assert (answer.first - logits).abs().max() <= TOLERANCE
        for place in (0, 1, 5, 12, 19):
            logits = plain_logits(phi, frames[0], [*ids, *answer.ids[:place]])[-1]
            assert int(logits.argmax()) == answer.ids[place]


def test_the_two_kinds_of_rotation_differ(phi: Phi3v, frames: list[Image.Image]) -> None:
    ids = prompt.question_ids(phi.tokenizer, TEXTS[0])
    short = plain_logits(phi, frames[0], ids)
    original, phi.module.rope.trained = phi.module.rope.trained, 8
    long = plain_logits(phi, frames[0], ids)
    phi.module.rope.trained = original
    assert (short - long).abs().max() > 100 * TOLERANCE


def test_groups_are_answered_as_one_by_one(
    phi: Phi3v, frames: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [Question(text, "choice" if "A." in text else "open", 12) for text in TEXTS]
    alone = [phi.answer(frames[2], [question])[0] for question in questions]
    together = phi.answer(frames[2], questions)
    monkeypatch.setattr("deckbench.models.phi3v.model.QUESTIONS_AT_ONCE", 2)
    calls = []
    phi.module.vision.register_forward_hook(lambda *_: calls.append(1))
    in_parts = phi.answer(frames[2], questions)
    assert len(calls) == 1  # the frame is encoded once
    for one, group, part in zip(alone, together, in_parts, strict=True):
        assert (one.text, one.tokens_in, one.tokens_out) == (group.text, group.tokens_in, group.tokens_out)
        assert one.p_a == pytest.approx(group.p_a, abs=TOLERANCE) and one.p_b == pytest.approx(group.p_b, abs=TOLERANCE)
        assert part.text == one.text
    assert together[0].p_a is None and 0 <= together[1].p_a <= 1
    assert set(together[0].seconds) == {"preprocess", "vision", "prefill", "decode", "first_token"}
    assert phi.answer(frames[2], []) == []


def test_blank_hides_the_frame(phi: Phi3v, frames: list[Image.Image]) -> None:
    question = [Question(TEXTS[1], "choice", 1)]
    same_shape = [frames[0], frames[0].transpose(Image.Transpose.ROTATE_180)]
    seen = [phi.answer(frame, question)[0].p_a for frame in same_shape]
    hidden = [phi.answer(frame, question, blank=True)[0].p_a for frame in same_shape]
    assert seen[0] != seen[1] and hidden[0] == hidden[1] and hidden[0] not in seen


def test_a_question_longer_than_the_model_reads(phi: Phi3v, frames: list[Image.Image]) -> None:
    with pytest.raises(InputError, match="shorten the question"):
        phi.answer(frames[0], [Question("plate " * 500, "open", 4)])
    with pytest.raises(InputError, match="a sample takes"):
        phi.collate([(frames[0], [("plate " * 500, "A")])])


ITEMS = [
    [(TEXTS[0], "white plate"), (TEXTS[3], "A"), (TEXTS[1], "B")],
    [(TEXTS[1], "B")],
    [(TEXTS[2], "开"), (TEXTS[0], "tip rack")],
    [(TEXTS[3], "A")],
]


def test_packed_loss_and_gradients_are_those_of_one_by_one(phi: Phi3v, frames: list[Image.Image]) -> None:
    items = list(zip(frames, ITEMS, strict=True))
    batch = phi.collate(items)
    assert batch["long"].any() and not batch["long"].all()
    packed = phi.module(**batch)
    packed.loss.backward()
    gradients = {name: p.grad.clone() for name, p in phi.module.named_parameters() if p.grad is not None}
    phi.module.zero_grad()
    count = int((batch["labels"] != IGNORE).sum())
    total = 0.0
    for frame, pairs in items:
        for pair in pairs:
            alone = phi.collate([(frame, [pair])])
            # What the original would take: the kind by the whole sequence's length.
            assert bool(alone["long"].item()) == (alone["input_ids"].shape[1] > 64)
            loss = phi.module(**{**alone, "long": None}, num_items_in_batch=count).loss
            loss.backward()
            total += float(loss.detach())
    assert float(packed.loss.detach()) == pytest.approx(total, abs=TOLERANCE)
    for name, parameter in phi.module.named_parameters():
        if parameter.grad is not None:
            limit = 1e-4 * max(1.0, float(gradients[name].abs().max()))
            assert (parameter.grad - gradients[name]).abs().max() <= limit


def test_labels_are_the_answers_and_their_stop_tokens_only(phi: Phi3v, frames: list[Image.Image]) -> None:
    batch = phi.collate(list(zip(frames, ITEMS, strict=True)))
    end = phi.tokenizer.special[prompt.END]
    learnt = batch["labels"][batch["labels"] != IGNORE].tolist()
    texts, at = [], 0
    for place, token in enumerate(learnt):
        if token == end:
            texts.append(phi.tokenizer.decode(learnt[at:place]))
            at = place + 1
    assert at == len(learnt) and sorted(texts) == sorted(answer for pairs in ITEMS for _, answer in pairs)


def test_a_shrunk_frame_gives_the_same_batch(phi: Phi3v, frames: list[Image.Image]) -> None:
    for frame, pairs in zip(frames, ITEMS, strict=True):
        one, two = phi.collate([(frame, pairs)]), phi.collate([(phi.shrink(frame), pairs)])
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_adapters_reach_all_linears_that_are_run(phi: Phi3v, frames: list[Image.Image]) -> None:
    names = {name for name, part in phi.module.named_modules() if isinstance(part, torch.nn.Linear)}
    language = set(linears_matched(phi.module, phi.lora_targets(False)))
    both = set(linears_matched(phi.module, phi.lora_targets(True)))
    assert language == {name for name in names if name.startswith("language.model.")}
    assert names - both == {"language.lm_head", *(name for name in names if "encoder.layers.2." in name)}
    phi.module(**phi.collate([(frames[0], ITEMS[0])])).loss.backward()
    assert all(phi.module.get_submodule(name).weight.grad is not None for name in both)


def test_bfloat16_runs(phi: Phi3v, frames: list[Image.Image]) -> None:
    exact = phi.answer(frames[0], [Question(TEXTS[1], "choice", 3)])[0]
    phi.module.to(torch.bfloat16)
    answer = phi.answer(frames[0], [Question(TEXTS[1], "choice", 3)])[0]
    assert answer.p_a == pytest.approx(exact.p_a, rel=0.3, abs=0.03)
    loss = phi.module(**phi.collate([(frames[0], ITEMS[0])])).loss
    loss.backward()
    assert torch.isfinite(loss)
