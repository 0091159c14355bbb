"""What a network with answers to learn returns, whatever its family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

IGNORE = -100  # label of a position that has no loss, as everywhere in torch and transformers


@dataclass
class Output:
    """loss: scalar or None. logits: (rows, length, vocabulary), or (labelled positions, vocabulary) with labels."""

    loss: Tensor | None
    logits: Tensor

    def __getitem__(self, key: str | int) -> Any:
        """transformers' Trainer reads outputs by name or by place."""
        return getattr(self, key) if isinstance(key, str) else (self.loss, self.logits)[key]


def mean_loss(logits: Tensor, wanted: Tensor, count: Tensor | int | None) -> Output:
    """The loss of `wanted` (tokens,) under logits (tokens, vocabulary): the mean, or the sum over `count` if given."""
    total = F.cross_entropy(logits.float(), wanted, reduction="sum")
    return Output(total / (max(1, len(wanted)) if count is None else count), logits)


@contextmanager
def answers_only(layer: nn.Module, labels: Tensor | None) -> Iterator[None]:
    """Within, the MLP of a language model's last layer runs only where `answer_loss` looks, and gives zeros elsewhere.

    It is most of the layer's work and treats every position by itself. labels: (rows, length) int64; None: all is run.
    """
    # Checkpointed, the layer is run once more in the backward pass, when this is over.
    if labels is None or getattr(layer, "gradient_checkpointing", False):
        yield
        return
    looked_at = F.pad(labels[:, 1:] != IGNORE, (0, 1))

    def spread(_: Any, __: Any, made: Tensor) -> Tensor:
        return made.new_zeros(*looked_at.shape, made.shape[-1]).index_put((looked_at,), made)

    hooks = [
        layer.mlp.register_forward_pre_hook(lambda _, given: (given[0][looked_at],)),
        layer.mlp.register_forward_hook(spread),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def answer_loss(head: nn.Module, hidden: Tensor, labels: Tensor | None, count: Tensor | int | None) -> Output:
    """Logits and loss out of the last layer's states.

    head: the output layer. hidden: (rows, length, width). labels: (rows, length) int64 or None.
    With labels, the head runs only where a label is set and the loss is the mean over those tokens (the sum over
    `count` when given, so that gradient accumulation weighs all tokens alike).
    """
    if labels is None:
        return Output(None, head(hidden))
    wanted = labels[:, 1:]
    chosen = wanted != IGNORE
    return mean_loss(head(hidden[:, :-1][chosen]), wanted[chosen], count)
