"""One frame, a few questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deckbench.errors import InputError
from deckbench.grade import options_of
from deckbench.infer.workers import ending
from deckbench.models.interface import MAX_NEW_TOKENS, Answer, Question
from deckbench.picture import open_picture


def ask(*, model: str, adapter: Path | None = None, frame: Path, questions: Sequence[str]) -> list[Answer]:
    """Greedy answers to `questions` about the picture `frame`, in order; the frame is encoded once.

    A question with the two option lines of a choice prompt also gets p_a and p_b; others may be as long as a scene
    description. Raises InputError for an unreadable picture, an empty question, an unknown model;
    OutsideError where a server does not answer.
    """
    from deckbench.models.load import load_model

    if not questions or not all(question.strip() for question in questions):
        raise InputError("the question is empty", "QUESTION", "ask at least one question")
    picture = open_picture(Path(frame))
    answerer = load_model(model, adapter=None if adapter is None else Path(adapter))
    if not hasattr(answerer, "answer"):
        raise InputError(f"{model} answers the samples of a dataset only", "--model", "use `deckbench infer`")
    kinds = ["choice" if options_of(question) else "scene" for question in questions]
    asked = [Question(text, kind, MAX_NEW_TOKENS[kind]) for text, kind in zip(questions, kinds, strict=True)]
    with ending(answerer):
        return list(answerer.answer(picture, asked))
