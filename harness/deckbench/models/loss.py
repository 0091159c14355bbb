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
    logits = head(hidden[:, :-1][chosen])
    total = F.cross_entropy(logits.float(), wanted[chosen], reduction="sum")
    return Output(total / (chosen.sum().clamp(min=1) if count is None else count), logits)
