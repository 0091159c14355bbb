"""Several ranks: one process's curve, one message when a rank dies or hangs, and a resume to the same bytes."""

from __future__ import annotations

import csv
import importlib.util
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from deckbench.errors import InputError, OutsideError
from deckbench.train import launch, zero
from deckbench.train.ranks import Heartbeat, Ranks, from_environment, parse_heartbeat
from tests.train import micro_world

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
DEEPSPEED = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed: nox -s tests-deepspeed"
)
SHARDINGS = [
    pytest.param((), id="ddp"),
    pytest.param(("deepspeed=zero2",), id="zero2", marks=[DEEPSPEED, pytest.mark.slow]),
    pytest.param(("deepspeed=zero3",), id="zero3", marks=[DEEPSPEED, pytest.mark.slow]),
]
LONG = ("batch=2", "max_steps=24", "save_every=4", "dropout=0.1", "lr=0.02", "rank=4")


class Bench:
    """`deckbench train` of the micro model in a process of its own."""

    def __init__(self, model: Path, data: Path, folder: Path) -> None:
        self.model, self.data, self.folder = model, data, folder

    def command(self, out: str, *settings: str, options: tuple[str, ...] = ()) -> list[str]:
        given = ["--model", str(self.model), "--data", str(self.data), "--out", str(self.folder / out), *options]
        return ["train", *given, *(part for setting in settings for part in ("--set", setting))]

    def start(self, out: str, *settings: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "deckbench", *self.command(out, *settings, options=options)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)

    def run(self, out: str, *settings: str, options: tuple[str, ...] = ()) -> str:
        process = self.start(out, *settings, options=options)
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 0, said
        return said

    def weights(self, out: str) -> bytes:
        return (self.folder / out / "adapter_model.safetensors").read_bytes()

    def curve(self, out: str) -> list[dict[str, float]]:
        with (self.folder / out / "curve.csv").open() as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]

    def broken(self, out: str, *settings: str, sign: signal.Signals, step: int) -> tuple[subprocess.Popen[str], float]:
        """Start two ranks and send `sign` to one of them when the checkpoint of `step` is there; returns when."""
        process = self.start(out, *settings, options=("--nproc", "2"))
        while not (self.folder / f"{out}.partial/checkpoint-{step}").is_dir():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        victim = random.Random(step).choice(psutil.Process(process.pid).children())
        victim.send_signal(sign)
        return process, time.monotonic()


