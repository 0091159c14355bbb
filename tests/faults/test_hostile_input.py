"""Hostile and broken input: done, or one message and exit 2 or 3; never a traceback, a hang or unbounded memory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deckbench import artifact, dataset
from deckbench.errors import InputError
from tests.faults.conftest import Cli

MAX_RSS = 1 << 30  # bytes
MAX_S = 20.0


def copy_of(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def first(folder: Path) -> Path:
    return sorted(folder.iterdir())[0]


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def circle(path: Path) -> None:
    """Put a link that leads to itself where something stands."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def refused_by_every_reader(cli: Cli, pool: Path, out: Path) -> None:
    verbs = [
        ("pool", "check", pool),
        ("pool", "split", pool, "--split", "test-only", "--out", out),
        ("pool", "group", pool, "--by", "regex:(.)", "--out", out),
        ("build", "ot2-guided@1", "--pool", pool, "--split", "test-only", "--out", out),
    ]
    for verb in verbs:
        assert cli(*verb).refused("fix:")
        assert not out.exists()


CIRCLES: dict[str, Callable[[Path], None]] = {
    "a picture": lambda pool: circle(pool / "images" / "loop.jpg"),
    "the pictures": lambda pool: circle(pool / "images"),
    "the yaml": lambda pool: circle(pool / "dataset.yaml"),
    "frames.csv": lambda pool: circle(pool / "frames.csv"),
    "labels": lambda pool: circle(pool / "labels"),
}


@pytest.mark.parametrize("name", [name for name in CIRCLES if name != "frames.csv"])
def test_links_in_a_circle(tmp_path: Path, small_pool: Path, cli: Cli, name: str) -> None:
    pool = copy_of(small_pool, tmp_path / "pool")
    CIRCLES[name](pool)
    refused_by_every_reader(cli, pool, tmp_path / "out")


def test_links_in_a_circle_in_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("b.jpg")
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    with pytest.raises(InputError, match="is missing"):
        dataset.read_file(row(tmp_path, image="a.jpg"))
    assert artifact.inside(tmp_path, "a.jpg", "x") == tmp_path / "a.jpg"


def row(folder: Path, text: str = "?", image: str = "x.jpg", **more: Any) -> Path:
    """A JSONL file of one row, with its picture."""
    Image.new("RGB", (32, 32)).save(folder / "x.jpg")
    turns = [{"role": "user", "content": text, "image": image}, {"role": "assistant", "content": "A"}]
    path = folder / "rows.jsonl"
    path.write_text(json.dumps({"messages": turns, **more}) + "\n")
    return path


@pytest.mark.parametrize("name", ["a" * 256, "a" * 5000, "a/" * 3000 + "b"])
def test_a_picture_path_over_255_letters(tmp_path: Path, small_pool: Path, cli: Cli, name: str) -> None:
    with pytest.raises(InputError, match="is missing"):
        dataset.read_file(row(tmp_path, image=f"{name}.jpg"))
    for suffix in (".jpg", ""):
        pool = copy_of(small_pool, tmp_path / f"pool{suffix}")
        yaml = (pool / "dataset.yaml").read_text()
        (pool / "list.txt").write_text(f"images/{name}{suffix}\n")
        (pool / "dataset.yaml").write_text(yaml.replace("train: images", "train: list.txt"))
        refused_by_every_reader(cli, pool, tmp_path / "out")
        (pool / "dataset.yaml").write_text(yaml.replace("train: images", f"train: {name}{suffix}"))
        refused_by_every_reader(cli, pool, tmp_path / "out")


def test_a_lone_surrogate(tmp_path: Path, small_pool: Path, cli: Cli) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    for words in (
        ["pool", "check", odd],
        ["pool", "synth", odd, "--frames", "2"],
        ["pool", "group", small_pool, "--by", "regex:\udc80", "--out", tmp_path / "g.csv"],
        ["ask", "--model", "tiny-glm4v", first(small_pool / "images"), "what \udcff?"],
        ["run", odd, "--work", tmp_path / "work"],
        ["train", "--model", "m", "--data", "d", "--set", "lr=\udcff"],
    ):
        assert cli(*words).refused("not valid UTF-8", "fix:")
    assert list(tmp_path.iterdir()) == []
    pool = copy_of(small_pool, tmp_path / "pool")
    first(pool / "images").rename(os.fsdecode(os.fsencode(pool / "images") + b"/\xff.jpg"))
    refused_by_every_reader(cli, pool, tmp_path / "out")
    with pytest.raises(InputError, match=r"rows\.jsonl:1: .*surrogate"):
        dataset.read_file(row(tmp_path, other="\ud800"))
    with pytest.raises(InputError, match=r"rows\.jsonl:1: "):
        dataset.read_file(row(tmp_path, text="\udfff"))
    (tmp_path / "t.csv").write_bytes(b"image,question\nx.jpg,\xed\xa0\x80\n")
    with pytest.raises(InputError, match="not UTF-8"):
        dataset.read_file(tmp_path / "t.csv")


