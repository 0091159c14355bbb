"""Fields of old rows that hold text: part of the question, filled in, or refused by name; never dropped."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from deckbench.build.importing.run import import_old
from deckbench.errors import InputError
from tests.build.build_helpers import picture

IMAGE = {"images": ["images/a.png"]}


def old(folder: Path, rows: Any, name: str = "train.json") -> Path:
    """A folder with one picture and one file of rows (a text as it is, else JSON or JSON lines)."""
    picture(folder / "images/a.png", 1)
    if not isinstance(rows, str):
        rows = json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name).write_text(rows, encoding="utf-8")
    return folder


def asked(folder: Path, out: Path, **options: Any) -> list[tuple[str, str]]:
    """(question, answer) of what is imported, in the order of the file's questions."""
    import_old(folder, out=out, **options)
    with (out / "samples.csv").open(encoding="utf-8", newline="") as file:
        return sorted((row["question"], row["answer"]) for row in csv.DictReader(file))


JOINED: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "alpaca": (
        {"instruction": "Look at the deck.", "input": "Is slot 9 empty?", "output": "no", **IMAGE},
        [("Look at the deck.\nIs slot 9 empty?", "no")],
    ),
    "alpaca-empty-input": (
        {"instruction": "Is slot 9 empty?", "input": "", "output": "no", "system": None, "history": [], **IMAGE},
        [("Is slot 9 empty?", "no")],
    ),
    "alpaca-image-mark-in-the-input": (
        {"instruction": "Look.", "input": "<image>\nIs slot 9 empty?", "output": "no", **IMAGE},
        [("Look.\n\nIs slot 9 empty?", "no")],
    ),
    "alpaca-system-and-history": (
        {
            "system": "You watch a robot.",
            "instruction": "And slot 8?",
            "input": "Answer briefly.",
            "output": "a rack",
            "history": [["What is in slot 9?", "a plate"]],
            **IMAGE,
        },
        [("You watch a robot.\nAnd slot 8?\nAnswer briefly.", "a rack"), ("What is in slot 9?", "a plate")],
    ),
    "instruction-and-question": (
        {"instruction": "Look at the deck.", "question": "Is slot 9 empty?", "answer": "no", **IMAGE},
        [("Look at the deck.\nIs slot 9 empty?", "no")],
    ),
    "context": (
        {"context": "The run has ended.", "question": "Is slot 9 empty?", "answer": "no", "image": "images/a.png"},
        [("The run has ended.\nIs slot 9 empty?", "no")],
    ),
    "system-message": (
        {
            "messages": [
                {"role": "system", "content": "You watch a robot."},
                {"role": "user", "content": "<image>Is slot 9 empty?"},
                {"role": "assistant", "content": "no"},
            ],
            **IMAGE,
        },
        [("You watch a robot.\nIs slot 9 empty?", "no")],
    ),
    "sharegpt-with-system": (
        {
            "conversations": [{"from": "human", "value": "<image>Is slot 9 empty?"}, {"from": "gpt", "value": "no"}],
            "system": "You watch a robot.",
            **IMAGE,
        },
        [("You watch a robot.\nIs slot 9 empty?", "no")],
    ),
    "swift-objects": (
        {
            "messages": [
                {"role": "user", "content": "<image>Is <ref-object> beside <ref-object>?"},
                {"role": "assistant", "content": "<ref-object> is not"},
            ],
            "objects": {"ref": ["the plate", "the rack", "the plate"], "bbox": []},
            **IMAGE,
        },
        [("Is the plate beside the rack?", "the plate is not")],
    ),
    "swift-2-objects": (
        {
            "query": "<image>Is <ref-object> there?",
            "response": "yes",
            "objects": json.dumps([{"caption": "the plate", "bbox": [1, 2, 3, 4], "bbox_type": "real"}]),
            **IMAGE,
        },
        [("Is the plate there?", "yes")],
    ),
    "other-image-marks": (
        {"query": "<|vision_start|><|image_pad|><|vision_end|>Is slot 9 empty?", "response": "no", **IMAGE},
        [("Is slot 9 empty?", "no")],
    ),
    "where-it-comes-from": (
        {"id": "x1", "source": "deck set", "meta": {"by": "me"}, "question": "Is it?", "answer": "no", **IMAGE},
        [("Is it?", "no")],
    ),
}


@pytest.mark.parametrize("form", JOINED)
def test_import_alpaca_and_other_fields_with_text(tmp_path: Path, form: str) -> None:
    record, wanted = JOINED[form]
    assert asked(old(tmp_path / "old", [record]), tmp_path / "out") == sorted(wanted)


