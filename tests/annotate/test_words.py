"""What a text names and claims: by the words of the ontology, in English and Chinese."""

from __future__ import annotations

import pytest

from deckbench.annotate.words import Vocabulary, claims, contradictions
from deckbench.language import Lang
from deckbench.ontology import load_ontology

OT2 = load_ontology("ot2")
WORDS = {"en": Vocabulary(OT2, "en", ["leaking_tube"]), "zh": Vocabulary(OT2, "zh")}


@pytest.mark.parametrize(
    ("text", "present", "lang"),
    [
        ("A tip rack stands beside two white plates.", {"tip_rack", "white_plate"}, "en"),
        ("The tips are straight.", {"single_channel_tip"}, "en"),
        ("The trash bin is heaped.", {"trash_overfull"}, "en"),
        ("The thermocycler is open.", {"pcr_lid_open"}, "en"),
        ("An open PCR lid.", {"pcr_lid_open"}, "en"),
        ("The deck slot in front is clear.", {"white_plate"}, "en"),
        ("A tip-rack with gaps.", {"tip_rack_gap"}, "en"),
        ("打开的PCR盖在左侧。", {"pcr_lid_open"}, "zh"),
        ("吸头弯曲。", {"damaged_tip"}, "zh"),
    ],
)
def test_what_is_there_may_be_named(text: str, present: set[str], lang: Lang) -> None:
    assert WORDS[lang].absent(text, present) == []


@pytest.mark.parametrize(
    ("text", "present", "lang", "word"),
    [
        ("There is no spill.", {"tip_rack"}, "en", "spill"),
        ("A tip rack with gaps.", {"tip_rack"}, "en", "tip rack with gaps"),
        ("Two white plates.", {"square_well_plate"}, "en", "white plate"),
        ("The tip is bent.", {"single_channel_tip"}, "en", "bent"),
        ("The thermocycler is closed.", {"pcr_lid_open"}, "en", "closed"),
        ("A magnetic module.", set(), "en", "magnetic module"),
        ("A leaking tube.", {"tip_rack"}, "en", "leaking tube"),
        ("左侧有洒液。", {"tip_rack"}, "zh", "洒液"),
        ("热循环仪关盖。", {"pcr_lid_open"}, "zh", "关盖"),
    ],
)
def test_what_is_not_there_may_not(text: str, present: set[str], lang: Lang, word: str) -> None:
    (reason,) = WORDS[lang].absent(text, present)
    assert repr(word) in reason


@pytest.mark.parametrize(
    ("text", "wrong", "lang", "said"),
    [
        ("A damaged tip hangs there.", "damaged_tip", "en", True),
        ("The tip is bent.", "damaged_tip", "en", True),
        ("The tip is there. The box is bent.", "damaged_tip", "en", False),
        ("The tip looks odd.", "damaged_tip", "en", False),
        ("The thermocycler is open.", "pcr_lid_open", "en", True),
        ("One leaking tube.", "leaking_tube", "en", True),
        ("A trash bin.", "trash_overfull", "en", False),
        ("废料桶堆满。", "trash_overfull", "zh", True),
        ("过满的废料桶。", "trash_overfull", "zh", True),
        ("废料桶在右侧。", "trash_overfull", "zh", False),
    ],
)
def test_what_is_wrong_must_be_said(text: str, wrong: str, lang: Lang, said: bool) -> None:
    assert (WORDS[lang].missing(text, [wrong]) == []) is said


@pytest.mark.parametrize(
    ("text", "lang", "well", "wrong"),
    [
        ("Everything is in order.", "en", True, False),
        ("Everything on the deck looks fine.", "en", True, False),
        ("Nothing is wrong.", "en", True, False),
        ("There are no anomalies.", "en", True, False),
        ("No visible problems, so the run may continue.", "en", True, False),
        ("The lid is not as expected.", "en", False, True),
        ("The plate is not as it should be.", "en", False, True),
        ("This is an anomaly: the robot must stop.", "en", False, True),
        ("Something is wrong with the tip.", "en", False, True),
        ("The run should be stopped.", "en", False, True),
        ("All is normal, but the tip is faulty.", "en", True, True),
        ("The tip is bent.", "en", False, False),
        ("A rack stands in slot 7.", "en", False, False),
        ("一切正常。", "zh", True, False),
        ("没有异常。", "zh", True, False),
        ("未发现任何问题,可以继续。", "zh", True, False),
        ("状态不正常。", "zh", False, True),
        ("吸头异常,应停止。", "zh", False, True),
        ("不符合要求。", "zh", False, True),
        ("吸头弯曲。", "zh", False, False),
    ],
)
def test_claims(text: str, lang: Lang, well: bool, wrong: bool) -> None:
    assert claims(text, lang) == (well, wrong)
    assert bool(contradictions(text, lang, anomaly=True)) is well
    assert bool(contradictions(text, lang, anomaly=False)) is wrong


@pytest.mark.parametrize(
    ("text", "cls", "good"),
    [
        ("It holds clean tips.", "tip_rack", True),
        ("It carries the liquid.", "damaged_tip", True),
        ("It is straight.", "damaged_tip", False),
        ("It is bent.", "damaged_tip", True),
        ("It is a damaged tip.", "single_channel_tip", False),
        ("It takes the used tips; here it is heaped.", "trash_bin", False),
    ],
)
def test_statements_about_a_class(text: str, cls: str, good: bool) -> None:
    assert (WORDS["en"].against(text, cls) == []) is good
