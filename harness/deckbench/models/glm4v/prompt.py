"""The ids and positions of a prompt: `[gMASK]<sop><|user|>\\n<image>question<|assistant|>\\n`, answer, `<|user|>`."""

from __future__ import annotations

from dataclasses import dataclass

from deckbench.models import pack
from deckbench.models.glm4v.config import Glm4vConfig
from deckbench.models.glm4v.tokenizer import Tokenizer

PREFIX = ("[gMASK]", "<sop>", "<|user|>")
IMAGE = ("<|begin_of_image|>", "<|endoftext|>", "<|end_of_image|>")
ASSISTANT = "<|assistant|>"
STOP = "<|user|>"


@dataclass(frozen=True)
class Prefix(pack.Prefix):
    """The shared part, up to and including the end of image; the image's tokens share one position.

    short: ids with the one placeholder of the published format.
    """

    short: tuple[int, ...]


def make_prefix(tokenizer: Tokenizer, config: Glm4vConfig) -> Prefix:
    """The shared prefix for this checkpoint's ids and image size."""
    before = [*(tokenizer.special[name] for name in PREFIX), *tokenizer.encode("\n")]
    begin, filler, end = (tokenizer.special[name] for name in IMAGE)
    count, at = config.vision.tokens, len(before)
    return Prefix(
        ids=(*before, begin, *[filler] * count, end),
        positions=(*range(at + 1), *[at + 1] * count, at + 2),
        short=(*before, begin, filler, end),
    )


def question_ids(tokenizer: Tokenizer, text: str, *, newline: bool = True) -> list[int]:
    """Ids of a question and the assistant's header.

    The published prompt ends at `<|assistant|>` and lets the model write the header's line break itself; with
    `newline` it is given, so that the next position is the answer's first.
    """
    header = tokenizer.encode("\n") if newline else []
    return [*tokenizer.encode(text), tokenizer.special[ASSISTANT], *header]


def answer_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of an answer and its stop token."""
    return [*tokenizer.encode(text), tokenizer.special[STOP]]
