"""A model behind a server, as the steps see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deckbench.answer import MAX_NEW_TOKENS, Answer, Question, Unanswered
from deckbench.dataset import Sample
from deckbench.endpoint.account import account, all_empty, notices
from deckbench.endpoint.client import THINKING_FIX, Client
from deckbench.endpoint.spec import FAMILY, EndpointSpec, Server, identity_of
from deckbench.errors import OutsideError
from deckbench.models.interface import Model
from deckbench.picture import open_picture
from deckbench.progress import say

if TYPE_CHECKING:
    from PIL.Image import Image


class Endpoint(Model):
    """What the server computes with is not known: its identity is names and settings."""

    family = FAMILY

    def __init__(self, spec: EndpointSpec, server: Server) -> None:
        self.spec = spec
        self.concurrency, self.omits_unanswered = spec.concurrency, spec.unanswered == "leave-out"
        self.name = str(identity_of(spec)["name"])
        self.client = Client(spec, server, self.name)

    @property
    def identity(self) -> dict[str, Any]:
        return identity_of(self.spec)

    def answer(self, image: Image, questions: Sequence[Question], blank: bool = False) -> list[Answer]:
        """As `Model.answer`. Raises OutsideError when a question got no answer."""
        answers: list[Answer] = []
        for given in self.client.answer(image, questions, blank=blank):
            if isinstance(given, Unanswered):
                raise OutsideError(f"no answer: {given.reason}", self.name, "fix it at the server, then run again")
            answers.append(given)
        return answers

    def answer_samples(self, samples: Sequence[Sample], blank: bool = False) -> list[Answer | Unanswered]:
        questions = [question_of(sample) for sample in samples]
        return self.client.answer(open_picture(samples[0].image), questions, blank=blank)

    def account(
        self, facts: Sequence[Mapping[str, Any]], tokens: Sequence[tuple[int, int]]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As `Model.account`; says what the numbers hide. Raises OutsideError where all answers are empty."""
        if all_empty(facts):
            raise OutsideError(f"all {len(facts)} answers are empty", self.name, THINKING_FIX)
        served, observed = account(self.spec, facts, tokens)
        for line in notices(served, observed, facts):
            say(f"{self.name}: {line}")
        return served, observed

    def resume(self) -> None:
        self.client.proven = True

    def close(self) -> None:
        self.client.close()


def question_of(sample: Sample) -> Question:
    """A sample's question, with its options where the dataset has them."""
    options = (sample.option_a, sample.option_b) if sample.option_a and sample.option_b else None
    return Question(sample.question, sample.kind, MAX_NEW_TOKENS[sample.kind], options)
