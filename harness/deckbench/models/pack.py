"""Rows of a batch: each frame's prefix once, then its questions as branches that do not see each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deckbench.models.loss import IGNORE

PADDING = -1
SHARED = 0


@dataclass(frozen=True)
class Prefix:
    """The part of the prompt that all questions about a frame share, its image expanded to as many ids as features.

    ids, positions: one of each a token. next_position: where a question goes on.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]

    @property
    def next_position(self) -> int:
        return self.positions[-1] + 1


@dataclass(frozen=True)
class Branch:
    """One question (header included) and the answer to learn, its stop token included; no answer when asking."""

    question: Sequence[int]
    answer: Sequence[int] = ()


@dataclass(frozen=True)
class Picture:
    """One frame's place in a batch: its prefix, which of the batch's pixel tensors, and the questions about it."""

    prefix: Prefix
    pixels: int
    branches: Sequence[Branch]

    @property
    def length(self) -> int:
        """Tokens of prefix and branches."""
        return len(self.prefix.ids) + sum(len(branch.question) + len(branch.answer) for branch in self.branches)


def branch_mask(picture: Tensor, branch: Tensor) -> Tensor:
    """(batch, 1, length, length) bool: True where a row's position may attend to a column's.

    picture: (batch, length) int64, 0.. within a row, -1 for padding. branch: the same shape, 0 for a picture's shared
    prefix, 1.. for its questions. A position sees itself and what came before it in its picture's prefix and in its
    own branch. Padding sees padding, for a row of the mask without any True is undefined in softmax.
    """
    length = branch.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=branch.device).tril()
    same = picture[:, :, None] == picture[:, None, :]
    own = branch[:, :, None] == branch[:, None, :]
    shared = (branch == SHARED)[:, None, :]
    return (same & (own | shared) & causal)[:, None]


def fill_rows(lengths: Sequence[int]) -> list[list[int]]:
    """Pictures grouped into rows no longer than the longest picture: little padding, whatever the lengths.

    First fit by falling length, ties in the given order; a pure function of the lengths.
    """
    most = max(lengths)
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((row for row, free in enumerate(room) if free >= lengths[index]), None)
        if row is None:
            rows.append([])
            room.append(most)
            row = len(rows) - 1
        rows[row].append(index)
        room[row] -= lengths[index]
    return rows


def joined(frames: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The same tensors of several frames behind one another."""
    return {name: torch.cat([frame[name] for frame in frames]) for name in frames[0]}


def pack(rows: Sequence[Sequence[Picture]], pad_id: int) -> dict[str, Tensor]:
    """The tensors of a batch but the pixels, padded on the right.

    Returns input_ids, position_ids, labels (all (rows, length) int64), attention_mask ((rows, 1, length, length)
    bool) and pixel_index ((pictures,) int64: whose pixels stand at the images of input_ids, read row by row). Every
    branch starts at the position behind the prefix, exactly as if it were asked alone. Labels are set on the answers
    only.
    """
    ids: list[list[int]] = []
    positions: list[list[int]] = []
    labels: list[list[int]] = []
    pictures: list[list[int]] = []
    branches: list[list[int]] = []
    for row in rows:
        columns: tuple[list[int], ...] = ([], [], [], [], [])
        for place, picture in enumerate(row):
            prefix = picture.prefix
            parts = [(prefix.ids, prefix.positions, [IGNORE] * len(prefix.ids), SHARED)]
            for number, branch in enumerate(picture.branches, 1):
                tokens = (*branch.question, *branch.answer)
                steps = tuple(range(prefix.next_position, prefix.next_position + len(tokens)))
                parts.append((tokens, steps, [*[IGNORE] * len(branch.question), *branch.answer], number))
            for tokens, steps, wanted, number in parts:
                filled = (tokens, steps, wanted, [place] * len(tokens), [number] * len(tokens))
                for column, values in zip(columns, filled, strict=True):
                    column.extend(values)
        for column, into in zip(columns, (ids, positions, labels, pictures, branches), strict=True):
            into.append(column)
    length = max(len(row) for row in ids)

    def padded(lists: list[list[int]], value: int) -> Tensor:
        return torch.tensor([row + [value] * (length - len(row)) for row in lists], dtype=torch.int64)

    return {
        "input_ids": padded(ids, pad_id),
        "position_ids": padded(positions, 0),
        "labels": padded(labels, IGNORE),
        "attention_mask": branch_mask(padded(pictures, PADDING), padded(branches, PADDING)),
        "pixel_index": torch.tensor([picture.pixels for row in rows for picture in row], dtype=torch.int64),
    }
