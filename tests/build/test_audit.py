"""The audit: leaks and shortcuts are found, honest data passes, broken data is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from deckbench.build.audit import audit
from deckbench.build.shortcuts import Result, normalize
from deckbench.dataset import read_samples
from deckbench.errors import InputError

KEYS = (
    "exact_duplicates",
    "near_duplicates",
    "copy_accuracy",
    "question_only_accuracy",
    "majority_accuracy",
    "box_only_accuracy",
    "passed",
)


def picture(seed: int, size: tuple[int, int] = (320, 180)) -> Image.Image:
    """Grey random patches: no two seeds look alike, and no colour is vivid."""
    cut = np.random.default_rng(seed).integers(60, 190, (9, 16), dtype=np.uint8)
    return Image.fromarray(cut).resize(size, Image.Resampling.BICUBIC).convert("RGB")


def row(image: str, answer: str, *, question: str = "Is it normal?", **fields: Any) -> dict[str, Any]:
    text = f"{question}\nA. yes\nB. no\nAnswer with A or B only."
    messages = [{"role": "user", "content": text, "image": image}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **fields}


class Maker:
    """Writes a dataset: balanced yes/no questions about pictures of their own, ten a group."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "images").mkdir(parents=True)
        self.rows: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
        self.boxes: list[dict[str, Any]] = []

    def add(self, split: str, image: Image.Image, right: str, box: tuple[int, ...] | None = None, **fields: Any) -> str:
        rows = self.rows[split]
        name = f"images/{split}{len(rows):03d}.png"
        image.save(self.root / name)
        key = f"{split}-{len(rows):03d}"
        options = {"id": key, "group": f"{split}{len(rows) // 10}", "frame": key, **fields}
        rows.append(row(name, right, **options))
        if box:
            cell = " ".join(map(str, box))
            self.boxes.append({"id": key, "box": cell, "width": image.width, "height": image.height})
        return name

    def write(self) -> Path:
        for split, rows in self.rows.items():
            write_jsonl(self.root / f"{split}.jsonl", rows)
        if self.boxes:
            with (self.root / "samples.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(self.boxes[0]))
                writer.writeheader()
                writer.writerows(self.boxes)
        return self.root


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")


def honest(root: Path, train: int = 60, test: int = 40) -> Maker:
    maker = Maker(root)
    for number in range(train + test):
        right = "AB"[number % 2]
        anomaly = bool((number // 2) % 2)
        maker.add("train" if number < train else "test", picture(number), right, anomaly=anomaly)
    return maker


def test_honest_data_passes(tmp_path: Path) -> None:
    report = audit(honest(tmp_path / "d").write())
    assert set(KEYS) <= set(report) and report["passed"] is True and report["reasons"] == []
    assert (report["exact_duplicates"], report["near_duplicates"]) == (0, 0)
    assert report["majority_accuracy"] == report["question_only_accuracy"] == 0.5
    assert 0.3 < report["copy_accuracy"] < 0.7
    assert report["box_only_accuracy"] is None and "box_only_accuracy" in report["not_run"]
    for key in ("copy_accuracy", "question_only_accuracy", "majority_accuracy"):
        interval = report["intervals"][key]
        assert interval["n"] == 40 and interval["low"] < report[key] < interval["high"]
    json.dumps(report, allow_nan=False)


CHANGES = {
    "recompressed": (lambda image: image, {"suffix": ".jpg", "quality": 30}),
    "resized": (lambda image: image.resize((160, 90)), {}),
    "shifted": (lambda image: Image.fromarray(np.roll(np.asarray(image), (3, 9), (0, 1))), {}),
    "brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.25), {}),
    "darker": (lambda image: ImageEnhance.Brightness(image).enhance(0.75), {}),
    "cropped": (lambda image: image.crop((10, 5, 312, 176)), {}),
}


def test_planted_near_duplicates_are_found(tmp_path: Path) -> None:
    """Three of each kind, each with its own source."""
    maker, planted = honest(tmp_path / "d"), {}
    for place, (change, how) in enumerate(CHANGES.values()):
        for number in (place, place + 17, place + 34):
            changed = change(picture(number))
            message = maker.rows["test"][number]["messages"][0]
            if how:
                (maker.root / message["image"]).unlink()
                message["image"] = message["image"].replace(".png", how["suffix"])
            changed.save(maker.root / message["image"], **({"quality": how["quality"]} if how else {}))
            planted[message["image"]] = f"images/train{number:03d}.png"
    report = audit(maker.write())
    assert (report["exact_duplicates"], report["near_duplicates"], report["passed"]) == (0, 18, False)
    assert {pair["test"]: pair["train"] for pair in report["pairs"]["near"]} == planted
    assert "near-duplicate" in report["reasons"][0]


def exposure(state: int, seed: int) -> Image.Image:
    """A fixed camera: one deck, a rack in one of four places, and noise that no two exposures share."""
    image = picture(1)
    for place in range(4):
        if state & 1 << place:
            image.paste((200, 200, 200), (20 + 75 * place, 60, 60 + 75 * place, 110))
    noise = np.random.default_rng(seed).normal(0, 3, (180, 320, 1))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def fixed_camera(root: Path) -> Maker:
    """Days of one fixed camera; every step expects another state, and an exposure is checked at one step."""
    maker = Maker(root)
    rng = np.random.default_rng(0)
    for number in range(80):
        state, step = int(rng.integers(8)), int(rng.integers(4))
        right = "A" if number % 2 else "B"
        question = f"Step {step}: is all as expected?"
        maker.add("train" if number < 60 else "test", exposure(state, number), right)
        maker.rows["train" if number < 60 else "test"][-1]["messages"][0]["content"] = (
            f"{question}\nA. yes\nB. no\nAnswer with A or B only."
        )
    return maker


def test_a_fixed_camera_that_shows_other_states_is_no_leak(tmp_path: Path) -> None:
    report = audit(fixed_camera(tmp_path / "d").write())
    assert report["near_duplicates"] > 10 and report["near_copies"] == 0
    assert report["near_duplicates"] > report["near_copyable"] > 0
    assert report["passed"] and not any(pair["copy"] for pair in report["pairs"]["near"])


@pytest.mark.slow
def test_copies_among_the_views_of_a_fixed_camera_fail(tmp_path: Path) -> None:
    """Recompressed and re-lit copies of train images, the same question asked: noise and light give them away."""
    maker = fixed_camera(tmp_path / "d")
    for number in (1, 6, 11):
        taught, tested = maker.rows["train"][number], maker.rows["test"][number]
        with Image.open(maker.root / taught["messages"][0]["image"]) as original:
            name = tested["messages"][0]["image"] = f"images/copy{number}.jpg"
            ImageEnhance.Brightness(original).enhance(0.9).save(maker.root / name, quality=80)
        tested["messages"][0]["content"] = taught["messages"][0]["content"]
        tested["messages"][1]["content"] = taught["messages"][1]["content"]
    report = audit(maker.write())
    copied = {pair["test"] for pair in report["pairs"]["near"] if pair["copy"]}
    assert copied == {f"images/copy{number}.jpg" for number in (1, 6, 11)}
    assert report["near_copies"] == 3 and not report["passed"]


@pytest.mark.slow
def test_near_duplicates_whose_answers_can_be_copied_fail(tmp_path: Path) -> None:
    """Other exposures of the same states on both sides; the state decides the answer, and one group is no control."""
    maker = Maker(tmp_path / "d")
    for number in range(80):
        state = number // 2 % 8
        side = "train" if number % 2 else "test"
        right = "A" if state in (0, 3, 5, 6) else "B"
        maker.add(side, exposure(state, number), right, group=f"{side}-one")
    report = audit(maker.write())
    assert report["near_copyable"] > 25 and report["near_copy_accuracy"] > 0.9
    assert not report["passed"]


def test_exact_duplicates_are_found(tmp_path: Path) -> None:
    maker = honest(tmp_path / "d")
    picture(5).save(maker.root / "images/test002.png")
    report = audit(maker.write())
    assert (report["exact_duplicates"], report["near_duplicates"], report["passed"]) == (1, 0, False)
    assert report["pairs"]["exact"] == [{"test": "images/test002.png", "train": "images/train005.png"}]


@pytest.mark.parametrize("field", ["group", "frame"])
def test_a_group_or_frame_on_both_sides_fails(tmp_path: Path, field: str) -> None:
    maker = honest(tmp_path / "d")
    maker.rows["test"][0][field] = maker.rows["train"][0][field]
    report = audit(maker.write())
    assert not report["passed"] and report[f"shared_{field}s"] == [maker.rows["train"][0][field]]


def test_a_question_that_tells_its_answer(tmp_path: Path) -> None:
    maker = honest(tmp_path / "d")
    for rows in maker.rows.values():
        for each in rows:
            each["anomaly"] = None
            text = each["messages"][0]["content"]
            if each["messages"][1]["content"] == "A":
                each["messages"][0]["content"] = text.replace("Is it normal?", "Is it still normal?")
    report = audit(maker.write())
    assert report["question_only_accuracy"] == 1.0 and not report["passed"]
    assert report["reasons"][0].startswith("question_only_accuracy 1.000")


def test_shuffled_options_do_not_hide_an_answer(tmp_path: Path) -> None:
    """The letters are balanced, but "no" is always right."""
    maker = honest(tmp_path / "d")
    for rows in maker.rows.values():
        for each in rows:
            each["anomaly"] = None
            if each["messages"][1]["content"] == "A":
                each["messages"][0]["content"] = "Is it normal?\nA. no\nB. yes\nAnswer with A or B only."
    report = audit(maker.write())
    assert report["majority_accuracy"] == 0.5 and report["question_only_accuracy"] == 1.0 and not report["passed"]


def drawn(root: Path, *, colour_tells: bool = False, shape_tells: bool = False) -> Path:
    """Frames with a box drawn on each, as S2 has them."""
    maker = Maker(root)
    chance = np.random.default_rng(0)
    for number in range(160):
        anomaly = bool(number % 2)
        image = picture(number)
        w, h = ((60, 20) if anomaly else (20, 60)) if shape_tells else chance.integers(20, 60, 2).tolist()
        x, y = int(chance.integers(0, 320 - w)), int(chance.integers(0, 180 - h))
        colour = ("red" if anomaly else (0, 255, 0)) if colour_tells else (255, 200, 0)
        ImageDraw.Draw(image).rectangle((x, y, x + w, y + h), outline=colour, width=2)
        right = "AB"[(number // 2) % 2]
        split = "train" if number < 100 else "test"
        maker.add(split, image, right, (x, y, x + w, y + h), anomaly=anomaly, stage="S2")
    return maker.write()


def test_one_box_style_passes(tmp_path: Path) -> None:
    report = audit(drawn(tmp_path / "d"))
    assert report["passed"], report["reasons"]
    assert report["intervals"]["box_only_accuracy"]["n"] == 60


def test_a_box_colour_that_tells_the_answer_fails(tmp_path: Path) -> None:
    report = audit(drawn(tmp_path / "d", colour_tells=True))
    assert report["colour_only_accuracy"] > 0.95 and not report["passed"]
    assert [reason.split()[0] for reason in report["reasons"]] == ["colour_only_accuracy"]


def test_a_box_shape_that_tells_the_answer_fails(tmp_path: Path) -> None:
    report = audit(drawn(tmp_path / "d", shape_tells=True))
    assert report["box_only_accuracy"] > 0.95 and not report["passed"]
    assert [reason.split()[0] for reason in report["reasons"]] == ["box_only_accuracy"]


def test_a_dataset_for_testing_only_passes_and_says_what_was_not_run(tmp_path: Path) -> None:
    root = honest(tmp_path / "d").write()
    (root / "train.jsonl").unlink()
    report = audit(root)
    assert report["passed"] and "near_duplicates" in report["not_run"] and report["copy_accuracy"] is None


def test_files_from_elsewhere_need_only_messages(tmp_path: Path) -> None:
    maker = honest(tmp_path / "d", train=30, test=20)
    for rows in maker.rows.values():
        rows[:] = [{"messages": each["messages"], "dataset": "old"} for each in rows]
    report = audit(maker.write())
    assert report["passed"] and report["intervals"]["copy_accuracy"]["n"] == 20


def test_open_answers_are_compared_as_text(tmp_path: Path) -> None:
    maker = Maker(tmp_path / "d")
    for number in range(40):
        name = maker.add("train" if number < 30 else "test", picture(number), "x")
        messages = [{"role": "user", "content": "What is it?", "image": name}]
        messages.append({"role": "assistant", "content": "tip rack" if number % 5 else "plate"})
        maker.rows["train" if number < 30 else "test"][-1]["messages"] = messages
    report = audit(maker.write())
    assert report["majority_accuracy"] == report["question_only_accuracy"] == 0.8


def test_the_same_input_gives_the_same_report(tmp_path: Path) -> None:
    root = honest(tmp_path / "d").write()
    assert audit(root) == audit(root)


def test_options_are_undone(tmp_path: Path) -> None:
    maker = Maker(tmp_path / "d")
    maker.add("test", picture(0), "B")
    maker.add("test", picture(1), "B", anomaly=True)
    maker.add("test", picture(2), "A", option_a="plate", option_b="rack")
    first, second, third = (normalize(sample) for sample in read_samples(maker.write(), "test"))
    assert (first.target, first.options) == ("no", ("yes", "no"))
    assert (second.target, second.options, second.family) == ("anomaly", ("normal", "anomaly"), ("verdict",))
    assert (third.target, third.options) == ("plate", ("plate", "rack"))
    assert first.stem == third.stem == "Is it normal? Answer with A or B only."


def test_the_interval_of_a_result() -> None:
    assert Result(8, 10, 5).interval == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert Result(0, 0, 0).interval == (0.0, 1.0)


# --- broken input ------------------------------------------------------------------------------------------------

GOOD = {"messages": [{"role": "user", "content": "q", "image": "images/a.png"}, {"role": "assistant", "content": "A"}]}


def changed(**fields: Any) -> str:
    return json.dumps({**GOOD, **fields}) + "\n"


def turned(**fields: Any) -> str:
    return json.dumps({"messages": [{**GOOD["messages"][0], **fields}, GOOD["messages"][1]]}) + "\n"


BROKEN: dict[str, tuple[str | bytes, str]] = {
    "cut line": ('{"messages": [', "not valid JSON"),
    "nan": (changed(id=float("inf")), "id"),
    "list": ("[1, 2]\n", "a JSON object is expected"),
    "no messages": ('{"id": "x"}\n', "no `messages`"),
    "empty messages": (changed(messages=[]), "messages"),
    "role": (turned(role="robot"), "role"),
    "content": (turned(content=7), "content"),
    "image leaves": (turned(image="../secret.png"), "leaves the folder"),
    "image absolute": (turned(image="/etc/passwd"), "leaves the folder"),
    "image link": (turned(image="images/link.png"), "leaves the folder"),
    "image missing": (turned(image="images/b.png"), "is missing"),
    "image empty": (turned(image=" "), "empty or broken"),
    "image null": (turned(image="a\0b"), "empty or broken"),
    "no image": (turned(image=None), "no image"),
    "no answer": (json.dumps({"messages": GOOD["messages"][:1]}) + "\n", "no question with an answer"),
    "no question": (json.dumps({"messages": GOOD["messages"][1:]}) + "\n", "no question with an answer"),
    "kind": (changed(kind="poem"), "kind"),
    "choice": (
        changed(kind="choice", messages=[GOOD["messages"][0], {"role": "assistant", "content": "C"}]),
        "not A or B",
    ),
    "anomaly": (changed(anomaly="perhaps"), "anomaly"),
    "twice": (changed(id="x") + changed(id="x"), "occurs twice"),
    "not utf-8": (b'{"messages": "\xff"}\n', "not UTF-8"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("split", ["train", "test"])
def test_broken_rows_name_their_line(tmp_path: Path, name: str, split: str) -> None:
    data, message = BROKEN[name]
    root = tmp_path / "d"
    (root / "images").mkdir(parents=True)
    picture(0).save(root / "images/a.png")
    picture(1).save(tmp_path / "secret.png")
    (root / "images/link.png").symlink_to(tmp_path / "secret.png")
    for each in ("train", "test"):
        (root / f"{each}.jsonl").write_text(json.dumps(GOOD) + "\n\n")
    with (root / f"{split}.jsonl").open("ab") as file:
        file.write(data.encode() if isinstance(data, str) else data)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        audit(root)
    line = 4 if name == "twice" else 3
    assert message in caught.value.what and caught.value.where == f"{root / split}.jsonl:{line}"
    assert caught.value.exit_code == 2 and caught.value.fix
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_damaged_picture_is_refused(tmp_path: Path) -> None:
    maker = honest(tmp_path / "d", 4, 2)
    (maker.root / "images/train001.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"train001\.png"):
        audit(maker.write())


@pytest.mark.parametrize("case", ["missing", "file", "empty", "no test", "empty test"])
def test_what_is_no_dataset(tmp_path: Path, case: str) -> None:
    root = tmp_path / "d"
    if case == "file":
        root.write_text("x")
    elif case != "missing":
        root.mkdir()
    if case == "no test":
        (root / "train.jsonl").write_text("")
    if case == "empty test":
        (root / "test.jsonl").write_text("\n")
    with pytest.raises(InputError) as caught:
        audit(root)
    assert caught.value.exit_code == 2 and caught.value.fix


def test_unknown_keys_are_refused_beside_a_manifest(tmp_path: Path) -> None:
    maker = honest(tmp_path / "d", 4, 2)
    maker.rows["train"][1]["colour"] = "red"
    root = maker.write()
    assert len(read_samples(root, "train")) == 4
    (root / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="colour"):
        read_samples(root, "train")


def test_a_box_that_is_no_box(tmp_path: Path) -> None:
    root = drawn(tmp_path / "d")
    table = (root / "samples.csv").read_text().splitlines()
    table[1] = "train-000,1 2 three 4,320,180"
    (root / "samples.csv").write_text("\n".join(table))
    with pytest.raises(InputError, match=r"samples\.csv:2"):
        audit(root)


def test_real_own_split_fails(shared: Path, tmp_path: Path) -> None:
    """The deck pool's own split: its test frames are near-duplicates of train frames."""
    from deckbench.yolo.read import read_pool

    root = tmp_path / "d"
    (root / "images").mkdir(parents=True)
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for frame in read_pool(shared / "data/deck-yolo").frames:
        name = f"images/{frame.path.name}"
        (root / name).write_bytes(frame.path.read_bytes())
        rows[frame.split or "train"].append(row(name, "A" if frame.boxes else "B"))
    for split, each in rows.items():
        write_jsonl(root / f"{split}.jsonl", each)
    report = audit(root)
    assert report["near_duplicates"] >= 5 and not report["passed"]
