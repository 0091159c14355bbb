"""`POST /v1/systemone`, as `transformers serve` (5.24) and others answer it: the frame is an asset of the request."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from itertools import count
from typing import Any

from deckbench.endpoint.faults import Again, Refused
from deckbench.endpoint.text import short
from deckbench.endpoint.typed import Decisions, Outcome, Typed, decided, tokens_of

PATH = "/systemone"
MOST = 64  # questions of one request; of its 4 assets one is needed
OURS = frozenset({"state", "questions", "assets"})


def fields(url: str | None, questions: Sequence[Typed]) -> dict[str, Any]:
    """A request's fields beside the model. url: the frame as a data URL, None for no image."""
    asked = {
        question.name: {
            "type": "choice",
            "instructions": question.instructions,
            "criteria": dict.fromkeys(question.options),
        }
        for question in questions
    }
    if url is None:
        return {"state": "(no image)", "questions": asked}
    # The image stands wherever its name does, so no question may hold the name.
    words = "\n".join(word for question in questions for word in (question.instructions, *question.options))
    name = next(name for number in count(1) if (name := f"img-{number}") not in words)
    kind, data = url.removeprefix("data:image/").split(";base64,")
    assets = {name: {"type": "image", "format": kind, "data_base64": data}}
    return {"state": name, "questions": asked, "assets": assets}


def call(client: Any, model: str, given: dict[str, Any], extra: dict[str, Any]) -> Awaitable[Any]:
    """The request, by the HTTP client that openai's brings: httpx2. client: openai's."""
    import httpx2

    made: Awaitable[Any] = client.post(PATH, cast_to=httpx2.Response, body={"model": model, **given, **extra})
    return made


def read(data: dict[str, Any], questions: Sequence[Typed]) -> Decisions:
    """The answers in a reply. Raises Again for a reply that is not one to these questions."""
    answers = data.get("answers")
    if not isinstance(answers, dict):
        raise Again(f"the reply holds no answers: {short(answers or data)}")
    if answers.keys() - {question.name for question in questions}:
        raise Again("the reply answers other questions")
    return Decisions(
        [outcome(answers.get(question.name), question) for question in questions],
        short(data["model"]) if isinstance(data.get("model"), str) else "",
        *tokens_of(data),
    )


def outcome(answer: Any, question: Typed) -> Outcome:
    """What one question got."""
    if answer is None:
        return Again("the reply leaves the question out")
    kind = answer.get("type") if isinstance(answer, dict) else None
    if kind == "refusal":
        return Refused("the model declines to answer this question", filtered=True)
    if kind != "choice":
        return Again(f"an answer of another type: {short(answer)}")
    shares = answer.get("probabilities")
    if not isinstance(shares, dict):
        return Again(f"probabilities in no known form: {short(shares)}")
    try:
        return decided(answer, list(shares.items()), question)
    except Again as why:
        return why
