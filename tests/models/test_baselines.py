"""Baselines on small datasets made by hand: what they answer, that they never read the asked sample's gold answer."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deckbench import artifact
from deckbench.dataset import Sample, read_file, read_samples
from deckbench.errors import InputError
from deckbench.gold import write_gold
from deckbench.models import baselines
from deckbench.models.baselines.base import Baseline
from deckbench.models.baselines.labels import LabelFolder
from deckbench.task import load_task

STEP = "Protocol step: {}.\n"


def picture(path: Path, seed: int, noise: float = 0.0, size: tuple[int, int] = (200, 100)) -> None:
    """A texture of its own for each seed; `noise` makes another shot of the same scene."""
    base = np.random.default_rng(seed).integers(0, 255, (5, 8)).astype(np.uint8)
    wide = np.asarray(Image.fromarray(base).resize(size, Image.Resampling.BICUBIC), np.float64)
    wide = wide + noise * np.random.default_rng(seed + 1000).standard_normal(wide.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(wide.clip(0, 255).astype(np.uint8)).convert("RGB").save(path)


def row(key: str, image: str, **more: Any) -> dict[str, Any]:
    """A sample as a row; `ask`, `option_a`, `option_b` make the prompt of a choice."""
    ask = more.pop("ask", "Is anything wrong in this frame?")
    kind = more.get("kind", "choice")
    more = {"kind": kind, "option_a": "no", "option_b": "yes", **more} if kind == "choice" else {"kind": kind, **more}
    if kind == "choice":
        ask = f"{ask}\nA. {more['option_a']}\nB. {more['option_b']}\nAnswer with A or B only."
    if more.get("step"):
        ask = STEP.format(more["step"]) + ask
    return {"id": key, "image": image, "question": ask, "split": "test", "frame": Path(image).stem, **more}


def dataset(folder: Path, rows: list[dict[str, Any]], tasks: dict[str, Any] | None = None) -> Path:
    """A dataset folder of these rows; pictures are made by seed (row key `seed`) unless they are there.

    tasks: what `tasks.json` is to hold.
    """
    with artifact.writing(folder, "dataset", params={"rows": len(rows)}) as draft:
        if tasks is not None:
            write_gold(draft.path, tasks, ())
        for number, entry in enumerate(rows):
            place = draft.path / entry["image"]
            if not place.exists():
                picture(place, entry.get("seed", number), entry.get("noise", 0.0))
        fields = ("pair_id", "frame", "task", "stage", "option_a", "option_b", "anomaly", "class", "step", "kind", "id")
        for split in ("train", "test"):
            lines = [
                {
                    "messages": [
                        {"role": "user", "content": entry["question"], "image": entry["image"]},
                        {"role": "assistant", "content": entry["answer"]},
                    ],
                    **{name: entry[name] for name in fields if entry.get(name) is not None},
                }
                for entry in rows
                if entry["split"] == split
            ]
            if lines:
                (draft.path / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        with (draft.path / "samples.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["id", "box", "lang"], extrasaction="ignore", restval="")
            writer.writeheader()
            writer.writerows(rows)
    return folder


def texts(baseline: Baseline, samples: list[Sample]) -> list[str]:
    return [answer.text for answer in baseline.answer_samples(samples)]


def blinded(samples: list[Sample]) -> list[Sample]:
    """The same samples with everything that tells the answer turned into something else."""
    other = {"A": "B", "B": "A"}
    return [
        replace(s, gold=other.get(s.gold, "?"), answer=other.get(s.answer, "?"), anomaly=None, cls=None)
        for s in samples
    ]


# majority


@pytest.fixture
def learned(tmp_path: Path) -> Path:
    """Three B and one A in train, two open texts and one other; the test part has both kinds and a scene."""
    rows = [row(f"t{i}", f"images/{i}.png", split="train", answer="B" if i else "A") for i in range(4)]
    opens = ["tip", "tip", "rack"]
    rows += [
        row(f"o{i}", f"images/{i}.png", split="train", kind="open", ask="What?", answer=opens[i]) for i in range(3)
    ]
    rows += [row("q0", "images/9.png", answer="A"), row("q1", "images/9.png", kind="open", ask="What?", answer="x")]
    rows += [row("q2", "images/9.png", kind="scene", ask="Describe.", answer="Verdict: normal.")]
    return dataset(tmp_path / "data", rows)


def test_majority(learned: Path) -> None:
    baseline = baselines.load("majority")
    samples = read_samples(learned, "test")
    answers = baseline.answer_samples(samples)
    assert [answer.text for answer in answers] == ["B", "tip", ""]  # no scene was learned
    assert (answers[0].p_a, answers[0].p_b) == (0.25, 0.75) and answers[1].p_a is None
    assert baselines.load("majority").answer_samples(blinded(samples)) == answers
    assert baseline.identity == {"name": "majority"} == baselines.load("majority").identity


def test_majority_ties_are_broken_the_same_way(tmp_path: Path) -> None:
    rows = [row(f"t{i}", "images/0.png", split="train", answer="BA"[i % 2]) for i in range(4)]
    data = dataset(tmp_path / "data", [*rows, row("q", "images/0.png", answer="B")])
    assert texts(baselines.load("majority"), read_samples(data, "test")) == ["A"]


def test_learning_from_another_dataset(learned: Path, tmp_path: Path) -> None:
    asked = dataset(tmp_path / "asked", [row("q", "images/0.png", answer="A")])
    samples = read_samples(asked, "test")
    for name in ("majority", "nearest", "cnn"):
        with pytest.raises(InputError, match="no train part"):
            baselines.load(name).answer_samples(samples)
        baseline = baselines.load(f"{name}:{learned}")
        assert baseline.identity == {"name": name, "train": artifact.read(learned).content_hash}
        assert texts(baseline, samples)[0] in {"A", "B"}
    with pytest.raises(InputError, match="not found"):
        dict(baselines.load(f"majority:{tmp_path / 'nowhere'}").identity)


# nearest


def test_nearest_carries_the_answer_over_by_content(tmp_path: Path) -> None:
    """Picture 1 was "yes"; a noisy second shot of it is "yes" in either order of the options."""
    rows = [
        row("t0", "images/0.png", split="train", answer="A", seed=0),
        row("t1", "images/1.png", split="train", answer="B", seed=1),
        row("t2", "images/2.png", split="train", answer="A", seed=2),
        row("q1", "images/q1.png", answer="A", seed=1, noise=12.0),
        row("q1s", "images/q1.png", answer="B", option_a="yes", option_b="no"),
        row("q2", "images/q2.png", answer="B", seed=2, noise=12.0),
    ]
    samples = {sample.id: sample for sample in read_samples(dataset(tmp_path / "data", rows), "test")}
    found = texts(baselines.load("nearest"), [samples["q1"], samples["q1s"], samples["q2"]])
    assert found == ["B", "A", "A"]
    assert texts(baselines.load("nearest"), blinded([samples["q1"], samples["q1s"], samples["q2"]])) == found


def test_nearest_looks_among_pictures_asked_the_same(tmp_path: Path) -> None:
    """The most similar picture was asked something else: the next one that was asked this answers."""
    rows = [
        row("t0", "images/0.png", split="train", answer="A", seed=0, ask="Is it dark?"),
        row("t1", "images/1.png", split="train", answer="B", seed=1),
        row("t2", "images/0.png", split="train", kind="open", ask="What?", answer="tip"),
        row("q0", "images/q0.png", answer="A", seed=0, noise=5.0),
        row("q1", "images/q0.png", answer="A", ask="Is it never asked?", option_a="yes", option_b="no"),
        row("q2", "images/q0.png", kind="open", ask="What?", answer="x"),
        row("q3", "images/q0.png", kind="scene", ask="Describe.", answer="x"),
    ]
    samples = read_samples(dataset(tmp_path / "data", rows), "test")
    # q1: nearest picture 0 said "no" to another question with the same options, so "no", which is B here.
    assert texts(baselines.load("nearest"), samples) == ["B", "B", "tip", ""]


# rule

DRAWN = "Is the tip in the box normal or an anomaly?"
CLASSES = [
    *("magnetic_module", "temperature_module", "pcr_lid_open", "pcr_lid_closed", "single_channel_tip"),
    *("multi_channel_tip", "damaged_tip", "trash_bin"),
]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Frames 200x100: `bent` has a straight tip left and a bent one right, `lid` an open lid, `empty` nothing."""
    folder = tmp_path / "pool"
    (folder / "labels").mkdir(parents=True)
    lines = ["names:", *(f"  {i}: {name}" for i, name in enumerate(CLASSES)), "train: images", "val: images", ""]
    (folder / "dataset.yaml").write_text("\n".join(lines))
    labels = {"bent": "4 0.25 0.5 0.05 0.2\n6 0.35 0.5 0.05 0.2\n", "lid": "2 0.5 0.5 0.4 0.4\n", "empty": ""}
    for number, (name, text) in enumerate(labels.items()):
        picture(folder / "images" / f"{name}.png", number)
        (folder / "labels" / f"{name}.txt").write_text(text)
    return folder


