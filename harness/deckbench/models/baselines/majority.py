"""The most frequent answer of the training data, whatever is asked and shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

from deckbench.answer import Answer, Unanswered
from deckbench.dataset import Sample
from deckbench.models.baselines.base import Learner, say


def most_frequent(counts: Counter[str]) -> str:
    """The key with the largest count; of equals the first in sort order."""
    return min(counts, key=lambda key: (-counts[key], key))


class Majority(Learner):
    """Per kind: the most frequent letter (choice) or text (open, scene) of the train part.

    A choice also states p_a and p_b, the letters' shares. A kind that the train part lacks is answered with nothing.
    """

    name = "majority"

    @cached_property
    def answers(self) -> dict[str, Answer]:
        """kind -> its answer."""
        counts: dict[str, Counter[str]] = {}
        for sample in self.train:
            counts.setdefault(sample.kind, Counter())[sample.gold] += 1
        found = {}
        for kind, count in counts.items():
            share = count["A"] / sum(count.values())
            found[kind] = say(most_frequent(count), *((share, 1 - share) if kind == "choice" else ()))
        return found

    def answer_samples(self, samples: Sequence[Sample], blank: bool = False) -> list[Answer | Unanswered]:
        """One answer per sample, in order. Raises InputError when there is no train part."""
        self.learn(samples)
        return [self.answers.get(sample.kind, say("")) for sample in samples]
