"""Planning: what is asked about what. Balance is a property of every question text, not of the whole."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deckbench.build import boxes, crops, scenes
from deckbench.build.plan import Context, Unit, pair_up, round_robin, trim
from deckbench.yolo.frame import Frame
from tests.build.build_helpers import Label, frame

CLASSES = (
    "trash_bin", "trash_overfull", "white_plate", "plate_crooked", "pcr_lid_open", "pcr_lid_closed", "spill",
    "single_channel_tip", "multi_channel_tip", "damaged_tip", "missing_tip", "tip_rack", "labware_missing",
)  # fmt: skip
STEPS = ("setup", "transfer", "thermocycle", "load_pcr", "drop_tips")
PLAN: dict[str, Callable[[Context, str], list[Unit]]] = {
    "ot2-concept@1": crops.plan,
    "ot2-guided@1": boxes.plan,
    "ot2-scene@1": scenes.plan,
}
Make = Callable[..., Context]


def random_frames(seed: int, count: int) -> list[Frame]:
    rng = random.Random(seed)
    found = []
    for number in range(count):
        labels: list[Label] = [
            (rng.choice(CLASSES), rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), rng.uniform(0.02, 0.3), 0.1)
            for _ in range(rng.randrange(6))
        ]
        found.append(frame(number, labels, step=rng.choice(STEPS), group=f"g{number // 5}"))
    return found


def question_key(unit: Unit) -> tuple[Any, ...]:
    """What makes the question's text: all but the order of options."""
    asked = unit[0]
    options = frozenset([asked.value, asked.other])
    fixed = asked.question.about not in {"kind", "state"}
    return asked.question.id, asked.noun, asked.region, asked.step, None if fixed else options


def assert_balanced(units: Sequence[Unit]) -> None:
    answers: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    for unit in units:
        for asked in unit:
            if asked.other is not None:
                answers[question_key(unit)][asked.value] += 1
    for key, counts in answers.items():
        assert len(counts) == 2, key
        assert len(set(counts.values())) == 1, (key, counts)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), limit=st.one_of(st.none(), st.integers(1, 60)), task=st.sampled_from(sorted(PLAN)))
def test_every_question_text_is_balanced_under_any_limit(seed: int, limit: int | None, task: str) -> None:
    from deckbench.task import load_task

    frames = random_frames(seed, 40)
    ctx = Context(
        task=load_task(task),
        frames=frames,
        classes=[[box.name for box in each.boxes] for each in frames],
        split=["test" if index % 3 else "train" for index in range(len(frames))],
        groups=[str(each.group) for each in frames],
        synthetic=True,
        seed=seed,
    )
    for split in ("train", "test"):
        units = trim(PLAN[task](ctx, split), split, limit, ctx.left)
        assert_balanced(units)
        assert all(ctx.split[asked.view.frame] == split for unit in units for asked in unit)
        if limit is not None:
            rows = sum(2 if asked.other is not None and split == "test" else 1 for unit in units for asked in unit)
            assert rows <= limit


def test_verdicts_are_the_ontologys(context: Make) -> None:
    ctx = context("ot2-guided@1", random_frames(1, 120), synthetic=True)
    seen = set()
    for unit in boxes.plan(ctx, "train"):
        for asked in unit:
            if asked.question.about == "verdict":
                assert asked.anomaly == (asked.value == "anomaly")
                if asked.view.cls is None:  # a decoy: dry deck where another frame has a spill
                    assert not asked.anomaly
                    assert "spill" not in ctx.classes[asked.view.frame]
                else:
                    step = ctx.frames[asked.view.frame].step
                    assert ctx.ontology.verdict(asked.view.cls, step) == asked.value
                    assert str(asked.noun) in ctx.ontology.classes[asked.view.cls].nouns
                    seen.add((asked.view.cls, asked.value))
    assert ("pcr_lid_open", "normal") in seen
    assert ("pcr_lid_open", "anomaly") in seen


def test_the_step_is_in_the_question_exactly_where_it_decides(context: Make) -> None:
    ctx = context("ot2-guided@1", random_frames(2, 120), synthetic=True)
    for unit in boxes.plan(ctx, "train"):
        for asked in unit:
            if asked.question.about == "verdict":
                decides = asked.noun in {"lid", "tip", "tip_position"}
                assert asked.step == (ctx.frames[asked.view.frame].step if decides else None)


def test_tips_at_drop_tips_have_no_normal_counterpart(context: Make) -> None:
    labels: tuple[Label, ...] = (("single_channel_tip", 0.5, 0.5, 0.1, 0.1),)
    frames = [frame(number, labels, step="drop_tips") for number in range(6)]
    ctx = context("ot2-guided@1", frames)
    assert boxes.plan(ctx, "train") == []
    rows = ctx.left.rows()
    assert ["anomaly without a counterpart", "train", "tip@drop_tips", "6", ""] in rows


