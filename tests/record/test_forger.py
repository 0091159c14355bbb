"""A forger who makes every hash again: each kind of change is found by `report --check` and by every level of `verify`.

The record is the committed one, of a real run: it comes from a suite, and has an adapter and an audit.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deckbench import artifact
from deckbench.cli import main
from deckbench.errors import DeckBenchError
from deckbench.pipeline.verify import verify
from deckbench.record.read import read_record
from deckbench.record.recompute import differences
from tests.record.forge import forge, seal

COMMITTED = Path(__file__).resolve().parents[2] / "results/records"
Value = dict[str, Any]
Rows = list[dict[str, str]]


def block(value: Value) -> Value:
    found: Value = value["metrics"]["kinds"]["choice"]
    return found


def wrong(rows: Rows) -> dict[str, str]:
    return next(row for row in rows if row["right"] == "false")


def right_all(rows: Rows) -> None:
    for row in rows:
        row["prediction"] = row["gold"]


def swap_files(folder: Path) -> None:
    """Two thumbnails change places; whatever lists them is made again."""
    first, second = (folder / "thumbs" / name for name in ("00.jpg", "01.jpg"))
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    seal(folder)


def swap_columns(rows: Rows) -> None:
    names = {"thumbs/00.jpg": "thumbs/01.jpg", "thumbs/01.jpg": "thumbs/00.jpg"}
    for row in rows:
        row["thumbnail"] = names.get(row["thumbnail"], row["thumbnail"])


def foreign_picture(folder: Path) -> None:
    from PIL import Image

    Image.new("RGB", (320, 180), "green").save(folder / "thumbs/00.jpg")
    seal(folder)


def link(folder: Path) -> None:
    (folder / "thumbs/00.jpg").unlink()
    (folder / "thumbs/00.jpg").symlink_to("/etc/hostname")
    seal(folder)


def extra(folder: Path) -> None:
    (folder / "notes.txt").write_text("hello")
    seal(folder)


def fifo(folder: Path) -> None:
    (folder / "thumbs/00.jpg").unlink()
    os.mkfifo(folder / "thumbs/00.jpg")


def rename_everywhere(folder: Path) -> None:
    """The model renamed in the record, in the manifest of its predictions and in the suite: its adapter tells."""

    def lineage(value: Value) -> None:
        value["predictions"]["inputs"]["model"]["name"] = "big-model"
        value["suite"]["text"] = value["suite"]["text"].replace("tiny-glm4v", "big-model")
        value["suite"]["label"] = value["suite"]["label"].replace("tiny-glm4v", "big-model")

    def record(value: Value) -> None:
        value["model"]["name"] = value["model"]["identity"]["name"] = "big-model"
        value["command"] = value["command"].replace("tiny-glm4v", "big-model")

    forge(folder, record=record, lineage=lineage)


def another_dataset(folder: Path) -> None:
    """Gold answers turned in questions and samples, the dataset's hash made again with all that names it in the record:
    the predictions were made on another one."""

    def questions(rows: list[Value]) -> None:
        for row in rows:
            answer = row["messages"][1]
            answer["content"] = {"A": "B", "B": "A"}[answer["content"]]

    def samples(rows: Rows) -> None:
        for row in rows:
            row["gold"] = {"A": "B", "B": "A"}[row["gold"]]

    forge(folder, questions=questions, samples=samples, remeasure=True)
    asked = json.loads((folder / "record.json").read_text())["questions"]
    made: dict[str, str] = {}

    def lineage(value: Value) -> None:
        value["dataset"]["files"]["test.jsonl"]["sha256"] = asked
        made["hash"] = artifact.hash_json(value["dataset"])

    def record(value: Value) -> None:
        value["dataset"] = value["metrics"]["inputs"]["data_content"] = made["hash"]
        next(entry for entry in value["inputs"] if entry["name"] == "dataset")["sha256"] = made["hash"]

    forge(folder, lineage=lineage, record=record)


def in_record(edit: Callable[[Value], Any]) -> Callable[[Path], None]:
    return lambda folder: forge(folder, record=edit)


def in_samples(edit: Callable[[Rows], Any], *, remeasure: bool = False) -> Callable[[Path], None]:
    return lambda folder: forge(folder, samples=edit, remeasure=remeasure)


def input_of(value: Value, name: str) -> Value:
    found: Value = next(entry for entry in value["inputs"] if entry["name"] == name)
    return found


def other_pool(value: Value) -> None:
    value["pool"]["hash"] = input_of(value, "pool")["sha256"] = "1" * 64


def other_adapter(value: Value) -> None:
    value["model"]["identity"]["adapter"] = input_of(value, "adapter")["sha256"] = "1" * 64


KINDS: dict[str, Callable[[Path], None]] = {
    "a digit in a metric": in_record(lambda v: block(v)["metrics"]["accuracy"].update(value=0.9067567568)),
    "a digit in a block by class": in_record(lambda v: next(iter(block(v)["by_class"].values())).update(unparsed=1)),
    "a digit in an interval": in_record(lambda v: v["metrics"]["metrics"]["accuracy"].update(wilson=[0.4, 0.99])),
    "a sample column": in_samples(lambda rows: [row.update(right="true", reason="") for row in rows]),
    "a column that is not scored": in_samples(lambda rows: rows[0].update(tokens_in="7")),
    "a question type": in_samples(lambda rows: rows[0].update(question_type="easy"), remeasure=True),
    "a class": in_samples(lambda rows: rows[0].update({"class": "spill"}), remeasure=True),
    "a group": in_samples(lambda rows: rows[0].update(group="s99999"), remeasure=True),
    "a gold answer": in_samples(lambda rows: rows[0].update(gold="AB"[rows[0]["gold"] == "A"]), remeasure=True),
    "a question": in_samples(lambda rows: rows[0].update(question="Is it?\nA. carry on\nB. stop"), remeasure=True),
    "a prediction": in_samples(lambda rows: wrong(rows).update(prediction=wrong(rows)["gold"])),
    "all predictions, scored again": in_samples(right_all, remeasure=True),
    "removed samples, scored again": in_samples(lambda rows: rows.__delitem__(slice(40)), remeasure=True),
    "a repeated sample": in_samples(lambda rows: rows.append(dict(rows[0])), remeasure=True),
    "another dataset": another_dataset,
    "the dataset's hash": in_record(lambda v: v.update(dataset="1" * 64)),
    "the model's name": in_record(lambda v: v["model"].update(name="big-model")),
    "the model's name everywhere": rename_everywhere,
    "the model's weights": in_record(lambda v: v["model"]["identity"].update(hash="1" * 64)),
    "random weights": in_record(lambda v: v["model"].update(weights="random")),
    "a baseline": in_record(lambda v: (v["model"].update(kind="baseline"), v.update(curriculum=None))),
    "the adapter": in_record(other_adapter),
    "the curriculum": in_record(lambda v: v.update(curriculum="S1")),
    "the machine": in_record(lambda v: v["hardware"].update(cpu="Jetson AGX Orin")),
    "the machine's threads": in_record(lambda v: v["hardware"].update(threads=1)),
    "a package": in_record(lambda v: v["packages"].update(torch="9.9.9")),
    "a container": in_record(lambda v: v.update(container={"name": "x86-cpu", "identity": "1" * 64, "locked": True})),
    "the pool's name": in_record(lambda v: v["pool"].update(name="lab")),
    "the pool": in_record(other_pool),
    "a real pool": in_record(lambda v: v["pool"].update(synthetic=False)),
    "the board": in_record(lambda v: v["pool"].update(board="demo")),
    "the credit": in_record(lambda v: v["pool"].update(credit={"title": "a", "source": "b", "licence": "c"})),
    "the condition": in_record(lambda v: v["pool"].update(condition="shifted", part="shifted")),
    "the audit": in_record(lambda v: v["audit"].update(passed=not v["audit"]["passed"])),
    "no audit": in_record(lambda v: v.update(audit=None)),
    "no audit at all": lambda folder: forge(
        folder, record=lambda v: v.update(audit=None), lineage=lambda v: v.update(audit=None)
    ),
    "the suite": in_record(lambda v: input_of(v, "suite").update(sha256="1" * 64)),
    "the seed": in_record(lambda v: (v.update(seed=7), v["metrics"].update(seed=7))),
    "the command": in_record(lambda v: v.update(command="deckbench run demo --only tiny-glm4v:S1+S2:S2")),
    "the task": in_record(lambda v: v.update(task="ot2-guided@2")),
    "a note less": in_record(lambda v: v["metrics"].update(notes=[])),
    "a note more": in_record(lambda v: v["metrics"]["notes"].append("checked by the police")),
    "a manifest of the lineage": lambda folder: forge(
        folder, lineage=lambda v: v["predictions"]["params"].update(limit=10)
    ),
    "swapped thumbnails": swap_files,
    "swapped thumbnails in the samples": in_samples(swap_columns),
    "a foreign thumbnail": foreign_picture,
    "a link": link,
    "a pipe": fifo,
    "an extra file": extra,
    "the date": lambda folder: forge(
        folder, observed=lambda value: value.update(written="2026-01-02T03:04:05Z"), restate=False
    ),
    "a date that is none": lambda folder: forge(folder, observed=lambda value: value.update(written="2026-02-31")),
    "a date to come": lambda folder: forge(folder, observed=lambda value: value.update(written="2099-01-02T03:04:05Z")),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the committed record of rendered frames, free to forge."""
    (record,) = COMMITTED.glob("deck-*")
    return Path(shutil.copytree(record, tmp_path / "records" / record.name))


