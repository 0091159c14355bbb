"""OpenAI's `POST /v1/decisions`, as its package (3.51 and later) states the types; vLLM serves the same."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from deckbench.endpoint.faults import Again, Refused
from deckbench.endpoint.text import short
from deckbench.endpoint.typed import Decisions, Outcome, Typed, decided, tokens_of

PATH = "/decisions"
MOST = 400  # questions of one request
OURS = frozenset({"input", "questions"})


def fields(url: str | None, questions: Sequence[Typed]) -> dict[str, Any]:
    """A request's fields beside the model. url: the frame as a data URL, None for no image."""
    picture = {"type": "input_image", "image_url": url} if url else {"type": "input_text", "text": "(no image)"}
    asked = [
        {
            "type": "choice",
            "name": question.name,
            "instructions": question.instructions,
            "choices": [{"value": option} for option in question.options],
        }
        for question in questions
    ]
    return {"input": [{"role": "user", "content": [picture]}], "questions": asked}


def call(client: Any, model: str, given: dict[str, Any], extra: dict[str, Any]) -> Awaitable[Any]:
    """The request. client: openai's."""
    create = client.decisions.with_raw_response.create
    made: Awaitable[Any] = create(model=model, **given, extra_body=extra)
    return made


def read(data: dict[str, Any], questions: Sequence[Typed]) -> Decisions:
    """The answers in a reply. Raises Again for a reply that is not one to these questions."""
    answers = data.get("answers")
    if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
        raise Again(f"the reply holds no list of answers: {short(answers or data)}")
    names = [answer.get("name") for answer in answers]
    if len(names) == len(questions) and all(name is None for name in names):  # in the order of the questions
        names = [question.name for question in questions]
    known = {question.name for question in questions}
    if not all(isinstance(name, str) and name in known for name in names) or len(names) != len(set(names)):
        raise Again("the reply answers other questions")
    found = dict(zip(names, answers, strict=True))
    return Decisions(
        [outcome(found.get(question.name), question) for question in questions],
        short(data["model"]) if isinstance(data.get("model"), str) else "",
        *tokens_of(data),
    )


def outcome(answer: dict[str, Any] | None, question: Typed) -> Outcome:
    """What one question got."""
    if answer is None:
        return Again("the reply leaves the question out")
    if answer.get("type") == "refusal":
        return Refused("the model declines to answer this question", filtered=True)
    shares = answer.get("probabilities")
    if answer.get("type") != "choice" or not isinstance(shares, list):
        return Again(f"an answer of another type: {short(answer)}")
    try:
        pairs = [(share["value"], share["probability"]) for share in shares]
        return decided(answer, pairs, question)
    except (TypeError, KeyError):
        return Again(f"probabilities in no known form: {short(shares)}")
    except Again as why:
        return why
