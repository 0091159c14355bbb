"""Steps at a far daemon without a link that breaks: that daemon is one of this machine, so the tests are quick.

What a broken link does is tested in test_remote.py.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deckbench.errors import InputError, OutsideError
from deckbench.machine import daemon, process_identity
from deckbench.runners.job import Job
from deckbench.runners.prune import prune
from deckbench.runners.remote import run, store, store_helper, time_limit
from deckbench.runners.remote.connection import RemoteDaemon
from deckbench.runners.remote.run import run_job_at
from deckbench.runners.remote.store import Session
from tests.docker_daemon import cannot
from tests.runners.local.test_killed import OwnDaemon
from tests.runners.remote.remote_caller import remote_job

HOST = "ssh://lab@far.invalid"
docker, slow = pytest.mark.docker, pytest.mark.slow


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
def far(own: OwnDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnDaemon]:
    """That daemon, as the one at HOST; what a test that fails leaves there goes."""
    connect = daemon.connect
    monkeypatch.setenv("DOCKER_HOST", own.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(daemon, "connect", lambda host=None, *, timeout=120: connect(timeout=timeout))
    yield own
    for entry in own.client.api.containers(all=True):
        own.client.api.remove_container(entry["Id"], force=True, v=True)
    for name in left(own):
        own.client.api.remove_volume(name)


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
    job = dataclasses.replace(remote_job(work, data, code), in_place=True)
    return dataclasses.replace(job, inside=inside) if inside else job


# Where the output is


@docker
@slow
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
        with pytest.raises(InputError, match="does not name the output"):
            run_job_at(dataclasses.replace(job, output=output, inside=inside), HOST)


# What has changed here while the step was there


def interrupted(monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    """Start a job there and lose sight of it, as one whose caller was killed; it has ended by the time this returns."""

    def lose(job: Job, session: Session, *_: object) -> None:
        assert session.daemon.client is not None
        session.daemon.client.api.wait(session.named("job"))
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(run, "follow", lose)
        with pytest.raises(RuntimeError, match="killed"):
            run_job_at(job, HOST)


SUITE = """
import pathlib
work = pathlib.Path("/out/work")
(work / "gone").unlink()
(work / "there").write_text("new there")
(work / "both").write_text("new there")
(work / "deep").mkdir(exist_ok=True); (work / "deep/there").write_text("new there")
"""


@docker
@slow
def test_what_was_made_here_meanwhile_stays(far: OwnDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a suite that was run here while the same suite ran there."""
    work = tmp_path / "work"
    for name in ("gone", "there", "both", "here", "kept/mine", "lost"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("old")
    job = suite(work, data_of(tmp_path), SUITE)
    interrupted(monkeypatch, job)
    (work / "made").mkdir()
    (work / "made/manifest.json").write_text("new here")
    (work / "here").write_text("new here")
    (work / "both").write_text("new there")  # the same was made here
    (work / "lost").unlink()
    assert run_job_at(job, HOST) == 0
    assert {path.relative_to(work).as_posix(): path.read_text() for path in work.rglob("*") if path.is_file()} == {
        "there": "new there",
        "both": "new there",
        "here": "new here",
        "kept/mine": "old",
        "deep/there": "new there",
        "made/manifest.json": "new here",
        "lost": "old",
    }
    assert left(far) == []


@docker
@slow
@pytest.mark.parametrize("name", ["both", "gone"])
def test_what_changed_here_and_there_is_said(
    far: OwnDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for one in ("gone", "both"):
        (work / one).write_text("old")
    job = suite(work, data_of(tmp_path), SUITE)
    interrupted(monkeypatch, job)
    (work / name).write_text("new here")
    for _ in range(2):
        with pytest.raises(OutsideError, match=rf"{name}: changed here since the step was started"):
            run_job_at(job, HOST)
    assert sorted(path.name for path in work.iterdir()) == ["both", "gone"]
    assert (work / name).read_text() == "new here"
    (work / name).rename(tmp_path / "aside")
    assert run_job_at(job, HOST) == 0
    assert sorted(path.name for path in work.iterdir()) == ["both", "deep", "there"]
    assert (work / "both").read_text() == "new there"
    assert left(far) == []


PREDICT = """
import pathlib, shutil
part = pathlib.Path("/out/a.partial")
part.mkdir(exist_ok=True)
with (part / "journal").open("a") as file: file.write("there\\n")
if %r:
    shutil.rmtree(part)
    pathlib.Path("/out/a.csv").write_text("there")
"""


@docker
@slow
@pytest.mark.parametrize(
    ("sent", "meanwhile", "finished"),
    [("a.partial/journal", "a.partial/journal", False), ("a.partial/journal", "a.partial/journal", True),
     ("", "a.partial/journal", False), ("", "a.csv", True)],
)  # fmt: skip
def test_a_table_that_went_on_here_is_not_lost(
    far: OwnDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: str, meanwhile: str, finished: bool
) -> None:
    place = tmp_path / "preds"
    (place / "a.partial").mkdir(parents=True)
    if sent:
        (place / sent).write_text("here\n")
    job = remote_job(place / "a.csv", data_of(tmp_path), PREDICT % finished)
    interrupted(monkeypatch, job)
    (place / meanwhile).write_text("here\nhere\n")
    with pytest.raises(OutsideError, match="changed here since the step was started"):
        run_job_at(job, HOST)
    assert (place / meanwhile).read_text() == "here\nhere\n"
    shutil.move(place / Path(meanwhile).parts[0], tmp_path / "aside")
    assert run_job_at(job, HOST) == 0
    before = "here\n" if sent else ""
    if finished:
        assert (place / "a.csv").read_text() == "there"
    else:
        assert (place / "a.partial/journal").read_text() == f"{before}there\n"
    assert left(far) == []


@docker
@slow
def test_a_caller_killed_when_all_was_home_but_the_last_word(
    far: OwnDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output is home, the job's trees are gone there, the job is not."""
    code = "import pathlib; out = pathlib.Path('/out/result'); out.mkdir(); (out / 'a').write_text('a')"
    output = tmp_path / "result"
    job = remote_job(output, data_of(tmp_path), code)

    def forget(session: Session) -> None:
        store.ask_helper(session, "forget", {}, "cleaning up")
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(store, "close_store", forget)
        with pytest.raises(RuntimeError, match="killed"):
            run_job_at(job, HOST)
    assert run_job_at(job, HOST) == 0
    assert (output / "a").read_text() == "a"
    assert left(far) == []


@docker
@slow
def test_pruning_leaves_what_waits_to_be_fetched(
    far: OwnDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code = "import pathlib; out = pathlib.Path('/out/result'); out.mkdir(); (out / 'a').write_text('a')"
    output = tmp_path / "result"
    job = remote_job(output, data_of(tmp_path), code)
    monkeypatch.setattr(process_identity, "is_dead", lambda who: True)
    interrupted(monkeypatch, job)
    prune(far.client, store=True)
    said = capfd.readouterr().err
    assert "1 finished steps stay: rerun their commands to download" in said
    assert "the store stays" in said
    assert run_job_at(job, HOST) == 0
    assert "this job was started" in capfd.readouterr().err
    assert (output / "a").read_text() == "a"
    shutil.rmtree(output)
    interrupted(monkeypatch, job)
    prune(far.client, uncollected=True)
    assert left(far) == []


@docker
@slow
def test_too_little_disk_names_what_frees_some_there(
    far: OwnDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "OUTPUT_BYTES", 1 << 60)
    with pytest.raises(OutsideError, match=f"too little disk(.|\n)*`deckbench containers prune --host {HOST}`"):
        run_job_at(remote_job(tmp_path / "result", data_of(tmp_path), ""), HOST)
    assert left(far) == []


# The time limit, while nobody is there


@docker
@slow
@pytest.mark.parametrize(("handler", "code"), [("", 124), ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", 137)])
def test_the_time_limit_holds_there_too(
    far: OwnDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handler: str, code: int
) -> None:
    monkeypatch.setattr(time_limit, "SPARE_S", 1)
    monkeypatch.setattr(time_limit, "GRACE_S", 1)
    step = f"""
import pathlib, signal, time
{handler}
part = pathlib.Path("/out/result.partial"); part.mkdir(); (part / "a").write_text("some")
time.sleep(600)
"""
    job = dataclasses.replace(remote_job(tmp_path / "result", data_of(tmp_path), step), minutes=2 / 60)
    interrupted(monkeypatch, job)
    states = [entry["Status"] for entry in far.client.api.containers(all=True) if "job" in entry["Names"][0]]
    assert len(states) == 1 and states[0].startswith(f"Exited ({code})")
    with pytest.raises(OutsideError, match="the time limit of"):
        run_job_at(job, HOST)
    assert (tmp_path / "result.partial/a").read_text() == "some"
    assert left(far) == []


@docker
@slow
@pytest.mark.parametrize("minutes", [0, 9])
def test_signals_and_exit_codes_pass_the_time_limit(
    far: OwnDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    """The step gets a signal once, and ends with its own exit code."""
    code = """
import signal, time
asked = []
for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, lambda number, frame: asked.append(number))
print("ready", flush=True)
while not asked: time.sleep(0.1)
time.sleep(1)
raise SystemExit(4 if asked == [signal.SIGTERM] else 1)
"""
    job = dataclasses.replace(remote_job(tmp_path / "result", data_of(tmp_path), code), minutes=minutes)
    follow = run.follow

    def ask(job: Job, session: Session, *rest: Any) -> Any:
        assert session.daemon.client is not None
        while b"ready" not in session.daemon.client.api.logs(session.named("job")):
            time.sleep(0.1)
        session.daemon.client.api.kill(session.named("job"), "SIGTERM")
        return follow(job, session, *rest)

    monkeypatch.setattr(run, "follow", ask)
    assert run_job_at(job, HOST) == 4
    assert left(far) == []


# Questions


def test_a_question_is_answered_when_the_daemon_is_done_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon gives a file to the helper, and sets its time, after it wrote it: till then it must not go."""
    go = tmp_path / "job.1.go"
    monkeypatch.setattr(store_helper, "ASKS", tmp_path)
    monkeypatch.setattr(store_helper, "IDLE_S", 0.2)
    go.with_suffix(".json").write_text('{"do": "none"}')
    states = {"being written": 1_000_000_001, "done": 1_000_000_000}
    for state, time_ns in states.items():
        go.touch()
        os.utime(go, ns=(time_ns, time_ns))
        store_helper.serve("job")
        assert go.exists() == (state != "done")
    assert (tmp_path / "job.1.answer").exists()


# Answers that are none


@docker
@slow
@pytest.mark.parametrize(
    ("verb", "answer"),
    [
        ("place", {"missing": [], "free": 1 << 40}),
        ("place", {"missing": {"a": [0]}, "free": 1 << 40}),
        ("place", {"missing": {}, "free": None}),
        ("list", {"files": {"a": "b"}, "folders": []}),
        ("list", {"files": {"a": ["b", "c"]}, "folders": []}),
        ("list", {"files": {"a": ["b", -1]}, "folders": []}),
        ("list", {"files": {}, "folders": [1]}),
        ("list", {"files": {"../a": ["b", 1]}, "folders": []}),
        ("list", {}),
        ("sent", {"files": [], "folders": None}),
        ("sent", []),
    ],
)
def test_an_answer_that_cannot_be_read(
    far: OwnDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, answer: object
) -> None:
    code = (
        Path(store_helper.__file__)
        .read_text()
        .replace("def answer(", f"VERBS[{verb!r}] = lambda ask: {answer!r}\n\n\ndef answer(")
    )
    helper = tmp_path / "helper.py"
    helper.write_text(code)
    job = remote_job(tmp_path / "result", data_of(tmp_path), "print(1)")
    with monkeypatch.context() as patch:
        patch.setattr(store_helper, "__file__", str(helper))
        with pytest.raises(OutsideError, match="the answer of the remote helper cannot be read"):
            run_job_at(job, HOST)
    assert run_job_at(job, HOST) == 0
    assert left(far) == []


# The end of this process while the connection is lost


@pytest.mark.parametrize(
    ("number", "raised"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, OutsideError), (signal.SIGHUP, OutsideError)],
)
def test_a_signal_while_the_link_is_broken(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], number: int, raised: type[BaseException]
) -> None:
    """The message says that the job keeps running there; only Ctrl-C is exit code 130."""
    monkeypatch.setattr(daemon, "connect", lambda host: SimpleNamespace(close=lambda: None))
    far = RemoteDaemon(HOST)
    far.received = [number]

    def broken(client: object) -> None:
        raise ConnectionResetError("gone")

    with pytest.raises(raised) as caught:
        far.do("following the step", broken)
    name = signal.Signals(number).name
    assert (
        f"{name} while the connection was lost; the job keeps running there"
        in f"{caught.value}{capfd.readouterr().err}"
    )