def exit_code(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["deckbench", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_committed_record_passes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert differences(read_record(folder)) == ()
    assert verify(folder)["verdict"] == "same bytes"
    words = ("report", "--records", str(folder.parent), "--out", str(tmp_path / "site"), "--check")
    assert exit_code(monkeypatch, *words) == 0


@pytest.mark.slow
def test_all_committed_records_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("report", "--records", str(COMMITTED), "--out", str(tmp_path / "site"), "--check")
    assert exit_code(monkeypatch, *words) == 0
    assert all(verify(record)["verdict"] == "same bytes" for record in COMMITTED.iterdir())


def test_a_forger_without_a_forgery_leaves_the_record_as_it_is(folder: Path) -> None:
    """The test's own tools make all hashes right."""
    before = (folder / "statement.json").read_bytes()
    forge(folder, samples=lambda rows: None, lineage=lambda value: None, questions=lambda rows: None, remeasure=True)
    assert differences(read_record(folder)) == ()
    assert len((folder / "statement.json").read_bytes()) == len(before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_forgery_is_found(kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    KINDS[kind](folder)
    words = ("report", "--records", str(folder.parent), "--out", str(tmp_path / "site"), "--check")
    assert exit_code(monkeypatch, *words) == 4
    for since in ("score", "infer", "train"):
        try:
            found = verify(folder, since=since)
        except DeckBenchError as error:
            assert error.exit_code == 2
        else:
            assert (found["verdict"], found["reproduced"]) == ("different", False)
