"""Grading: contradictions, and what the source lab's substring check hides."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from deckbench.grade import contradiction, grade, mentions, options_of, substring_correct


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


@settings(deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="Verdict:normal. tip异常结论", max_size=60))
def test_contradiction_never_raises(text: str) -> None:
    contradiction(text, ["tip", "异常"])


def test_thinking_is_no_part_of_an_open_answer() -> None:
    assert grade("<think>green? no</think>A tip rack.", "a tip rack", "open").right
    assert not grade("<think>a tip rack</think>", "a tip rack", "open").right
