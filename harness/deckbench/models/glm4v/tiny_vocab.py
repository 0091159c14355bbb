"""A small GLM-format vocabulary trained on given text: byte-level BPE, written as the official tokenizer files."""

from __future__ import annotations

import json
from collections.abc import Iterable

from deckbench.models.glm4v import tokenizer

# GLM-4's special tokens, in the order their ids follow the text vocabulary.
SPECIAL = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
)


def byte_of_character() -> dict[str, int]:
    """Inverse of the printable stand-ins that byte-level BPE (GPT-2's) uses for bytes while training."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in kept]
    return {chr(byte): byte for byte in kept} | {chr(256 + i): byte for i, byte in enumerate(rest)}


def train_ranks(corpus: Iterable[str], size: int) -> list[bytes]:
    """Tokens in rank order: the 256 bytes, then merges, at most `size` in all. The same corpus gives the same list."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(tokenizer.PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=sorted(byte_of_character()), show_progress=False, special_tokens=[]
    )
    bpe.train_from_iterator(corpus, trainer)
    table = byte_of_character()
    merges = json.loads(bpe.to_str())["model"]["merges"]
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [bytes(table[character] for character in left + right) for left, right in pairs]
    return list(dict.fromkeys(tokens))[:size]


def vocabulary_files(
    corpus: Iterable[str], size: int, image_size: int, *, first: int | None = None
) -> dict[str, bytes]:
    """tokenizer.model and tokenizer_config.json of a vocabulary of at most `size` tokens, specials not counted.

    first: id of the first special token; default: behind the vocabulary.
    """
    ranks = train_ranks(corpus, size)
    ids = {name: (len(ranks) if first is None else first) + number for number, name in enumerate(SPECIAL)}
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLM4Tokenizer", None]},
        "added_tokens_decoder": {str(number): {"content": name, **plain} for name, number in ids.items()},
        "additional_special_tokens": list(SPECIAL),
        "clean_up_tokenization_spaces": False,
        "do_lower_case": False,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 2048,
        "padding_side": "left",
        "remove_space": False,
        "tokenizer_class": "ChatGLM4Tokenizer",
        "image_size": image_size,
    }
    text = json.dumps(config, indent=1, ensure_ascii=False) + "\n"
    return {tokenizer.MODEL: tokenizer.write_ranks(ranks), tokenizer.CONFIG: text.encode()}