def test_no_spill_decoy_where_a_spill_may_be_unlabelled(context: Make) -> None:
    spill: tuple[Label, ...] = (("spill", 0.5, 0.5, 0.1, 0.1),)
    frames = [frame(0, spill), frame(1, ()), frame(2, ())]
    assert boxes.plan(context("ot2-guided@1", frames), "train") == []
    known = [frame(0, spill, anomalies=("spill",)), frame(1, (), anomalies=()), frame(2, (), anomalies=("spill",))]
    units = boxes.plan(context("ot2-guided@1", known), "train")
    decoys = {asked.view.frame for unit in units for asked in unit if asked.view.cls is None}
    assert decoys == {1}  # frame 2 says in frames.csv that it has one


@pytest.mark.parametrize("word", ["spill", "Spill", " SPILL @transfer"])
def test_anomalies_of_frames_csv_are_known_by_any_spelling(context: Make, word: str) -> None:
    spilt = frame(0, [("spill", 0.5, 0.5, 0.1, 0.1)], anomalies=("spill",))
    unlabelled = frame(1, [], anomalies=(word,))
    assert not context("ot2-guided@1", [spilt, unlabelled]).lacks(1, "spill")
    assert scenes.wrong_classes(context("ot2-scene@1", [spilt, unlabelled]), 1) == ["spill"]


def test_a_question_for_one_class_is_asked_about_its_decoy(context: Make, tmp_path: Path) -> None:
    (tmp_path / "bank.csv").write_text(
        "id,kind,about,ask_en,ask_zh,normal_en,normal_zh,anomaly_en,anomaly_zh,classes\n"
        "wet,choice,verdict,Is it dry?,干吗?,yes,是,no,否,spill\n",
        encoding="utf-8",
    )
    labels: list[Label] = [("spill", 0.5, 0.5, 0.1, 0.1), ("trash_bin", 0.2, 0.2, 0.1, 0.1)]
    frames = [frame(0, labels), frame(1, [("trash_overfull", 0.2, 0.2, 0.1, 0.1)])]
    ctx = context("ot2-guided@1", frames, synthetic=True, qa=tmp_path)
    assert [[asked.cls for asked in unit] for unit in boxes.plan(ctx, "train")] == [[None, "spill"]]
    assert ctx.left.counts["no question is put about the class", "train", "trash_overfull"] == 2


def test_matching_prefers_alike_boxes(context: Make) -> None:
    frames = [
        frame(0, (("trash_overfull", 0.2, 0.2, 0.2, 0.2),)),
        frame(1, (("trash_bin", 0.8, 0.8, 0.4, 0.4),)),
        frame(2, (("trash_bin", 0.21, 0.2, 0.2, 0.2),)),
    ]
    units = boxes.plan(context("ot2-guided@1", frames), "train")
    assert {asked.view.frame for unit in units for asked in unit} == {0, 2}


def test_unknown_is_never_normal(context: Make) -> None:
    anomalous = frame(0, (("spill", 0.5, 0.5, 0.1, 0.1),), anomalies=("spill",))
    unlabelled = frame(1, ())
    ctx = context("ot2-scene@1", [anomalous, unlabelled])
    assert scenes.verdict_of(ctx, 1)[0] is None
    assert scenes.plan(ctx, "train") == []
    said = frame(1, (), anomalies=())
    assert scenes.verdict_of(context("ot2-scene@1", [said]), 0) == (False, "")
    assert scenes.verdict_of(context("ot2-scene@1", [unlabelled], synthetic=True), 0) == (False, "")


def test_frames_csv_against_a_label_gives_no_verdict(context: Make) -> None:
    frames = [frame(0, (("spill", 0.5, 0.5, 0.1, 0.1),), anomalies=())]
    anomaly, why = scenes.verdict_of(context("ot2-scene@1", frames), 0)
    assert anomaly is None
    assert "frames.csv" in why


def test_the_same_frame_is_normal_at_one_step_and_an_anomaly_at_another(context: Make) -> None:
    lid: tuple[Label, ...] = (("pcr_lid_open", 0.5, 0.5, 0.3, 0.3),)
    ctx = context("ot2-scene@1", [frame(0, lid, step="thermocycle"), frame(1, lid, step="load_pcr"), frame(2, lid)])
    assert [scenes.verdict_of(ctx, index)[0] for index in range(3)] == [True, False, False]


def test_scene_twins_share_the_step(context: Make) -> None:
    ctx = context("ot2-scene@1", random_frames(3, 150), synthetic=True)
    units = scenes.plan(ctx, "train")
    assert units
    for unit in units:
        assert len({ctx.frames[asked.view.frame].step for asked in unit}) == 1
        assert [asked.anomaly for asked in unit] == [False, True]


def test_a_class_that_a_crop_cannot_show_is_left_out_and_counted(context: Make) -> None:
    frames = [frame(0, (("labware_wrong", 0.5, 0.5, 0.2, 0.2), ("trash_bin", 0.2, 0.2, 0.2, 0.2)))]
    ctx = context("ot2-concept@1", frames)
    units = crops.plan(ctx, "train")
    assert {asked.cls for unit in units for asked in unit} == {"trash_bin"}
    assert ["a crop alone does not show it", "train", "labware_wrong", "1", ""] in ctx.left.rows()