YAMLS: dict[str, Callable[[Path], list[object]]] = {
    "suite": lambda file: ["run", file, "--work", file.with_name("work")],
    "endpoint": lambda file: ["infer", "--model", f"endpoint:{file}", "--data", file.with_name("rows.jsonl"), "--out",
                              file.with_name("p.csv")],
    "ontology": lambda file: ["build", "ot2-guided@1", "--pool", file.with_name("pool"), "--split", "test-only",
                              "--out", file.with_name("out"), "--ontology", file],
    "pool": lambda file: ["pool", "check", file],
    "training": lambda file: ["train", "--model", "tiny-glm4v", "--data", file.with_name("d"), "--config", file,
                              "--out", file.with_name("a")],
}  # fmt: skip
READERS = [pytest.param(name, marks=[pytest.mark.torch] if name in ("training", "endpoint") else []) for name in YAMLS]
NESTED = "a: " + "[" * 3000 + "]" * 3000
BOMB = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize("reader", READERS)
def test_dates_depths_and_numbers_in_yaml(tmp_path: Path, small_pool: Path, cli: Cli, reader: str) -> None:
    copy_of(small_pool, tmp_path / "pool")
    row(tmp_path)
    file = tmp_path / "some.yaml"
    for text in (
        "name: 2026-99-99", "seed: 1e999", "seed: " + "9" * 9999, "nc: 0x" + "f" * 9999, "2026-01-01: 1", "1: 2",
        NESTED, "? [a]\n: b", "- a", "a", "", "name: !!python/object:os.system x", "name: \"\\ud800\"", "a: &x [*x]",
        BOMB, "name: a\nname: b", "train: {a: 1, a: 2}", "<<: {a: 1}\nb: 1",
    ):  # fmt: skip
        file.write_text(text)
        assert cli(*YAMLS[reader](file)).refused("fix:")
    assert not any((tmp_path / name).exists() for name in ("work", "out", "a", "p.csv"))


@pytest.mark.parametrize("reader", READERS)
def test_a_yaml_key_given_twice(tmp_path: Path, small_pool: Path, cli: Cli, reader: str) -> None:
    copy_of(small_pool, tmp_path / "pool")
    row(tmp_path)
    file = tmp_path / "some.yaml"
    file.write_text("names: [a]\nname: x\nmodel: y\nname: z\n")
    assert cli(*YAMLS[reader](file)).refused("some.yaml:4: the key 'name' occurs twice (first in line 2)")


