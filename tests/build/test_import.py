"""`import`: a lab's old files become datasets; every row that matches nothing is listed."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deckbench import artifact
from deckbench.build.audit import audit
from deckbench.build.importing.run import UNMATCHED, import_old
from deckbench.build.mix import mix
from deckbench.dataset import read_samples, splits_of
from deckbench.errors import InputError
from tests.build.build_helpers import picture
from tests.build.old_tree import HOME, S2_ASK, Tree, make_tree, messages, write_jsonl

MAP = "region1=S1,all_box2=S2,all_no_box=S3,S1_and_S2=mix"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return make_tree(tmp_path_factory.mktemp("old") / "train_v4")


@pytest.fixture(scope="module")
def imported(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("new") / "old"
    report = import_old(tree.singel, maps=[MAP], image_roots=[tree.image_root], pool=tree.pool, out=out)
    return out, report


# --- the source lab's tree


def test_every_folder_becomes_a_dataset(tree: Tree, imported: tuple[Path, dict[str, Any]]) -> None:
    out, report = imported
    assert {name: one["stage"] for name, one in report["datasets"].items()} == {
        "region1": "S1", "all_box2": "S2", "all_no_box": "S3", "S1_and_S2": "mix",
    }  # fmt: skip
    for name, extra in (("region1", 0), ("all_box2", 1), ("all_no_box", 0)):
        assert splits_of(out / name) == ["train", "val", "test"]
        artifact.read(out / name, "dataset", verify=True)
        rows = table(out / name / "samples.csv")
        assert len(rows) == len(tree.said[name]) + extra
        wanted = Counter((part, question, answer) for part, _, question, answer in tree.said[name])
        assert wanted <= Counter((row["split"], row["question"], row["answer"]) for row in rows)
        assert len({row["id"] for row in rows}) == len(rows)
    assert splits_of(out / "S1_and_S2") == ["train"]
    assert Counter(row["stage"] for row in table(out / "S1_and_S2" / "samples.csv")) == {"S1": 4, "S2": 8}
    assert artifact.read(out, "import", verify=True).content["inputs"]["pool"]


def test_frames_groups_and_classes_are_recovered_by_look(tree: Tree, imported: tuple[Path, dict[str, Any]]) -> None:
    out, report = imported
    for name, how in (("region1", "label"), ("all_box2", "look"), ("all_no_box", "bytes")):
        for row in table(out / name / "pictures.csv"):
            old = row["old"].rpartition("/")[2]
            if old == "stranger.jpg":
                assert (row["frame"], row["group"], row["found_by"]) == ("", "", "")
                continue
            _, frame, group, cls = tree.truth[old]
            assert (row["frame"], row["group"], row["found_by"]) == (frame, group, how), old
            assert row["class"] == (cls if name == "region1" else "")
    assert report["datasets"]["all_box2"]["pictures"] == {"look": 14, "unknown": 1}
    crops = table(out / "region1" / "samples.csv")
    assert all(len(row["box"].split()) == 4 and row["class"] for row in crops)
    x0, y0, x1, y1 = map(float, crops[0]["box"].split())
    assert (x0, y0) == pytest.approx((3, 2), abs=1.1) and (x1 - x0, y1 - y0) == pytest.approx((32, 18), abs=0.2)


def test_options_and_verdicts_are_read(imported: tuple[Path, dict[str, Any]]) -> None:
    out, _ = imported
    for sample in read_samples(out / "all_box2", "test"):
        assert (sample.kind, sample.option_a, sample.option_b) == ("choice", "正常", "异常")
        assert sample.anomaly is (sample.gold == "B") and sample.lang == "zh"
    for row in table(out / "all_no_box" / "samples.csv"):
        assert row["kind"] == "scene" and row["gold"] in row["answer"]
        assert row["anomaly"] == str(row["gold"] == "anomaly").lower()


def test_every_unmatched_row_is_listed(imported: tuple[Path, dict[str, Any]]) -> None:
    out, report = imported
    listed = table(out / UNMATCHED)
    found = {(r["dataset"], r["file"], r["row"], r["reason"], r["imported"]) for r in listed}
    assert found == {
        ("region1", "region1/train.jsonl", "9", "missing-picture", "no"),
        ("region1", "region1/train.jsonl", "10", "absolute-path", "no"),
        ("region1", "region1/train.jsonl", "11", "text-only", "no"),
        ("region1", "region1/train.jsonl", "12", "broken-row", "no"),
        ("region1", "region1/test.jsonl", "4", "not-in-table", "yes"),
        ("all_box2", "all_box2/train.jsonl", "9", "several-pictures", "no"),
        ("all_box2", "all_box2/train.jsonl", "10", "leaves-folder", "no"),
        ("all_box2", "all_box2/test.jsonl", "4", "not-in-table", "yes"),
        ("all_box2", "all_box2/test.jsonl", "5", "not-in-table", "yes"),
        ("all_box2", "all_box2/test.jsonl", "5", "not-in-pool", "yes"),
        ("all_box2", "all_box2/test.jsonl", "6", "unreadable-picture", "no"),
        ("S1_and_S2+region1", "../../Box_QA.csv", "15", "table-only", "no"),
        ("S1_and_S2+all_box2", "../../YOLO_QA_2.csv", "42", "table-only", "no"),
        ("S1_and_S2+region1", "../../Box_txt/trash_bin.txt", "4", "text-only-qa", "no"),
        ("S1_and_S2+all_box2", "../../Yolo_txt/notes.txt", "0", "no-samples", "no"),
    }
    assert "gone.jpg" in next(r["what"] for r in listed if r["reason"] == "missing-picture")
    assert report["unmatched"] == dict(sorted(Counter(r["reason"] for r in listed).items()))
    assert report["repeated"] == 1
    assert report["encodings"]["../../Box_QA.csv"] == "gb18030"
    assert report["encodings"]["../../YOLO_QA_2.csv"] == "utf-8-sig"
    assert report["encodings"]["all_box2/train.jsonl"] == "gb18030"


def test_other_steps_read_it(imported: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    from deckbench.infer import infer
    from deckbench.score import score
    from deckbench.train.data import training_items

    out, _ = imported
    report = audit(out / "all_box2")
    assert report["samples"] == {"train": 8, "test": 5} and not report["shared_groups"] and not report["shared_frames"]
    assert len(training_items(out / "region1")) == 8
    infer(model=f"majority:{out / 'all_box2'}", data=out / "all_box2", out=tmp_path / "p.csv")
    result = score(tmp_path / "p.csv", data=out / "all_box2", out=tmp_path / "s.json")
    assert result["kinds"]["choice"]["n"] == 5
    mixed = mix([(out / "all_box2", 1.0), (out / "region1", 0.5)], out=tmp_path / "mixed")
    assert mixed.content["params"]["counts"] == {"test": 9, "train": 12, "val": 4}


def test_the_same_files_elsewhere_give_the_same_content(
    tree: Tree, imported: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    moved.symlink_to(tree.root, target_is_directory=True)
    out = tmp_path / "again"
    import_old(
        moved / "GLM_SFT/Singel", maps=[MAP], image_roots=[f"{HOME}/={moved}"], pool=moved / "unlabeled_pool", out=out
    )
    assert artifact.read(out).content_hash == artifact.read(imported[0]).content_hash


def test_split_by_group_keeps_groups_together(tree: Tree, tmp_path: Path) -> None:
    out = tmp_path / "new"
    words: dict[str, Any] = {"maps": ["region1=S1,all_box2=S2"], "image_roots": [tree.image_root], "pool": tree.pool}
    import_old(tree.singel, **words, split="group", out=out)
    sides: dict[str, set[str]] = {}
    for name in ("region1", "all_box2"):
        for row in table(out / name / "samples.csv"):
            sides.setdefault(row["group"], set()).add(row["split"])
    assert len(sides) == 7 and all(len(parts) == 1 for parts in sides.values())
    assert set().union(*sides.values()) == {"train", "val", "test"}
    reasons = Counter(row["reason"] for row in table(out / UNMATCHED))
    assert reasons["unknown-group"] == 1


def test_a_table_alone_is_a_dataset(tree: Tree, tmp_path: Path) -> None:
    words: dict[str, Any] = {"maps": [".=S2"], "image_roots": [tree.image_root], "split": "test-only"}
    report = import_old(tree.root / "YOLO_QA_2.csv", **words, out=tmp_path / "q2")
    assert report["datasets"]["YOLO_QA_2"]["counts"] == {"test": 13}
    assert report["unmatched"] == {"missing-picture": 1, "no-samples": 1}
    assert {sample.stage for sample in read_samples(tmp_path / "q2", "test")} == {"S2"}


def test_without_a_pool_frames_are_named_after_pictures(tree: Tree, tmp_path: Path) -> None:
    import_old(tree.singel, maps=["all_no_box=S3"], image_roots=[tree.image_root], out=tmp_path / "S3")
    artifact.read(tmp_path / "S3", "dataset", verify=True)
    samples = read_samples(tmp_path / "S3", "train")
    assert all(s.frame is not None and s.frame.startswith("picture-") and s.group is None for s in samples)


# --- formats


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate("ab"):
        picture(tmp_path / "old" / "pics" / f"{name}.jpg", number)
    return tmp_path / "old"


def single(folder: Path, out: Path, **more: Any) -> list[tuple[str, str, str]]:
    """(picture, question, answer) of every imported sample."""
    import_old(folder, out=out, split="test-only", **more)
    names = {row["image"]: row["old"].rpartition("/")[2] for row in table(out / "pictures.csv")}
    return sorted((names[row["image"]], row["question"], row["answer"]) for row in table(out / "samples.csv"))


ONE = [("a.jpg", "What is it?", "A rack.")]
TWO = [("a.jpg", "And now?", "B"), ("a.jpg", "What is it?", "A rack.")]
QA = {"query": "What is it?", "response": "A rack."}
CHAT = [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "A rack."}]
TALK = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A rack."}]
PARTS_OF_CHAT = [{"type": "image", "image": "pics/a.jpg"}, {"type": "text", "text": "What is it?"}]
SHAPES: dict[str, tuple[Any, list[tuple[str, str, str]]]] = {
    "GLM-4V": (messages("What is it?", "A rack.", "pics/a.jpg"), ONE),
    "ms-swift query": ({**QA, "images": ["pics/a.jpg"]}, ONE),
    "ms-swift query with a mark": ({**QA, "query": "<image>What is it?", "images": "pics/a.jpg"}, ONE),
    "ms-swift with history": (
        {"query": "And now?", "response": "B", "history": [["What is it?", "A rack."]], "images": ["pics/a.jpg"]},
        TWO,
    ),
    "ms-swift messages": ({"messages": CHAT, "images": ["pics/a.jpg"]}, ONE),
    "ms-swift path and bytes": ({"messages": CHAT, "images": [{"path": "pics/a.jpg", "bytes": None}]}, ONE),
    "ms-swift inline": ({**QA, "query": "<img>pics/a.jpg</img>What is it?"}, ONE),
    "ms-swift conversation": (
        {"conversation": [{"human": "<image>What is it?", "assistant": "A rack."}], "images": ["pics/a.jpg"]}, ONE
    ),
    "Phi-3": ({"id": "1", "image": "pics/a.jpg", "conversations": TALK}, ONE),
    "Phi-3 with its own mark": (
        {"images": ["pics/a.jpg"], "messages": [{"role": "user", "content": "<|image_1|>\nWhat is it?"}, CHAT[1]]}, ONE
    ),
    "conversations of two turns": (
        {"image": "pics/a.jpg", "conversations": [*TALK, {"from": "human", "value": "And now?"},
                                                  {"from": "gpt", "value": "B"}]}, TWO
    ),
    "a picture for each turn": (
        {"images": ["pics/a.jpg", "pics/b.jpg"], "messages": [*CHAT, {"role": "user", "content": "<image>And?"},
                                                              {"role": "assistant", "content": "B"}]},
        [("a.jpg", "What is it?", "A rack."), ("b.jpg", "And?", "B")],
    ),
    "parts": ({"messages": [{"role": "user", "content": PARTS_OF_CHAT}, CHAT[1]]}, ONE),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(folder: Path, tmp_path: Path, name: str) -> None:
    record, wanted = SHAPES[name]
    write_jsonl(folder / "x.jsonl", [record])
    assert single(folder, tmp_path / "jsonl") == wanted
    (folder / "x.jsonl").unlink()
    (folder / "x.json").write_text(json.dumps([record], indent=1), encoding="utf-8-sig")
    assert single(folder, tmp_path / "json") == wanted


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({**QA}, "text-only"),
        ({**QA, "images": []}, "text-only"),
        ({**QA, "images": ["pics/a.jpg", "pics/b.jpg"]}, "several-pictures"),
        ({"messages": CHAT, "images": ["pics/a.jpg", "pics/b.jpg"]}, "pictures-and-marks"),
        ({**QA, "images": ["https://example.org/a.jpg"]}, "not-a-file"),
        ({**QA, "images": [{"bytes": "x"}]}, "not-a-file"),
        ({**QA, "images": ["pics/a.jpg"], "videos": ["v.mp4"]}, "video-or-audio"),
        ({**QA, "response": "", "images": ["pics/a.jpg"]}, "no-answer"),
        ({**QA, "images": ["pics/z.jpg"]}, "missing-picture"),
        ({**QA, "images": ["../secret.jpg"]}, "leaves-folder"),
        ({**QA, "images": ["pics/link.jpg"]}, "leaves-folder"),
        ({**QA, "images": ["/etc/hostname"]}, "absolute-path"),
        ({**QA, "images": ["D:\\lab\\a.jpg"]}, "absolute-path"),
        ({"messages": [{"role": "tool", "content": "x"}], "images": ["pics/a.jpg"]}, "tool-call"),
        ({"text": "What is it?", "images": ["pics/a.jpg"]}, "broken-row"),
        ([1, 2], "broken-row"),
        ("{", "broken-row"),
    ],
)
def test_rows_that_are_refused(folder: Path, tmp_path: Path, record: Any, reason: str) -> None:
    picture(tmp_path / "secret.jpg", 9)
    (folder / "pics/link.jpg").symlink_to(tmp_path / "secret.jpg")
    write_jsonl(folder / "x.jsonl", [record, {**QA, "images": ["pics/a.jpg"]}])
    assert single(folder, tmp_path / "out") == ONE
    assert [(r["row"], r["reason"]) for r in table(tmp_path / "out" / UNMATCHED)] == [("1", reason)]
    assert len(list((tmp_path / "out" / "images").iterdir())) == 1


def test_a_file_with_nothing_to_import_is_one_message(folder: Path, tmp_path: Path) -> None:
    write_jsonl(folder / "train.jsonl", [{**QA, "images": [f"{HOME}/crops/a.jpg"]}])
    with pytest.raises(InputError, match=f"--image-root {HOME}/crops=FOLDER"):
        import_old(folder, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"maps": ["pics=S4"]}, "write FOLDER=STAGE"),
        ({"maps": ["gone=S1"]}, "'gone' is not there"),
        ({"maps": ["../old=S1"]}, "write FOLDER=STAGE|two folders|rename it|not say"),
        ({"maps": ["..=S1"]}, "leaves the imported folder"),
        ({"maps": [".=S1,.=S2"]}, "two folders are called"),
        ({"image_roots": ["nowhere"]}, "write OLD=NEW"),
        ({"image_roots": ["a=gone"]}, "not a folder"),
        ({"split": "half"}, "is not a way to split"),
        ({"split": "group"}, "not known without a pool"),
        ({"columns": ["frage=Q"]}, "write image=NAME"),
        ({}, "does not say whether it is train, val or test"),
    ],
)
def test_wrong_words(folder: Path, tmp_path: Path, words: dict[str, Any], message: str) -> None:
    write_jsonl(folder / "x.jsonl", [{**QA, "images": ["pics/a.jpg"]}])
    with pytest.raises(InputError, match=message):
        import_old(folder, out=tmp_path / "out", **words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]


def test_windows_paths_and_parts_in_folder_names(folder: Path, tmp_path: Path) -> None:
    write_jsonl(folder / "训练集" / "glm.jsonl", [{**QA, "images": ["d:\\lab\\pics\\a.jpg"]}])
    write_jsonl(folder / "YOLO_test2.jsonl", [{**QA, "images": ["file:///mnt/lab/pics/b.jpg"]}])
    import_old(folder, out=tmp_path / "out", image_roots=[f"D:\\lab={folder}", f"/mnt/lab={folder}"])
    assert splits_of(tmp_path / "out") == ["train", "test"]


def test_pictures_other_readers_cannot_open_are_encoded_anew(folder: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20), (9, 9, 9)).save(folder / "pics" / "turned.jpg", exif=exif)
    Image.new("RGB", (30, 20)).save(folder / "pics" / "c.bmp")
    write_jsonl(folder / "x.jsonl", [{**QA, "images": [f"pics/{name}"]} for name in ("turned.jpg", "c.bmp")])
    single(folder, tmp_path / "out")
    sizes = set()
    for path in (tmp_path / "out" / "images").glob("*.png"):
        with Image.open(path) as image:
            sizes.add(image.size)
    assert sizes == {(20, 30), (30, 20)}


def test_exchanged_options_are_one_pair_and_contradictions_are_listed(folder: Path, tmp_path: Path) -> None:
    ask, swapped = "Is it normal? A. normal B. abnormal", "Is it normal? A. abnormal B. normal"
    rows = [{"query": q, "response": a, "images": ["pics/a.jpg"]} for q, a in ((ask, "A"), (swapped, "B"), (ask, "B"))]
    write_jsonl(folder / "x.jsonl", rows[:2])
    single(folder, tmp_path / "two")
    found = table(tmp_path / "two" / "samples.csv")
    assert len({row["pair_id"] for row in found}) == 1 and {row["anomaly"] for row in found} == {"false"}
    write_jsonl(folder / "x.jsonl", rows)
    single(folder, tmp_path / "three")
    assert [(r["row"], r["reason"]) for r in table(tmp_path / "three" / UNMATCHED)] == [("3", "other-answer")]


# --- tables and texts


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_tables(folder: Path, tmp_path: Path, encoding: str, mark: str) -> None:
    cells = ["pics/a.jpg", '"框中是什么?\nA. 架子\nB. 盘"', "A"]
    text = mark.join(["image_path", "问题", "Answer"]) + "\r\n" + mark.join(cells) + "\r\n" + mark * 2 + "\r\n"
    (folder / "x.csv").write_bytes(text.encode(encoding))
    assert single(folder, tmp_path / "out") == [("a.jpg", "框中是什么?\nA. 架子\nB. 盘", "A")]


def test_unknown_columns_can_be_named(folder: Path, tmp_path: Path) -> None:
    (folder / "x.csv").write_text("bild,frage,antwort\npics/a.jpg,What is it?,A rack.\n")
    with pytest.raises(InputError, match=r"no column is known to hold the question"):
        single(folder, tmp_path / "out")
    assert single(folder, tmp_path / "out", columns=["image=bild,question=frage", "answer=antwort"]) == ONE


def test_a_file_in_no_known_encoding_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "x.csv").write_bytes(b"image,question,answer\n\xff\xff,a,b\n")
    with pytest.raises(InputError, match="neither UTF-8 nor GB18030"):
        single(folder, tmp_path / "out")


def test_export_comes_back(hand_pool: Path, tmp_path: Path) -> None:
    from deckbench.build import build_dataset
    from deckbench.build.export import parse_formats

    data = tmp_path / "S2"
    limits: dict[str, Any] = {"max_train": 12, "max_test": 4}
    build_dataset("ot2-guided@1", pool=hand_pool, out=data, workers=1, export=parse_formats("phi3v,swift"), **limits)
    wanted = Counter((row["split"], row["question"], row["answer"]) for row in table(data / "samples.csv"))
    line = json.loads((data / "exports/swift/train.jsonl").read_text().splitlines()[0])
    assert line["messages"][0]["content"].startswith("<image>") and (data / line["images"][0]).is_file()
    one = json.loads((data / "exports/phi3v/test.json").read_text())[0]
    assert [turn["from"] for turn in one["conversations"]] == ["human", "gpt"] and (data / one["image"]).is_file()
    for name in ("swift", "phi3v"):
        import_old(data, maps=[f"exports/{name}=S2"], out=tmp_path / name)
        rows = table(tmp_path / name / "samples.csv")
        assert Counter((row["split"], row["question"], row["answer"]) for row in rows) == wanted
    with pytest.raises(InputError, match="is not known"):
        parse_formats("swift,llava")


def test_s2_question_text_is_kept_as_it_is(imported: tuple[Path, dict[str, Any]]) -> None:
    assert {sample.question for sample in read_samples(imported[0] / "all_box2", "train")} == {S2_ASK}


def test_nothing_is_left_when_it_fails_late(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(folder / "train.jsonl", [{**QA, "images": ["pics/a.jpg"]}])

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("deckbench.build.pictures.shutil.copyfile", full)
    with pytest.raises(Exception, match="cannot write"):
        import_old(folder, out=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]
