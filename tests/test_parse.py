"""Strict parsing: what is accepted, and that nothing else ever is."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deckbench.parse import description, parse, parse_choice, parse_scene

# Texts near the border of what is accepted, so that the properties are tried where they can break.
PIECES = st.sampled_from(
    [
        "A",
        "B",
        "a",
        "b",
        "AB",
        "A.",
        "(B)",
        "Ａ",
        "Ｂ",
        "Answer:",
        "答案:",
        "选",
        "the answer is",
        "**",
        "or",
        "and",
        ",",
        ".",
        " ",
        "\n",
        "A tip",
        "yes",
        "no",
        "Verdict:",
        "normal",
        "结论:异常",
        "<think>",
        "</think>",
        "\\boxed{",
        "}",
        "```",
        "[",
        "]",
        "- ",
        " is correct",
        "not ",
        "I choose ",
    ]
)
NEAR = st.lists(PIECES, max_size=6).map("".join) | st.lists(PIECES, max_size=6).map(" ".join) | st.text(max_size=40)


@pytest.mark.parametrize(
    "text",
    [
        "A",
        " A\n",
        "a",
        "A.",
        "A)",
        "(A)",
        "( A )",
        "Answer: A",
        "answer: a",
        "The answer is A.",
        "**A**",
        "Answer: **A**",
        "Ａ",
        "(Ａ)",
        "答案:A",
        "答案：A",
        "答案是A。",
        "选A",
        "选择A",
        "选项:A",
        "A。",
        "'A'",
        "yes",
        "Yes.",
        "**yes**",
        "Answer: yes",
        "A. yes",
        "(A) yes",
    ],
)
def test_accepted_as_a(text: str) -> None:
    assert parse_choice(text, "yes", "no") == "A"
    assert parse_choice(re.sub("(?i)yes", "no", text), "no", "yes") == "A"


@pytest.mark.parametrize("text", ["B", "(B)", "Answer: B", "选B", "no", "B. no", "Ｂ."])
def test_accepted_as_b(text: str) -> None:
    assert parse_choice(text, "yes", "no") == "B"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "AB",
        "ANSWER: AB",
        "A B",
        "A or B",
        "A, B",
        "A/B",
        "A tip is bent",
        "A plate.",
        "C",
        "Answer:",
        "选",
        "答案",
        "A. no",
        "yes no",
        "yes, it is",
        "not yes",
        "A\nB",
        "Answer: A. Answer: B.",
        "Apple",
        "Ⓐ",
        "ª",
        "AA",
        "A? B.",
        "none",
    ],
)
def test_unparsed(text: str) -> None:
    assert parse_choice(text, "yes", "no") is None


def test_an_option_inside_a_longer_word_is_not_that_option() -> None:
    assert parse_choice("unrecoverable", "recoverable", "lost") is None
    assert parse_choice("unrecoverable", "recoverable", "unrecoverable") == "B"
    assert parse_choice("recoverable", "unrecoverable", "recoverable") == "B"


def test_the_article_is_not_the_letter() -> None:
    assert parse_choice("A tip is missing", "a tip is missing", "all tips are there") == "A"
    assert parse_choice("A tip is missing", "all tips are there", "a tip is missing") == "B"
    assert parse_choice("A spill", "damaged tip", "tip rack") is None


def test_two_readings_are_none() -> None:
    assert parse_choice("A", "B", "A") is None
    assert parse_choice("yes", "yes", "Yes.") is None


@settings(deadline=None, derandomize=True, max_examples=400)
@given(NEAR, NEAR, NEAR)
def test_choice_never_raises_and_mirrors(text: str, a: str, b: str) -> None:
    """Any text is fine; swapping the options swaps an answer given by text and keeps one given by letter."""
    got, swapped = parse_choice(text, a, b), parse_choice(text, b, a)
    assert got in {"A", "B", None}
    if got is not None and swapped is not None and got == swapped:
        assert got in text.upper().translate({0xFF21: "A", 0xFF22: "B"})


@settings(deadline=None, derandomize=True, max_examples=400)
@given(NEAR)
def test_both_letters_are_never_an_answer(text: str) -> None:
    """With options that hold neither letter, a text with both as words of their own is unparsed."""
    plain = text.translate({0xFF21: "A", 0xFF22: "B"})
    if re.search(r"(?<![A-Za-z])[Aa](?![A-Za-z])", plain) and re.search(r"(?<![A-Za-z])[Bb](?![A-Za-z])", plain):
        assert parse_choice(text, "yes", "no") is None


@settings(deadline=None, derandomize=True, max_examples=400)
@given(NEAR)
def test_an_answer_names_its_letter_or_its_text(text: str) -> None:
    got = parse_choice(text, "yes", "no")
    if got is not None:
        words = re.findall(r"[a-z]+", text.translate({c: c - 0xFEE0 for c in range(0xFF01, 0xFF5F)}).lower())
        assert {"A": {"a", "yes"}, "B": {"b", "no"}}[got] & set(words)
        assert not {"A": {"b", "no"}, "B": {"a", "yes"}}[got] & set(words)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Slot 1: tip rack. Verdict: anomaly.", True),
        ("Slot 1: tip rack.\nVerdict: normal.", False),
        ("verdict: Normal", False),
        ("1号位是吸头盒。结论:异常。", True),
        ("1号位是吸头盒。结论：正常。", False),
        ("Verdict: normal. Verdict: normal.", False),
        ("Verdict: normal. Verdict: anomaly.", None),
        ("Verdict: anomaly. But it may be fine.", None),
        ("no verdict: anomaly", None),
        ("Verdict: anomalyous.", None),
        ("Verdict:", None),
        ("anomaly", None),
        ("", None),
    ],
)
def test_scene(text: str, verdict: bool | None) -> None:
    assert parse_scene(text) is verdict


@settings(deadline=None, derandomize=True, max_examples=400)
@given(NEAR)
def test_scene_never_raises(text: str) -> None:
    assert parse_scene(text) in {True, False, None}
    assert parse_scene(text + ". Verdict: normal. Verdict: anomaly.") is None
    description(text)


# Options are intact (A) and damaged (B). What every careful reader takes for B, and no reader for A.
READ_AS_B = [
    "B",
    "b",
    "B.",
    "(b)",
    "[B]",
    "【B】",
    "（B）",
    "Ｂ。",
    "“B”",
    "«B»".replace("«", "《").replace("»", "》"),
    "$B$",
    r"\boxed{B}",
    r"\boxed{\text{B}}",
    r"$\boxed{B}$",
    r"\(B\)",
    "***B***",
    "*B*",
    "__B__",
    "`B`",
    "**B**.",
    "**B.**",
    "**(B)**",
    "# B",
    "### B",
    "- B",
    "* B",
    "> B",
    "```\nB\n```",
    "```text\nB\n```",
    "'''\nB\n'''",
    "<b>B</b>",
    "<answer>B</answer>",
    "<answer>\nB\n</answer>",
    "<think>A or B? It looks intact.</think>B",
    "<think>Option A says intact.</think>\n\n<answer>B</answer>",
    "<think>hm</think>\n<answer><|begin_of_box|>B<|end_of_box|></answer>",
    "Looks bent.</think>B",
    "<|begin_of_box|>B<|end_of_box|>",
    "B</s>",
    "B<|im_end|>",
    "B<|endoftext|>",
    "Answer: B",
    "ANSWER: B",
    "answer : b",
    "**Answer:** B",
    "**Answer**: B",
    "**Answer: B**",
    "Answer: **B**",
    "Answer: [B]",
    "The answer is B",
    "The answer is **B**.",
    "The answer is: B.",
    "The correct answer is (B).",
    "So, the answer is B.",
    "My answer is B",
    "The best option is B.",
    "Final answer: (B)",
    "Option B",
    "Option B.",
    "option (B)",
    "Choice B",
    "Option B is correct",
    "Option B is the correct answer.",
    "B is correct.",
    "**B** is the correct choice.",
    "B is the answer",
    "I choose B",
    "I choose option B.",
    "I would pick **B**.",
    "I select B.",
    "B: damaged",
    "B) damaged",
    "B. damaged.",
    "B - damaged",
    "B – damaged",
    "B | damaged",
    "B damaged",
    "(B) damaged",
    "[B] damaged",
    "**B.** damaged",
    "**B**: damaged",
    "Answer: B. damaged",
    "The answer is B - damaged.",
    "damaged",
    "Damaged.",
    "**damaged**",
    "Answer: damaged",
    "The answer is damaged.",
    r"\boxed{damaged}",
    '{"answer": "B"}',
    '{"answer": "damaged"}',
    '{"choice": "B. damaged"}',
    '```json\n{"answer": "B"}\n```',
    "答案:B",
    "答案：B。",
    "答案是B。",
    "答案为 B",
    "正确答案是 B",
    "最终答案：B",
    "**答案：** B",
    "答案：**B**",
    "选B",
    "选 B",
    "选择B。",
    "应选B",
    "我选B。",
    "我认为答案是B。",
    "选项B",
    "B选项",
    "B项",
    "B是正确的。",
    "选项B是正确答案。",
    "B：damaged",
    "<think>看起来弯了,选A?</think>选B",
]
# No letter, both letters, a denial, a question, a sentence that only happens to begin so, or an answer that goes on.
NOT_READ = [
    "",
    "I cannot tell",
    "Neither",
    "Neither A nor B",
    "Both",
    "Both A and B",
    "AB",
    "A B",
    "A/B",
    "A, B",
    "B or A",
    "A or B? B",
    "Answer: A or B? B",
    "A: intact\nB: damaged",
    "A. B.",
    "**A** or **B**",
    "(A) or (B)",
    "[A] [B]",
    "B?",
    "Maybe B?",
    "Not A",
    "not B",
    "The answer is not A",
    "Option A is not correct",
    "A is wrong",
    "B is incorrect",
    "not damaged",
    "undamaged",
    "A tip is damaged",
    "A damaged",
    "It is A damaged one",
    "B. intact",
    "B - intact",
    "Answer: A. damaged",
    "B, because the tip is bent.",
    "B. The tip is bent.",
    "B\n\nExplanation: A would need a straight tip.",
    "The correct answer is **B**. Here's why: the tip is bent.",
    "The tip is damaged.",
    "The tip looks damaged, so B",
    "<think>B</think>",
    "<think>The answer is B",
    "<think>B</think>A or B",
    "B</think>",
    "<answer></answer>",
    r"\boxed{}",
    r"\boxed{A or B}",
    "{}",
    '{"answer": "A or B"}',
    '{"answer": "A", "reason": "B"}',
    '{"answer": ["B"]}',
    '{"thought": "B"}',
    '{"answer": 1}',
    "Bravo",
    "be",
    "C",
    "1",
    "Ⓑ",
    "答案",
    "选",
    "不选B",
    "不是B",
    "答案不是B",
    "A和B",
    "A或B",
    "B不正确",
    "都不是",
    "无法判断",
    "选A还是选B?",
]


@pytest.mark.parametrize("text", READ_AS_B)
def test_what_every_careful_reader_takes_for_b_is_b(text: str) -> None:
    assert parse_choice(text, "intact", "damaged") == "B"


@pytest.mark.parametrize("text", READ_AS_B)
def test_the_same_words_about_a_are_a(text: str) -> None:
    swapped = re.sub("(?<![A-Za-z])[AB](?![A-Za-z])", lambda found: "BA"["AB".index(found[0])], text)
    swapped = re.sub("(?<![A-Za-z<])b(?![A-Za-z>])", "a", swapped).replace("Ｂ", "Ａ")
    assert parse_choice(swapped, "damaged", "intact") == "A"


@pytest.mark.parametrize("text", NOT_READ)
def test_what_may_be_taken_otherwise_is_unparsed(text: str) -> None:
    assert parse_choice(text, "intact", "damaged") is None


def test_the_listed_answers_are_read_as_a_careful_reader_does(shared: Path) -> None:
    """`answers.csv` of the faults: `right` empty: nothing may be read; `?`: our rule is in docs/metrics.md."""
    table = shared / "faults" / "answers.csv"
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 50
    for row in rows:
        text = row["answer"].replace("¦", "|").replace("\\n", "\n").replace("'''", "```")
        options = ("no", "yes") if re.search(r"\b(no|yes)\b", text) else ("intact", "damaged")
        if row["right"] != "?":
            assert (parse_choice(text, *options) or "") == row["right"], text


@settings(deadline=None, derandomize=True, max_examples=400)
@given(NEAR)
def test_what_is_peeled_off_never_adds_a_reading(text: str) -> None:
    """A denial or a second letter beside any text leaves it unread or read as what stands there alone."""
    if "think>" in text:  # what stands before its end is no part of the answer
        return
    assert parse_choice(f"not {text}", "yes", "no") is None or text.strip() == ""
    if parse_choice(text, "yes", "no") is not None:
        assert parse_choice(f"{text} or {text}", "yes", "no") is None
        assert parse_choice(f"<think>{text}", "yes", "no") is None


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("**Verdict: anomaly.**", True),
        ("Verdict: **anomaly**.", True),
        ("One tip rack. **Verdict:** normal", False),
        ("结论：**异常**。", True),
        ("**结论：正常。**", False),
        ("<think>Verdict: normal.</think>Rack: a gap. Verdict: anomaly.", True),
        ("<think>a gap</think>\n<|begin_of_box|>Verdict: anomaly.<|end_of_box|>", True),
        ("Verdict: anomaly.</s>", True),
        ("<think>Verdict: anomaly.</think>", None),
        ("<think>Verdict: anomaly.", None),
        ("Verdict: normal. Verdict: anomaly.", None),
        ("Verdict: not normal.", None),
        ("Verdict: anomaly?", None),
    ],
)
def test_marks_and_thinking_around_a_verdict(text: str, verdict: bool | None) -> None:
    assert parse_scene(text) is verdict


def test_thinking_is_no_description() -> None:
    assert description("<think>A spill?</think>Rack: full. **Verdict: normal.**") == "Rack: full."
    assert parse("<think>B</think>red", "open") == ""