def framed(entry: dict[str, Any], frame: str) -> dict[str, Any]:
    return entry | {"frame": f"images/{frame}"}


def frame_row(key: str, frame: str, **more: Any) -> dict[str, Any]:
    """A whole-frame verdict question (S3)."""
    more = {"answer": "A", "task": "ot2-scene@1", "stage": "S3", "lang": "en", **more}
    return framed(row(key, f"images/{key}.png", **more), frame)


def box_row(key: str, frame: str, box: str, **more: Any) -> dict[str, Any]:
    """A question about the drawn box (S2)."""
    options = {"ask": DRAWN, "option_a": "normal", "option_b": "anomaly"}
    more = {"answer": "A", "task": "ot2-guided@1", "stage": "S2", "lang": "en", **options, **more}
    return framed(row(key, f"images/{key}.png", box=box, **more), frame)


def ask_rule(tmp_path: Path, rows: list[dict[str, Any]], ref: str) -> list[tuple[str, float | None]]:
    samples = read_samples(dataset(tmp_path / "asked", rows), "test")
    answers = baselines.load(ref).answer_samples(samples)
    assert answers == baselines.load(ref).answer_samples(blinded(samples))
    return [(answer.text, answer.p_b) for answer in answers]


def test_rule_judges_frames_at_their_step(pool: Path, tmp_path: Path) -> None:
    rows = [
        frame_row("f0", "bent", step="transfer"),
        frame_row("f1", "lid", step="thermocycle"),
        frame_row("f2", "lid", step="load_pcr"),
        frame_row("f3", "lid"),
        frame_row("f4", "empty", step="transfer"),
        frame_row("f5", "bent", step="transfer", option_a="yes", option_b="no"),
    ]
    found = ask_rule(tmp_path, rows, f"rule:{pool}")
    assert found == [("B", 1.0), ("B", 1.0), ("A", 0.0), ("A", 0.0), ("A", 0.0), ("A", 0.0)]


