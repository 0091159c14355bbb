"""The probabilities of A and B out of a server's logprobs. Nothing in them is taken on trust."""

from __future__ import annotations

import math
import re
from typing import Any

from deckbench.wrapping import BOX, END

ROUNDING = 0.01  # how far listed probabilities may add up to more than 1
UNLISTED = 0.01  # P is kept where a letter that is not listed holds less than this
NUMBERED = re.compile(r"token_id:\d+")
BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# How vocabularies write a blank and a line end: byte-level BPE, SentencePiece.
BLANKS = str.maketrans({"Ġ": " ", "Ċ": "\n", "ĉ": "\t", "▁": " "})


def read_letters(logprobs: Any, answer: str, *, wrapped: bool) -> tuple[float, float]:
    """P(A) and P(B) where the answer begins, summed over their spellings, out of the whole vocabulary.

    A letter that is not listed gets 0: it holds less than every listed token, and less than what is left over.

    Args:
        logprobs: of one choice of a chat completion.
        answer: its text, unwrapped.
        wrapped: something came before the answer (thinking, a box mark), so it does not begin at the first position.

    Raises:
        ValueError: saying why: none are served, what is not listed may be much, or the numbers are no probabilities of
            this answer.
    """
    positions = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not logprobs or (isinstance(logprobs, dict) and "content" in logprobs and not positions):
        raise ValueError("no probabilities served")
    if not isinstance(positions, list):
        raise ValueError("probabilities in no known form")
    first = position_of(positions, answer.strip(), wrapped)
    top = first.get("top_logprobs")
    if not isinstance(top, list) or not top:
        raise ValueError("probabilities in no known form")
    shares = [share_of(entry) for entry in top]
    if (own := spelling(first)) not in {name for name, _ in shares} and first.get("logprob") is not None:
        shares.append(share_of(first))  # the token that was taken may stand outside the list
    total = math.fsum(share for _, share in shares)
    if total > 1 + ROUNDING:
        raise ValueError("probabilities that add up to more than 1")
    if own.strip() not in {name.strip() for name, _ in shares}:
        raise ValueError("probabilities of another answer")
    unlisted = min(max(0.0, 1 - total), *(share for _, share in shares))
    p_a, p_b = (min(1.0, math.fsum(share for name, share in shares if name.strip() == letter)) for letter in "AB")
    if (p_a == 0 or p_b == 0) and unlisted > UNLISTED:
        raise ValueError("too few probabilities listed")
    return p_a, p_b


def position_of(positions: list[Any], answer: str, wrapped: bool) -> dict[str, Any]:
    """The position whose token begins the answer. Raises ValueError where none does."""
    if not wrapped:
        for entry in positions:
            if not isinstance(entry, dict):
                break
            token = spelling(entry).strip()
            if token:  # a first token may be empty, or a blank
                if not answer.startswith(token):
                    raise ValueError("probabilities of another answer")
                return entry
        raise ValueError("probabilities in no known form")
    text = ""
    for entry in reversed(positions):
        if not isinstance(entry, dict):
            raise ValueError("probabilities in no known form")
        token = spelling(entry)
        text = token + text
        if len(text) < len(answer):
            continue
        plain = END.sub("", BOX.sub("", text)).strip()
        if len(plain) > len(answer):
            break
        if plain == answer and token.strip() and answer.startswith(token.strip()):
            return entry
    raise ValueError("probabilities that do not say where the answer begins")


def spelling(entry: Any) -> str:
    """What a token writes. Raises ValueError for what is no token, or a mere number."""
    token = entry.get("token") if isinstance(entry, dict) else None
    if not isinstance(token, str):
        raise ValueError("probabilities in no known form")
    if NUMBERED.fullmatch(token):
        written = bytes_of(entry.get("bytes"))
        if written is None or NUMBERED.fullmatch(written):
            raise ValueError("tokens by number alone")
        return written
    if byte := BYTE.fullmatch(token):
        return bytes([int(byte[1], 16)]).decode("latin-1")
    return token.translate(BLANKS)


def bytes_of(value: Any) -> str | None:
    """The text that a token's bytes spell, None where there are none."""
    try:
        return bytes(value).decode("utf-8", "replace") if isinstance(value, list) and value else None
    except (ValueError, TypeError):
        return None


def share_of(entry: Any) -> tuple[str, float]:
    """(spelling, probability) of a listed token. Raises ValueError for what is none."""
    name, value = spelling(entry), entry.get("logprob")
    # Compared before it is converted: JSON holds whole numbers too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= ROUNDING:
        raise ValueError("probabilities that are none")
    return name, math.exp(max(value, -1e4))
