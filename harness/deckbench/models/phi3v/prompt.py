"""The ids of a prompt: `<|user|>\\n<|image_1|>\\nquestion<|end|>\\n<|assistant|>\\n`, answer, `<|end|>`.

The published processor tokenizes what stands before and behind the image apart, each with a start token and a space
before its text; the line break after `<|assistant|>` belongs to that token.
"""

from __future__ import annotations

from deckbench.models.pack import Prefix
from deckbench.models.phi3v.tokenizer import Tokenizer

START = "<s>"
USER = "<|user|>"
END = "<|end|>"
ASSISTANT = "<|assistant|>"
OVER = "<|endoftext|>"
IMAGE = -1  # id of the first picture's places, as in the original; no token has it


def make_prefix(tokenizer: Tokenizer, image_tokens: int) -> Prefix:
    """What all questions about a frame of so many tokens share, up to the start token behind it."""
    start = tokenizer.special[START]
    before = (start, tokenizer.special[USER], *tokenizer.encode("\n"))
    ids = (*before, *[IMAGE] * image_tokens, start)
    return Prefix(ids, tuple(range(len(ids))))


def question_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a question and the assistant's header; the next position is the answer's first."""
    special = tokenizer.special
    return [*tokenizer.encode(f"\n{text}"), special[END], *tokenizer.encode("\n"), special[ASSISTANT]]


def answer_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of an answer and its stop token. Spaces before it belong to `<|assistant|>`."""
    return [*tokenizer.encode(text.lstrip()), tokenizer.special[END]]
