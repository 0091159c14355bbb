from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deckbench.errors import InputError
from deckbench.train.data import Collate, ImageCache, Item, LoadFailure, Plan, shuffled, training_items
from tests.train import micro_world


def plan_of(pictures: int, **given: object) -> Plan:
    items = [Item(Path(str(n)), tuple((f"q{n}.{i}", "a") for i in range(3))) for n in range(pictures)]
    settings = {"batch": 2, "batches": 50, "seed": 0, "questions": None, **given}
    return Plan(items, **settings)  # type: ignore[arg-type]


@given(st.integers(0, 300), st.integers(), st.integers())
def test_shuffled_is_a_permutation(count: int, seed: int, other: int) -> None:
    order = shuffled(count, seed)
    assert sorted(order) == list(range(count))
    assert order == shuffled(count, seed)
    if count > 20 and seed != other:
        assert order != shuffled(count, other)


@given(st.integers(1, 30), st.integers(1, 7), st.integers(0, 5))
def test_every_pass_shows_every_picture_once(pictures: int, batch: int, seed: int) -> None:
    plan = plan_of(pictures, batch=batch, batches=-(-3 * pictures // batch), seed=seed)
    shown = [item.image for index in range(len(plan)) for item in plan[index]]
    for number in range(3):
        one_pass = shown[number * pictures : (number + 1) * pictures]
        assert len(set(one_pass)) == pictures
    assert all(len(plan[index]) == batch for index in range(len(plan)))


@given(st.lists(st.integers(0, 49), min_size=1, max_size=10))
def test_a_batch_does_not_depend_on_what_was_asked_before(order: list[int]) -> None:
    plan, fresh = plan_of(9), plan_of(9)
    for index in order:
        assert plan[index] == plan_of(9)[index]
    assert plan[49] == fresh[49]


@given(st.integers(1, 9), st.integers(1, 9))
def test_shares_of_a_batch_are_the_batch(batch: int, parts: int) -> None:
    shares = [plan_of(7, batch=batch, part=(part, parts)) for part in range(parts)]
    for index in (0, 3, 49):
        assert [item for share in shares for item in share[index]] == plan_of(7, batch=batch)[index]


LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=40)


def plan_by_length(lengths: list[int], **given: Any) -> Plan:
    items = [Item(Path(str(n)), (("q", "a" * length),)) for n, length in enumerate(lengths)]
    settings: dict[str, Any] = {"batch": 2, "batches": 50, "seed": 0, "questions": None, **given}
    return Plan(items, **settings, group_by_length=True)


@given(LENGTHS, st.integers(1, 7), st.integers(0, 5))
def test_by_length_every_pass_shows_every_picture_once(lengths: list[int], batch: int, seed: int) -> None:
    count = len(lengths)
    plan = plan_by_length(lengths, batch=batch, batches=-(-3 * count // batch), seed=seed)
    shown = [item.image for index in range(len(plan)) for item in plan[index]]
    for number in range(3):
        assert len(set(shown[number * count : (number + 1) * count])) == count
    again = plan_by_length(lengths, batch=batch, batches=len(plan), seed=seed)
    assert all(again[index] == plan[index] for index in reversed(range(len(plan))))


@given(LENGTHS, st.integers(1, 7), st.integers(1, 4))
def test_by_length_shares_of_a_batch_are_the_batch(lengths: list[int], batch: int, parts: int) -> None:
    shares = [plan_by_length(lengths, batch=batch, part=(part, parts)) for part in range(parts)]
    for index in (0, 3, 49):
        assert [item for share in shares for item in share[index]] == plan_by_length(lengths, batch=batch)[index]


def test_by_length_batches_are_alike_and_their_order_is_not() -> None:
    lengths = [(n * 37) % 101 for n in range(101)]
    plan = plan_by_length(lengths, batch=4, batches=50)
    found = [[len(item.pairs[0][1]) for item in plan[index]] for index in range(50)]
    # Two passes, 50 batches, of which one holds the end of the first and the start of the second.
    assert sum(max(batch) - min(batch) <= 4 for batch in found) >= 49
    firsts = [batch[0] for batch in found[:25]]
    assert firsts not in (sorted(firsts), sorted(firsts, reverse=True))
    other = plan_by_length(lengths, batch=4, batches=50, seed=1)
    assert [other[index] for index in range(50)] != [plan[index] for index in range(50)]


def test_passes_differ_and_questions_are_capped() -> None:
    plan = plan_of(8, batch=8, questions=2)
    assert [item.image for item in plan[0]] != [item.image for item in plan[1]]
    assert all(len(item.pairs) == 2 for item in plan[0])
    chosen = {item.pairs for index in range(20) for item in plan[index] if item.image == Path("3")}
    assert len(chosen) > 2  # drawn anew in each pass
    with pytest.raises(IndexError):
        plan[50]


def test_samples_of_one_picture_are_one_item(data: Path) -> None:
    items = training_items(data)
    assert len(items) == 10
    assert [len(item.pairs) for item in items] == [3] * 10
    assert items[0].pairs[0] == (micro_world.PROMPT.format(a="red", b="blue"), "A")


def test_no_train_part(tmp_path: Path) -> None:
    micro_world.make_dataset(tmp_path / "d", 2, splits=("test",))
    with pytest.raises(InputError, match="no train part"):
        training_items(tmp_path / "d")
    (tmp_path / "d/train.jsonl").write_text("\n")
    with pytest.raises(InputError, match="the train part is empty"):
        training_items(tmp_path / "d")


def test_cache_stays_below_its_limit(tmp_path: Path) -> None:
    opened: list[Path] = []

    def opener(path: Path) -> Image.Image:
        opened.append(path)
        return Image.new("RGB", (10, 10), (len(opened), 0, 0))

    cache = ImageCache(opener, lambda picture: picture, 700)  # two of 300 bytes
    for name in "abab":
        cache.get(Path(name))
    assert opened == [Path("a"), Path("b")]
    cache.get(Path("c"))
    assert cache.recent.held == 600
    assert cache.get(Path("b")).getpixel((0, 0)) == (2, 0, 0)
    cache.get(Path("a"))
    assert opened == [Path("a"), Path("b"), Path("c"), Path("a")]


def test_an_error_can_leave_a_loading_process() -> None:
    def opener(path: Path) -> Image.Image:
        raise InputError("not a picture", path, "replace it")

    collate = Collate(lambda items: {}, ImageCache(opener, lambda picture: picture, 0))
    broken = collate([[Item(Path("x.png"), ())]])
    assert pickle.loads(pickle.dumps(broken)) == LoadFailure("not a picture", "x.png", "replace it")  # noqa: S301


def test_loss_is_on_the_answer_and_its_stop_token_only(model: Path, data: Path) -> None:
    from deckbench.models.load import load_model
    from deckbench.picture import open_picture

    loaded = load_model(str(model))
    items = training_items(data)[:2]
    batch = loaded.collate([(open_picture(item.image), list(item.pairs)) for item in items])
    stop = loaded.tokenizer.special["<|user|>"]
    for row, item in zip(batch["labels"], items, strict=True):
        learned: list[int] = []
        answers: list[str] = []
        for token in row[row != -100].tolist():
            if token == stop:
                answers.append(loaded.tokenizer.decode(learned))
                learned = []
            else:
                learned.append(token)
        assert not learned
        assert answers == [answer for _, answer in item.pairs]