def test_rule_judges_the_object_in_the_box(pool: Path, tmp_path: Path) -> None:
    stop = {"ask": "What should the robot do about the tip in the box?", "option_a": "carry on", "option_b": "stop"}
    kinds = {"ask": "Which of these is in the box?", "option_a": "tip", "option_b": "trash bin"}
    rows = [
        box_row("b0", "bent", "40 35 60 65"),  # around the straight tip
        box_row("b1", "bent", "60 35 80 65"),  # around the bent one
        box_row("b2", "bent", "60 35 80 65", **stop),
        box_row("b3", "bent", "40 35 60 65", step="drop_tips"),  # a straight tip that should be gone
        box_row("b4", "bent", "120 35 160 65"),  # nothing there
        box_row("b5", "bent", "60 35 80 65", **kinds),
        box_row("b6", "bent", "60 35 80 65", ask="A question of a lab's own?"),
    ]
    found = ask_rule(tmp_path, rows, f"rule:{pool}")
    assert found == [("A", 0.0), ("B", 1.0), ("B", 1.0), ("B", 1.0), ("A", 0.0), ("A", None), ("", None)]


def test_rule_reads_a_detectors_texts(pool: Path, tmp_path: Path) -> None:
    """A flat folder with confidences; a frame without a text has no detections; below 0.5 is still detected."""
    found = tmp_path / "runs" / "labels"
    found.mkdir(parents=True)
    (found / "classes.txt").write_text("\n".join(CLASSES))
    (found / "bent.txt").write_text("4 0.25 0.5 0.05 0.2 0.9\n6 0.35 0.5 0.05 0.2 0.4\n")
    rows = [frame_row("f0", "bent"), frame_row("f1", "lid"), box_row("b0", "bent", "40 35 60 65")]
    answers = ask_rule(tmp_path, rows, f"rule:{found}")
    assert answers == [("B", pytest.approx(0.7)), ("A", 0.0), ("A", pytest.approx(0.05))]
    identity = baselines.load(f"rule:{found}").identity
    assert identity["name"] == "rule:labels" and len(identity["labels"]) == 64 and str(tmp_path) not in str(identity)


