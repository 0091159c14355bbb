"""Hostile and broken input: done, or one message and exit 2 or 3; never a traceback, a hang or unbounded memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deckbench import artifact, dataset
from deckbench.errors import InputError
from tests.faults.conftest import Cli
from tests.faults.hostile import YAMLS, copy_of, first, refused_by_every_reader, row


def test_links_in_a_circle_in_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("b.jpg")
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    with pytest.raises(InputError, match="is missing"):
        dataset.read_file(row(tmp_path, image="a.jpg"))
    assert artifact.inside(tmp_path, "a.jpg", "x") == tmp_path / "a.jpg"


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
    refused_by_every_reader([pool])
    with pytest.raises(InputError, match=r"rows\.jsonl:1: .*surrogate"):
        dataset.read_file(row(tmp_path, other="\ud800"))
    with pytest.raises(InputError, match=r"rows\.jsonl:1: "):
        dataset.read_file(row(tmp_path, text="\udfff"))
    (tmp_path / "t.csv").write_bytes(b"image,question\nx.jpg,\xed\xa0\x80\n")
    with pytest.raises(InputError, match="not UTF-8"):
        dataset.read_file(tmp_path / "t.csv")


READERS = [pytest.param(name, marks=[pytest.mark.torch] if name in ("training", "endpoint") else []) for name in YAMLS]


@pytest.mark.parametrize("reader", READERS)
def test_a_yaml_key_given_twice(tmp_path: Path, small_pool: Path, cli: Cli, reader: str) -> None:
    copy_of(small_pool, tmp_path / "pool")
    row(tmp_path)
    file = tmp_path / "some.yaml"
    file.write_text("names: [a]\nname: x\nmodel: y\nname: z\n")
    assert cli(*YAMLS[reader](file)).refused("some.yaml:4: the key 'name' occurs twice (first in line 2)")


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
