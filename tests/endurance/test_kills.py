"""SIGKILL at random moments to every verb, and two commands at once on one output.

Whatever happens, the command that is run again ends with the same content as one that nobody disturbed, says no
traceback, and leaves nothing else behind. DECKBENCH_KILLS kills (by default 16, which take about three minutes; 100 is
the whole test), a fifth of them in `run`, and as many pairs as that fifth. Commands are forked from this process, so
that kills meet the work and not the start of Python.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deckbench import artifact
from deckbench.cli.app import main
from deckbench.protocol import read_analysis
from tests.conftest import ROOT
from tests.pool.run.simulate import simulate
from tests.pool.run.test_from_run import protocol
from tests.pool.test_importing import record, source

pytestmark = pytest.mark.slow
pytest.importorskip("torch")

KILLS = int(os.environ.get("DECKBENCH_KILLS", "16"))
IN_RUN = max(3, KILLS // 5)
WAIT_S = 900.0  # of a command: a busy machine is no hang
SUITE = """
name: tiny
seed: 1
pools: {deck: {synth: {frames: 24, size: [320, 180], seed: 5}}}
data: {S2: {task: ot2-guided@1, pool: deck, split: "blocks=4,gap=0"}}
tests: [{data: S2}]
train: {S2: {data: [S2], config: {max_steps: 2, batch: 2}}}
models: [{ref: tiny-glm4v, curricula: [base, S2]}]
baselines: [majority, "rule:gold"]
"""


@dataclass
class Started:
    """A command in a forked process; its stderr goes to a file."""

    pid: int
    log: Path

    def end(self, seconds: float = WAIT_S) -> tuple[int, str]:
        """(exit code, what it said). A command that does not end within `seconds` is killed: code -9."""
        until = time.monotonic() + seconds
        while (got := os.waitpid(self.pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > until:
                os.killpg(self.pid, signal.SIGKILL)
            time.sleep(0.005)
        return os.waitstatus_to_exitcode(got[1]), self.log.read_text(errors="replace")


def start(words: Sequence[object], folder: Path) -> Started:
    """Start `deckbench WORDS` in the folder."""
    log = Path(tempfile.mkstemp(dir=folder.parent, prefix="log-")[1])
    pid = os.fork()
    if pid:
        return Started(pid, log)
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        sink = os.open(log, os.O_WRONLY | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(sink, stream)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        sys.argv = ["deckbench", *map(str, words)]
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def content(place: Path) -> Any:
    """What an output holds: the content hashes of all artifacts in it, or the hash of a file."""
    if place.is_file():
        return artifact.hash_file(place)
    found = {}
    for manifest in sorted(place.rglob(artifact.MANIFEST)):
        name = manifest.parent.relative_to(place).as_posix()
        found[name] = artifact.read(manifest.parent, verify=True).content_hash
    return found


@dataclass(frozen=True)
class Command:
    """words: OUT stands for the output. out: its name, None where there is none. again: more words to go on with."""

    words: tuple[object, ...]
    out: str | None = None
    again: tuple[str, ...] = ()
    copied: Path | None = None  # what is put at `out` first: the command changes it

    def given(self) -> list[object]:
        return [self.out if word == "OUT" else word for word in self.words]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed: `work/`."""
    import torch

    torch.set_num_threads(1)  # a forked process has none of the threads
    folder = tmp_path_factory.mktemp("world") / "here"
    folder.mkdir()
    (folder / "tiny.yaml").write_text(SUITE)
    code, said = start(["run", "tiny.yaml", "--work", "work"], folder).end(600)
    assert code == 0, said
    assert start(["sign", "--new-key", "lab.key"], folder).end()[0] == 0
    return folder


def simulated_run(world: Path) -> tuple[object, ...]:
    """The inputs of `pool from-run`: an analysis, the log of its run, and frames."""
    folder = world / "run"
    folder.mkdir()
    analysis = protocol(folder)
    run = simulate(folder, read_analysis(analysis), offset_s=7.0, jitter_s=0.3, every_s=2.0, seed=3)
    return ("--protocol", analysis, "--run", run.log, "--frames", run.folder)


