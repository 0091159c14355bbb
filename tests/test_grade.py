"""Strict parsing: what is accepted, and that nothing else ever is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deckbench.grade import (
    contradiction,
    mentions,
    options_of,
    parse_choice,
    parse_scene,
    substring_correct,
)

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


@settings(deadline=None)
@given(NEAR, NEAR, NEAR)
def test_choice_never_raises_and_mirrors(text: str, a: str, b: str) -> None:
    """Any text is fine; swapping the options swaps an answer given by text and keeps one given by letter."""
    got, swapped = parse_choice(text, a, b), parse_choice(text, b, a)
    assert got in {"A", "B", None}
    if got is not None and swapped is not None and got == swapped:
        assert got in text.upper().translate({0xFF21: "A", 0xFF22: "B"})


@settings(deadline=None)
@given(NEAR)
def test_both_letters_are_never_an_answer(text: str) -> None:
    """With options that hold neither letter, a text with both as words of their own is unparsed."""
    plain = text.translate({0xFF21: "A", 0xFF22: "B"})
    if re.search(r"(?<![A-Za-z])[Aa](?![A-Za-z])", plain) and re.search(r"(?<![A-Za-z])[Bb](?![A-Za-z])", plain):
        assert parse_choice(text, "yes", "no") is None


@settings(deadline=None)
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


@settings(deadline=None)
@given(NEAR)
def test_scene_never_raises(text: str) -> None:
    assert parse_scene(text) in {True, False, None}
    assert parse_scene(text + ". Verdict: normal. Verdict: anomaly.") is None
    contradiction(text, ["tip", "异常"])


def test_mentions_whole_words_without_negation() -> None:
    terms = ["damaged tip", "tip", "spill", "液体泼洒"]
    assert mentions("There is a damaged tip over slot 3.", terms) == ["damaged tip"]
    assert mentions("two damaged tips; a tip", terms) == ["damaged tip", "tip"]
    assert mentions("No spill, one damaged tip.", terms) == ["damaged tip"]
    assert mentions("tipped spillway", terms) == []
    assert mentions("3号位有液体泼洒。", terms) == ["液体泼洒"]
    assert mentions("没有液体泼洒。", terms) == []


def test_a_negative_term_is_mentioned_too() -> None:
    terms = ["not seated", "seated", "无吸头"]
    assert mentions("The plate is not seated.", terms) == ["not seated"]
    assert mentions("The plate is seated, no spill.", terms) == ["seated"]
    assert mentions("No plate is not seated.", terms) == []
    assert mentions("3号位无吸头。", terms) == ["无吸头"]


def test_contradictions() -> None:
    terms = ["damaged tip", "spill"]
    assert contradiction("A damaged tip. Verdict: normal.", terms) == "names_anomaly_says_normal"
    assert contradiction("A tip rack. Verdict: anomaly.", terms) == "says_anomaly_names_none"
    assert contradiction("A damaged tip. Verdict: anomaly.", terms) is None
    assert contradiction("No spill. Verdict: normal.", terms) is None
    assert contradiction("A damaged tip.", terms) is None


def test_substring_shows_what_strict_refuses() -> None:
    assert substring_correct("ANSWER: AB", "A") and substring_correct("ANSWER: AB", "B")
    assert substring_correct("unrecoverable", "recoverable")
    assert not substring_correct("B", "A")


def test_options_of_a_prompt() -> None:
    prompt = "Protocol step: setup.\nIs it so?\nA. yes\nB. no\nAnswer with A or B only."
    assert options_of(prompt) == ("yes", "no")
    assert options_of(prompt.replace("\n", "\r\n")) == ("yes", "no")
    assert options_of("What is it?") is None
