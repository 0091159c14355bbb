"""The scorer proves itself on a dataset before a suite scores anything: gold is right, shuffled gold is chance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from deckbench import grade
from deckbench.errors import InputError
from deckbench.record import selftest, table
from deckbench.record.selftest import check_scorer


def make(folder: Path, *, open_gold: str = "a rack", count: int = 40) -> Path:
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "images" / "f.png")
    lines = []
    for i in range(count):
        ask = "Is it normal?\nA. yes\nB. no\nAnswer with A or B only."
        for kind, text, gold in (("choice", ask, "AB"[i % 2]), ("open", "What is it?", open_gold)):
            turns = [{"role": "user", "content": text, "image": "images/f.png"}, {"role": "assistant", "content": gold}]
            lines.append({"messages": turns, "id": f"{kind}{i}", "kind": kind, "group": f"g{i % 8}"})
    (folder / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def test_a_sound_dataset_passes(tmp_path: Path) -> None:
    found = check_scorer(make(tmp_path / "data"), seed=1)
    assert found["gold"] == 1 and found["chance"] == 0.5 and 0.2 < found["shuffled"] < 0.8


def test_a_gold_answer_that_is_not_right_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gold answer of 'open0'.*40 of 80"):
        check_scorer(make(tmp_path / "data", open_gold="?!"))


def test_grading_that_takes_everything_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    always = grade.Graded("A", right=True, substring=True, reason="")
    monkeypatch.setattr(table.grade, "grade", lambda *_, **__: always)
    with pytest.raises(InputError, match=r"shuffled gold answers score 1.000 where chance is 0.500"):
        check_scorer(make(tmp_path / "data"))
    assert selftest.MOST > 80