@pytest.fixture
def bench(model: Path, data: Path, tmp_path: Path) -> Bench:
    return Bench(model, data, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_two_ranks_learn_as_one_process(bench: Bench, sharding: tuple[str, ...]) -> None:
    """The same pictures a step, no dropout: loss, gradient norm and accuracy step by step."""
    same = ("max_steps=8", "log_every=1", "accumulate=2", "lr=0.02")
    bench.run("one", *same, "batch=4", "threads=1")
    said = bench.run("two", *same, "batch=2", *sharding, options=("--nproc", "2"))
    assert "8 steps of 8 images (batch 2 x accumulate 2 x 2 ranks)" in said
    one, two = bench.curve("one"), bench.curve("two")
    assert len(one) == len(two) == 8 and one[0]["loss"] - one[-1]["loss"] > 0.5
    for first, second in zip(one, two, strict=True):
        assert abs(first["loss"] - second["loss"]) < 1e-4
        assert abs(first["token_accuracy"] - second["token_accuracy"]) < 1e-6
        assert abs(first["grad_norm"] / second["grad_norm"] - 1) < 1e-3


@pytest.mark.slow
def test_ranks_share_an_evaluation(bench: Bench, tmp_path: Path) -> None:
    bench.data = micro_world.make_dataset(tmp_path / "val", splits=("train", "val"))
    same = ("max_steps=6", "lr=0.02", "eval_every=2", "keep_best=true")
    bench.run("one", *same, "batch=4", "threads=1")
    said = bench.run("two", *same, "batch=2", options=("--nproc", "2"))
    assert said.count("evaluation at step 4/6") == 1
    one, two = ((bench.folder / name / "evaluations.csv").read_text() for name in ("one", "two"))
    assert one == two and one.count("\n") == 4


@pytest.mark.slow
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_a_killed_rank_ends_the_job_and_it_goes_on(bench: Bench, sharding: tuple[str, ...]) -> None:
    bench.run("whole", *LONG, *sharding, options=("--nproc", "2"))
    settings = (*LONG, *sharding, "rank_timeout=30")
    process, killed = bench.broken("cut", *settings, sign=signal.SIGKILL, step=random.choice([4, 8, 12, 16]))
    said = process.communicate(timeout=120)[1]
    assert time.monotonic() - killed < 30 and process.returncode == OutsideError.exit_code
    assert "was killed (SIGKILL); the last finished step is" in said and "--resume" in said
    assert "Traceback" not in said and said.count("deckbench:") == 1
    assert not (bench.folder / "cut").exists()
    bench.run("cut", *settings, options=("--nproc", "2", "--resume"))
    assert bench.weights("cut") == bench.weights("whole")


@pytest.mark.slow
def test_a_hanging_rank_ends_the_job_and_it_goes_on(bench: Bench) -> None:
    bench.run("whole", *LONG, options=("--nproc", "2"))
    process, stopped = bench.broken("cut", *LONG, "rank_timeout=15", sign=signal.SIGSTOP, step=8)
    ranks = psutil.Process(process.pid).children()
    said = process.communicate(timeout=120)[1]
    assert time.monotonic() - stopped < 15 + 5 and process.returncode == OutsideError.exit_code  # ends within 15
    assert "sent no heartbeat for" in said and "the last checkpoint is of step 8" in said
    assert not [rank for rank in ranks if rank.is_running()]
    bench.run("cut", *LONG, "rank_timeout=30", options=("--nproc", "2", "--resume"))
    assert bench.weights("cut") == bench.weights("whole")


@pytest.mark.slow
def test_ranks_end_with_their_launcher(bench: Bench) -> None:
    process = bench.start("cut", *LONG, "max_steps=5000", options=("--nproc", "2"))
    while not (bench.folder / "cut.partial/checkpoint-4").is_dir():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    ranks = psutil.Process(process.pid).children()
    process.kill()
    process.communicate()
    assert len(ranks) == 2 and not psutil.wait_procs(ranks, timeout=10)[1]


@pytest.mark.slow
def test_two_machines_and_torchrun(bench: Bench) -> None:
    """Two launchers that meet on a port, and a bare torchrun: the same bytes as one launcher of two ranks."""
    bench.run("two", *LONG, options=("--nproc", "2"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ("--nproc", "1", "--nnodes", "2", "--rendezvous", f"127.0.0.1:{port}")
    both = [bench.start("apart", *LONG, options=options) for _ in range(2)]
    for process in both:
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 0, said
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "deckbench"]
    subprocess.run([*run, *bench.command("bare", *LONG)], check=True, env=ENVIRONMENT, timeout=300)
    assert bench.weights("apart") == bench.weights("two") == bench.weights("bare")


@pytest.mark.slow
def test_one_ranks_broken_picture_is_one_message(bench: Bench, tmp_path: Path) -> None:
    import shutil

    bad = tmp_path / "bad"
    shutil.copytree(bench.data, bad)
    (bad / "images/3.png").write_bytes(b"no picture")
    bench.data = bad
    process = bench.start("cut", "batch=2", "max_steps=8", options=("--nproc", "2"))
    said = process.communicate(timeout=300)[1]
    assert process.returncode == InputError.exit_code, said
    assert said.count("deckbench:") == 1 and "3.png" in said and "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_where_ranks_are_asked_for() -> None:
    assert launch.parse_places(gpus=None, nproc=None) is None
    assert launch.parse_places(gpus=None, nproc=1) is None
    assert launch.parse_places(gpus=None, nproc=3) == launch.Places(3)
    assert launch.parse_places(gpus=None, nproc=1, nnodes=2, rendezvous="a:1") == launch.Places(1, (), 2, "a:1")
    for wrong, what in (
        ({"gpus": "0", "nproc": 2}, "not both"),
        ({"gpus": "0,x", "nproc": None}, "no list of GPUs"),
        ({"gpus": "1,1", "nproc": None}, "listed twice"),
        ({"gpus": "99", "nproc": None}, "no GPU is here|this machine has"),
        ({"gpus": None, "nproc": 2, "nnodes": 2}, "need a rendezvous"),
    ):
        with pytest.raises(InputError, match=what):
            launch.parse_places(**wrong)


def test_a_sign_of_life_is_read_whole_or_not() -> None:
    sign = Heartbeat(5, 17, "token count", 12.25)
    assert parse_heartbeat(sign.text()) == sign
    assert [parse_heartbeat(sign.text()[:end]) for end in (0, 3, 9, -1)] == [None] * 4


def test_the_rank_that_others_wait_for_is_named(tmp_path: Path) -> None:
    watch = launch.HangWatch(tmp_path, limit_s=10)
    watch.last = {
        0: Heartbeat(1, 7, "forward and backward pass", 100.5),
        1: Heartbeat(2, 7, "image loading", 100.0),
        2: Heartbeat(3, 7, "forward and backward pass", 100.6),
    }
    alive = dict.fromkeys(watch.last, 0.1)
    assert watch.find(alive, now=105.0) == {}
    assert watch.find({**alive, 2: 11.0}, now=105.0) == {2: "sent no heartbeat for 11 s"}
    assert watch.find(alive, now=111.0) == {1: "was stuck in image loading for 11 s"}
    watch.last[0].step = 0  # still loading: only heartbeats count
    assert watch.find(alive, now=111.0) == {}


def test_what_ended_a_job(tmp_path: Path) -> None:
    def failed(code: int, local: int = 0, **said: str | None) -> SimpleNamespace:
        data = {"deckbench": {"where": None, "fix": None, **said}} if said else {}
        return SimpleNamespace(exitcode=code, local_rank=local, error_file_data=data)

    watch = launch.HangWatch(tmp_path, limit_s=10)
    watch.last = {0: Heartbeat(1, 7, "checkpoint", 1.0)}
    (tmp_path / "0/0").mkdir(parents=True)
    (tmp_path / "0/0/stderr.log").write_text("Traceback\nKeyError: 3\n")

    def message(failures: dict[int, SimpleNamespace]) -> str:
        return str(launch.cause(failures, watch, tmp_path / "out", tmp_path))

    terminated = failed(-signal.SIGTERM)
    assert "rank 1 was killed (SIGKILL); the last finished step is 7" in message({0: terminated, 1: failed(-9)})
    assert "rank 0 was killed (SIGTERM)" in message({0: terminated})
    assert message({0: failed(3, what="link"), 1: terminated, 2: failed(2, what="bad", where="x")}).startswith("x: bad")
    assert "rank 0: link; the last finished step is 7, there is no checkpoint" in message({0: failed(3, what="link")})
    assert "KeyError: 3" in message({0: failed(1)})


def test_without_a_launcher_there_is_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = from_environment()
    assert (alone.number, alone.world, alone.is_main) == (0, 1, True)
    assert alone.gather("x") == ["x"] and alone.sum(3, 4) == [3, 4]
    alone.barrier()
    assert not Ranks(number=1, world=2).is_main


@pytest.mark.parametrize(
    ("text", "what"),
    [(None, "no such DeepSpeed config"), ("{", "not json"), ("[]", "map of settings")],
)
def test_wrong_deepspeed_configs(tmp_path: Path, text: str | None, what: str) -> None:
    if text is not None:
        (tmp_path / "ds.json").write_text(text)
    with pytest.raises(InputError, match=what):
        zero.read_config(str(tmp_path / "ds.json"))


@DEEPSPEED
def test_the_labs_deepspeed_file_is_found_and_read(tmp_path: Path) -> None:
    """finetune_demo/configs/lora.yaml names configs/ds_zero_2.json, which has an optimizer of its own."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/ds_zero_2.json").write_text(
        '{"optimizer": {"type": "AdamW"}, "zero_optimization": {"stage": 2}}'
    )
    read = zero.read_config("configs/ds_zero_2.json", tmp_path / "configs/lora.yaml")
    assert read == {"zero_optimization": {"stage": 2}}


@DEEPSPEED
def test_sharding_needs_ranks(bench: Bench) -> None:
    process = bench.start("x", "deepspeed=zero2")
    assert "give --gpus or --nproc" in process.communicate(timeout=120)[1]
    assert process.returncode == InputError.exit_code and not list(bench.folder.iterdir())