@pytest.fixture(scope="module")
def commands(world: Path) -> dict[str, Command]:
    def made(pattern: str) -> Path:
        return sorted((world / "work").glob(pattern))[0]

    pool, data, adapter = made("pools/*"), made("data/S2-*"), made("adapters/*/manifest.json").parent
    answers, records = made("answers/tiny-glm4v-S2*") / "predictions.csv", world / "work" / "records"
    model = ("--model", "tiny-glm4v")
    foreign = source(world / "sdls", [record(number % 6) for number in range(60)])
    found = {
        "pool synth": Command(("pool", "synth", "OUT", "--frames", "40", "--size", "320x180"), "out"),
        "pool split": Command(("pool", "split", pool, "--out", "OUT"), "out"),
        "pool group": Command(("pool", "group", pool, "--by", "phash", "--out", "OUT"), "out.csv"),
        "pool import": Command(("pool", "import", "sdls", foreign, "--out", "OUT"), "out"),
        "pool from-run": Command(("pool", "from-run", *simulated_run(world), "--out", "OUT"), "out"),
        "steps": Command(("steps", ROOT / "tasks/protocols/pcr-setup.analysis.json", "--out", "OUT"), "out.json"),
        "build": Command(("build", "ot2-concept@1", "--pool", pool, "--split", "test-only", "--out", "OUT"), "out"),
        "mix": Command(("mix", data, "--out", "OUT"), "out"),
        "import": Command(("import", data, "--out", "OUT"), "out"),
        "audit": Command(("audit", data)),
        "train": Command(
            ("train", *model, "--data", data, "--out", "OUT", "--set", "max_steps=3"), "out", ("--resume",)
        ),
        "merge": Command(("merge", *model, "--adapter", adapter, "--out", "OUT"), "out"),
        "infer": Command(("infer", *model, "--data", data, "--out", "OUT"), "out.csv"),
        "score": Command(("score", answers, "--data", data, "--out", "OUT"), "score.json"),
        "bench": Command(("bench", *model, "--data", data, "--out", "OUT", "--min-seconds", "0.2"), "out"),
        "report": Command(("report", "--records", records, "--out", "OUT"), "site", copied=world / "work" / "site"),
        "verify": Command(("verify", sorted(records.iterdir())[0])),
        "sign": Command(("sign", "OUT", "--key", world / "lab.key"), "rec", copied=sorted(records.iterdir())[0]),
    }
    return found


BESIDE = {
    "out.csv": {"out.csv", "out.manifest.json", "out.timings.csv"},
    "score.json": {"score.json", "scored.csv"},
    "out": {"out", "out.logs"},
}


def place_for(command: Command, folder: Path) -> Path:
    folder.mkdir(parents=True)
    if command.copied is not None and command.out is not None:
        shutil.copytree(command.copied, folder / command.out)
    return folder


def check(command: Command, folder: Path, said: str, expected: Any) -> None:
    """The output is that of the undisturbed command, nothing else lies beside it, and nobody saw a traceback."""
    assert "Traceback" not in said
    if command.out is None:
        assert not any(folder.iterdir())
        return
    assert content(folder / command.out) == expected
    assert {path.name for path in folder.iterdir()} <= BESIDE.get(command.out, {command.out})


@pytest.fixture(scope="module")
def undisturbed(commands: dict[str, Command], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, Any]]:
    """Of every command: seconds, and the content of its output."""
    found = {}
    for name, command in commands.items():
        folder = place_for(command, tmp_path_factory.mktemp("undisturbed") / "here")
        began = time.monotonic()
        code, said = start(command.given(), folder).end()
        assert code in (0, 4), said
        found[name] = (time.monotonic() - began, None if command.out is None else content(folder / command.out))
    return found


def turns(names: Sequence[str], count: int) -> Iterator[tuple[int, str]]:
    """Each name in turn, `count` in all, with a number."""
    for number in range(count):
        yield number, names[number % len(names)]


