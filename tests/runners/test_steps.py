"""Real deckbench steps in a container: this Python and these packages, mounted into the small test image."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import pytest

from deckbench import artifact
from deckbench.errors import OutsideError
from deckbench.runners.dispatch import Target, job_of
from deckbench.runners.job import PLACE, Job
from deckbench.runners.local.cleanup import containers_with
from deckbench.runners.local.container import run_job
from tests.docker_daemon import program, python_image
from tests.runners.options import options
from tests.train import micro_world

pytestmark = pytest.mark.docker
ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [f"{name}={value}" for name, value in micro_world.SETTINGS.items()]


def step(client: Any, verb: str, **given: Any) -> Job:
    """The job of a command line, in the test image."""
    made = job_of(verb, options(verb, **given), python_image(client), Target("docker"))
    code = {"/opt/packages": Path(sysconfig.get_paths()["purelib"])}
    code |= {f"/opt/{name}": ROOT / name for name in ("harness", "tasks", "pyproject.toml")}  # laid out as a checkout
    env = {**made.env, "PYTHONPATH": "/opt/harness:/opt/packages"}
    program_ = (*program()[:1], "-m", "deckbench")
    return dataclasses.replace(made, inputs=(*made.inputs, *code.items()), env=env, program=program_, memory_gib=4)


def locally(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "deckbench", *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model `m` and the dataset `d`, readable for all."""
    folder = tmp_path_factory.mktemp("world")
    micro_world.make_model(folder / "m")
    micro_world.make_dataset(folder / "d", 24)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


@pytest.fixture
def there(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, beside the world."""
    for name in "md":
        (tmp_path / name).symlink_to(world / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(client: Any, out: str, *more: str, resume: bool = False) -> Job:
    settings = [*SETTINGS, *more]
    return step(client, "train", model="m", data=Path("d"), out=Path(out), settings=settings, resume=resume)


@pytest.mark.slow
def test_the_same_bytes_inside_and_outside(daemon: Any, there: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_job(train(daemon, "inside"), daemon) == 0
    assert capfd.readouterr().err.endswith("adapter: inside\n")
    locally("train", "--model", "m", "--data", "d", "--out", "outside", *(f"--set={word}" for word in SETTINGS))
    inside, outside = artifact.read(Path("inside"), verify=True), artifact.read(Path("outside"), verify=True)
    assert inside.content_hash == outside.content_hash
    assert outside.observed["container"] is None
    assert inside.observed["container"]["name"] == python_image(daemon).name
    assert not inside.observed["container"]["locked"]
    answers = step(daemon, "infer", model="m", adapter=Path("inside"), data=Path("d"), out=Path("in.csv"))
    assert run_job(answers, daemon) == 0
    assert run_job(answers, daemon) == 0
    assert "already done: in.csv" in capfd.readouterr().err
    locally("infer", "--model", "m", "--adapter", "outside", "--data", "d", "--out", "out.csv")
    assert Path("in.csv").read_bytes() == Path("out.csv").read_bytes()
    observed = json.loads(Path("in.manifest.json").read_text())["observed"]
    assert observed["container"] == inside.observed["container"]


@pytest.mark.slow
def test_killed_inside_and_resumed_outside(daemon: Any, there: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The caller is killed; the next start, without a container, removes it and goes on to the same bytes."""
    words = ["max_steps=60", "save_every=5"]
    code = (
        "import sys; import tests.runners.test_steps as t; from deckbench.machine.daemon import connect;"
        "client = connect();"
        "t.run_job(t.train(client, 'killed', *sys.argv[1:]), client)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, *words])
    staging = Path(".killed.job").absolute()
    for _ in range(600):
        if list(staging.glob("killed.partial/checkpoint-*/seal*")) or process.poll() is not None:
            break
        time.sleep(0.1)
    process.kill()
    process.wait()
    assert len(containers_with(daemon, PLACE, str(staging))) == 1
    given = [f"--set={word}" for word in (*SETTINGS, *words)]
    locally("train", "--model", "m", "--data", "d", "--out", "killed", "--resume", *given)
    assert containers_with(daemon, PLACE, str(staging)) == []
    locally("train", "--model", "m", "--data", "d", "--out", "whole", *given)
    assert artifact.read(Path("killed")).content_hash == artifact.read(Path("whole")).content_hash
    assert sorted(path.name for path in there.iterdir() if path.name not in "md") == [
        "killed", "killed.logs", "whole", "whole.logs",
    ]  # fmt: skip


@pytest.mark.slow
def test_ranks_meet_without_a_network(daemon: Any, there: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = train(daemon, "ranks", "rank_timeout=60")
    assert run_job(dataclasses.replace(made, command=(*made.command, "--nproc=2")), daemon) == 0
    assert artifact.read(Path("ranks"), "adapter").content["params"]["ranks"] == 2


@pytest.mark.slow
def test_wrong_inputs_are_said_as_outside(daemon: Any, there: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_job(step(daemon, "infer", model="m", data=Path("nowhere"), out=Path("a.csv")), daemon) == 2
    inside = capfd.readouterr().err
    words = ["infer", "--model", "m", "--data", "nowhere", "--out", "a.csv"]
    done = subprocess.run([sys.executable, "-m", "deckbench", *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert inside == done.stderr
    assert sorted(path.name for path in there.iterdir()) == ["d", "m"]


@pytest.mark.slow
def test_a_step_without_the_rights_for_its_memory(daemon: Any, there: Path) -> None:
    made = dataclasses.replace(train(daemon, "small"), memory_gib=0.15)
    with pytest.raises(OutsideError, match=r"out of memory: the step took more than its 0\.15 GiB"):
        run_job(made, daemon)
    assert not Path("small").exists()


def test_without_a_daemon_or_an_image_the_command_line_says_so(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "deckbench", "infer", "--model", "tiny-glm4v", "--data", "d", "--out", "a.csv"]
    nobody = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}

    def deckbench(*more: str) -> tuple[int, str]:
        done = subprocess.run([*words, *more], capture_output=True, text=True, timeout=120, env=nobody, cwd=tmp_path)
        return done.returncode, done.stderr

    code, said = deckbench("--runner", "docker")
    assert code == 3
    assert said.startswith("deckbench: this machine: no docker daemon answers")
    assert "fix: start it" in said
    code, said = deckbench("--runner", "auto")
    assert code == 2
    assert said.startswith("runner: local; no docker daemon answers")
    assert "d: not found" in said
    assert deckbench("--runner", "podman")[0] == 2
    assert list(tmp_path.iterdir()) == []
