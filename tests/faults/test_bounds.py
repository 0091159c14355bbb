"""Hangs, memory and time: commands in processes of their own, measured, on input that once had no bound."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest

from tests.endpoint import faulty
from tests.faults.hostile import YAMLS, circle, copy_of, first, refused_by_every_reader, replace_by_fifo, row
from tests.measure import measured
from tests.record import fake

CIRCLES: dict[str, Callable[[Path], None]] = {
    "picture": lambda pool: circle(pool / "images" / "loop.jpg"),
    "pictures": lambda pool: circle(pool / "images"),
    "yaml": lambda pool: circle(pool / "dataset.yaml"),
    "labels": lambda pool: circle(pool / "labels"),
    "frames": lambda pool: circle(pool / "frames.csv"),
}
BOMB = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
HOSTILE = [
    "name: 2026-99-99", "seed: 1e999", "seed: " + "9" * 9999, "nc: 0x" + "f" * 9999, "2026-01-01: 1", "1: 2",
    "a: " + "[" * 3000 + "]" * 3000, "? [a]\n: b", "- a", "a", "", "name: !!python/object:os.system x",
    "name: \"\\ud800\"", "a: &x [*x]", BOMB, "name: a\nname: b", "train: {a: 1, a: 2}", "<<: {a: 1}\nb: 1",
    "nc: 900000000000\ntrain: images\n", f"train: images\nnames: [a]\n{BOMB}",
]  # fmt: skip


def test_links_in_a_circle(tmp_path: Path, small_pool: Path) -> None:
    pools = []
    for name, change in CIRCLES.items():
        pools.append(copy_of(small_pool, tmp_path / name))
        change(pools[-1])
    refused_by_every_reader(pools)


def test_a_picture_path_over_255_letters(tmp_path: Path, small_pool: Path) -> None:
    pools: list[Path] = []
    for name in ("a" * 256, "a" * 5000, "a/" * 3000 + "b"):
        for part in (name, f"{name}.jpg", "list.txt"):
            pools.append(copy_of(small_pool, tmp_path / str(len(pools))))
            (pools[-1] / "list.txt").write_text(f"images/{name}\nimages/{name}.jpg\n")
            place = pools[-1] / "dataset.yaml"
            place.write_text(place.read_text().replace("train: images", f"train: {part}"))
    refused_by_every_reader(pools)


@pytest.mark.parametrize(
    "readers", [("suite", "ontology", "pool"), pytest.param(("endpoint", "training"), marks=pytest.mark.torch)]
)
def test_dates_depths_numbers_and_aliases_in_yaml(tmp_path: Path, small_pool: Path, readers: tuple[str, ...]) -> None:
    copy_of(small_pool, tmp_path / "pool")
    row(tmp_path)
    files = [tmp_path / f"{number}.yaml" for number in range(len(HOSTILE))]
    for file, text in zip(files, HOSTILE, strict=True):
        file.write_text(text)
    for done in measured(*(YAMLS[reader](file) for reader in readers for file in files)):
        assert done.refused("fix:")
    assert not any((tmp_path / name).exists() for name in ("work", "out", "a", "p.csv"))


def test_a_pipe_in_a_pool(tmp_path: Path, small_pool: Path) -> None:
    """It is refused; nothing waits for somebody to write into it."""
    pools = [copy_of(small_pool, tmp_path / str(number)) for number in range(4)]
    for pool, name in zip(pools, ("images", "labels", "dataset.yaml", "frames.csv"), strict=True):
        replace_by_fifo(first(pool / name) if (pool / name).is_dir() else pool / name)
    refused_by_every_reader(pools)


def test_a_pipe_among_thumbnails(tmp_path: Path) -> None:
    record = fake.record(tmp_path / "records", tmp_path / "work")
    replace_by_fifo(first(record / "thumbs"))
    site = ("report", "--records", tmp_path / "records", "--out")
    page, gates, again = measured(
        (*site, tmp_path / "site"), (*site, tmp_path / "gates", "--check"), ("verify", record)
    )
    assert page.refused("thumbs")  # no other record is there
    assert gates.refused("thumbs", code=4) and again.refused("thumbs")


def test_a_pipe_where_a_file_is_expected(tmp_path: Path, small_pool: Path, small_dataset: Path) -> None:
    pipe, out = tmp_path / "pipe", tmp_path / "out"
    os.mkfifo(pipe)
    data = [copy_of(small_dataset, tmp_path / str(number)) for number in range(4)]
    for folder, name in zip(data, ("images", "samples.csv", "test.jsonl", "manifest.json"), strict=True):
        replace_by_fifo(first(folder / name) if name == "images" else folder / name)
    build = ("build", "ot2-guided@1", "--pool", small_pool, "--out", out)
    for done in measured(
        *((verb, folder, *words) for folder in data for verb, *words in (("audit",), ("mix", "--out", out))),
        (*build, "--ontology", pipe),
        (*build, "--split", pipe),
        ("run", pipe, "--work", out),
        ("score", pipe, "--out", out),
        ("compare", pipe, pipe),
        ("report", "--records", pipe, "--out", out),
        ("verify", pipe),
        ("sign", pipe, "--key", pipe),
        ("import", pipe, "--out", out),
    ):
        # An audit reads neither of the two: it takes any folder of JSONL.
        assert done.code == 0 or done.refused("fix:")
    assert not out.exists()


@pytest.mark.parametrize("delay", [0.5, 1.0, 2.0])
def test_ctrl_c_says_that_the_command_can_be_run_again(tmp_path: Path, delay: float) -> None:
    words = ["pool", "synth", tmp_path / "out", "--frames", "4000"]
    (done,) = measured(words, cwd=tmp_path, interrupt_after=delay)
    assert done.refused(code=130)
    assert done.stderr.endswith("deckbench: interrupted; run the same command again to resume\n")
    assert list(tmp_path.iterdir()) == []


LONG = ["B " + "x" * 200_000, "B." + "\n" * 200_000 + "!", "<think>" + "A " * 100_000 + "</think>B", "一" * 70_000]


@pytest.mark.torch
def test_a_200_kb_answer(tmp_path: Path, small_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `infer` writes, `score` reads, and both find the same in it."""
    pytest.importorskip("openai", reason="the `endpoint` extra is not installed")
    monkeypatch.setenv("SQUARES_KEY", faulty.KEY)
    place, out, score = tmp_path / "endpoint.yaml", tmp_path / "p.csv", tmp_path / "score.json"
    with faulty.serving() as server:
        replies = cycle({"message": {"role": "assistant", "content": text}, "finish_reason": "stop"} for text in LONG)
        server.plan = lambda key, attempt, body: {"status": 200, "body": {"choices": [next(replies)]}}
        place.write_text(f"model: squares\nbase_url: {server.address}\nkey_env: SQUARES_KEY\nconcurrency: 1\n")
        infer = ("infer", "--model", f"endpoint:{place}", "--data", small_dataset, "--out", out)
        for done in measured(infer, ("score", out, "--data", small_dataset, "--out", score)):
            assert done.code == 0, done
    with out.open() as answered, score.with_name("scored.csv").open() as scored:
        csv.field_size_limit(1 << 20)
        read, graded = [[row["parsed"] for row in csv.DictReader(file)] for file in (answered, scored)]
    assert read == graded and set(read) == {"", "B"}


