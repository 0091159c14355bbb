"""Which frames were made from one picture, by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from deckbench.yolo.frame import Frame
from deckbench.yolo.sources import shared_sources, source_name

HASH = "69683d2808fb19746df002ea288e651f"
NAMES = {
    f"deck_1_jpg.rf.{HASH}": "deck_1",
    f"deck.1_PNG.rf.{HASH}": "deck.1",
    "deck_1_0_0_320_240": "deck_1",
    f"deck_1_160_0_480_240_jpg.rf.{HASH}": "deck_1",
    "deck__1__0___824": "deck",
    "deck_1": None,
    "cam_2024_05_01_10_30_15": None,  # a time
    "cam_320_240_0_0": None,  # no corners
    "cam_1_2_3_4": None,  # a counter
    "_jpg.rf.": None,
}


def frame(name: str, group: str | None = None) -> Frame:
    return Frame(
        id=f"images/{name}",
        path=Path(f"images/{name}.jpg"),
        labels=None,
        width=320,
        height=240,
        boxes=(),
        split=None,
        group=group,
        time_s=None,
        step=None,
        anomalies=None,
        sha256="0" * 64,
    )


@pytest.mark.parametrize("name", NAMES)
def test_source_names(name: str) -> None:
    assert source_name(frame(name)) == NAMES[name]


def test_only_shared_sources_count() -> None:
    """A source with one frame says nothing; the picture itself belongs to what was made from it."""
    names = ["a_0_0_320_240", "a_160_0_480_240", "a", f"b_jpg.rf.{HASH}", "c"]
    assert shared_sources([frame(name) for name in names]) == ["a", "a", "a", None, None]
