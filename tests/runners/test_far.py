"""Steps at a far daemon without a link that breaks: that daemon is one of this machine, so the tests are quick.

What a broken link does is tested in test_remote.py.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from far_caller import far_job
from test_killed import OwnDaemon

from deckbench import daemon
from deckbench.errors import InputError
from deckbench.runners import store
from deckbench.runners.job import Job
from deckbench.runners.remote import run_job_at
from docker_daemon import cannot

HOST = "ssh://lab@far.invalid"
docker = pytest.mark.docker


@pytest.fixture(scope="module")
def own() -> Iterator[OwnDaemon]:
    """A daemon of these tests' own."""
    if os.getuid() != 0 or shutil.which("dockerd") is None:
        cannot("a daemon of a test's own takes root and dockerd")
    folder = Path(tempfile.mkdtemp(prefix="deckbench-daemon-"))
    place = OwnDaemon(folder)
    yield place
    place.down()
    subprocess.run(["umount", "-R", "-l", str(folder / "data")], capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def far(own: OwnDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OwnDaemon:
    """That daemon, as the one at HOST."""
    connect = daemon.connect
    monkeypatch.setenv("DOCKER_HOST", own.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(daemon, "connect", lambda host=None, *, timeout=120: connect(timeout=timeout))
    return own


def left(far: OwnDaemon) -> list[str]:
    """Containers and volumes there, but the store."""
    containers = [entry["Names"][0] for entry in far.client.api.containers(all=True)]
    volumes = [volume["Name"] for volume in far.client.api.volumes()["Volumes"] or []]
    return [*containers, *(name for name in volumes if name != store.VOLUME)]


def data_of(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    (data / "a").write_text("a")
    return data


def suite(work: Path, data: Path, code: str, inside: str = "") -> Job:
    """A job that goes on with a folder, as `run` does."""
    job = dataclasses.replace(far_job(work, data, code), in_place=True)
    return dataclasses.replace(job, inside=inside) if inside else job


# Where the output is


@docker
@pytest.mark.parametrize("word", [".", "../work", "deep/.."])
def test_the_folder_one_stands_in(far: OwnDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    data, work = data_of(tmp_path), tmp_path / "work"
    (work / "deep").mkdir(parents=True)
    (work / "mine").write_text("mine")
    monkeypatch.chdir(work)
    code = "import pathlib; work = pathlib.Path('/out/work'); (work / 'new').write_text((work / 'mine').read_text())"
    assert run_job_at(suite(Path(word), data, code, "/out/work"), HOST) == 0
    assert sorted(path.name for path in work.iterdir()) == ["deep", "mine", "new"]
    assert (work / "new").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "data", "work"]


def test_a_path_that_does_not_say_what_the_output_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a/b")
    monkeypatch.chdir(tmp_path)
    job = Job(None, (), (), Path("link/.."), f"/out/{tmp_path.name}", in_place=True)  # type: ignore[arg-type]
    for output, inside in ((Path("link/.."), f"/out/{tmp_path.name}"), (Path("/"), "/out/")):
        with pytest.raises(InputError, match="does not say what the output is called"):
            run_job_at(dataclasses.replace(job, output=output, inside=inside), HOST)