def measured(*words: object) -> tuple[int, str, float, int]:
    """(exit code, stderr, seconds, bytes resident at most) of a command in a process of its own."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "deckbench", *map(str, words)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stderr is not None
    with process.stderr:
        text = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, text, time.monotonic() - began, usage.ru_maxrss * 1024


def test_small_yamls_never_need_much_memory(tmp_path: Path, small_pool: Path) -> None:
    pool = copy_of(small_pool, tmp_path / "pool")
    for text in ("nc: 900000000000\ntrain: images\n", f"train: images\nnames: [a]\n{BOMB}"):
        (pool / "dataset.yaml").write_text(text)
        code, said, seconds, resident = measured("pool", "check", pool)
        assert code == 2 and "fix:" in said and "Traceback" not in said
        assert seconds < MAX_S and resident < MAX_RSS, (seconds, resident)


UNREADABLE_IN_A_POOL = (".", "dataset.yaml", "frames.csv", "images", "labels", "images/*", "labels/*")
UNREADABLE_IN_A_DATASET = (".", "manifest.json", "test.jsonl", "samples.csv", "images", "images/*")


def lock_away(folder: Path, what: str) -> None:
    (first(folder / what[:-2]) if what.endswith("*") else folder / what).chmod(0)


@pytest.mark.usefixtures("without_rights")
@pytest.mark.parametrize("what", UNREADABLE_IN_A_POOL)
def test_an_unreadable_pool(tmp_path: Path, small_pool: Path, cli: Cli, what: str) -> None:
    pool = copy_of(small_pool, tmp_path / "pool")
    lock_away(pool, what)
    for verb in (["pool", "check", pool], ["build", "ot2-guided@1", "--pool", pool, "--out", tmp_path / "out"]):
        assert cli(*verb).refused()
    pool.chmod(0o755)


@pytest.mark.usefixtures("without_rights")
@pytest.mark.parametrize("what", UNREADABLE_IN_A_DATASET)
def test_an_unreadable_dataset(tmp_path: Path, small_dataset: Path, cli: Cli, what: str) -> None:
    data = copy_of(small_dataset, tmp_path / "data")
    lock_away(data, what)
    out = tmp_path / "out"
    verbs = [["audit", data], ["mix", data, "--out", out], ["import", data, "--out", out]]
    for verb in verbs:
        done = cli(*verb)
        # An audit takes any folder of JSONL; an import counts and names what it leaves out.
        if done.code not in (0, 4) or verb[0] == "mix":
            assert done.refused("data")
            assert not out.exists()
    data.chmod(0o755)


@pytest.mark.torch
@pytest.mark.usefixtures("without_rights")
def test_unreadable_files_of_other_kinds(tmp_path: Path, small_pool: Path, cli: Cli) -> None:
    copy_of(small_pool, tmp_path / "pool")
    row(tmp_path)
    file = tmp_path / "some.yaml"
    file.write_text("name: x")
    file.chmod(0)
    for reader in YAMLS:
        done = cli(*YAMLS[reader](file))
        assert done.refused("some.yaml") and ("Permission denied" in done.stderr or "not readable" in done.stderr)
    for name in ("p.csv", "p.manifest.json", "score.json", "record"):
        place = tmp_path / "locked" / name
        place.parent.mkdir(exist_ok=True)
        place.mkdir() if name == "record" else place.write_text("{}")
        place.chmod(0)
        assert cli("score", place, "--out", tmp_path / "s.json").refused()
        assert cli("report", "--records", place, "--out", tmp_path / "s").refused()
        assert cli("verify", place).refused()
        place.chmod(0o755)


@pytest.mark.usefixtures("without_rights")
def test_a_run_on_a_read_only_place_or_a_file(tmp_path: Path, small_pool: Path, small_dataset: Path, cli: Cli) -> None:
    pytest.importorskip("torch")
    (tmp_path / "file").write_text("x")
    assert cli("run", "smoke", "--work", tmp_path / "file").refused("file")
    assert cli("run", "smoke", "--work", tmp_path / "file" / "work").refused("a file exists where a directory")
    place = tmp_path / "read-only"
    place.mkdir()
    place.chmod(0o555)
    for words in (
        ["run", "smoke", "--work", place],
        ["run", "smoke", "--work", place / "a" / "b"],
        ["pool", "synth", place / "x", "--frames", "2"],
        ["build", "ot2-guided@1", "--pool", small_pool, "--split", "test-only", "--out", place / "x"],
        ["mix", small_dataset, "--out", place / "x"],
    ):
        assert cli(*words).refused("Permission denied", "fix:", code=3)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("what", ["images/*", "labels/*", "dataset.yaml", "frames.csv"])
def test_a_pipe_in_a_pool(tmp_path: Path, small_pool: Path, cli: Cli, what: str) -> None:
    """It is refused, or not read; nothing waits for somebody to write into it."""
    pool = copy_of(small_pool, tmp_path / "pool")
    replace_by_fifo(first(pool / what[:-2]) if what.endswith("*") else pool / what)
    began = time.monotonic()
    done = cli("pool", "check", pool)
    assert done.code == 2 or (what == "frames.csv" and done.code == 0)
    assert time.monotonic() - began < MAX_S


def test_a_200_kb_answer(tmp_path: Path, small_dataset: Path) -> None:
    """What `infer` writes, `score` reads: a cell of a table may hold 16 MiB."""
    from deckbench.predictions import COLUMNS, csv_bytes
    from deckbench.predictions.read import read_predictions

    answer = "B " + "x" * 200_000
    path = tmp_path / "p.csv"
    path.write_bytes(csv_bytes(COLUMNS, [["1", "1", "open", "?", "g", answer, "", "", "", "", "", ""]]))
    assert read_predictions(path)["prediction"][0] == answer
    path.write_bytes(csv_bytes(COLUMNS, [["1", "1", "open", "?", "g", "x" * (17 << 20), "", "", "", "", "", ""]]))
    with pytest.raises(InputError, match="field larger than field limit"):
        read_predictions(path)


def interrupt(words: list[object], delay: float, cwd: Path) -> tuple[int, str]:
    """Ctrl-C to a command and all its children, `delay` seconds after its first line or its start."""
    # Tests that run in the background inherit it ignored.
    heeded = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    run = f"{heeded}; from deckbench.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", run, *map(str, words)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        cwd=cwd,
    )
    time.sleep(delay)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    return process.returncode, said.decode()


@pytest.mark.parametrize("delay", [1.5, 2.5])
def test_ctrl_c_says_that_the_command_can_be_run_again(tmp_path: Path, delay: float) -> None:
    code, said = interrupt(["pool", "synth", tmp_path / "out", "--frames", "4000"], delay, tmp_path)
    assert code == 130 and said.endswith("deckbench: interrupted; run the same command again to resume\n")
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def every_verb() -> list[str]:
    import typer

    from deckbench.cli.app import app
    from tests.cli.test_cli import commands

    found = dict(commands(typer.main.get_command(app)))
    return sorted(
        name.removeprefix("deckbench ") for name, command in found.items() if not hasattr(command, "commands")
    )


@pytest.mark.parametrize("verb", every_verb())
def test_ctrl_c_in_every_verb(verb: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(typer.core.TyperCommand, "make_context", interrupted)
    done = cli(*verb.split())
    assert done.code == 130 and done.stderr.endswith("interrupted; run the same command again to resume\n")


def test_a_pipe_or_deep_json_where_a_score_stands(tmp_path: Path) -> None:
    from deckbench.record.scores import check_score_place, read_score

    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for name in ("pipe.json", "deep.json"):
        with pytest.raises(InputError, match="not a DeckBench score"):
            check_score_place(tmp_path / name)
        with pytest.raises(InputError, match="cannot be read"):
            read_score(tmp_path / name)