def test_overlapping_kinds_are_never_offered_against_each_other(context: Make) -> None:
    ctx = context("ot2-concept@1", random_frames(4, 200), synthetic=True)
    for unit in crops.plan(ctx, "train"):
        first = unit[0]
        if first.other is not None and first.question.about == "kind":
            assert not ctx.ontology.overlap(first.value, first.other)
            assert ctx.ontology.classes[first.value].kind_text != ctx.ontology.classes[first.other].kind_text


def test_caps_by_class_and_frame(context: Make) -> None:
    labels = tuple(("tip_rack", 0.1 * x, 0.5, 0.05, 0.1) for x in range(1, 9))
    frames = [frame(number, labels) for number in range(10)]
    ctx = context("ot2-concept@1", frames, options={"max_boxes_per_frame": 3, "per_class_train": 17})
    views = [asked.view for unit in crops.plan(ctx, "train") for asked in unit]
    assert len(set(views)) == 17
    assert max(Counter(view.frame for view in set(views)).values()) == 3


@pytest.mark.parametrize("task", ["ot2-concept@1", "ot2-guided@1"])
def test_a_limit_keeps_the_share_of_each_kind_of_question(context: Make, task: str) -> None:
    ctx = context(task, random_frames(3, 900), synthetic=True)
    everything = PLAN[task](ctx, "train")
    few = trim(everything, "train", len(everything) // 6, ctx.left)

    def share(units: list[Unit]) -> float:
        return sum(unit[0].question.about == "kind" and unit[0].other is not None for unit in units) / len(units)

    assert share(few) == pytest.approx(share(everything), rel=0.35)


def test_a_limit_weighs_no_noun_more_for_having_steps(context: Make) -> None:
    ctx = context("ot2-guided@1", random_frames(4, 900), synthetic=True)
    units = trim(boxes.plan(ctx, "train"), "train", 120, ctx.left)
    nouns = Counter(unit[0].noun for unit in units if unit[0].question.about == "verdict")
    assert max(nouns.values()) <= 2 * min(nouns.values()), nouns


@pytest.mark.parametrize("region,expected", [("picture", "present"), ("left", "present"), ("right", "absent")])
def test_presence_by_region(context: Make, region: str, expected: str) -> None:
    ctx = context("ot2-scene@1", [frame(0, (("Deck", 0.2, 0.5, 0.2, 0.2),))], ontology="deck-yolo")
    assert scenes._where(ctx, 0, "Deck", region) == expected


def test_presence_is_not_asked_when_a_box_straddles(context: Make) -> None:
    ctx = context("ot2-scene@1", [frame(0, (("Deck", 0.5, 0.5, 0.2, 0.2),))], ontology="deck-yolo")
    assert scenes._where(ctx, 0, "Deck", "left") is None


def test_an_ontology_that_judges_nothing_asks_presence_and_place(context: Make) -> None:
    frames = [frame(n, (("Deck", 0.2 + 0.6 * (n % 2), 0.3, 0.2, 0.2),)) for n in range(6)]
    frames += [frame(n, ()) for n in range(6, 12)]
    for task, about in (("ot2-scene@1", {"presence", "place"}), ("ot2-guided@1", {"presence"})):
        ctx = context(task, frames, ontology="deck-yolo")
        units = PLAN[task](ctx, "train")
        assert {unit[0].question.about for unit in units} == about
        assert_balanced(units)
        assert all(asked.anomaly is None for unit in units for asked in unit)


def test_the_source_labs_eight_classes_without_steps_get_step_free_questions(context: Make) -> None:
    frames = [
        frame(number, ((cls, 0.5, 0.5, 0.1, 0.1), ("pcr_lid_open", 0.2, 0.2, 0.2, 0.2)))
        for number, cls in enumerate(["damaged_tip", "single_channel_tip"] * 4)
    ]
    for task in ("ot2-guided@1", "ot2-scene@1"):
        ctx = context(task, frames)
        units = PLAN[task](ctx, "train")
        assert units
        assert all(asked.step is None for unit in units for asked in unit)
        assert_balanced(units)


@given(st.lists(st.sampled_from("aabbbccd"), max_size=60), st.integers(0, 99))
def test_pair_up_pairs_different_values_and_uses_nothing_twice(letters: list[str], seed: int) -> None:
    items = list(enumerate(letters))
    pairs = pair_up(items, lambda item: item[1], lambda a, b: True, random.Random(seed))
    flat = [item for pair in pairs for item in pair]
    assert len(flat) == len(set(flat))
    assert all(first[1] != second[1] for first, second in pairs)
    if letters:
        most = max(Counter(letters).values())
        assert len(pairs) == min(len(letters) // 2, len(letters) - most)  # a maximum matching


def test_round_robin_takes_turns() -> None:
    assert round_robin({"b": [1, 2, 3], "a": [4], "c": [5, 6]}) == [4, 1, 5, 2, 6, 3]
