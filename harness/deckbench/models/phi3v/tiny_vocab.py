"""A small vocabulary in Phi-3-vision's format trained on given text: BPE with bytes to fall back to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

SPACE = "▁"
BASIC = ("<unk>", "<s>", "</s>")
# The chat format's special tokens, in the order their ids follow the text vocabulary.
SPECIAL = ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>", "<|image|>")
SPACES_BEHIND = ("<|assistant|>", "<|image|>")  # these take the spaces behind them, as in the published files


def json_file(data: Any) -> bytes:
    return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()


def train_bpe(corpus: Iterable[str], size: int) -> tuple[list[str], list[Any]]:
    """(tokens, merges), `size` tokens at most; the same corpus gives the same. No token holds a line break."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    # Words with the space before them; a digit and a sign is a token of its own, as in SentencePiece's vocabularies.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(SPACE, behavior="merged_with_next"),
            pre_tokenizers.Split(Regex(r"[^\p{L}▁]"), behavior="isolated"),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, special_tokens=[], initial_alphabet=[SPACE])
    bpe.train_from_iterator((line for text in corpus for line in text.splitlines()), trainer)
    ids = bpe.get_vocab()
    return sorted(ids, key=lambda token: ids[token]), json.loads(bpe.to_str())["model"]["merges"]


def vocabulary_files(corpus: Iterable[str], size: int) -> dict[str, bytes]:
    """The tokenizer's files: `size` text tokens at most, the basic ones and the 256 bytes counted."""
    from deckbench.models.phi3v.config import TOKENIZER

    texts = [*BASIC, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens, merges = train_bpe(corpus, size - len(texts))
    vocabulary = {token: number for number, token in enumerate([*texts, *tokens])}
    ids = {**{token: vocabulary[token] for token in BASIC}, **{t: len(vocabulary) + i for i, t in enumerate(SPECIAL)}}
    marks = {
        token: {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": token in SPACES_BEHIND,
            "single_word": False,
            "special": True,
        }
        for token in ids
    }
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    start = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, **marks[token]} for token, number in ids.items()],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [start, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [ids["<s>"]], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocabulary,
            "merges": merges,
        },
    }
    names = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"}
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {str(number): marks[token] for token, number in ids.items()},
        **names,
        "clean_up_tokenization_spaces": False,
        "legacy": False,
        "padding_side": "right",
        "tokenizer_class": "LlamaTokenizer",
    }
    return dict(zip(TOKENIZER, map(json_file, (whole, config, names)), strict=True))
