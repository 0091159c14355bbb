"""Rows of a batch: a frame's prefix once, then any number of questions as branches that do not see each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deckbench.models.glm4v.model import IGNORE
from deckbench.models.glm4v.prompt import Prefix

PADDING = -1
SHARED = 0


@dataclass(frozen=True)
class Branch:
    """One question (header included) and the answer to learn, its stop token included; no answer when asking."""

    question: Sequence[int]
    answer: Sequence[int] = ()


def branch_mask(branch: Tensor) -> Tensor:
    """(batch, 1, length, length) bool: True where a row's position may attend to a column's.

    branch: (batch, length) int64, 0 for the shared prefix, 1.. for the questions, -1 for padding. A position sees
    itself and what came before it in the prefix and in its own branch. Padding sees its row's past too, for a row of
    the mask without any True is undefined in softmax; nothing sees padding but padding.
    """
    length = branch.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=branch.device).tril()
    own = branch[:, :, None] == branch[:, None, :]
    shared = (branch == SHARED)[:, None, :]
    return ((own | shared) & causal)[:, None]


def pack(prefix: Prefix, rows: Sequence[Sequence[Branch]], pad_id: int) -> dict[str, Tensor]:
    """The text tensors of a batch, one row a frame, padded on the right.

    Returns input_ids, position_ids, labels (all (batch, length) int64) and attention_mask ((batch, 1, length,
    length) bool). Every branch starts at the position behind the prefix, exactly as if it were asked alone. Labels
    are set on the answers only.
    """
    ids, positions, labels, branches = [], [], [], []
    for row in rows:
        row_ids, row_positions = list(prefix.ids), list(prefix.positions)
        row_labels, row_branches = [IGNORE] * len(row_ids), [SHARED] * len(row_ids)
        for number, branch in enumerate(row, 1):
            length = len(branch.question) + len(branch.answer)
            row_ids += [*branch.question, *branch.answer]
            row_labels += [*[IGNORE] * len(branch.question), *branch.answer]
            row_positions += range(prefix.next_position, prefix.next_position + length)
            row_branches += [number] * length
        ids.append(row_ids)
        positions.append(row_positions)
        labels.append(row_labels)
        branches.append(row_branches)
    length = max(len(row) for row in ids)

    def padded(lists: list[list[int]], value: int) -> Tensor:
        return torch.tensor([row + [value] * (length - len(row)) for row in lists], dtype=torch.int64)

    return {
        "input_ids": padded(ids, pad_id),
        "position_ids": padded(positions, 0),
        "labels": padded(labels, IGNORE),
        "attention_mask": branch_mask(padded(branches, PADDING)),
    }
