"""Phi-3-vision's tokenizer: SentencePiece-style BPE out of tokenizer.json, with the chat format's special tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deckbench.errors import InputError
from deckbench.models import files
from deckbench.models.phi3v.config import OFFICIAL, PHI3V, TOKENIZER, read_json

MODEL = "tokenizer.json"
SLOW = "tokenizer.model"
NEEDED = ("<s>", "<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>")


class Tokenizer:
    """Text to ids and back. `special` maps the special tokens' text to their ids; text never yields them."""

    def __init__(self, plain: Any, special: dict[str, int]) -> None:
        self.plain, self.special = plain, special
        self.ids_of_special = frozenset(special.values())

    @property
    def largest(self) -> int:
        """The largest id there is."""
        return int(max(*self.plain.get_vocab().values(), *self.special.values()))

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as a piece of a prompt between special tokens (a space is set before it, as in the original).

        A special token's name inside the text is read as ordinary characters.
        """
        return list(self.plain.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`, without the space set before it; special tokens and ids without a token are left out."""
        kept = [i for i in ids if i not in self.ids_of_special]
        return str(self.plain.decode(kept, skip_special_tokens=False))

    def spellings(self, letter: str) -> list[int]:
        """Every single token that is `letter` with or without spaces around it, in id order."""
        byte = f"<0x{ord(letter):02X}>"
        return sorted(
            i
            for token, i in self.plain.get_vocab().items()
            if i not in self.ids_of_special and (token.replace("▁", " ").strip() == letter or token == byte)
        )


def parse_tokenizer(data: Any, where: str | Path) -> Tokenizer:
    """The tokenizer of tokenizer.json's content. Raises InputError saying what is wrong."""
    import tokenizers

    added = data.get("added_tokens") if isinstance(data, dict) else None
    if not isinstance(added, list):
        raise InputError("the key 'added_tokens' is missing or not a list", where, OFFICIAL)
    special: dict[str, int] = {}
    for entry in added:
        content, number = (entry.get(key) if isinstance(entry, dict) else None for key in ("content", "id"))
        if not isinstance(content, str) or not isinstance(number, int) or number < 0 or not content:
            raise InputError("an entry of 'added_tokens' is not an id with a content", where, OFFICIAL)
        if content in special or number in special.values():
            raise InputError(f"the special token {content!r} or its id {number} is taken twice", where, OFFICIAL)
        special[content] = number
    for name in NEEDED:
        if name not in special:
            raise InputError(f"the special token {name!r} is missing", where, OFFICIAL)
    # Without the added tokens nothing in a question can be read as one; the prompt puts them in by their ids.
    plain = {**data, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    try:
        return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(plain)), special)
    except Exception as error:  # the library raises bare Exceptions
        raise InputError(f"not readable as a tokenizer ({error})", where, OFFICIAL) from error


def read_tokenizer(folder: Path) -> tuple[Tokenizer, dict[str, bytes]]:
    """The tokenizer of a checkpoint folder, and its files' bytes by name (kept, so that saving is exact)."""
    if not (folder / MODEL).is_file() and (folder / SLOW).is_file():
        fix = f"copy {MODEL} from the published folder; it holds the same vocabulary"
        raise InputError(f"the checkpoint has {SLOW} and no {MODEL}", folder / MODEL, fix)
    small = files.read_small(folder, TOKENIZER, PHI3V)
    for name in TOKENIZER[1:]:
        read_json(folder / name)
    return parse_tokenizer(read_json(folder / MODEL), folder / MODEL), small
