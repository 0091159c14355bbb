"""Verify: records done again, and what counts as the same."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deckbench.pipeline.verify import DIFFERENT, SAME_ANSWERS, SAME_BYTES, WITHIN, compare, verify
from tests.record import fake
from tests.record.forge import seal


def rewrite(path: Path, **changes: Any) -> None:
    """Change columns of a CSV: name -> function of the row."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **{name: change(row) for name, change in changes.items()}} for row in rows)


def record(place: Path, **changes: Any) -> Path:
    """A record of invented answers with their real score. changes: to columns of the dataset and the predictions."""
    data = fake.dataset(place / "data")
    said = fake.predictions(place / "p.csv", data)
    for path in (data / "samples.csv", said):
        head = path.read_text(encoding="utf-8").partition("\n")[0].strip().split(",")
        rewrite(path, **{name: change for name, change in changes.items() if name in head})
    fake.reseal(data)
    return fake.record(place / "r", place / "w", data=data, instead={"predictions": said})


def test_a_record_scores_the_same_again(tmp_path: Path) -> None:
    found = verify(record(tmp_path))
    assert (found["verdict"], found["reproduced"]) == (SAME_BYTES, True)


def test_other_gold_answers_are_not_the_same_record(tmp_path: Path) -> None:
    """The model says the same, but the pool's labels have changed: nothing was reproduced."""
    old = record(tmp_path / "old")
    other = record(
        tmp_path / "new", gold=lambda row: "AB"[row["gold"] == "A"], answer=lambda row: "AB"[row["answer"] == "A"]
    )
    assert compare(old, other)[0] == DIFFERENT
    parsed = record(tmp_path / "parsed", p_a=lambda row: "0.25")
    assert compare(old, parsed)[0] == SAME_ANSWERS
    assert compare(old, old)[0] == SAME_BYTES


OTHER: dict[str, dict[str, Any]] = {
    "model": {"model": "other"},
    "pool": {"board": "other"},
    "condition": {"condition": "shifted"},
    "seed": {"seed": 1},
    "audit": {"audit": False},
    "curriculum": {"curriculum": "S1"},
}


@pytest.mark.parametrize("what", OTHER)
def test_what_a_second_making_has_to_give_again(tmp_path: Path, what: str) -> None:
    """The same answers of another model, on another pool or with another audit are not the same record."""
    data = fake.dataset(tmp_path / "data")
    said: dict[str, Any] = {"data": data, "texts": dict.fromkeys(range(60), "A")}
    if what == "pool":
        said.pop("data")
    old = fake.record(tmp_path / "old", tmp_path / "w", **said)
    new = fake.record(tmp_path / "new", tmp_path / "w2", **{**said, **OTHER[what]})
    assert compare(old, new)[0] == DIFFERENT


def test_another_class_of_hardware_is_said(tmp_path: Path) -> None:
    data = fake.dataset(tmp_path / "data")
    arm = {**fake.MACHINE, "architecture": "aarch64", "capability": "DEFAULT"}
    old = fake.record(tmp_path / "old", tmp_path / "w", data=data)
    new = fake.record(tmp_path / "new", tmp_path / "w2", data=data, machine=arm, texts={0: "B", 1: "A"})
    verdict, why = compare(old, new)
    assert verdict == WITHIN and "architecture x86_64 -> aarch64" in why


def test_other_thumbnails_are_not_the_same_record(tmp_path: Path) -> None:
    old = record(tmp_path)
    new = Path(shutil.copytree(old, tmp_path / "new"))
    first, second = (new / "thumbs" / name for name in ("00.jpg", "01.jpg"))
    shown = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(shown)
    seal(new)
    assert compare(old, new) == (DIFFERENT, "its thumbnails show other frames")


STEP = """#!{python}
import signal, sys, time
def ended(number, frame):
    time.sleep(1)  # a container is not removed at once
    open({mark!r}, "a").write(signal.Signals(number).name)
    raise SystemExit(3)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, ended)
print("up", file=sys.stderr, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_row_in_a_container_is_given_the_time_to_remove_it(tmp_path: Path, number: signal.Signals) -> None:
    step, mark = tmp_path / "deckbench", tmp_path / "mark"
    step.write_text(STEP.format(python=sys.executable, mark=str(mark)))
    step.chmod(0o755)
    code = (
        "import signal, sys; from pathlib import Path; from deckbench.pipeline.verify import run_contained\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.executable = {str(step)!r}\n"
        "try: run_contained('demo', Path('w'), 'a row', 'x86-cpu')\n"
        "except BaseException as error: print(repr(error))"
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "up\n"
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    said = process.communicate(timeout=60)[0]
    assert said.startswith(
        "KeyboardInterrupt" if number == signal.SIGINT else "OutsideError('a row: stopped by SIGTERM"
    )
    assert mark.read_text() == number.name