def talk(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": who, "value": text} for who, text in turns], **IMAGE, **more}


NAMED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown-field": ({"question": "Is it?", "answer": "no", "passage": "It is late", **IMAGE}, "passage: It is late"),
    "choices": ({"question": "Is it?", "answer": "B", "choices": ["yes", "no"], **IMAGE}, "choices: ['yes', 'no']"),
    "rejected": ({"query": "Is it?", "response": "no", "rejected_response": "yes", **IMAGE}, "rejected_response: yes"),
    "tools": (talk(("human", "<image>Is it?"), ("gpt", "no"), tools='[{"name": "look"}]'), "tools: "),
    "question-beside-messages": (talk(("human", "<image>Is it?"), ("gpt", "no"), query="Or?"), "query: Or?"),
    "thinking": (
        {"messages": [{"role": "user", "content": "Is it?"},
                      {"role": "assistant", "content": "no", "reasoning_content": "hm"}], **IMAGE},
        "reasoning_content in a message: hm",
    ),
    "two-answers": ({"question": "Is it?", "answer": "no", "output": "yes", **IMAGE}, "two answers: 'no' and 'yes'"),
    "bbox": ({"query": "Where?", "response": "<bbox>", "objects": {"bbox": [[1, 2, 3, 4]]}, **IMAGE}, "<bbox>"),
    "too-few-objects": ({"query": "Is <ref-object>?", "response": "no", "objects": {}, **IMAGE}, "<ref-object>"),
    "video": ({"query": "<video>Is it?", "response": "no", **IMAGE}, "<video>"),
    "template": ({"query": "Look. {input}", "response": "no", **IMAGE}, "{input}"),
    "two-answers-in-a-row": (talk(("human", "Is it?"), ("gpt", "no"), ("gpt", "yes")), "two answers in a row"),
    "greeting": (talk(("gpt", "Hello"), ("human", "Is it?"), ("gpt", "no")), "an answer without a question"),
    "late-system": (talk(("human", "Is it?"), ("system", "Be brief."), ("gpt", "no")), "a system message after"),
}  # fmt: skip


@pytest.mark.parametrize("form", NAMED)
def test_a_field_that_is_no_known_part_is_refused_by_name(tmp_path: Path, form: str) -> None:
    record, what = NAMED[form]
    with pytest.raises(InputError) as caught:
        import_old(old(tmp_path / "old", [record], "train.jsonl"), out=tmp_path / "out")
    assert "train.jsonl:1: " in caught.value.what and what in caught.value.what
    assert caught.value.exit_code == 2 and not (tmp_path / "out").exists()


def test_a_field_can_be_left_out_by_name(tmp_path: Path) -> None:
    folder = old(tmp_path / "old", [NAMED["unknown-field"][0]])
    with pytest.raises(InputError) as caught:
        import_old(folder, out=tmp_path / "out")
    assert caught.value.fix is not None and caught.value.fix.endswith("--columns ignore=passage")
    assert asked(folder, tmp_path / "out", columns=["ignore=passage"]) == [("Is it?", "no")]


def test_a_column_with_text_is_refused_by_name(tmp_path: Path) -> None:
    table = "image,question,answer,hint,note\nimages/a.png,Is it?,no,Look left.,\nimages/a.png,Or?,yes,,blurred\n"
    folder = old(tmp_path / "old", table, "train.csv")
    assert asked(folder, tmp_path / "out") == [("Look left.\nIs it?", "no")]
    listed = (tmp_path / "out/unmatched.csv").read_text(encoding="utf-8")
    assert "train.csv,3,unknown-field,no,note: blurred" in listed
    both = asked(folder, tmp_path / "both", columns=["ignore=note,ignore=hint"])
    assert both == [("Is it?", "no"), ("Or?", "yes")]


def test_import_refused(tmp_path: Path) -> None:
    rows = [
        talk(("human", "<image>What is it?"), ("function_call", "{}"), ("observation", "rack"), ("gpt", "a rack")),
        {"messages": [{"role": "user", "content": "<image><image>Same slot?"}, {"role": "assistant", "content": "yes"}],
         **IMAGE},
    ]  # fmt: skip
    with pytest.raises(InputError) as caught:
        import_old(old(tmp_path / "old", rows, "train.jsonl"), out=tmp_path / "out")
    assert "train.jsonl:1: the row calls a tool" in caught.value.what
    assert "train.jsonl:2: the images do not fit the <image> marks of the text: 2 marks, 1 images" in caught.value.what
    assert "change those rows" in (caught.value.fix or "")


def test_half_a_surrogate_pair_is_no_text(tmp_path: Path) -> None:
    good = {"question": "Is it? \U0001f600", "answer": "no", **IMAGE}
    rows = json.dumps([good, {"question": "Is \ud800 it?", "answer": "no", **IMAGE}, {"note\ud800": "x", **IMAGE}])
    assert asked(old(tmp_path / "old", rows), tmp_path / "out") == [("Is it? \U0001f600", "no")]
    listed = (tmp_path / "out/unmatched.csv").read_text(encoding="utf-8")
    assert listed.count("half a surrogate pair") == 2


def test_import_of_linked_images_says_how_to_copy_them(tmp_path: Path) -> None:
    folder = old(tmp_path / "old", [{"question": "Is it?", "answer": "no", **IMAGE}], "train.jsonl")
    (folder / "images/a.png").rename(tmp_path / "photo.png")
    (folder / "images/a.png").symlink_to(tmp_path / "photo.png")
    with pytest.raises(InputError, match=r"train\.jsonl:1: the image's path, or a link, leaves the folder") as caught:
        import_old(folder, out=tmp_path / "out")
    assert "cp -rL" in (caught.value.fix or "")


def test_import_refused_in_part_names_the_first_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": "Is it?", "answer": "no", **IMAGE}, {"question": "Is it?", **IMAGE}]
    assert asked(old(tmp_path / "old", rows), tmp_path / "out") == [("Is it?", "no")]
    assert "first: train.json, record 2: Is it?" in capsys.readouterr().err


def test_the_folders_that_were_found(shared: Path, tmp_path: Path) -> None:
    assert asked(shared / "faults/import-alpaca", tmp_path / "out") == [("Look at the deck.\nIs slot 9 empty?", "no")]
    with pytest.raises(InputError, match=r"train\.jsonl:1: the row calls a tool"):
        import_old(shared / "faults/import-refused", out=tmp_path / "refused")
