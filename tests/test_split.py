"""Splits: groups stay whole, the order of frames does not matter, and wrong words are refused."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deckbench.errors import InputError
from deckbench.picture import open_picture
from deckbench.split import FRACTIONS, by_blocks, natural, parse_blocks, share_out, split_pool
from deckbench.yolo.frame import Frame, Pool
from deckbench.yolo.read import read_pool
from tests.build.build_helpers import write_pool as write_hand_pool
from tests.yolo.pool_helpers import YAML, picture, write_pool


def split_groups(pool: Pool, how: str, seed: int) -> dict[str, str]:
    return split_pool(pool, how, seed).parts


SIZES = st.dictionaries(st.text("abcxyz0123", min_size=1, max_size=6), st.integers(1, 60), min_size=3, max_size=60)


@given(SIZES, st.integers(0, 2**31))
def test_every_part_gets_a_group_and_shares_are_near(sizes: dict[str, int], seed: int) -> None:
    parts = share_out(sizes, seed)
    assert parts.keys() == sizes.keys() and set(parts.values()) == {"train", "val", "test"}
    total, largest = sum(sizes.values()), max(sizes.values())
    for part in ("val", "test"):
        frames = sum(size for name, size in sizes.items() if parts[name] == part)
        assert abs(frames - FRACTIONS[part] * total) <= largest


@given(SIZES, st.integers(0, 2**31), st.randoms())
def test_sharing_out_does_not_depend_on_order(sizes: dict[str, int], seed: int, chance: random.Random) -> None:
    items = list(sizes.items())
    chance.shuffle(items)
    assert share_out(dict(items), seed) == share_out(sizes, seed)


def test_equal_groups_give_the_named_fractions() -> None:
    counts = Counter(share_out({f"s{number}": 10 for number in range(100)}, 7).values())
    assert counts == {"train": 70, "val": 10, "test": 20}


def test_the_seed_matters() -> None:
    sizes = {f"s{number}": 10 for number in range(30)}
    assert len({str(share_out(sizes, seed)) for seed in range(20)}) == 20


def test_three_uneven_groups() -> None:
    parts = share_out({"large": 1000, "small": 1, "middle": 40}, 0)
    assert parts["large"] == "train"


def make_pool(groups: list[str | None], times: list[float] | None = None) -> Pool:
    frames = [
        Frame(
            id=f"images/f_{number}",
            path=Path(f"f_{number}.png"),
            labels=None,
            width=64,
            height=48,
            boxes=(),
            split=None,
            group=group,
            time_s=None if times is None else times[number],
            step=None,
            anomalies=None,
            sha256=f"{number:064d}",
        )
        for number, group in enumerate(groups)
    ]
    return Pool(Path("p"), "p", ("a",), tuple(frames), False, f"{random.random()}", ())


@settings(max_examples=50)
@given(st.integers(3, 12), st.integers(0, 6), st.integers(0, 200), st.integers(0, 99))
def test_blocks_keep_order_and_gaps(blocks: int, gap: int, extra: int, seed: int) -> None:
    count = blocks + gap * (blocks - 1) + extra
    pool = make_pool([None] * count)
    result = by_blocks(pool, blocks, gap, seed)
    assert len(result.dropped) == gap * (blocks - 1)
    assert len(result.parts) + len(result.dropped) == count
    assert set(result.parts.values()) == {"train", "val", "test"}
    order = [f"images/f_{number}" for number in range(count)]
    last: tuple[int, str] | None = None
    for place, key in enumerate(order):
        if key not in result.parts:
            continue
        if last is not None and result.groups[key] != last[1]:
            assert place - last[0] == gap + 1, "between two blocks lies exactly the gap"
        last = (place, result.groups[key])
    parts_of_block = {(result.groups[key], result.parts[key]) for key in result.parts}
    assert len(parts_of_block) == blocks


def test_blocks_go_by_time_where_there_is_one() -> None:
    pool = make_pool([None] * 9, times=[float(9 - number) for number in range(9)])
    result = by_blocks(pool, 3, 1, 0)
    assert set(result.dropped) == {"images/f_6", "images/f_3"}
    assert result.groups["images/f_8"] == "block-0" and result.groups["images/f_0"] == "block-2"


@given(st.lists(st.integers(0, 10**6), min_size=2, unique=True))
def test_natural_order(numbers: list[int]) -> None:
    names = [f"frame_{number}.jpg" for number in numbers]
    assert sorted(names, key=natural) == [f"frame_{number}.jpg" for number in sorted(numbers)]


WORDS = ["", "groups", "blocks", "blocks=", "blocks=x,gap=1", "blocks=5,gap=-1", "blocks=5;gap=1", "test_only", "pool "]


@pytest.mark.parametrize("how", [*WORDS, "blocks=2,gap=0", "blocks=1", "blocks=99999,gap=1"])
def test_wrong_words_are_refused(how: str) -> None:
    with pytest.raises(InputError) as caught:
        split_pool(make_pool(["a", "b", "c"]), how, 0)
    assert caught.value.exit_code == 2 and caught.value.where == "--split"


def test_blocks_words() -> None:
    assert parse_blocks("blocks=8,gap=3") == (8, 3)
    assert parse_blocks("blocks=8") == (8, 0)


def test_too_many_blocks_for_the_frames() -> None:
    with pytest.raises(InputError, match="cannot be cut"):
        split_pool(make_pool([None] * 10), "blocks=5,gap=2", 0)


def grouped_pool(root: Path, copies: dict[str, str] | None = None) -> Pool:
    """Ten groups of three frames; copies: frame -> frame whose picture it shows."""
    rows = ["frame,group"]
    frames = {}
    for group in range(10):
        for number in range(3):
            rows.append(f"g{group}_{number}.png,g{group}")
            frames[f"g{group}_{number}.png"] = "0 0.5 0.5 0.2 0.2\n"
    yaml = "train: images\nnames: [a, b]\n"
    write_pool(root, yaml=yaml, frames=frames, files={"frames.csv": "\n".join(rows) + "\n"})
    for number, name in enumerate(frames):
        picture(1000 + number, (320, 180)).save(root / "images" / name)
    for to, source in (copies or {}).items():
        open_picture(root / "images" / source).resize((200, 112)).save(root / "images" / to)
    return read_pool(root)


def test_groups_stay_whole_and_near_duplicates_join_them(tmp_path: Path) -> None:
    pool = grouped_pool(tmp_path / "p", {"g7_1.png": "g2_0.png"})
    for seed in range(5):
        result = split_pool(pool, "group", seed)
        for frame in pool.frames:
            assert result.parts[frame.id] == result.parts[f"images/{frame.group}_0"]
        assert result.parts["images/g7_0"] == result.parts["images/g2_0"]
        assert result.groups["images/g7_2"] == "g2"
        assert len(set(result.groups.values())) == 9


def test_split_is_a_function_of_content_and_seed(tmp_path: Path) -> None:
    one, two = grouped_pool(tmp_path / "one"), grouped_pool(tmp_path / "two")
    shuffled = replace(two, frames=tuple(reversed(two.frames)))
    first = split_groups(one, "group", 3)
    assert split_groups(shuffled, "group", 3) == first
    assert split_groups(one, "group", 4) != first


def test_split_of_the_yaml(tmp_path: Path) -> None:
    yaml = YAML.replace("val: images/val", "test: images/val")
    pool = read_pool(write_pool(tmp_path / "p", yaml=yaml))
    parts = split_groups(pool, "pool", 0)
    assert Counter(parts.values()) == {"train": 2, "test": 1}
    with pytest.raises(InputError, match="no frames to test"):
        split_groups(read_pool(write_pool(tmp_path / "q")), "pool", 0)


def test_val_of_the_yaml_never_holds_test_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same file under two names, as when somebody copied the test folder to have a val folder."""
    root = write_hand_pool(tmp_path / "p", sessions=5)
    for line in (root / "test.txt").read_text().splitlines():
        copy = line.replace("images/", "images/copy-")
        shutil.copyfile(root / line, root / copy)
        with (root / "val.txt").open("a") as file:
            file.write(f"{copy}\n")
    (root / "frames.csv").unlink()
    result = split_pool(read_pool(root), "pool", 0)
    assert Counter(result.parts.values()) == {"train": 18, "val": 6, "test": 6}
    assert len(result.dropped) == 6 and not set(result.dropped) & set(result.parts)
    assert "6 val frames are test frames too" in capsys.readouterr().err


def test_test_only() -> None:
    pool = make_pool(["a", "a", "b"])
    result = split_pool(pool, "test-only", 0)
    assert set(result.parts.values()) == {"test"} and sorted(set(result.groups.values())) == ["a", "b"]


def test_one_standing_camera_is_refused_with_advice(shared: Path) -> None:
    pool = read_pool(shared / "data/deck-yolo")
    with pytest.raises(InputError) as caught:
        split_groups(pool, "group", 0)
    assert "one group" in caught.value.what
    assert caught.value.fix is not None and "blocks=" in caught.value.fix and "test-only" in caught.value.fix
    parts = split_groups(pool, "blocks=10,gap=3", 0)
    assert len(parts) == 120 - 27
    assert Counter(split_groups(pool, "pool", 0).values()) == {"train": 102, "test": 18}


def test_two_groups_are_too_few(tmp_path: Path) -> None:
    files = {"frames.csv": "frame,group\na.png,1\nb.png,2\nc.png,1\n"}
    pool = read_pool(write_pool(tmp_path, files=files))
    with pytest.raises(InputError, match="2 groups"):
        split_groups(pool, "group", 0)
