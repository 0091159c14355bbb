"""Builds on pools that change meanwhile, and on names that look alike and are written in other Unicode forms."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import pytest

from deckbench import ontology
from deckbench.build import build_dataset
from deckbench.build import dataset as steps
from deckbench.errors import InputError
from deckbench.pool.split import split_pool
from deckbench.yolo.read import read_pool
from tests.build.build_helpers import write_pool
from tests.yolo import pool_helpers

NFC, NFD = (unicodedata.normalize(form, "Überlauf") for form in ("NFC", "NFD"))
ONTOLOGY = """
name: mine
about: {{en: a deck, zh: 台面}}
exhaustive: true
nouns: {{plate: {{en: plate, zh: 板}}, deck: {{en: deck, zh: 台}}}}
steps: {{{step}: {{en: setup, zh: 准备}}}}
classes:
  plate: {{name: {{en: plate, zh: 板}}, nouns: [plate], verdict: normal}}
  {spill}: {{name: {{en: spill, zh: 漏}}, nouns: [deck], verdict: depends, anomaly_at: [{step}]}}
"""


@pytest.mark.parametrize("task", ["ot2-concept@1", "ot2-guided@1", "ot2-scene@1"])
@pytest.mark.parametrize("how", ["gone", "a-folder", "a-text", "its-folder-is-gone"])
def test_frames_that_vanish_during_a_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, how: str
) -> None:
    root = write_pool(tmp_path / "p", sessions=2)
    read = steps.map_classes

    def then_vanish(*arguments: object) -> dict[int, str]:
        for frame in (root / "images").iterdir():
            frame.unlink()
            if how == "a-folder":
                frame.mkdir()
            elif how == "a-text":
                frame.write_text("moved\n")
        if how == "its-folder-is-gone":
            (root / "images").rmdir()
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(steps, "map_classes", then_vanish)
    with pytest.raises(InputError) as caught:
        build_dataset(task, pool=root, out=tmp_path / "d", split="test-only", workers=1)
    assert "images" in str(caught.value.where) and caught.value.fix
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p"], "nothing is half-written"


@pytest.mark.parametrize(("in_pool", "in_ontology"), [(NFC, NFD), (NFD, NFC)])
def test_names_in_another_unicode_normal_form(tmp_path: Path, in_pool: str, in_ontology: str) -> None:
    root = pool_helpers.write_pool(
        tmp_path / "p",
        yaml=f"train: images\nnames: [plate, {in_pool}]\n",
        frames={"a.png": "1 0.5 0.5 0.2 0.2\n", "b.png": "0 0.5 0.5 0.2 0.2\n"},
        files={"frames.csv": f"frame,step\na.png,{in_pool}\nb.png,{in_pool}\n"},
    )
    file = tmp_path / "ontology.yaml"
    file.write_text(ONTOLOGY.format(step=in_ontology, spill=in_ontology), encoding="utf-8")
    pool, mine = read_pool(root), ontology.load_ontology(file)
    assert ontology.map_classes(pool.names, [0, 1], mine, root) == {0: "plate", 1: in_ontology}
    assert mine.verdict(in_ontology, pool.frames[0].step) == "anomaly"
    made = build_dataset("ot2-scene@1", pool=root, out=tmp_path / "d", ontology=file, split="test-only")
    assert made.content["params"]["counts"]["test"]


def test_two_spellings_of_one_class_are_told_apart_by_no_unicode_form(tmp_path: Path) -> None:
    file = tmp_path / "ontology.yaml"
    text = ONTOLOGY.format(step="setup", spill=NFC)
    file.write_text(text + f"  {NFD}: {{name: {{en: x, zh: y}}, nouns: [deck], verdict: normal}}\n", encoding="utf-8")
    with pytest.raises(InputError, match="also a spelling of"):
        ontology.load_ontology(file)


def test_every_step_says_that_the_pool_has_notices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_pool(tmp_path / "p", sessions=3)
    shutil.copy(root / "labels/s00f0.txt", root / "labels/lost.txt")
    split_pool(root, out=tmp_path / "split")
    made = build_dataset("ot2-scene@1", pool=root, out=tmp_path / "d", split=str(tmp_path / "split"))
    lines = [line for line in capsys.readouterr().err.splitlines() if "1 notice (1 label-without-picture)" in line]
    assert len(lines) == 2 and "labels/lost.txt" in lines[0]
    assert made.observed["pool_notices"] == {"label-without-picture": 1}
    (root / "labels/lost.txt").unlink()
    clean = build_dataset("ot2-scene@1", pool=root, out=tmp_path / "e", split=str(tmp_path / "split"))
    assert clean.observed["pool_notices"] == {} and clean.content_hash == made.content_hash
