"""tiny-phi3v's size, start and repeatability, and its vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from deckbench.answer import Question
from deckbench.models.phi3v.model import Phi3v, load_phi3v
from deckbench.models.phi3v.tiny import make_tiny
from deckbench.models.phi3v.tokenizer import parse_tokenizer

CORPUS = ["What is in slot 3?\nA. white plate\nB. tip rack\nAnswer with A or B only."] * 4
TEXTS = ["What is in slot 3?", "A", "  two  spaces ", "line\nbreak\n", "移液器 µL 😀", "a <|end|> b</s>", "\t\x00"]


@pytest.fixture(scope="module")
def tiny() -> Phi3v:
    return make_tiny(CORPUS, seed=0)


def test_it_fits_the_package(tiny: Phi3v) -> None:
    assert sum(p.numel() for p in tiny.module.parameters()) <= 4_000_000


def test_same_seed_same_weights(tiny: Phi3v) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    again, other = make_tiny(CORPUS, seed=0), make_tiny(CORPUS, seed=1)
    assert torch.equal(torch.rand(1), expected)  # the global random state is left alone
    assert again.base_hash == tiny.base_hash != other.base_hash


def test_it_starts_sound(tiny: Phi3v) -> None:
    """Image tokens as large as words, a loss near that of guessing, and a picture that matters."""
    frame, other = Image.new("RGB", (64, 48), (200, 30, 30)), Image.new("RGB", (64, 48), (30, 30, 200))
    batch = tiny.collate([(frame, [("What is in slot 3?", "white plate")])])
    with torch.no_grad():
        words = tiny.module.language.model.embed_tokens(batch["input_ids"].clamp(min=0)).std()
        image = tiny.module.vision(batch["pixel_values"], [(2, 2)])[0].std()
        loss = tiny.module(**batch).loss
    assert 0.1 < float(image / words) < 10
    assert float(loss) < 2 * torch.log(torch.tensor(float(tiny.config.vocab_size)))
    answers = [tiny.answer(f, [Question("?\nA. a\nB. b", "choice", 1)])[0].p_a for f in (frame, other)]
    assert answers[0] != answers[1]


def test_a_saved_one_is_the_same_model(tiny: Phi3v, tmp_path: Path) -> None:
    tiny.save(tmp_path / "tiny")
    loaded = load_phi3v(tmp_path / "tiny")
    frame, questions = Image.new("RGB", (64, 64), (9, 99, 200)), [Question("What is in slot 3?", "choice", 4)]
    one, two = tiny.answer(frame, questions)[0], loaded.answer(frame, questions)[0]
    saved, read = tiny.module.state_dict(), loaded.module.state_dict()
    assert saved.keys() == read.keys() and all(torch.equal(saved[name], read[name]) for name in saved)
    # Where weights lie in memory may decide in which order a CPU adds: equal but for the last digits of float32.
    assert one.text == two.text and (one.p_a, one.p_b) == pytest.approx((two.p_a, two.p_b), rel=1e-5)


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_and_never_yields_a_special_token(tiny: Phi3v, shared: Path, text: str) -> None:
    published = parse_tokenizer(json.loads((shared / "oracles/phi3v/model/tokenizer.json").read_text()), "there")
    for tokenizer in (tiny.tokenizer, published):
        ids = tokenizer.encode(text)
        assert not set(ids) & set(tokenizer.special.values())
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode([*ids, tokenizer.special["<|end|>"]]) == text


def test_every_spelling_of_a_letter(tiny: Phi3v, shared: Path) -> None:
    published = parse_tokenizer(json.loads((shared / "oracles/phi3v/model/tokenizer.json").read_text()), "there")
    assert published.spellings("A") == [68, 319, 29909]  # a byte, with a space before it, without
    assert tiny.tokenizer.encode("A")[0] in tiny.letters["A"]
