"""The quality of question banks: what leaks, what repeats, and what `build` and `audit` make of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deckbench.annotate.audit import audit_bank
from deckbench.bankquality import holds, quality
from deckbench.build import build_dataset
from deckbench.errors import InputError
from deckbench.questions import is_bank
from deckbench.task import load_task, published
from tests.build.build_helpers import write_pool
from tests.test_textbank import bank

SHARED = "Q: What is it for?\nA: {}\n"
TOLD = "Q: Which vessel holds the used tips?\nA: the bin\n"


@pytest.mark.parametrize("ref", sorted(published()))
def test_published_banks_do_not_leak(ref: str) -> None:
    task = load_task(ref)
    found = quality(task.bank, task.ontology)
    assert found["passed"] and not found["duplicates"] and found["leak"] == 0


def test_a_question_that_one_class_is_asked_is_told_by_its_text(tmp_path: Path) -> None:
    folder = bank(tmp_path, trash_bin=f"{SHARED.format('waste')}\n{TOLD}", tip_rack=SHARED.format("tips"))
    found = audit_bank(folder)
    (leak,) = found["told_by_text"]
    assert leak["where"] == f"{folder / 'trash_bin.txt'}:4" and leak["class"] == "trash_bin"
    assert found["leak"] == pytest.approx(1 / 3) and not found["passed"]
    assert found["text_only_accuracy"] == pytest.approx(2 / 3) and found["chance"] == pytest.approx(1 / 3)
    assert found["per_class"]["trash_bin"] == {"open": 2} and found["per_class"]["tip_rack"] == {"open": 1}
    assert audit_bank(folder, max_leak=0.5)["passed"]


def test_an_answer_in_its_question(tmp_path: Path) -> None:
    folder = bank(
        tmp_path,
        trash_bin="Q: Is this a trash bin or a rack?\nA: a trash bin\n",
        tip_rack="Q: Is this a trash bin or a rack?\nA: a tip rack\n",
    )
    found = audit_bank(folder)
    assert [one["class"] for one in found["answer_in_question"]] == ["trash_bin"]


@pytest.mark.parametrize(
    ("question", "answer", "told"),
    [
        ("Is this a Bin?", "bin.", True),
        ("Are these cabins?", "bin", False),
        ("这是废料桶吗?", "废料桶。", True),
        ("这是什么?", "废料桶", False),
        ("What?", ".", False),
    ],
)
def test_what_holds_an_answer(question: str, answer: str, told: bool) -> None:
    assert holds(question, answer) is told


def test_repeated_questions(tmp_path: Path) -> None:
    asked = ("What do people use it for?", "what do people  use it FOR", "What do people use this for?")
    text = "\n\n".join(f"Q: {question}\nA: {answer}" for question, answer in zip(asked, "xyz", strict=True))
    folder = bank(tmp_path, trash_bin=text, tip_rack=SHARED.format("tips"))
    found = audit_bank(folder)
    at = [f"{folder / 'trash_bin.txt'}:{line}" for line in (1, 4, 7)]
    assert found["duplicates"] == [[at[0], at[1]]] and [at[0], at[2]] in found["near_duplicates"]
    assert not found["passed"]


def test_balance_of_verdict_questions(tmp_path: Path) -> None:
    verdict = "Q: Is the tip fit?\nnormal: yes\nanomaly: no\nA: no\n"
    found = audit_bank(bank(tmp_path, damaged_tip=verdict), task="ot2-guided@1")
    assert found["balance"] == {"normal": 0, "anomaly": 1} and found["passed"] and found["leak"] == 0


def test_build_refuses_a_bank_that_leaks(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", sessions=5)
    folder = bank(tmp_path / "qa", trash_bin=f"{SHARED.format('waste')}\n{TOLD}", white_plate=SHARED.format("samples"))
    out = tmp_path / "data"
    with pytest.raises(InputError, match="tell their answer") as caught:
        build_dataset("ot2-concept@1", pool=pool, out=out, split="pool", qa=folder, workers=1)
    assert f"{folder / 'trash_bin.txt'}:4: Which vessel" in str(caught.value) and not out.exists()
    with pytest.raises(InputError, match="no text in zh") as caught:
        build_dataset("ot2-concept@1", pool=pool, out=out, split="pool", qa=folder, workers=1, lang="zh")
    assert str(caught.value.where).endswith("trash_bin.txt:1")
    build_dataset("ot2-concept@1", pool=pool, out=out, split="pool", qa=folder, workers=1, max_leak=0.5)
    assert out.exists()


def test_a_yaml_bank_has_lines_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "questions:\n  - id: a\n    kind: open\n    about: kind\n    ask: {en: 'A bin, or a rack?', zh: 这是什么?}\n"
        "    answer: {en: a bin, zh: 桶}\n    classes: [trash_bin]\n"
    )
    assert audit_bank(path)["told_by_text"][0]["where"] == f"{path}:2"


def test_banks_and_datasets_are_told_apart(tmp_path: Path) -> None:
    assert is_bank(bank(tmp_path / "qa", trash_bin=SHARED))
    for name, made in (("data", ("test.jsonl", "samples.csv")), ("scenes", ("scenes.jsonl", "transcript.jsonl"))):
        (tmp_path / name).mkdir()
        for file in made:
            (tmp_path / name / file).write_text("")
    assert not is_bank(tmp_path / "data") and is_bank(tmp_path / "scenes") and not is_bank(tmp_path / "nothing")


def test_the_report_is_json(tmp_path: Path) -> None:
    json.dumps(audit_bank(bank(tmp_path, trash_bin=SHARED.format("waste"))), allow_nan=False)