def test_class_names_as_other_tools_write_them(pool: Path, tmp_path: Path) -> None:
    found = tmp_path / "found"
    found.mkdir()
    (found / "bent.txt").write_text("6 0.35 0.5 0.05 0.2 0.4\n")
    (found / "classes.txt").write_bytes("\r\n".join([*CLASSES, ""]).encode("utf-8-sig"))
    [(letter, sure)] = ask_rule(tmp_path, [frame_row("f0", "bent")], f"rule:{found}")
    assert letter == "B" and sure == pytest.approx(0.7)
    (found / "bent.txt").write_text("8 0.35 0.5 0.05 0.2 0.4\n")
    samples = read_samples(tmp_path / "asked", "test")
    with pytest.raises(InputError, match="class 8 does not exist"):  # no class is named by the empty last line
        baselines.load(f"rule:{found}").answer_samples(samples)
    (found / "classes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        baselines.load(f"rule:{found}").answer_samples(samples)


def test_rule_describes_and_names(pool: Path, tmp_path: Path) -> None:
    scene = {"kind": "scene", "ask": "Describe the deck, then judge it."}
    rows = [
        frame_row("s0", "bent", **scene),
        frame_row("s1", "empty", **scene),
        frame_row("s2", "bent", kind="scene", ask="描述台面,然后作出判断。", lang="zh"),
    ]
    samples = read_samples(dataset(tmp_path / "asked", rows), "test")
    assert texts(baselines.load(f"rule:{pool}"), samples) == [
        "Wrong: damaged tip. Verdict: anomaly.",
        "Wrong: nothing. Verdict: normal.",
        "异常项:损坏的吸头。结论:异常。",
    ]


def test_rule_finds_what_a_crop_was_cut_for(pool: Path, tmp_path: Path) -> None:
    """A crop does not say where it lay; the label of its very size, in pixels of the frame, is the one."""
    (pool / "labels" / "bent.txt").write_text("4 0.25 0.5 0.05 0.2\n6 0.35 0.5 0.06 0.2\n")
    base = {"task": "ot2-concept@1", "stage": "S1"}
    state = {"ask": "What state is the tip in?", "option_a": "bent", "option_b": "straight"}
    rows = [
        box_row("c0", "bent", "4 4 16 24", **base, **state),
        box_row("c1", "bent", "4 4 14 24", **base, **state),
        box_row("c2", "bent", "4 4 14 24", **base, kind="open", ask="What is shown?", answer="?"),
        box_row("c3", "bent", "4 4 50 24", **base, **state),
    ]
    samples = read_samples(dataset(tmp_path / "asked", rows), "test")
    assert texts(baselines.load(f"rule:{pool}"), samples) == ["A", "B", "tip, straight", ""]


def test_rule_says_nothing_where_it_cannot_tell_what_is_asked_about(pool: Path, tmp_path: Path) -> None:
    """Not "normal": a JSONL alone does not say where a box is, and labels alone not how large a frame was."""
    crop = {"task": "ot2-concept@1", "stage": "S1", "ask": "Is there a tip in the picture?"}
    crop |= {"option_a": "no", "option_b": "yes"}
    rows = [box_row("b0", "bent", "60 35 80 65"), box_row("c0", "bent", "4 4 14 24", **crop)]
    data = dataset(tmp_path / "asked", rows)
    assert texts(baselines.load(f"rule:{pool}"), read_file(data / "test.jsonl")) == ["", ""]
    (pool / "labels" / "classes.txt").write_text("\n".join(CLASSES))
    assert texts(baselines.load(f"rule:{pool / 'labels'}"), read_samples(data, "test")) == ["B", ""]


def test_rule_finds_things_in_regions(tmp_path: Path) -> None:
    """Nouns and regions of several words, in both languages; a wider ontology than the task's own."""
    folder = tmp_path / "eye" / "labels"
    folder.mkdir(parents=True)
    (folder / "classes.txt").write_text("well_plate_6\ntip_rack")
    (folder / "deck.txt").write_text("0 0.25 0.25 0.2 0.2\n1 0.75 0.75 0.2 0.2\n")
    asks = [
        ("Is there a 6-well plate in the lower half?", "yes", "no", "B"),
        ("Is there a 6-well plate in the upper left quarter?", "yes", "no", "A"),
        ("Is there a tip rack in the picture?", "no", "yes", "B"),
        ("In which half of the picture is the tip rack?", "left", "right", "B"),
        ("In which half of the picture is the tip rack?", "lower", "upper", "A"),
        ("图的上半部有6 孔板吗?", "没有", "有", "B"),
        ("Is there a robot in the picture?", "no", "yes", ""),
    ]
    rows = [
        frame_row(f"f{i}", "deck", ask=ask, option_a=a, option_b=b, task="ot2-scene@1+01234567")
        for i, (ask, a, b, _) in enumerate(asks)
    ]
    task = load_task("ot2-scene@1", ontology="ot2eye")
    data = dataset(tmp_path / "asked", rows, {"ot2-scene@1+01234567": task.definition()})
    assert texts(baselines.load(f"rule:{folder}"), read_samples(data, "test")) == [gold for *_, gold in asks]


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        ("6 0.3 0.5 0.05\n6 0.3 0.5 0.05 0.2\n", "confidence|columns", ":1"),
        ("6 0.3 0.5 0.05 0.2 high\n", "confidence", ":1"),
        ("6 0.3 0.5 0.05 0.2 1.5\n", "confidence", ":1"),
        ("\n6 0.3 x 0.05 0.2\n", "not a number", ":2"),
        ("99 0.3 0.5 0.05 0.2\n", "class 99 does not exist", ":1"),
    ],
)
def test_broken_detections(pool: Path, tmp_path: Path, text: str, what: str, line: str) -> None:
    place = pool / "labels" / "bent.txt"
    place.write_text(text)
    samples = read_samples(dataset(tmp_path / "asked", [frame_row("f0", "bent")]), "test")
    with pytest.raises(InputError, match=what) as caught:
        baselines.load(f"rule:{pool}").answer_samples(samples)
    assert caught.value.where == f"{place}{line}"


