"""What executes a network of our own: image encoder, prefill, greedy decoding. The processor stays when it changes."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from deckbench.models.generate import Generated, greedy, prefill, wait
from deckbench.models.pack import Prefix


@dataclass(frozen=True)
class Prefilled:
    """A frame's prefix in the cache of an engine. long: its sequences go beyond the trained length."""

    prefix: Prefix
    cache: Any
    long: bool


class Backend(Protocol):
    """One engine. Calls are made within `running`; ids, positions and pixels come from the family's processor."""

    def running(self) -> AbstractContextManager[None]:
        """Everything that answers one group of questions happens within."""
        ...

    def encode_image(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Features (places, width) of one frame. inputs: of `vision_inputs`, on any device."""
        ...

    def prefill(self, prefix: Prefix, features: Tensor, *, long: bool = False) -> Prefilled:
        """Run the shared prefix, `features` at its image's places, once."""
        ...

    def decode(
        self, shared: Prefilled, branches: Sequence[Sequence[int]], limits: Sequence[int]
    ) -> tuple[list[Generated], float]:
        """Greedy answers of question branches behind the prefix, and the seconds of the questions' prefill.

        `shared` can be used again. branches: question ids. limits: most new tokens of each (at least 1).
        """
        ...


class TorchBackend:
    """The network as a torch module with `encode_image`, `embed`, `language` (a causal model of transformers).

    pad_id: fills rows. stops: end tokens. rotation: within it, all sequences are short or long ones (longrope).
    """

    def __init__(
        self,
        module: Any,
        *,
        pad_id: int,
        stops: Collection[int],
        rotation: Callable[[bool], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.module, self.pad_id, self.stops, self.rotation = module, pad_id, stops, rotation

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return next(self.module.parameters()).device  # type: ignore[no-any-return]

    @contextmanager
    def running(self) -> Iterator[None]:
        was_training = self.module.training
        self.module.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.module.train(was_training)

    def encode_image(self, inputs: Mapping[str, Tensor]) -> Tensor:
        features: Tensor = self.module.encode_image(**inputs)[0]
        wait(self.device)
        return features

    def prefill(self, prefix: Prefix, features: Tensor, *, long: bool = False) -> Prefilled:
        ids = torch.tensor([prefix.ids], device=self.device)
        with self.rotation(long):
            return Prefilled(prefix, prefill(self.module.language, prefix, self.module.embed(ids, [features])), long)

    def decode(
        self, shared: Prefilled, branches: Sequence[Sequence[int]], limits: Sequence[int]
    ) -> tuple[list[Generated], float]:
        with self.rotation(shared.long):
            return greedy(
                self.module.language,
                copy.deepcopy(shared.cache),
                shared.prefix,
                branches,
                limits,
                pad_id=self.pad_id,
                stops=self.stops,
            )


def generate(
    backend: Backend,
    prefix: Prefix,
    inputs: Mapping[str, Tensor],
    branches: Sequence[Sequence[int]],
    limits: Sequence[int],
    *,
    at_once: int,
    trained: int | None = None,
) -> tuple[list[Generated], dict[str, float]]:
    """Greedy continuation of each branch behind a frame's prefix, and the wall times of `vision` and `prefill`.

    Args:
        backend: what computes it.
        prefix: what all questions about the frame share.
        inputs: of `vision_inputs`, of one frame.
        branches: question ids.
        limits: most new tokens of each (at least 1).
        at_once: branches decoded together.
        trained: length beyond which a whole sequence is rotated otherwise, its prefix too (longrope). A branch that
            grows past it is computed again there, and no prefix or batch holds both kinds. None: no such length.
    """
    prefill_s = 0.0

    def behind(features: Tensor, rest: Sequence[int], to: Sequence[int], long: bool) -> list[Generated]:
        nonlocal prefill_s
        if not rest:
            return []
        start = time.perf_counter()
        shared = backend.prefill(prefix, features, long=long)
        prefill_s += time.perf_counter() - start
        found: list[Generated] = []
        for at in range(0, len(rest), at_once):
            chunk = slice(at, at + at_once)
            made, chunk_s = backend.decode(shared, [going_on[i] for i in rest[chunk]], to[chunk])
            found += made
            prefill_s += chunk_s
        return found

    going_on = {i: list(branch) for i, branch in enumerate(branches)}
    with backend.running():
        begin = time.perf_counter()
        features = backend.encode_image(inputs)
        vision_s = time.perf_counter() - begin
        if trained is None:
            return behind(features, range(len(branches)), limits, False), {"vision": vision_s, "prefill": prefill_s}
        # The token chosen at the last trained position is the last one of the short kind.
        room = [trained + 1 - len(prefix.ids) - len(branch) for branch in branches]
        short = [i for i, left in enumerate(room) if left > 0]
        made = behind(features, short, [min(limits[i], room[i]) for i in short], False)
        done = dict(zip(short, made, strict=True))
        left = {i: limits[i] - (len(done[i].ids) if i in done else 0) for i in range(len(branches))}
        # One that stopped has a step more than tokens.
        grown = [i for i in left if i not in done or (left[i] > 0 and done[i].steps == len(done[i].ids))]
        for i in grown:
            going_on[i] += done[i].ids if i in done else []
        for i, tail in zip(grown, behind(features, grown, [left[i] for i in grown], True), strict=True):
            done[i] = joined(done[i], tail) if i in done else tail
    return [done[i] for i in range(len(branches))], {"vision": vision_s, "prefill": prefill_s}


def joined(head: Generated, tail: Generated) -> Generated:
    """One answer made in two parts."""
    return Generated(head.ids + tail.ids, head.first, head.steps + tail.steps, head.decode_s + tail.decode_s)
