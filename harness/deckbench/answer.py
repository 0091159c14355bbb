"""A question about a frame and what came back: plain values that every model, server and step can share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["choice", "open", "scene"]
# Greedy decoding stops at the model's stop token; these bound an answer that never gets there. A choice has room for an
# option's text, which the strict parser accepts as well as the letter.
MAX_NEW_TOKENS = {"choice": 16, "open": 32, "scene": 128}


@dataclass(frozen=True)
class Question:
    """One question about a frame.

    text: the whole prompt, the options of a choice included. options: the texts of A and B where they are known apart
    from it.
    """

    text: str
    kind: str
    max_new_tokens: int
    options: tuple[str, str] | None = None


@dataclass(frozen=True)
class Answer:
    """One greedy answer.

    p_a, p_b: probabilities of the letters A and B at the first answer position (choice questions only), summed over
    their single-token spellings, out of the softmax over the whole vocabulary. tokens_in counts the image's tokens,
    tokens_out the stop token.
    seconds: wall time by stage (preprocess, vision, prefill, decode, first_token). Questions about one frame share
    the frame's stages, and each answer carries the shared time: do not add it up over the questions of a frame.
    counted: False where a server did not report token counts (they are 0 then). facts: plain JSON values that a
    server's answer is kept with, None for a model that runs here.
    """

    text: str
    p_a: float | None
    p_b: float | None
    tokens_in: int
    tokens_out: int
    seconds: dict[str, float]
    counted: bool = True
    facts: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Unanswered:
    """A question that got no answer: it is not a wrong answer either.

    refused: the server, or its filter, would not take the question; else it, or the model, gave none.
    """

    reason: str
    refused: bool = False
