"""The picture of where anomalies are lost: its widths are the shares, and names are text."""

from __future__ import annotations

from xml.etree import ElementTree

from deckbench.record.location import located
from deckbench.report.board import Row
from deckbench.report.locations import FILLS, LEFT, WIDTH, chart

SVG = "{http://www.w3.org/2000/svg}"


def rows(wrong: set[int]) -> list[tuple[str, ...]]:
    """Ten anomalies in five sessions."""
    return [("choice", f"f{i}", "spill", "true", "false" if i in wrong else "true", f"g{i % 5}") for i in range(10)]


def test_bars_are_the_shares() -> None:
    found = located([rows({0}), rows({1, 2}), rows({0, 1, 2, 3, 4})])
    assert found is not None and found.found.k == 5
    assert found.place[:6] == ["perception", "localisation", "localisation", "judgement", "judgement", ""]
    row = Row("<b>model</b>", "f", "S1+S2", "m", False, "", {})
    tree = ElementTree.fromstring(str(chart([(row, "same", found), (row, "shifted", found)])))
    widths: dict[str, float] = {}
    for box in tree.iter(f"{SVG}rect"):
        if float(box.attrib["height"]) > 11:
            widths[box.attrib["fill"]] = float(box.attrib["width"]) / (WIDTH - LEFT - 10)
    assert {name: round(widths[fill], 3) for name, fill in FILLS.items()} == {
        **{"found": 0.5, "perception": 0.1, "localisation": 0.2, "judgement": 0.2}
    }
    assert any(text.text == "<b>model</b> S1+S2, shifted" for text in tree.iter(f"{SVG}text"))
    tips = [title.text or "" for title in tree.iter(f"{SVG}title")]
    assert any("judgement 0.20" in tip and "2 of 10" in tip for tip in tips)


def test_nothing_in_common_has_no_picture() -> None:
    assert located([rows(set()), rows(set()), []]) is None
