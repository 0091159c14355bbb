"""Training data in its order: images with all their questions, as a pure function of seed and step."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from deckbench.dataset import Sample, read_samples
from deckbench.errors import DeckBenchError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

Pair = tuple[str, str]
CHUNK = 50  # batches that are sorted by length together
Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Item:
    """One image and its (question, answer) pairs, in file order."""

    image: Path
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class LoadFailure:
    """An error in a loading process, to be sent: torch cannot pickle our exceptions."""

    what: str
    where: str | None
    fix: str | None
    kind: type[DeckBenchError] = InputError

    @classmethod
    def of(cls, error: DeckBenchError) -> LoadFailure:
        """An error, ready to be sent."""
        return cls(error.what, error.where, error.fix, type(error))

    def error(self) -> DeckBenchError:
        """The error again, to be raised where it is received."""
        return self.kind(self.what, self.where, self.fix)


def training_items(dataset: Path) -> list[Item]:
    """The train part of a dataset, one item per image, in order of first appearance.

    Raises:
        InputError: there is no train part, it is empty, or a sample has no answer to learn.
    """
    samples = read_samples(dataset, "train")
    where = dataset / "train.jsonl"
    if not samples:
        raise InputError("the train part is empty", where, "build the dataset from a pool with training frames")
    for sample in samples:
        if not sample.answer.strip():
            raise InputError(f"the sample {sample.id!r} has no answer to learn", where, "fix or remove this row")
    return group_by_image(samples)


def group_by_image(samples: Sequence[Sample]) -> list[Item]:
    """Samples that share an image become one item."""
    pairs: dict[Path, list[Pair]] = {}
    for sample in samples:
        pairs.setdefault(sample.image, []).append((sample.question, sample.answer))
    return [Item(image, tuple(found)) for image, found in pairs.items()]


def characters(item: Item) -> int:
    """Characters of all its questions and answers: a free estimate of its tokens."""
    return sum(len(question) + len(answer) for question, answer in item.pairs)


def shuffled(count: int, *key: object) -> list[int]:
    """A permutation of range(count) that depends on `key` alone: sorted by hash, so no library's generator matters."""
    prefix = "/".join(map(str, key))

    def rank(index: int) -> bytes:
        return hashlib.blake2b(f"{prefix}/{index}".encode(), digest_size=16).digest()

    return sorted(range(count), key=rank)


def by_length(order: Sequence[int], lengths: Sequence[int], batch: int, head: int, *key: object) -> list[int]:
    """`order` with indices of like lengths in the same batch: sorted within `CHUNK` batches, then batches shuffled.

    lengths: of each index. head: how many at the start fill up the batch before; these and what is left for an
    incomplete batch at the end keep their places. A pure function of its arguments.
    """
    chunked: list[int] = []
    for at in range(head, len(order), CHUNK * batch):
        chunked += sorted(order[at : at + CHUNK * batch], key=lambda index: -lengths[index])
    batches = [chunked[at : at + batch] for at in range(0, len(chunked), batch)]
    rest = batches.pop() if len(chunked) % batch else []
    mixed = [batches[place] for place in shuffled(len(batches), *key)]
    return [*order[:head], *(index for full in mixed for index in full), *rest]


class Plan:
    """The whole run as one sequence of batches; batch `i` is a pure function of (items, seed, i).

    The passes over the images are laid end to end and cut into batches, so every batch is full and a batch may hold
    the end of one pass and the start of the next. Indexable (a torch map-style dataset): resuming at batch `i` opens
    no image of the batches before. part: (i, n), only the i-th of n shares (from 0) of every batch. group_by_length:
    images whose questions and answers are about as long come into the same batch.
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        batch: int,
        batches: int,
        seed: int,
        questions: int | None,
        part: tuple[int, int] = (0, 1),
        group_by_length: bool = False,
    ) -> None:
        self.group_by_length = group_by_length
        self.part = part
        self.items = items
        self.batch = batch
        self.batches = batches
        self.seed = seed
        self.questions = questions
        self._order: tuple[int, list[int]] = (-1, [])

    def __len__(self) -> int:
        return self.batches

    def _pass(self, number: int) -> list[int]:
        if self._order[0] != number:
            order = shuffled(len(self.items), self.seed, "pass", number)
            if self.group_by_length:
                lengths = [characters(self._pick(index, number)) for index in range(len(self.items))]
                head = -number * len(self.items) % self.batch
                order = by_length(order, lengths, self.batch, head, self.seed, "batches", number)
            self._order = (number, order)
        return self._order[1]

    def _pick(self, index: int, number: int) -> Item:
        """The item with its questions in this pass's order, the first `questions` of them."""
        item = self.items[index]
        order = shuffled(len(item.pairs), self.seed, "questions", number, index)[: self.questions]
        return Item(item.image, tuple(item.pairs[i] for i in order))

    def __getitem__(self, index: int) -> list[Item]:
        if not 0 <= index < self.batches:
            raise IndexError(index)
        number, parts = self.part
        start, end = (index * self.batch + self.batch * edge // parts for edge in (number, number + 1))
        chosen = []
        for place in range(start, end):
            number, offset = divmod(place, len(self.items))
            chosen.append(self._pick(self._pass(number)[offset], number))
        return chosen


class LruCache(Generic[Key, Value]):
    """Values held up to a limit of bytes; the least recently used go first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self.values: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        if key not in self.values:
            return None
        self.values.move_to_end(key)
        return self.values[key][0]

    def keep(self, key: Key, value: Value, size: int) -> None:
        """Hold a value that is not held yet; one of more bytes than the limit is not."""
        if size <= self.limit:
            self.values[key] = value, size
            self.held += size
            while self.held > self.limit:
                _, (_, freed) = self.values.popitem(last=False)
                self.held -= freed


class ImageCache:
    """Decoded images, shrunk to what the model sees, up to a limit of bytes.

    shrink: what the model's preprocessing does first (its result must pass through preprocessing unchanged).
    """

    def __init__(self, open_picture: Callable[[Path], Image], shrink: Callable[[Image], Image], limit: int) -> None:
        self.open = open_picture
        self.shrink = shrink
        self.recent: LruCache[Path, Image] = LruCache(limit)

    def get(self, path: Path) -> Image:
        picture = self.recent.get(path)
        if picture is None:
            picture = self.shrink(self.open(path))
            self.recent.keep(path, picture, picture.width * picture.height * 3)
        return picture


class Opener(Protocol):
    """Where a `Collate` gets what its model's `collate` takes for an image."""

    def get(self, path: Path) -> Any: ...


class Collate:
    """Loads the images of a planned batch and passes them to the model's own `collate`. Draws no random numbers."""

    def __init__(self, collate: Callable[[Any], dict[str, Any]], cache: Opener) -> None:
        self.collate = collate
        self.cache = cache

    def __call__(self, planned: Sequence[Sequence[Item]]) -> dict[str, Any] | LoadFailure:
        (batch,) = planned
        try:
            return self.collate([(self.cache.get(item.image), list(item.pairs)) for item in batch])
        except DeckBenchError as error:
            return LoadFailure.of(error)
