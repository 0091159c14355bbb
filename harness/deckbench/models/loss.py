"""What a network with answers to learn returns, whatever its family."""

from __future__ import annotations

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
