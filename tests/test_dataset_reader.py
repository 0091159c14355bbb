"""Reading questions from datasets, JSONL of other labs, and CSV tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from deckbench import artifact
from deckbench.dataset import dataset_hash, read_file, read_samples, splits_of
from deckbench.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "images/a.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "images/b.png")
    return tmp_path


def turn(question: str, answer: str, image: str | None = "images/a.png") -> list[dict[str, str]]:
    user = {"role": "user", "content": question} | ({"image": image} if image else {})
    return [user, {"role": "assistant", "content": answer}]


def write(path: Path, *rows: Mapping[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_missing_fields_are_derived(folder: Path) -> None:
    write(folder / "test.jsonl", {"messages": turn("q", "A")}, {"messages": turn("q", "a tip rack")})
    choice, open_ = read_samples(folder, "test")
    assert (choice.kind, choice.gold, open_.kind, open_.gold) == ("choice", "A", "open", "a tip rack")
    assert choice.image == folder / "images/a.png" and choice.id != open_.id and choice.pair_id == choice.id
    assert choice.split == "test" and choice.anomaly is None and choice.box is None


def test_ids_come_from_content_and_stay_unique(folder: Path) -> None:
    same = {"messages": turn("q", "A")}
    first = read_file(write(folder / "x.jsonl", same, same))
    assert len({sample.id for sample in first}) == 2
    assert first[0].id == read_file(write(folder / "y.jsonl", {"messages": turn("p", "B")}, same))[1].id


def test_each_turn_is_a_sample_about_the_same_picture(folder: Path) -> None:
    messages = [{"role": "system", "content": "s"}, *turn("one", "A"), *turn("two", "rack", None)]
    samples = read_file(write(folder / "x.jsonl", {"messages": messages, "id": "k"}))
    assert [(s.id, s.question, s.image.name) for s in samples] == [("k", "one", "a.png"), ("k/2", "two", "a.png")]


def test_pictures_may_be_listed_beside_the_messages(folder: Path) -> None:
    row = {"messages": turn("<image>q", "A", None), "images": ["images/b.png"], "source": "elsewhere"}
    assert read_file(write(folder / "x.jsonl", row))[0].image.name == "b.png"


def test_several_pictures_are_refused(folder: Path) -> None:
    row = {"messages": turn("<image><image>q", "A", None), "images": ["images/a.png", "images/b.png"]}
    with pytest.raises(InputError, match="has 2 images") as caught:
        read_file(write(folder / "x.jsonl", row))
    assert caught.value.where == f"{folder / 'x.jsonl'}:1" and caught.value.fix


def test_boxes_and_language_come_from_samples_csv(folder: Path) -> None:
    write(folder / "test.jsonl", {"messages": turn("q", "A"), "id": "k"}, {"messages": turn("q", "B"), "id": "m"})
    (folder / "samples.csv").write_text("id,lang,box\nk,zh,1 2 3.5 4\nm,,\n")
    first, second = read_samples(folder, "test")
    assert (first.lang, first.box, second.lang, second.box) == ("zh", (1.0, 2.0, 3.5, 4.0), None, None)


def test_bom_crlf_and_blank_lines(folder: Path) -> None:
    line = json.dumps({"messages": turn("孔板?", "A")}, ensure_ascii=False)
    (folder / "x.jsonl").write_bytes(f"\ufeff{line}\r\n\r\n{line}\r\n".encode())
    assert [sample.question for sample in read_file(folder / "x.jsonl")] == ["孔板?"] * 2


def test_csv_of_questions(folder: Path) -> None:
    text = "\ufeffimage,question,answer,id,anomaly,note\r\n"
    text += 'images/a.png,"What,\nthen?",A,k,true,x\r\nimages/b.png,q,,,,\r\n'
    (folder / "x.csv").write_bytes(text.encode())
    first, second = read_file(folder / "x.csv")
    assert (first.id, first.question, first.gold, first.anomaly) == ("k", "What,\nthen?", "A", True)
    assert (second.gold, second.kind, second.image.name) == ("", "open", "b.png")


@pytest.mark.parametrize(
    ("cell", "anomaly"), [("True", True), ("1", True), ("yes", True), ("FALSE", False), ("", None)]
)
def test_csv_words_for_anomaly(folder: Path, cell: str, anomaly: bool | None) -> None:
    (folder / "x.csv").write_text(f"image,question,anomaly\nimages/a.png,q,{cell}\n")
    assert read_file(folder / "x.csv")[0].anomaly is anomaly


BAD_CSV = {
    "no image column": ("question\nq\n", ":1", "the column 'image' is missing"),
    "no question column": ("image\na.png\n", ":1", "the column 'question' is missing"),
    "too many cells": ("image,question\nimages/a.png,q,r\n", ":2", "do not fit the header"),
    "too few cells": ("image,question\nimages/a.png\n", ":2", "do not fit the header"),
    "missing picture": ("image,question\nimages/z.png,q\n", ":2", "is missing"),
    "leaves": ("image,question\n../a.png,q\n", ":2", "leaves the folder"),
    "open quote": ('image,question\n"images/a.png,q\n', "", "not a valid CSV"),
    "anomaly": ("image,question,anomaly\nimages/a.png,q,bent tip\n", ":2", "anomaly: Input should be a valid boolean"),
    "kind": ("image,question,kind\nimages/a.png,q,poem\n", ":2", "kind"),
    "id twice": ("image,question,id\nimages/a.png,q,1\nimages/a.png,q,1\n", ":3", "occurs twice"),
}


@pytest.mark.parametrize("name", BAD_CSV)
def test_bad_csv(folder: Path, name: str) -> None:
    text, line, message = BAD_CSV[name]
    (folder / "x.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        read_file(folder / "x.csv")
    assert message in caught.value.what and caught.value.where == f"{folder / 'x.csv'}{line}"
    assert caught.value.exit_code == 2 and caught.value.fix


def test_not_utf8_csv(folder: Path) -> None:
    (folder / "x.csv").write_bytes(b"image,question\nimages/a.png,\xff\n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_file(folder / "x.csv")


@pytest.mark.parametrize("name", ["x.parquet", "gone.jsonl", "gone.csv"])
def test_other_files(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        read_file(folder / name)


def test_parts_of_a_dataset(folder: Path) -> None:
    write(folder / "val.jsonl", {"messages": turn("q", "A")})
    write(folder / "train.jsonl", {"messages": turn("q", "A")})
    assert splits_of(folder) == ["train", "val"]
    with pytest.raises(InputError, match="no test part"):
        read_samples(folder, "test")


def test_deep_json_is_refused(folder: Path) -> None:
    (folder / "x.jsonl").write_text('{"messages":' + "[" * 100_000 + "\n")
    with pytest.raises(InputError, match="not valid JSON"):
        read_file(folder / "x.jsonl")


def test_messages_name_only_commands_that_exist(folder: Path) -> None:
    (folder / "x.jsonl").write_text('{"conversations": []}\n{"messages": []}\n')
    for text in ('{"conversations": []}', '{"messages": []}'):
        (folder / "x.jsonl").write_text(text + "\n")
        with pytest.raises(InputError) as caught:
            read_file(folder / "x.jsonl")
        assert "`deckbench " not in caught.value.message()


def test_the_hash_of_a_dataset(tmp_path: Path) -> None:
    """The manifest's where there is one, its files checked as wished; else of all files, or of the one file."""
    folder = tmp_path / "made"
    with artifact.writing(folder, "dataset") as draft:
        for name in ("test.jsonl", "samples.csv"):
            (draft.path / name).write_text(name)
    made = artifact.read(folder).content_hash
    assert dataset_hash(folder) == dataset_hash(folder, verify=("samples.csv",)) == made
    (folder / "test.jsonl").write_text("changed")
    with pytest.raises(InputError, match="was changed since") as caught:
        dataset_hash(folder)
    assert caught.value.where == str(folder / "test.jsonl")
    assert dataset_hash(folder, verify=("samples.csv", "absent.csv")) == dataset_hash(folder, verify=False) == made
    (folder / "manifest.json").unlink()
    assert dataset_hash(folder) == artifact.hash_folder(folder)
    assert dataset_hash(folder / "test.jsonl") == artifact.hash_file(folder / "test.jsonl")
    with pytest.raises(InputError, match="not found"):
        dataset_hash(tmp_path / "nowhere")
    with artifact.writing(tmp_path / "pool", "pool"):
        pass
    with pytest.raises(InputError, match="this is a pool, not a dataset"):
        dataset_hash(tmp_path / "pool")
