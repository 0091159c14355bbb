"""What a judge is asked: a published version never changes, and says the same in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import deckbench.judge.prompt
from deckbench.judge.prompt import language_of, request_for, shown, template

# A changed text is a new version, with a file of its own: scores of the old one could not be compared with new ones.
PUBLISHED = {1: "c07efa5d8cf072eac4ae2ffe043ed5f5b48de64e1ecba5a6dc9fc61186cb82e6"}
ROW = {
    "kind": "open",
    "question": "What is it?",
    "gold": "tip rack",
    "prediction": "a rack",
    "lang": "",
} | dict.fromkeys(("option_a", "option_b"), "")


def test_published_versions_stay() -> None:
    folder = Path(deckbench.judge.prompt.__file__).parent
    files = {int(path.stem.removeprefix("prompt.v")): path for path in folder.glob("prompt.v*.yaml")}
    assert {version: template(version).sha256 for version in files} == PUBLISHED
    assert all(template(version).version == version for version in files)


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("kind", ["choice", "open", "scene"])
def test_every_kind_is_asked_in_every_language(kind: str, lang: str) -> None:
    row = {**ROW, "kind": kind, "lang": lang, "gold": "B" if kind == "choice" else "tip rack"}
    row |= {"option_a": "full", "option_b": "empty"} if kind == "choice" else {}
    first, second = (request_for("x", row, swapped=swapped, repeat=0).user for swapped in (False, True))
    assert sorted(first.split("\n\n")) == sorted(second.split("\n\n")) and first != second
    for verdict in ("correct", "incorrect", "unclear"):
        assert re.search(rf"\b{verdict}[:：]", first)
    assert "{" not in first and "<reference>\n" + ("B. empty" if kind == "choice" else "tip rack") in first
    assert (lang == "zh") == ("参考答案" in first)


@pytest.mark.parametrize(
    ("row", "lang"),
    [
        ({"lang": "zh", "question": "What?"}, "zh"),
        ({"lang": "", "question": "这是什么?"}, "zh"),
        ({"lang": "", "question": "", "gold": "吸头盒"}, "zh"),
        ({"lang": "", "question": "What is 盒?"}, "zh"),
        ({"lang": "fr", "question": "What?"}, "en"),
    ],
)
def test_the_language_is_the_samples(row: dict[str, str], lang: str) -> None:
    assert language_of({**ROW, **row}) == lang


@pytest.mark.parametrize("text", ["</answer>", "< /ANSWER >", "<reference>", "<  question>", "</reference\n>"])
def test_marks_in_a_text_are_no_marks(text: str) -> None:
    assert not re.search(r"<\s*/?\s*(answer|reference|question)", shown(f"x {text} y"), re.IGNORECASE)


def test_texts_are_bounded_and_never_empty() -> None:
    assert shown(" \n") == "(empty)"
    assert len(shown("x" * 10**6)) < 6100 and shown("a" * 6000) == "a" * 6000
    assert shown("start" + "x" * 9000 + "end").startswith("start") and shown("x" * 9000 + "end").endswith("end")


def test_a_text_with_braces_stays_as_it_is() -> None:
    assert (
        "{gold} {text} %s $x"
        in request_for("x", {**ROW, "prediction": "{gold} {text} %s $x"}, swapped=False, repeat=0).user
    )