def test_wrong_folders(pool: Path, tmp_path: Path) -> None:
    samples = read_samples(dataset(tmp_path / "asked", [frame_row("f0", "bent")]), "test")
    with pytest.raises(InputError, match="not found"):
        baselines.load(f"rule:{tmp_path / 'nowhere'}")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no label texts"):
        baselines.load(f"rule:{tmp_path / 'none'}").answer_samples(samples)
    for part in ("a", "b"):
        (tmp_path / "two" / part).mkdir(parents=True)
        (tmp_path / "two" / part / "bent.txt").write_text("")
    with pytest.raises(InputError, match="several label texts"):
        baselines.load(f"rule:{tmp_path / 'two'}").answer_samples(samples)
    foreign = [replace(samples[0], task=None)]
    with pytest.raises(InputError, match="which task"):
        baselines.load(f"rule:{pool}").answer_samples(foreign)


def test_rule_with_texts_that_match_no_frame_is_refused(pool: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/session9_f1.txt").write_text("6 0.35 0.5 0.05 0.2\n")
    data = dataset(tmp_path / "asked", [frame_row("f0", "bent"), frame_row("f1", "lid")])
    samples = read_samples(data, "test")
    with pytest.raises(InputError, match=r"none of 1 label texts, such as session9_f1\.txt, is named") as caught:
        baselines.load(f"rule:{tmp_path / 'other'}").answer_samples(samples[:1])
    assert caught.value.fix and caught.value.exit_code == 2
    # A detector writes no text for a frame in which it finds nothing; one of the dataset's frames is enough.
    (tmp_path / "other/lid.txt").write_text("")
    (tmp_path / "other/deck%20photo.txt").write_text("")
    (tmp_path / "other/Gro\u0308sse.txt").write_text("")
    rule = baselines.load(f"rule:{tmp_path / 'other'}")
    for frame in ("images/deck photo", "images/Gr\u00f6sse"):
        assert LabelFolder(tmp_path / "other").text_of(frame) is not None
    assert [answer.text for answer in rule.answer_samples(samples[:1])] != []


def test_an_edited_training_set_has_no_identity(learned: Path) -> None:
    text = (learned / "train.jsonl").read_text()
    (learned / "train.jsonl").write_text(text.replace('"content": "B"', '"content": "A"'))
    with pytest.raises(InputError, match="was changed since"):
        _ = baselines.load(f"majority:{learned}").identity


@pytest.mark.parametrize("ref", ["best", "majority:", "rule", "rule:", "nearest:", ""])
def test_unknown_names(ref: str) -> None:
    with pytest.raises(InputError, match="is not a baseline"):
        baselines.load(ref)


# cnn


@pytest.mark.torch
def test_cnn_learns_what_its_pictures_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dark and bright pictures, asked two questions with opposite answers: the picture and the question decide."""
    from deckbench.models.baselines import cnn

    monkeypatch.setattr(cnn, "EPOCHS", 12)
    monkeypatch.setattr(cnn, "SIZE", (32, 24))
    rows = []
    for number in range(28):
        bright, split = number % 2 == 1, "train" if number < 20 else "test"
        (tmp_path / "pictures").mkdir(exist_ok=True)
        name = f"images/{number}.png"
        base = np.full((48, 64, 3), 200 if bright else 40, np.uint8)
        noise = np.random.default_rng(number).integers(0, 30, base.shape).astype(np.uint8)
        (tmp_path / "shots").mkdir(exist_ok=True)
        Image.fromarray(base + noise).save(tmp_path / "shots" / f"{number}.png")
        for key, ask, yes in (("b", "Is it bright?", bright), ("d", "Is it dark?", not bright)):
            swapped = number % 3 == 0
            options = {"option_a": "yes", "option_b": "no"} if swapped else {"option_a": "no", "option_b": "yes"}
            answer = ("A" if swapped else "B") if yes else ("B" if swapped else "A")
            rows.append(row(f"{key}{number}", name, split=split, ask=ask, answer=answer, anomaly=yes, **options))
        text = "Verdict: anomaly." if bright else "Verdict: normal."
        rows.append(row(f"s{number}", name, split=split, kind="scene", ask="Describe.", answer=text, anomaly=bright))
    monkeypatch.setattr(f"{__name__}.picture", lambda place, seed, noise=0.0: copy_shot(tmp_path / "shots", place))
    data = dataset(tmp_path / "data", rows)
    samples = read_samples(data, "test")
    answers = baselines.load("cnn").answer_samples(samples)
    right = [answer.text == sample.gold for answer, sample in zip(answers, samples, strict=True)]
    assert sum(right) >= len(right) - 1
    assert all(a.p_a is None or abs(a.p_a + (a.p_b or 0) - 1) < 1e-6 for a in answers)
    assert baselines.load("cnn").answer_samples(blinded(samples)) == answers  # the same on every run, gold unread
    opened = replace(samples[0], kind="open", option_a=None, option_b=None)
    assert texts(baselines.load(f"cnn:{data}"), [opened]) == [""]


def copy_shot(shots: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes((shots / place.name).read_bytes())
