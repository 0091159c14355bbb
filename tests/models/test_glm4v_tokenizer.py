"""The tokenizer, its file format, and the vocabulary that is trained for tiny models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deckbench.errors import InputError
from deckbench.models.glm4v import tiny_vocab, tokenizer

CORPUS = [
    "What is in slot 3?\nA. white plate\nB. tip rack\nAnswer with A or B only.",
    "Is the plate A or B?  It's the white plate's slot 12.",
    "实验步骤:thermocycle。只回答 A 或 B。",
] * 5


def load(files: dict[str, bytes]) -> tokenizer.Tokenizer:
    ranks = tokenizer.parse_ranks(files[tokenizer.MODEL], "model")
    return tokenizer.Tokenizer(ranks, tokenizer.parse_special(json.loads(files[tokenizer.CONFIG]), "config", ranks))


FILES = tiny_vocab.vocabulary_files(CORPUS, 600, 256)
TOKENIZER = load(FILES)


@given(st.text())
@settings(max_examples=300)
def test_any_text_survives(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


PIECES = ["<|user|>", "<sop>", "[gMASK]", "<|end_of_image|>", "a", " ", "\n", "|>"]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_text_never_yields_a_special_token(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert not set(ids) & set(TOKENIZER.special.values())
    assert TOKENIZER.decode(ids) == text


def test_special_tokens_and_unknown_ids_in_an_answer() -> None:
    ids = [TOKENIZER.special["<sop>"], *TOKENIZER.encode("ok"), 9999, 0xE5, TOKENIZER.special["<|user|>"]]
    assert TOKENIZER.decode(ids) == "ok��"


def test_letters_are_single_tokens_with_and_without_a_space() -> None:
    assert TOKENIZER.encode("A") == [65] and TOKENIZER.encode("B") == [66]
    spelled = [TOKENIZER.bytes_of[i] for i in TOKENIZER.spellings("A")]
    assert b"A" in spelled and b" A" in spelled
    assert all(token.strip() == b"A" for token in spelled)


def test_training_a_vocabulary_is_repeatable_and_merges_what_is_frequent() -> None:
    assert tiny_vocab.vocabulary_files(CORPUS, 600, 256) == FILES
    assert tiny_vocab.vocabulary_files(CORPUS[::-1], 600, 256) == FILES
    assert len(TOKENIZER.encode(CORPUS[0])) < len(CORPUS[0].encode()) / 2
    assert len(TOKENIZER.encode(" white plate")) == 2
    ranks = tokenizer.parse_ranks(FILES[tokenizer.MODEL], "model")
    assert sorted(ranks.values()) == list(range(len(ranks))) and len(ranks) <= 600


def test_ids_equal_those_of_the_library_that_trained_it() -> None:
    """tiktoken merges by rank, tokenizers by merge order: on one vocabulary both must cut alike."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    letters = {byte: letter for letter, byte in tiny_vocab.byte_of_character().items()}
    ranks = tokenizer.parse_ranks(FILES[tokenizer.MODEL], "model")
    written = {"".join(letters[b] for b in token): rank for token, rank in ranks.items()}
    merges = []
    for token, rank in sorted(written.items(), key=lambda item: item[1]):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [cut for cut in cuts if cut[0] in written and cut[1] in written]
        merges += sorted(known, key=lambda cut: max(written[cut[0]], written[cut[1]]))[:1]
        assert rank < 256 or known
    other = Tokenizer(models.BPE(vocab=written, merges=merges))
    split = pre_tokenizers.Split(Regex(tokenizer.PATTERN), behavior="isolated")
    other.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    for text in CORPUS:
        assert other.encode(text).ids == TOKENIZER.encode(text)


def test_the_published_format_is_read(shared: Path) -> None:
    read, files = tokenizer.read_tokenizer(shared / "oracles/glm4v/model")
    assert read.encode("Aé\n") == [65, 0xC3, 0xA9, 10]
    assert read.special["<|assistant|>"] == 264
    assert set(files) == {"tokenizer.model", "tokenizer_config.json"}


@given(st.binary(max_size=200))
def test_garbage_is_refused_with_its_line(data: bytes) -> None:
    with pytest.raises(InputError) as error:
        tokenizer.parse_ranks(data, "tokenizer.model")
    assert str(error.value.where).startswith("tokenizer.model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["added_tokens_decoder"].update({"x": {"content": "y"}}), "entry 'x' is not an id"),
        (lambda d: d["added_tokens_decoder"].update({"9999": {}}), "entry '9999' is not an id"),
        (lambda d: d["added_tokens_decoder"].update({"65": {"content": "<new>"}}), "taken twice"),
        (lambda d: d["added_tokens_decoder"].update({"9999": {"content": "<sop>"}}), "taken twice"),
        (lambda d: d["added_tokens_decoder"].clear(), "is missing"),
    ],
)
def test_bad_special_tokens(change: Callable[[Any], object], message: str) -> None:
    data = json.loads(FILES[tokenizer.CONFIG])
    change(data)
    with pytest.raises(InputError, match=message):
        tokenizer.parse_special(data, "tokenizer_config.json", tokenizer.parse_ranks(FILES[tokenizer.MODEL], "m"))
