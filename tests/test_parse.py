"""Strict parsing: what is accepted, and that nothing else ever is."""

from __future__ import annotations

import csv
import re
import time
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


# `answers.csv`: answers to two options, A and B in this order, and what every careful reader takes each for: B, or
# nothing where `right` is empty: no letter, both letters, a denial, a question, an answer that goes on. ⏎: a line feed.
with (Path(__file__).parent / "answers.csv").open(encoding="utf-8", newline="") as _file:
    ANSWERS = [
        (row["answer"].replace("⏎", "\n"), *row["options"].split("|"), row["right"]) for row in csv.DictReader(_file)
    ]
CLOSED = re.compile(r"</|/think▷|\[/THINK\]|end_of_|END_THINKING|<\|")  # what stands before it may be no answer


def other_way(text: str, a: str, b: str) -> str:
    """A text about A as it is about B, and the other way round: letters and option texts change places."""
    swaps = {"A": "B", "B": "A", "a": "b", "b": "a", "Ａ": "Ｂ", "Ｂ": "Ａ", "ａ": "ｂ", "ｂ": "ａ"}
    letters = r"(?<![A-Za-z<])(?<![A-Za-z]['’])[AaBb](?![A-Za-z>])|(?<![Ａ-Ｚａ-ｚ])[ＡＢａｂ](?![Ａ-Ｚａ-ｚ])"
    return re.sub(letters, lambda found: swaps[found[0]], text)


def test_the_table_is_large_and_in_two_languages() -> None:
    chinese = [row for row in ANSWERS if re.search("[\u3400-\u9fff]", row[0])]
    assert len({row[:3] for row in ANSWERS}) == len(ANSWERS) > 1000 and len(chinese) > 300
    for right in ("B", ""):
        assert sum(row[3] == right for row in ANSWERS) > 500 and sum(row[3] == right for row in chinese) > 150


@pytest.mark.parametrize("chunk", range(20))
def test_answers_are_read_as_every_careful_reader_takes_them(chunk: int) -> None:
    read = [(text, parse_choice(text, a, b) or "", right) for text, a, b, right in ANSWERS[chunk::20]]
    assert [row for row in read if row[1] != row[2]] == []


def test_the_same_words_about_a_are_a() -> None:
    """Letters and options the other way round: what was B is A, what was nothing is nothing."""
    wanted = {"B": "A", "": ""}
    read = [
        (other_way(text, a, b), parse_choice(other_way(text, a, b), b, a) or "", right) for text, a, b, right in ANSWERS
    ]
    cut = re.compile(
        r".* (?:is|choose|with) [ab]|<B>"
    )  # `I choose a` may have been cut off; `<B>` is a tag to the swap
    wrong = [row for row in read if row[1] != wanted[row[2]]]
    assert [row for row in wrong if not cut.fullmatch(row[0])] == []


def test_what_is_read_has_no_letter_that_was_not_meant() -> None:
    """With options that no answer names, only letters can be read, and they say the same."""
    for text, _, _, right in ANSWERS:
        assert parse_choice(text, "§1", "§2") in ({None, "B"} if right else {None}), text


@pytest.mark.parametrize(
    "change",
    [
        "not {}",
        "Not {}.",
        "不是{}",
        "不选{}",
        "{}?",
        "{}？",
        "{} or A",
        "A or {}",
        "{}, or A?",
        "{} 或 A",
        "{} because the tip is bent",
        "{}\nI am not sure.",
        "{}，因为弯了",
        "Maybe {}",
        "可能{}",
        "{} (not sure)",
        "<think>{}",
        "~~{}~~",
        "A\n{}",
        "{}\nA",
    ],
)
def test_what_denies_asks_or_goes_on_is_unparsed(change: str) -> None:
    """Around every answer that is read."""
    texts = [(text, a, b) for text, a, b, right in ANSWERS if right and not CLOSED.search(text)]
    assert len(texts) > 500
    read = [(change.format(text), parse_choice(change.format(text), a, b)) for text, a, b in texts]
    assert [row for row in read if row[1] is not None] == []


@pytest.mark.parametrize("change", [" {} ", "\n{}\n", "\u3000{}", "<think>It is A.</think>{}", "{}</s>", "\ufeff{}"])
def test_what_says_nothing_changes_nothing(change: str) -> None:
    for text, a, b, right in ANSWERS:
        if not CLOSED.search(text) and "<think" not in text:
            assert (parse_choice(change.format(text), a, b) or "") == right, text


def test_long_answers_take_no_time() -> None:
    """Patterns with several places for blanks would take minutes."""
    began = time.process_time()
    for filler in (" ", "\n", "(", "*", "A ", "答案", "a,", "{", "【", "i think "):
        for text in (filler * 900, f"Answer:{filler * 600}B", f"{{answer:{filler * 600}}}", f"damaged{filler * 600}(B"):
            parse_choice(text[:1990], "intact", "damaged")
    assert time.process_time() - began < 5


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


with (Path(__file__).parent / "scene_answers.csv").open(encoding="utf-8", newline="") as _file:
    SCENES = [(row["answer"].replace("⏎", "\n"), row["verdict"]) for row in csv.DictReader(_file)]
TURNED = {
    "anomaly": "normal",
    "Anomaly": "Normal",
    "ANOMALY": "NORMAL",
    "异常": "正常",
    "ａｎｏｍａｌｙ": "ｎｏｒｍａｌ",
}
TURNED |= {new: old for old, new in TURNED.items()}


@pytest.mark.parametrize("turned", [False, True])
def test_verdicts_are_read_as_every_careful_reader_takes_them(turned: bool) -> None:
    """`scene_answers.csv`: the verdict of a text, or none; the same with anomaly and normal the other way round."""
    words = re.compile("|".join(map(re.escape, TURNED)))
    wrong = []
    for text, verdict in SCENES:
        shown = words.sub(lambda found: TURNED[found[0]], text) if turned else text
        wanted = TURNED[verdict] if turned and verdict else verdict
        if parse(shown, "scene") != wanted:
            wrong.append((shown, parse(shown, "scene"), wanted))
    assert wrong == [] and len(SCENES) > 120


@pytest.mark.parametrize(
    "after", [" I am not sure.", "?", " or normal.", "\nVerdict: unclear.", " 但不确定。", "，也许。", " Not."]
)
def test_a_verdict_that_goes_on_is_none(after: str) -> None:
    for text, verdict in SCENES:
        if verdict and not CLOSED.search(text):
            assert parse(text + after, "scene") == "", text + after


def test_a_verdict_is_no_description() -> None:
    for text in (
        'Rack: full. Verdict: "normal"!',
        "Rack: full. Verdict: normal.",
        "Rack: full. **Verdict:** [normal].",
    ):
        assert description(text) == "Rack: full."
