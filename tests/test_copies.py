"""Near-duplicates that are copies, and those that are another moment of one camera."""

from __future__ import annotations

from pathlib import Path

import pytest

from deckbench.likeness import Copy
from deckbench.likeness.copies import ImageContext, same_state
from deckbench.yolo.frame import Box4

PLATE: tuple[str, Box4] = ("plate", (0.2, 0.2, 0.4, 0.4))
SPILL: tuple[str, Box4] = ("spill", (0.6, 0.6, 0.7, 0.7))


def near(*move: float) -> Copy:
    """A near-duplicate aligned by scale and shift."""
    sx, sy, tx, ty = move or (1.0, 1.0, 0.0, 0.0)
    return Copy(Path("train"), Path("test"), "near", 0.97, 1.0, (sx, sy, tx, ty))


@pytest.mark.parametrize(
    ("objects", "same"),
    [
        ((PLATE, SPILL), True),
        ((SPILL, PLATE), True),
        ((PLATE,), False),
        ((PLATE, ("spill", (0.63, 0.6, 0.73, 0.7))), False),
        ((PLATE, ("bin", SPILL[1])), False),
        ((PLATE, PLATE), False),
        (None, True),
    ],
)
def test_a_state_is_what_lies_where(objects: tuple[tuple[str, Box4], ...] | None, same: bool) -> None:
    assert same_state(near(), ImageContext("g", (PLATE, SPILL)), ImageContext("h", objects)) is same


def test_boxes_move_with_the_image() -> None:
    """A shifted or slightly cropped copy has its boxes elsewhere."""
    moved = ("plate", (0.1, 0.2, 0.3, 0.4))
    assert not same_state(near(), ImageContext("g", (PLATE,)), ImageContext("h", (moved,)))
    assert same_state(near(1.0, 1.0, 0.1, 0.0), ImageContext("g", (PLATE,)), ImageContext("h", (moved,)))
    zoomed = ("plate", tuple((value - 0.5) / 0.9 + 0.5 for value in PLATE[1]))
    assert same_state(near(0.9, 0.9, 0.0, 0.0), ImageContext("g", (PLATE,)), ImageContext("h", (zoomed,)))  # type: ignore[arg-type]


def test_classes_of_two_ontologies_are_not_compared() -> None:
    renamed = ImageContext("h", (("platte", PLATE[1]),), ontology="3f2a")
    assert same_state(near(), ImageContext("g", (PLATE,)), renamed)
    assert not same_state(near(), ImageContext("g", (PLATE,), ontology="3f2a"), renamed)