PIECES = [
    "\n",
    " ",
    "\t",
    "*",
    ".",
    "A",
    "A.\n",
    "A. ",
    "verdict: ",
    "\nverdict: normal",
    "</s>",
    "</s> ",
    "1. ",
    "Q",
    "答 ",
]
PIECES += ["damaged tip, ", "no damaged tip; "]


def test_long_texts_are_read_in_linear_time() -> None:
    """Patterns whose neighbours take the same characters take minutes to hours for these; linear ones milliseconds."""
    from deckbench.build.importing.text import question_pairs
    from deckbench.build.shortcuts import OPTION
    from deckbench.grade import contradiction, grade
    from deckbench.wrapping import unwrap

    def graded(text: str) -> None:
        contradiction(text, ["damaged tip", "spill"])
        for kind in ("choice", "open", "scene"):
            grade(text, "A", kind, options=("no", "yes"))

    before = signal.signal(signal.SIGPROF, lambda *_: pytest.fail("3 s of CPU time for 100 KB of text"))
    try:
        for piece in PIECES:
            many = piece * (100_000 // len(piece))
            for text in (f"A. x{many}x", f"{many}\nVerdict: anomaly"):
                for read in (unwrap, question_pairs, OPTION.findall, graded):
                    signal.setitimer(signal.ITIMER_PROF, 3)
                    read(text)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
