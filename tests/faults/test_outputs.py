"""Outputs: one writer each, whole at every moment, and nothing left by a killed one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deckbench import artifact, disk
from deckbench.errors import InputError, OutsideError
from tests.faults.conftest import Cli
from tests.measure import measured

SPAWN = multiprocessing.get_context("spawn")


def hold(out: Path, line: Any) -> None:
    with disk.claim(out):
        line.send("held")
        line.recv()


@contextlib.contextmanager
def other_process(out: Path) -> Iterator[None]:
    """Another process that writes `out`."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=hold, args=(out, theirs))
    process.start()
    assert ours.poll(60)
    try:
        yield
    finally:
        process.kill()
        process.join()


WRITERS = [
    ["pool", "synth", "OUT", "--frames", "8"],
    ["pool", "split", "nowhere", "--out", "OUT"],
    ["pool", "group", "nowhere", "--by", "phash", "--out", "OUT"],
    ["pool", "import", "sdls", "nowhere", "--out", "OUT"],
    ["pool", "from-run", "--protocol", "nowhere", "--run", "nowhere", "--frames", "nowhere", "--out", "OUT"],
    ["steps", "nowhere", "--out", "OUT"],
    ["build", "ot2-guided@1", "--pool", "nowhere", "--out", "OUT"],
    ["mix", "nowhere", "--out", "OUT"],
    ["import", "nowhere", "--out", "OUT"],
    ["train", "--model", "tiny-glm4v", "--data", "nowhere", "--out", "OUT"],
    ["merge", "--model", "tiny-glm4v", "--adapter", "nowhere", "--out", "OUT"],
    ["infer", "--model", "majority", "--data", "nowhere", "--out", "OUT"],
    ["score", "nowhere.csv", "--out", "OUT"],
    ["bench", "--model", "tiny-glm4v", "--data", "nowhere", "--out", "OUT"],
    ["report", "--records", "nowhere", "--out", "OUT"],
    ["run", "smoke", "--work", "OUT"],
    ["models", "pretrain", "tiny-glm4v", "--pool", "nowhere", "--out", "OUT"],
]


def test_the_second_command_on_one_output_is_refused_at_its_start(tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "deep" / "out.csv"
    with other_process(out):
        for done in measured(*([out if word == "OUT" else word for word in words] for words in WRITERS)):
            assert done.refused("another process is writing this output", str(out), "fix:", code=3)
    assert disk.lock_of(out).is_file()
    assert cli("mix", "nowhere", "--out", out).refused("nowhere")
    assert list(out.parent.iterdir()) == []


def test_a_claim_leaves_nothing(tmp_path: Path) -> None:
    with disk.claim(tmp_path / "a" / "b" / "c"), disk.claim(tmp_path / "a" / "b" / "c"):
        assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [".c.lock"]
    assert list(tmp_path.iterdir()) == []
    with disk.claim(tmp_path / "a" / "c"):
        (tmp_path / "a" / "c").mkdir()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["c"]
    for odd in ("/", ".", "a\0b", "x" * 300, "\udcff", "/proc/none/x", str(tmp_path / "a" / ".." / "d")):
        with disk.claim(Path(odd)):
            pass


def test_two_writers_without_a_claim_are_one_message(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="another process wrote this output"),
        artifact.writing(tmp_path / "out", "x") as first,
    ):
        (first.path / "a").write_text("a")
        with artifact.writing(tmp_path / "out", "x") as second:
            (second.path / "b").write_text("b")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b", artifact.MANIFEST]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "RENAME_EXCHANGE", 1 << 20)  # an unknown flag: EINVAL


@pytest.mark.parametrize("prepare", [lambda monkeypatch: None, without_exchange])
def test_a_replaced_folder_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepare: Callable[[pytest.MonkeyPatch], None]
) -> None:
    prepare(monkeypatch)
    for text in ("old", "new"):
        with artifact.writing(tmp_path / "site", "site", replace=True) as draft:
            (draft.path / "index.html").write_text(text)
    assert (tmp_path / "site" / "index.html").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
    with pytest.raises(InputError, match="already holds"), artifact.writing(tmp_path / "site", "site"):
        pass


def test_the_site_is_never_absent(tmp_path: Path) -> None:
    """A reader that opens the first page all the time finds it each time, while the site is replaced 50 times."""
    page, over, missing, found = tmp_path / "site" / "index.html", threading.Event(), [], []

    def read() -> None:
        while not over.is_set():
            try:
                found.append(page.read_text())
            except FileNotFoundError as error:
                missing.append(error)

    reader = threading.Thread(target=read)
    for number in range(50):
        with artifact.writing(tmp_path / "site", "site", replace=True) as draft:
            (draft.path / "index.html").write_text("whole")
        if number == 0:
            reader.start()
    over.set()
    reader.join()
    assert not missing and set(found) == {"whole"}


def killed_while(stage: str, out: Path) -> None:
    """Die where a file or a folder is about to be put in place, or was just put there."""

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if stage == "file":
        Path.replace = die  # type: ignore[assignment, method-assign]
        artifact.atomic_write(out, "x")
    elif stage == "before the swap":
        artifact.exchange = die  # type: ignore[assignment]
    else:
        artifact.fsync_path = lambda path: die() if path == out.parent else None
    with artifact.writing(out, "site", replace=True) as draft:
        (draft.path / "index.html").write_text("new")


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path, small_pool: Path) -> None:
    from tests.record import fake  # not in the processes that this one starts

    fake.record(tmp_path / "records", tmp_path / "work")
    report = ("report", "--records", tmp_path / "records", "--out")
    group = ("pool", "group", small_pool, "--by", "regex:(.)", "--out")
    next_writers = {"file": group, "before the swap": report, "after the swap": report}
    for stage in next_writers:
        out = tmp_path / stage / "out"
        out.parent.mkdir()
        if stage != "file":
            with artifact.writing(out, "site") as draft:
                (draft.path / "index.html").write_text("old")
        process = SPAWN.Process(target=killed_while, args=(stage, out))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert len(list(out.parent.glob(".*"))) == 1
        if stage != "file":
            assert (out / "index.html").read_text() == ("old" if stage == "before the swap" else "new")
    for done in measured(*((*words, tmp_path / stage / "out") for stage, words in next_writers.items())):
        assert done.code == 0, done
    for stage in next_writers:
        assert [path.name for path in (tmp_path / stage).iterdir()] == ["out"]


def test_a_work_folder_is_swept(tmp_path: Path) -> None:
    """Leftovers go from all rooms of a run, but not what is being written."""
    room = tmp_path / "work" / "answers" / "x"
    room.mkdir(parents=True)
    for name in (".a.999999999-00.draft", ".a.csv.tmp"):
        place = room / name
        place.mkdir() if name.endswith("draft") else place.write_text("x")
    with artifact.writing(room / "b", "x") as draft, disk.open_aside(room / ".c.tmp"):
        artifact.remove_leftovers(tmp_path / "work")
        assert {path.name for path in room.iterdir()} == {draft.path.name, ".c.tmp"}


def test_writers_of_one_file_take_turns(tmp_path: Path) -> None:
    """Threads that write the same file: it is always whole, and no temporary file stays."""
    texts = [str(number) * 100_000 for number in range(8)]
    threads = [threading.Thread(target=artifact.atomic_write, args=(tmp_path / "f", text)) for text in texts * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "f").read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    (tmp_path / ".g.tmp").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutsideError, match="cannot write"):
        artifact.atomic_write(tmp_path / "g", "x")
    assert not (tmp_path / "elsewhere").exists()
