"""The front door: one session per verb. Arguments after `--` go to the verb.

`nox -s demo` runs the whole main job on the embedded default; `nox -s tests` runs the tests.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import nox

nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "tests"]

# torch goes in first and pinned: where the package index offers a CPU build, no CUDA packages come along.
TORCH = os.environ.get("DECKBENCH_TORCH", "torch==2.13.0")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
# As the command line has it: numpy's BLAS in one thread (deckbench/__main__.py).
TESTING = {**OFFLINE, "OPENBLAS_NUM_THREADS": "1"}


def install(session: nox.Session, *extra: str, parts: str = "") -> None:
    """DeckBench from this checkout (`parts`: its extras), torch first where they need it, and what else is named."""
    if "models" in parts or "train" in parts:
        session.install(TORCH)
    session.install("-e", f".{parts}", *extra)


def verb(session: nox.Session, *words: str, parts: str = "", anywhere: bool = False) -> None:
    """Run `deckbench WORDS ARGS`; anywhere: in a container where one is ready, unless ARGS say where."""
    install(session, parts=parts)
    has_target = any(arg.partition("=")[0] in {"--runner", "--host", "--help"} for arg in session.posargs)
    where = ["--runner", "auto"] if anywhere and not has_target else []
    session.run("deckbench", *words, *where, *session.posargs, env=OFFLINE)


@nox.session
def demo(session: nox.Session) -> None:
    """The main job on the embedded default: frames, datasets, training, answers, scores, leaderboard."""
    has_runner = any(arg.partition("=")[0] in {"--runner", "--host"} for arg in session.posargs)
    verb(session, "run", "demo", parts="[containers,train]" if has_runner else "[train]")


def group(name: str) -> list[str]:
    """What a dependency group of pyproject.toml holds."""
    return [str(one) for one in nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), name)]


@nox.session
def tests(session: nox.Session) -> None:
    """The tests. `nox -s tests -- -m slow` runs the slow ones, `-- PATH` some."""
    install(session, *group("test"), parts="[train]")
    picked = [] if any(arg.startswith("-m") for arg in session.posargs) else ["-m", "not slow", "-n", "2"]
    session.run("pytest", "--durations=10", *picked, *session.posargs, env=TESTING)


@nox.session(name="tests-core", venv_backend="uv|virtualenv", python=["3.10", "3.12", "3.13"])
def tests_core(session: nox.Session) -> None:
    """The fast tests of what needs no torch, on the other Pythons: `nox -s tests` has the rest, on its own."""
    session.install("-e", ".[containers,endpoint]", *group("test"))
    session.run("pytest", "--durations=10", "-m", "not slow and not docker", *session.posargs, env=TESTING)


@nox.session(name="tests-deepspeed")
def tests_deepspeed(session: nox.Session) -> None:
    """The tests that need DeepSpeed, in an environment of their own: transformers imports it wherever it is."""
    session.install(TORCH, "setuptools", "wheel", "packaging", "psutil", "py-cpuinfo", "ninja")  # its setup.py asks
    session.install("--no-build-isolation", "deepspeed>=0.19")
    session.install("-e", ".[train]", *group("test"))
    picked = ["tests/train/test_ranks.py", "-k", "zero or sharding or deepspeed"]
    session.run("pytest", "--durations=10", *picked, *session.posargs, env=TESTING)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Every reader of files and replies with broken input, five minutes; `-- --seconds 20 --reader labels` is less."""
    install(session, *group("test"), parts="[models]")
    session.run("python", "-m", "tests.fuzz", *session.posargs, env=TESTING)


@nox.session(venv_backend="uv|virtualenv")
def lint(session: nox.Session) -> None:
    """ruff, the import contracts, codespell; mypy --strict and the dependencies for every supported Python."""
    session.install(*group("lint"))
    commands = [["ruff", "check", "."], ["ruff", "format", "--check", "."]]
    commands += [["lint-imports", "--no-logo"], ["codespell"]]
    for version in PYTHONS:
        commands += [["mypy", "--python-version", version]]
        commands += [["uv", "pip", "compile", "-q", "--python-version", version, "--extra", "all", "pyproject.toml"]]
    with ThreadPoolExecutor(2) as pool:  # what a command says is shown where it fails
        list(pool.map(lambda command: session.run(*command, silent=True, env={"PYTHONPATH": "harness"}), commands))


@nox.session(name="build-data")
def build_data(session: nox.Session) -> None:
    """`deckbench build ARGS`."""
    verb(session, "build", parts="[containers]", anywhere=True)


@nox.session(name="train-glm4v")
def train_glm4v(session: nox.Session) -> None:
    """`deckbench train ARGS`, such as `--model MODELS/glm-4v-9b --data data/S1 --out adapters/S1`."""
    verb(session, "train", parts="[containers,train]", anywhere=True)


@nox.session(name="train-phi3v")
def train_phi3v(session: nox.Session) -> None:
    """`deckbench train ARGS`, such as `--model MODELS/Phi-3-vision-128k-instruct --data data/S1 --out adapters/S1`."""
    verb(session, "train", parts="[containers,train]", anywhere=True)


@nox.session
def infer(session: nox.Session) -> None:
    """`deckbench infer ARGS`."""
    verb(session, "infer", parts="[containers,endpoint,models]", anywhere=True)


@nox.session
def score(session: nox.Session) -> None:
    """`deckbench score ARGS`."""
    verb(session, "score", parts="[containers]", anywhere=True)


@nox.session(name="bench-x86")
def bench_x86(session: nox.Session) -> None:
    """`deckbench bench ARGS`."""
    verb(session, "bench", parts="[containers,models]", anywhere=True)


@nox.session(name="bench-orin")
def bench_orin(session: nox.Session) -> None:
    """`bench` on an Orin: ARGS such as `--host ssh://lab@orin --model glm-4v-9b --data data/S3 --out bench/orin`."""
    verb(session, "bench-orin", parts="[containers]")


@nox.session
def containers(session: nox.Session) -> None:
    """`deckbench containers ARGS`: list, lock, fetch wheels, build, verify, clean up."""
    install(session, parts="[containers]")
    session.run("deckbench", "containers", *(session.posargs or ["ls"]), env=OFFLINE)


@nox.session
def leaderboard(session: nox.Session) -> None:
    """`deckbench report ARGS`: the site from records."""
    verb(session, "report")


@nox.session
def verify(session: nox.Session) -> None:
    """`deckbench verify ARGS`."""
    verb(session, "verify", parts="[endpoint,train]")
