"""The command line as a person meets it: real processes, exit codes, one message."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from deckbench.cli.app import app


def deckbench(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deckbench", *words], capture_output=True, text=True, cwd=cwd, timeout=300
    )


def commands(group: Any, name: str = "deckbench") -> Iterator[tuple[str, Any]]:
    """All verbs and groups of verbs below a group, with their whole names."""
    for word, command in group.commands.items():
        yield f"{name} {word}", command
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {word}")


def test_every_verb_has_an_example() -> None:
    found = dict(commands(typer.main.get_command(app)))
    assert {"deckbench build", "deckbench pool split", "deckbench containers lock"} <= found.keys()
    for name, command in found.items():
        example = "nox -s bench-orin" if name == "deckbench bench-orin" else name
        assert f"Example: {example}" in str(command.epilog), name


@pytest.mark.parametrize("group", [[], ["pool"], ["models"], ["containers"]])
def test_no_summary_is_cut_short(group: list[str]) -> None:
    listed = CliRunner().invoke(app, [*group, "--help"]).output.partition("Commands:")[2]
    assert listed and "..." not in listed


def test_help_shows_the_example() -> None:
    done = deckbench("pool", "synth", "--help")
    assert done.returncode == 0
    assert "Example: deckbench pool synth" in " ".join(done.stdout.split())


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, deckbench.cli as c; c.app.app(['--help'], standalone_mode=False);"
        "heavy = {'torch', 'pandas', 'PIL', 'numpy', 'pydantic', 'yaml'};"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


TORCH = pytest.mark.torch


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pool", "synth", "out", "--frames", "8", "--size", "big"], "cannot read 'big' as a size"),
        (["pool", "synth", "out", "--frames", "8", "--emphasis", "spill"], "cannot read 'spill'"),
        (["pool", "synth", "out", "--frames", "0"], "frames"),
        (["pool", "check", "nowhere"], "nowhere"),
        (["build", "ot2-guided@1", "--pool", "nowhere", "--out", "out"], "nowhere"),
        (["build", "ot2-nothing@1", "--pool", "nowhere", "--out", "out"], "there is no task 'ot2-nothing'"),
        (["build", "ot2-guided@1", "--pool", "p", "--out", "out", "--export", "llava"], "format 'llava' is not known"),
        (["import", "nowhere", "--out", "out"], "nowhere"),
        (["mix", "a:x", "--out", "out"], "cannot read the weight 'x'"),
        (["audit", "nowhere"], "nowhere"),
        pytest.param(["train", "--model", "tiny-glm4v", "--data", "nowhere", "--out", "out"], "nowhere", marks=TORCH),
        (["train", "--model", "tiny-glm4v", "--data", "d", "--out", "out", "--set", "lr"], "cannot read 'lr'"),
        (["build", "t", "--pool", "p", "--out", "o", "--set", "a=[1"], "--set a: not valid YAML"),
        (["infer", "--model", "no-such-model", "--data", "nowhere", "--out", "out.csv"], "no"),
        (["score", "nowhere.csv", "--out", "out.json"], "nowhere.csv"),
        (["compare", "a.csv", "b.csv"], "a.csv"),
        (["run", "no-such-suite"], "no such suite"),
        pytest.param(["run", "smoke", "--only", "x"], "the suite has no row 'x'", marks=TORCH),
        (["report", "--records", "nowhere", "--out", "out"], "nowhere"),
        (["verify", "nowhere"], "nowhere"),
        pytest.param(["models", "check", "nowhere", "--cases", "nowhere"], "nowhere", marks=TORCH),
        pytest.param(
            ["models", "pretrain", "glm-4v-9b", "--pool", "p", "--out", "out"], "is not pretrained here", marks=TORCH
        ),
    ],
)
def test_wrong_input_is_one_message_and_exit_2(tmp_path: Path, words: list[str], message: str) -> None:
    done = deckbench(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_models_ls_is_json(tmp_path: Path) -> None:
    done = deckbench("models", "ls", "--json", cwd=tmp_path)
    assert "tiny-glm4v" in json.loads(done.stdout)