def test_killed_at_random_and_run_again(
    commands: dict[str, Command], undisturbed: dict[str, tuple[float, Any]], tmp_path: Path
) -> None:
    rng = random.Random(13)
    names = list(commands)
    rng.shuffle(names)
    hit = 0
    for number, name in turns(names, KILLS - IN_RUN):
        command, (seconds, expected) = commands[name], undisturbed[name]
        folder = place_for(command, tmp_path / str(number))
        first = start(command.given(), folder)
        time.sleep(rng.uniform(0, seconds))
        kill = os.killpg if rng.random() < 0.5 else os.kill
        kill(first.pid, signal.SIGKILL)  # its workers too, or they live on for a moment
        code, said = first.end()
        hit += code == -signal.SIGKILL
        assert "Traceback" not in said, (name, said)
        # Killed when its output was in place: the same command is refused, and tidies up.
        finished = command.copied is None and command.out is not None and (folder / command.out).exists()
        code, said = start([*command.given(), *command.again], folder).end()
        assert code in ((0, 2) if finished else (0, 4)), (name, number, said)
        check(command, folder, said, expected)
    print(f"kills: {hit} of {KILLS - IN_RUN} hit a running command, over {len(names)} verbs")
    assert hit >= (KILLS - IN_RUN) // 3


def test_a_run_that_is_killed_again_and_again(world: Path, tmp_path: Path) -> None:
    expected = content(world / "work")
    rng = random.Random(14)
    words = ["run", "tiny.yaml", "--work", "work"]
    folder, hit, runs = tmp_path / "0", 0, 0
    while hit < IN_RUN:
        if not folder.exists():
            folder.mkdir()
            shutil.copy(world / "tiny.yaml", folder)
        process = start(words, folder)
        time.sleep(rng.uniform(0.1, 6))
        os.kill(process.pid, signal.SIGKILL)
        code, said = process.end()
        assert code in (0, -signal.SIGKILL) and "Traceback" not in said, said
        hit += code == -signal.SIGKILL
        if code == 0:
            check_run(folder, expected)
            runs += 1
            folder = tmp_path / str(runs)
    code, said = start(words, folder).end(600)
    assert code == 0, said
    code, said = start(words, folder).end(600)
    assert code == 0 and "Traceback" not in said, said
    check_run(folder, expected)
    print(f"kills in run: {hit}, {runs + 1} runs finished")


def check_run(folder: Path, expected: Any) -> None:
    """The work folder holds what an undisturbed run makes, and no leftovers."""
    found = content(folder / "work")
    assert found.keys() == expected.keys()
    # The pages show when their records were written.
    assert {name for name in found if found[name] != expected[name]} <= {"site"}
    hidden = [path for path in folder.rglob(".*") if path.suffix in (".draft", ".tmp", ".lock", ".old")]
    assert hidden == [] and not list(folder.rglob("*.partial"))


def test_two_commands_on_one_output(
    commands: dict[str, Command], undisturbed: dict[str, tuple[float, Any]], tmp_path: Path
) -> None:
    rng = random.Random(15)
    names = [name for name, command in commands.items() if command.out is not None and name != "sign"]
    rng.shuffle(names)
    refused = 0
    for number, name in turns(names, IN_RUN):
        command, (seconds, expected) = commands[name], undisturbed[name]
        folder = place_for(command, tmp_path / str(number))
        pair = [start(command.given(), folder)]
        time.sleep(rng.uniform(0, seconds / 2))
        pair.append(start(command.given(), folder))
        ended = [one.end() for one in pair]
        codes = sorted(code for code, _ in ended)
        assert codes[0] == 0 and codes[1] in (0, 2, 3), (name, ended)
        refused += codes[1] == 3
        for _, said in ended:
            check(command, folder, said, expected)
    print(f"pairs: {IN_RUN}, the second refused at its start in {refused}")
    assert refused >= IN_RUN // 3
