"""What works without the optional packages, and the one message where one of them is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deckbench.extras import EXTRAS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
# Runs commands, one JSON list of words a line, in a Python that has none of the optional packages; then says which of
# them it was asked for.
WITHOUT = f"""
import json, sys
OPTIONAL = {set(EXTRAS)!r}

class Absent:
    wanted = []
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OPTIONAL:
            self.wanted.append(name)
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

if __name__ == "__main__":
    sys.meta_path.insert(0, Absent())
    from deckbench.cli import main
    for line in sys.argv[1].splitlines():
        sys.argv = ["deckbench", *json.loads(line)]
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise
    print("WANTED", Absent.wanted)
"""


def without(cwd: Path, *commands: list[str]) -> subprocess.CompletedProcess[str]:
    """Run deckbench commands one after the other without the optional packages, until one fails."""
    script = cwd.parent / "without.py"
    script.write_text(WITHOUT)
    lines = "\n".join(json.dumps(words) for words in commands)
    env = {key: value for key, value in os.environ.items() if not key.startswith("OPENAI")}
    env |= {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    return subprocess.run(
        [sys.executable, str(script), lines], capture_output=True, text=True, cwd=cwd, env=env, timeout=300
    )


CORE = [
    ["--help"],
    ["pool", "synth", "p", "--frames", "48", "--seed", "3", "--size", "352x198"],
    ["pool", "check", "p"],
    ["build", "ot2-guided@1", "--pool", "p", "--out", "d"],
    ["audit", "d"],
    ["mix", "d:0.5", "--out", "mixed"],
    ["import", "d", "--out", "imported"],
    ["infer", "--model", "rule:gold", "--data", "d", "--out", "gold.csv"],
    ["infer", "--model", "majority", "--data", "d", "--out", "majority.csv"],
    ["score", "gold.csv", "--data", "d", "--out", "gold.json"],
    ["compare", "majority.csv", "gold.csv", "--data", "d"],
    ["report", "--records", str(ROOT / "results/records"), "--out", "site"],
    ["models", "ls"],
    ["schema", "train"],
]


def check_core(folder: Path) -> None:
    """What `CORE` leaves behind."""
    assert json.loads((folder / "gold.json").read_text())
    assert (folder / "site" / "index.html").is_file()


@pytest.mark.slow
def test_the_core_asks_for_no_optional_package(tmp_path: Path) -> None:
    place = tmp_path / "lab"
    place.mkdir()
    done = without(place, *CORE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "WANTED []"
    check_core(place)


MODEL = ["--model", "tiny-glm4v", "--data", "d"]


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        (["infer", *MODEL, "--out", "a.csv"], "torch", "models"),
        (["infer", "--model", "blind:tiny-phi3v", "--data", "d", "--out", "a.csv"], "torch", "models"),
        (["infer", "--model", "endpoint:gpt", "--data", "d", "--out", "a.csv"], "openai", "endpoint"),
        (["infer", *MODEL, "--out", "a.csv", "--runner", "docker"], "docker", "containers"),
        (["ask", "--model", "tiny-glm4v", "d/frame.png", "What is this?"], "torch", "models"),
        (["bench", *MODEL, "--out", "b"], "torch", "models"),
        (["bench", "--model", "glm-4v-9b", "--data", "d", "--weights", "random", "--out", "b"], "torch", "models"),
        (["train", *MODEL, "--out", "a"], "torch", "train"),
        (["train", *MODEL, "--out", "a", "--nproc", "2"], "torch", "train"),
        (["train", *MODEL, "--out", "a", "--gpus", "0"], "torch", "train"),
        (["merge", "--model", "tiny-glm4v", "--adapter", "d", "--out", "m"], "torch", "models"),
        (["models", "check", "d", "--cases", "d"], "safetensors", "models"),
        (["models", "pretrain", "tiny-glm4v", "--pool", "d", "--out", "m"], "torch", "models"),
        (["score", "a.csv", "--out", "s.json", "--plots", "p"], "matplotlib", "plots"),
        (["run", "smoke"], "torch", "train"),
        (["run", "smoke", "--runner", "docker"], "docker", "containers"),
        (["containers", "build", "x86-cpu"], "docker", "containers"),
        (["containers", "lock", "x86-cpu", "--only", "packages"], "packaging", "containers"),
        (["containers", "prune"], "docker", "containers"),
    ],
)
def test_a_missing_package_is_one_message(tmp_path: Path, words: list[str], package: str, extra: str) -> None:
    from PIL import Image

    place = tmp_path / "lab"
    (place / "d").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(place / "d" / "frame.png")
    question = {"role": "user", "content": "?", "image": "frame.png"}
    (place / "d" / "test.jsonl").write_text(json.dumps({"messages": [question, {"role": "assistant", "content": "A"}]}))
    before = sorted(place.rglob("*"))
    done = without(place, words)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 2, done.stderr
    assert f"Python package {package}" in done.stderr
    assert f"fix: pip install 'deckbench[{extra}]'" in done.stderr
    assert sorted(place.rglob("*")) == before


def test_doctor_without_torch(tmp_path: Path) -> None:
    """torch is looked for in a process of its own, which sees none here: a Python that reads no site-packages."""
    from deckbench.doctor.torch_check import PROGRAM, collect, findings

    command = [sys.executable, "-S", "-E", str(PROGRAM)]
    check = collect(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
    assert check.is_absent and not check.loads
    (found,) = findings(check)
    assert (found.state, found.fix) == ("absent", "pip install 'deckbench[models]'")


def test_the_table_of_extras_is_that_of_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, needs in extras.items():
        for need in needs:
            name = need.replace("<", ">").replace("[", ">").partition(">")[0]
            assert EXTRAS.get(name, extra) == extra, name
    assert set(EXTRAS.values()) <= set(extras)


@pytest.mark.slow
def test_an_environment_without_torch(tmp_path: Path) -> None:
    """What `pip install deckbench` brings is enough for the core."""
    from uv import find_uv_bin

    venv = tmp_path / "venv"
    subprocess.run([find_uv_bin(), "venv", "--quiet", "--python", sys.executable, str(venv)], check=True)
    install = [find_uv_bin(), "pip", "install", "--quiet", "--python", str(venv / "bin/python"), str(ROOT)]
    done = subprocess.run(install, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    for words in CORE:
        command = [str(venv / "bin/deckbench"), *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=300)
        assert done.returncode == 0, done.stderr
    check_core(tmp_path)
    assert not list(venv.glob("lib/python*/site-packages/torch"))
