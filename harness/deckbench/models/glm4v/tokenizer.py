"""GLM-4's tokenizer: byte-level BPE in the tiktoken text format, with the chat format's special tokens beside it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deckbench.errors import InputError
from deckbench.models.glm4v.config import OFFICIAL, read_json

MODEL = "tokenizer.model"
CONFIG = "tokenizer_config.json"
# How text is cut before merging, the same pattern as GPT-4's: contractions, words, up to three digits, signs, spaces.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NEEDED = ("<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|begin_of_image|>", "<|end_of_image|>")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()


class Tokenizer:
    """Text to ids and back. `special` maps the special tokens' text to their ids; text never yields them."""

    def __init__(self, ranks: dict[bytes, int], special: dict[str, int]) -> None:
        import tiktoken

        self.special = special
        self.bytes_of = {rank: token for token, rank in ranks.items()}
        self.encoding = tiktoken.Encoding("glm", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`. A special token's name inside the text is read as ordinary characters."""
        return list(self.encoding.encode_ordinary(text))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; special tokens are left out, ids without a token and broken UTF-8 become U+FFFD."""
        special = set(self.special.values())
        data = b"".join(self.bytes_of.get(i, REPLACEMENT) for i in ids if i not in special)
        return data.decode("utf-8", errors="replace")

    def spellings(self, letter: str) -> list[int]:
        """Every single token that is `letter` with or without spaces around it, in id order."""
        return sorted(i for i, token in self.bytes_of.items() if token.strip() == letter.encode())


def parse_ranks(data: bytes, where: str | Path) -> dict[bytes, int]:
    """Lines `base64 rank`. All 256 bytes must be there and the ranks unique. Raises InputError with the line."""
    ranks: dict[bytes, int] = {}
    seen: set[int] = set()
    for count, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token_text, rank_text = line.split()
            token, rank = base64.b64decode(token_text, validate=True), int(rank_text)
        except (ValueError, binascii.Error) as error:
            raise InputError("a line is not `base64 rank`", f"{where}:{count}", OFFICIAL) from error
        if rank < 0 or rank in seen or token in ranks or not token:
            raise InputError("a token or rank is given twice, empty or negative", f"{where}:{count}", OFFICIAL)
        ranks[token] = rank
        seen.add(rank)
    missing = sum(bytes([i]) not in ranks for i in range(256))
    if missing:
        raise InputError(f"{missing} of the 256 single bytes have no token", where, OFFICIAL)
    return ranks


def parse_special(data: Any, where: str | Path, ranks: dict[bytes, int]) -> dict[str, int]:
    """The special tokens of tokenizer_config.json (`added_tokens_decoder`). Raises InputError naming the token."""
    entries = data.get("added_tokens_decoder") if isinstance(data, dict) else None
    if not isinstance(entries, dict):
        raise InputError("the key 'added_tokens_decoder' is missing or not an object", where, OFFICIAL)
    taken = set(ranks.values())
    special: dict[str, int] = {}
    for key, entry in entries.items():
        content = entry.get("content") if isinstance(entry, dict) else None
        if not key.isdigit() or not isinstance(content, str) or not content:
            raise InputError(f"'added_tokens_decoder' entry {key!r} is not an id with a content", where, OFFICIAL)
        if int(key) in taken or content in special:
            raise InputError(f"the special token {content!r} or its id {key} is taken twice", where, OFFICIAL)
        special[content] = int(key)
        taken.add(int(key))
    for name in NEEDED:
        if name not in special:
            raise InputError(f"the special token {name!r} is missing", where, OFFICIAL)
    return special


def write_ranks(ranks: Sequence[bytes]) -> bytes:
    """The tiktoken text of tokens in rank order."""
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(ranks))


def read_tokenizer(folder: Path) -> tuple[Tokenizer, dict[str, bytes]]:
    """The tokenizer of a checkpoint folder, and its files' bytes by name (kept, so that saving is exact)."""
    if not (folder / MODEL).is_file():
        raise InputError(f"the checkpoint has no {MODEL}", folder / MODEL, OFFICIAL)
    files = {MODEL: (folder / MODEL).read_bytes()}
    config = read_json(folder / CONFIG)
    files[CONFIG] = (folder / CONFIG).read_bytes()
    ranks = parse_ranks(files[MODEL], folder / MODEL)
    return Tokenizer(ranks, parse_special(config, folder / CONFIG, ranks)), files
