"""One frame, a few questions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from deckbench.answer import MAX_NEW_TOKENS, Answer, Question
from deckbench.errors import InputError
from deckbench.grade import options_of
from deckbench.picture import open_picture


def ask(*, model: str, adapter: Path | None = None, frame: Path, questions: Sequence[str]) -> list[Answer]:
    """Ask a model a few questions about one picture; the frame is encoded once.

    Args:
        model: a reference, see `deckbench models ls`.
        adapter: a folder made by `train`.
        frame: a picture file.
        questions: at least one, none empty. One with the two option lines of a choice prompt also gets p_a and p_b;
            others may be answered at the length of a scene description.

    Returns:
        The greedy answers, in order.

    Raises:
        InputError: an unreadable picture, an empty question, an unknown model, or one that takes no pictures.
        OutsideError: a server does not answer.
    """
    from deckbench.models.load import load_model

    if not questions or not all(question.strip() for question in questions):
        raise InputError("the question is empty", "QUESTION", "ask at least one question")
    picture = open_picture(Path(frame))
    answerer = load_model(model, adapter=None if adapter is None else Path(adapter))
    kinds = ["choice" if options_of(question) else "scene" for question in questions]
    asked = [Question(text, kind, MAX_NEW_TOKENS[kind]) for text, kind in zip(questions, kinds, strict=True)]
    with closing(answerer):
        return list(answerer.answer(picture, asked))
