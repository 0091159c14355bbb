"""Question banks as plain text, one file a class: what is read, what is refused, and how it is asked."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from deckbench.errors import InputError
from deckbench.questions import ClassQuestion, load_bank, render
from deckbench.task import load_task
from deckbench.textbank import TextQuestion, format_text_bank, read_text_bank

BOTH = """# Edit freely.
Q: What is it used for?
A: It takes the used tips,
   all of them.
问: 它有什么用途?
答: 收集用过的吸头。
Q: What is shown?
A: {{ a bin }}

问题2: 图中是什么?
答案:废料桶
"""
VERDICT = "Q: Is the {noun} in the box fine?\nnormal: yes\nanomaly: no\nA: {answer}\n"


def bank(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def test_questions_in_one_language_or_both(tmp_path: Path) -> None:
    one, two, three = read_text_bank(bank(tmp_path, trash_bin=BOTH) / "trash_bin.txt")
    assert one.parts["answer", "en"] == "It takes the used tips, all of them." and one.langs == ("en", "zh")
    assert one.parts["ask", "zh"] == "它有什么用途?" and one.line == 2
    assert two.langs == ("en",) and three.langs == ("zh",) and three.parts["answer", "zh"] == "废料桶"
    again = tmp_path / "again.txt"
    again.write_text(format_text_bank("trash_bin", [one, two, three]), encoding="utf-8")
    assert [question.parts for question in read_text_bank(again)] == [one.parts, two.parts, three.parts]


def test_the_lab_s_own_files(tmp_path: Path) -> None:
    """`Q:` and `A:` with Chinese behind them."""
    (found,) = read_text_bank(bank(tmp_path, bin="\ufeffQ: 这是什么?\nA: 垃圾桶\n") / "bin.txt")
    assert found.langs == ("zh",) and found.parts["answer", "zh"] == "垃圾桶"


def test_a_letter_or_number_is_in_the_language_of_its_question(tmp_path: Path) -> None:
    (found,) = read_text_bank(bank(tmp_path, bin="问: 有几个?\nA: 12\n") / "bin.txt")
    assert found.parts == {("ask", "zh"): "有几个?", ("answer", "zh"): "12"}


def test_a_bank_of_texts_is_no_template(tmp_path: Path) -> None:
    questions = load_bank(bank(tmp_path, trash_bin=BOTH)).questions
    assert [question.id for question in questions] == ["trash_bin-1", "trash_bin-2", "trash_bin-3"]
    assert render(questions[1].answer.get("en"), {}) == "{{ a bin }}"
    assert isinstance(questions[1], ClassQuestion) and questions[1].only == "en"
    assert questions[1].where.endswith("trash_bin.txt:7")
    assert "source" not in questions[1].model_dump(include={"id"}) and questions[0].classes == ("trash_bin",)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", None, "no question"),
        ("hello\n", 1, "belongs to no question"),
        ("A: a bin\n", 1, "before any question"),
        ("Q: What?\n", 1, "without `A:`"),
        ("Q: What?\nA:\n", 2, "no text"),
        ("Q: What?\nA: x\nA: y\n", 3, "second `A:`"),
        ("Q: Which?\nA. this\nB. that\nA: A\n", 2, "lettered options"),
        ("Q: Fine?\nnormal: yes\nA: yes\n", 1, "without `anomaly:`"),
        ("Q: Fine?\nnormal: yes\nanomaly: yes\n", 1, "the same text"),
        ("Q: Fine?\nnormal: yes\nanomaly: no\nA: maybe\n", 1, "neither of its options"),
        ("Q: What?\nA: x\n答: 桶\n", 1, "in its language"),
    ],
)
def test_what_is_refused(text: str, line: int | None, what: str, tmp_path: Path) -> None:
    path = bank(tmp_path, trash_bin=text) / "trash_bin.txt"
    with pytest.raises(InputError, match=what) as caught:
        load_bank(path)
    assert caught.value.where == (str(path) if line is None else f"{path}:{line}")


@pytest.mark.parametrize("line", ["Q" + " " * 3_000_000, "Q1" * 1_000_000, " " * 3_000_000 + "x", "Q" + "1" * 10**6])
def test_a_long_line_takes_no_time(line: str, tmp_path: Path) -> None:
    began = time.process_time()
    with pytest.raises(InputError):
        load_bank(bank(tmp_path, trash_bin=line) / "trash_bin.txt")
    assert time.process_time() - began < 3


def test_a_verdict_question_is_put_about_all_that_share_the_noun(tmp_path: Path) -> None:
    folder = bank(tmp_path, damaged_tip=VERDICT.format(noun="tip", answer="no"))
    task = load_task("ot2-guided@1", qa=folder)
    (question,) = task.bank.questions
    assert question.kind == "choice" and question.about == "verdict"
    assert question.classes == ("single_channel_tip", "multi_channel_tip", "damaged_tip")
    assert task.ref.startswith("ot2-guided@1+")


def test_an_answer_that_contradicts_the_ontology(tmp_path: Path) -> None:
    folder = bank(tmp_path, damaged_tip=VERDICT.format(noun="tip", answer="yes"))
    with pytest.raises(InputError, match=r"means normal.*'damaged_tip' is anomaly") as caught:
        load_task("ot2-guided@1", qa=folder)
    assert str(caught.value.where).endswith("damaged_tip.txt:1")


def test_a_file_of_no_class(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'nothing' is not a class"):
        load_task("ot2-concept@1", qa=bank(tmp_path, nothing="Q: What?\nA: x\n"))


def test_a_class_in_another_spelling(tmp_path: Path) -> None:
    task = load_task("ot2-concept@1", qa=bank(tmp_path, **{"Trash Bin": "Q: What?\nA: x\n"}))
    assert task.bank.questions[0].classes == ("trash_bin",)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = TextQuestion({("ask", "en"): "a\n b?", ("answer", "en"): "x"})
    assert (
        read_text_bank(bank(tmp_path, x=format_text_bank("x", [made], "head")) / "x.txt")[0].text("ask", "zh") == "a b?"
    )
