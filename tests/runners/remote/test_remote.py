"""Steps at a far daemon, through a real ssh link that is really cut: copied once, taken up again, brought home whole.

The far machine is a stand-in (`orin_namespace`): another network and another daemon on this machine.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deckbench import artifact
from deckbench.errors import InputError, OutsideError
from deckbench.machine import ssh
from deckbench.machine.daemon import LABEL, REMOTE_JOB, connect
from deckbench.runners.local.container import run_job
from deckbench.runners.remote import file_hashes, store
from deckbench.runners.remote.connection import PATIENCE_VARIABLE, RemoteDaemon
from deckbench.runners.remote.file_tree import Source, Tree, read_tree
from deckbench.runners.remote.follow import Cursor, new_lines, seconds_of
from deckbench.runners.remote.run import run_job_at
from deckbench.runners.remote.store import CHUNK, Session
from deckbench.runners.remote.store_download import download, output_listing
from deckbench.runners.remote.store_upload import put_pieces, upload
from tests.docker_daemon import any_daemon, cannot, program, python_image
from tests.runners.remote import orin_namespace
from tests.runners.remote.orin_namespace import StandIn
from tests.runners.remote.remote_caller import remote_job

pytestmark = [pytest.mark.docker, pytest.mark.slow]
DROP_S = 20  # seconds for which packets are dropped
CALLER = [sys.executable, str(Path(__file__).with_name("remote_caller.py"))]

# Reads all of its input, works for a while and says so, writes a folder that is a function of its input.
STEP = """
import hashlib, json, os, pathlib, sys, time
for number in range(%d):
    print("line", number, flush=True)
    print("err", number, file=sys.stderr, flush=True)
    time.sleep(%g)
files = sorted(p for p in pathlib.Path("/in/data").rglob("*") if p.is_file())
sums = {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
draft = pathlib.Path("/out/.result.1-a.draft"); (draft / "empty").mkdir(parents=True)
(draft / "sums.json").write_text(json.dumps(sums))
with (draft / "large").open("wb") as file:
    for part in range(%d):
        file.write(hashlib.sha256(b"%%d" %% part).digest() * (1 << 15))
(draft / "manifest.json").write_text("{}")
draft.rename("/out/result")
"""


def step(seconds: int = 1, megabytes: int = 1) -> str:
    return STEP % (seconds * 4, 0.25, megabytes)


@pytest.fixture(scope="module")
def far() -> Iterator[StandIn]:
    """A stand-in with the test image. Skips where none can be started; fails under CI."""
    if reason := orin_namespace.missing():
        cannot(reason)
    tag = python_image(any_daemon()).tag
    with orin_namespace.stand_in((tag,)) as place:
        yield place


@pytest.fixture(autouse=True)
def surroundings(far: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ssh.CONFIG_VARIABLE, str(far.ssh_config))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def data_of(tmp_path: Path, megabytes: int = 1, seed: int = 0) -> Path:
    """A folder to be read: a file of some size, small ones, equal ones, an empty one, an empty folder, a link."""
    folder = tmp_path / "data"
    (folder / "deep/empty").mkdir(parents=True)
    with (folder / "large.safetensors").open("wb") as file:
        for number in range(megabytes):
            file.write(random.Random(f"{seed} {number}").randbytes(1 << 20))
        file.write(b"the end")
    for number in range(40):
        (folder / "deep" / f"{number}.txt").write_text(str(number % 7))
    (folder / "nothing").touch()
    (folder / "linked").symlink_to("large.safetensors")
    return folder


def content(folder: Path) -> dict[str, str]:
    """Every file by its hash, and every folder."""
    paths = sorted(folder.rglob("*"))
    return {p.relative_to(folder).as_posix(): artifact.hash_file(p) if p.is_file() else "folder" for p in paths}


def left_there(far: StandIn) -> tuple[str, list[str]]:
    """Containers and volumes of the far daemon, but the store."""
    volumes = far.docker("volume", "ls", "-q").split()
    return far.docker("ps", "-aq").strip(), [name for name in volumes if name != store.VOLUME]


def here(tmp_path: Path, data: Path, code: str) -> dict[str, str]:
    """What the same step writes in a container of the daemon here."""
    output = tmp_path / "near" / "result"
    assert run_job(remote_job(output, data, code), connect()) == 0
    return content(output)


def wait_until(ready: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_a_step_there_writes_what_it_writes_here(
    far: StandIn, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, output, code = data_of(tmp_path), tmp_path / "far" / "result", step()
    assert run_job_at(remote_job(output, data, code), far.host) == 0
    said = capfd.readouterr()
    assert said.out.splitlines() == [f"line {n}" for n in range(4)]
    assert [line for line in said.err.splitlines() if line.startswith("err")] == [f"err {n}" for n in range(4)]
    assert content(output) == here(tmp_path, data, code)
    assert sorted(path.name for path in output.parent.iterdir()) == ["result"]
    assert left_there(far) == ("", [])


def session_of(far: StandIn, key: str) -> Session:
    link = RemoteDaemon(far.host)
    image = link.connected().images.get(python_image(any_daemon()).tag).id
    return Session(link, key, image, program()[0])


def no_limit(needed: int, free: int) -> None:
    assert free > needed


def test_what_the_store_holds_is_not_sent_again(far: StandIn, tmp_path: Path) -> None:
    """An adapter alone travels later; the hash of a large file is looked up."""
    data = data_of(tmp_path, megabytes=70, seed=1)
    session = session_of(far, "a" * 32)
    store.open_store(session)
    tree = read_tree([("0/data", data)])
    before = far.received()
    first = upload(session, tree, Tree(), [], no_limit)
    # the linked file once, the equal ones once; they may have been there before
    assert first - (70 << 20) - 7 in range(8)
    assert far.received() - before < 1.1 * first
    (data / "adapter.safetensors").write_bytes(random.Random(2).randbytes(300_000))
    again = read_tree([("0/data", data)])
    before = far.received()
    assert upload(session, again, Tree(), [], no_limit) == 300_000
    assert far.received() - before < 1_000_000
    store.close_store(session)


def test_pieces_are_taken_up_and_broken_ones_sent_again(far: StandIn, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "large").write_bytes(random.Random(3).randbytes(3 * CHUNK + 11))
    session = session_of(far, "b" * 32)
    store.open_store(session)
    tree = read_tree([("0/data", data)])
    found = tree.files["0/data/large"]
    client = session.daemon.connected()
    sums: dict[str, dict[str, str]] = {}
    put_pieces(session, [(found, 0), (found, 2)], sums, client)
    # a piece that a broken link cut short, and one of the right length with other bytes
    piece = store.member("other.1", 0, folder=True).tobuf() + store.member(f"other.1/{found.sha256}.3", 5).tobuf()
    client.api.put_archive(session.named("helper"), f"{store.STORE}/pieces", piece + bytes(512) + bytes(1024))
    other = Source(tmp_path / "other", found.sha256, found.size)
    other.path.write_bytes(bytes(found.size))
    put_pieces(session, [(other, 1)], {}, client)
    sent = upload(session, tree, Tree(), [], no_limit)
    # the short one; then, since the whole is wrong and nobody knows which piece it was, all
    assert sent == 11 + found.size
    store.close_store(session)


def test_a_file_that_shrinks_while_it_is_copied(far: StandIn, tmp_path: Path) -> None:
    data = data_of(tmp_path)
    session = session_of(far, "e" * 32)
    store.open_store(session)

    def shrink(needed: int, free: int) -> None:
        os.truncate(data / "large.safetensors", 1000)

    with (data / "large.safetensors").open("ab") as file:  # no file that the store may have
        file.write(os.urandom(99))
    tree = read_tree([("0/data", data)])
    with pytest.raises(InputError, match=r"became shorter .*|large\.safetensors"):
        upload(session, tree, Tree(), [], shrink)
    store.close_store(session)


def test_nobody_reads_what_the_step_says(far: StandIn, tmp_path: Path) -> None:
    """As behind `| head`: the step is ended, the command too, and nothing is left."""
    command = [*CALLER, far.host, str(tmp_path / "result"), str(data_of(tmp_path)), step(300)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    process.stderr.read()
    assert process.wait(60) != 0
    assert left_there(far) == ("", [])


def test_two_may_send_the_same_at_once(far: StandIn, tmp_path: Path) -> None:
    data = data_of(tmp_path, megabytes=130, seed=4)
    failures: list[BaseException] = []

    def one(key: str) -> None:
        try:
            session = session_of(far, key * 32)
            store.open_store(session)
            tree = read_tree([("0/data", data)])
            upload(session, Tree(), tree, [], no_limit)
            download(session, tmp_path / key, output_listing(session), {})
            store.close_store(session)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one, args=(key,)) for key in "cd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert content(tmp_path / "c/0/data") == content(tmp_path / "d/0/data") == content(data)
    assert left_there(far) == ("", [])


def test_a_hash_is_kept_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(2 << 20))
    os.utime(path, (1e9, 1e9))
    with file_hashes.open_cache() as cache:
        assert cache is not None
        good = file_hashes.hash_file(path, cache)
        cache.execute("UPDATE hashes SET sha256 = 'kept'")
        assert file_hashes.hash_file(path, cache) == ("kept", 2 << 20)
        path.write_bytes(b"x" + bytes((2 << 20) - 1))
        changed = file_hashes.hash_file(path, cache)
        assert changed[0] not in {"kept", good[0]}
        # written just now: it may change again within the same time stamp, so it is not kept
        assert cache.execute("SELECT sha256 FROM hashes").fetchall() == [("kept",)]


def test_unfinished_work_comes_home_and_goes_there_again(far: StandIn, tmp_path: Path) -> None:
    """As `infer` does: FILE.partial/ while it lasts, FILE.csv at the end. The first run breaks off."""
    code = """
import pathlib, sys
part, done = pathlib.Path("/out/a.partial"), pathlib.Path("/out/a.csv")
part.mkdir(exist_ok=True)
with (part / "journal").open("a") as file: file.write("some\\n")
if len((part / "journal").read_text().splitlines()) < 3: sys.exit(3)
pathlib.Path("/out/a.manifest.json").write_text("{}")
done.write_text((part / "journal").read_text())
(part / "journal").unlink(); part.rmdir()
"""
    data, output = data_of(tmp_path), tmp_path / "preds" / "a.csv"
    for number in (1, 2):
        assert run_job_at(remote_job(output, data, code), far.host) == 3
        assert (output.parent / "a.partial/journal").read_text() == "some\n" * number
        assert sorted(path.name for path in output.parent.iterdir()) == ["a.partial"]
    assert run_job_at(remote_job(output, data, code), far.host) == 0
    assert output.read_text() == "some\n" * 3
    assert sorted(path.name for path in output.parent.iterdir()) == ["a.csv", "a.manifest.json"]
    assert left_there(far) == ("", [])


def test_a_folder_that_a_step_goes_on_with(far: StandIn, tmp_path: Path) -> None:
    """As `run` does: what is there goes there, what changed comes home, what went there is gone here."""
    import dataclasses

    code = """
import pathlib
work = pathlib.Path("/out/work")
assert (work / "kept/manifest.json").read_text() == "1"
(work / "old").unlink()
(work / "new").mkdir(); (work / "new/a").write_text("a")
(work / "changed").write_text("2")
"""
    data, work = data_of(tmp_path), tmp_path / "work"
    (work / "kept").mkdir(parents=True)
    (work / "kept/manifest.json").write_text("1")
    (work / "changed").write_text("1")
    (work / "old").touch()
    inode = (work / "kept/manifest.json").stat().st_ino
    job = dataclasses.replace(remote_job(work, data, code), in_place=True)
    assert run_job_at(job, far.host) == 0
    assert content(work).keys() == {"kept", "kept/manifest.json", "changed", "new", "new/a"}
    assert (work / "changed").read_text() == "2"
    assert (work / "kept/manifest.json").stat().st_ino == inode


def test_too_little_disk_is_said_before_anything_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tag = python_image(any_daemon()).tag
    data = data_of(tmp_path)
    with orin_namespace.stand_in(disk="700m") as small:
        monkeypatch.setenv(ssh.CONFIG_VARIABLE, str(small.ssh_config))
        # the image has room, the output has none
        with pytest.raises(OutsideError, match=r"too little disk: .* are free where docker keeps its data"):
            run_job_at(remote_job(tmp_path / "result", data, step()), small.host)
        assert small.docker("images", "-q", tag).strip()
        assert left_there(small) == ("", [])
        assert not (tmp_path / "result").exists()
        small.docker("rmi", "-f", tag)
        small.inside("dd", "if=/dev/zero", f"of={small.folder}/data/filler", "bs=1M", "count=600")
        with pytest.raises(OutsideError, match="too little disk: the image takes"):
            run_job_at(remote_job(tmp_path / "result", data, step()), small.host)


def test_too_little_memory_is_said_before_anything_is_copied(far: StandIn, tmp_path: Path) -> None:
    data = data_of(tmp_path)
    with (data / "model.safetensors").open("wb") as file:
        file.truncate(5 << 40)  # no block of it is written
    before = far.received()
    with pytest.raises(OutsideError, match=r"too little memory: 5\d{3}\.\d GB are needed, \d+\.\d GB are available"):
        run_job_at(remote_job(tmp_path / "result", data, step()), far.host)
    assert far.received() - before < 200_000
    assert not (tmp_path / "result").exists()


def test_a_host_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutsideError, match=r"no docker daemon answers .*Could not resolve"):
        run_job_at(remote_job(tmp_path / "a", data_of(tmp_path), step()), "ssh://lab@nowhere.invalid")
    with pytest.raises(InputError, match="cannot read the host"):
        connect("ssh://lab@orin -oProxyCommand=x")
    assert not (tmp_path / "a").exists()


def test_a_link_that_stays_away_is_given_up_and_gone_on_with(
    far: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The step goes on there; the same command finds it, and its output."""
    monkeypatch.setenv(PATIENCE_VARIABLE, "1")
    data, output, code = data_of(tmp_path), tmp_path / "result", step(5)
    cut = threading.Thread(target=lambda: (wait_until(lambda: running(far)), time.sleep(1), far.drop()))
    cut.start()
    try:
        with pytest.raises(OutsideError, match="lost the connection, and no reconnect within 1 s"):
            run_job_at(remote_job(output, data, code), far.host)
    finally:
        cut.join()
        far.drop(False)
    wait_until(lambda: not running(far))
    assert not output.exists()
    capfd.readouterr()
    assert run_job_at(remote_job(output, data, code), far.host) == 0
    said = capfd.readouterr()
    assert "this job was started" in said.err
    assert said.out.splitlines() == [f"line {n}" for n in range(20)]
    assert content(output) == here(tmp_path, data, code)
    assert left_there(far) == ("", [])


def running(far: StandIn) -> bool:
    """Whether a step runs there."""
    return bool(far.docker("ps", "-q", "--filter", f"label={LABEL}={REMOTE_JOB}").strip())


@pytest.mark.parametrize("phase", ["copying", "running", "fetching"])
def test_a_killed_caller_is_taken_up(far: StandIn, tmp_path: Path, phase: str) -> None:
    """SIGKILL of the caller: the step is started once, what was copied is there, nothing is left at the end."""
    data, output = data_of(tmp_path, megabytes=200 if phase == "copying" else 1, seed=5), tmp_path / "result"
    code = step(6, megabytes=150 if phase == "fetching" else 1)
    command = [*CALLER, far.host, str(output), str(data), code]
    before = far.received()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if phase == "copying":
        wait_until(lambda: far.received() - before > 100 << 20)
    elif phase == "running":
        wait_until(lambda: running(far))
        time.sleep(1)
    else:
        home = tmp_path / ".result.job/.download/result/large"
        wait_until(lambda: home.exists() and home.stat().st_size > 1 << 20)
    process.kill()
    process.communicate()
    assert not output.exists()
    started = far.docker("ps", "-aq", "--no-trunc", "--filter", f"label={LABEL}={REMOTE_JOB}").strip()
    assert bool(started) == (phase != "copying")
    between = far.received()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"line {n}" for n in range(24)]
    assert ("was started" in done.stderr) == (phase != "copying")
    if phase == "copying":
        assert far.received() - between < 150 << 20
    assert content(output) == here(tmp_path, data, code)
    assert left_there(far) == ("", [])
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_ctrl_c_ends_the_step_and_brings_home_what_it_has(far: StandIn, tmp_path: Path) -> None:
    code = """
import pathlib, time
part = pathlib.Path("/out/result.partial"); part.mkdir(); (part / "a").write_text("some")
try:
    time.sleep(600)
except KeyboardInterrupt:
    (part / "b").write_text("asked")
    raise SystemExit(130)
"""
    command = [*CALLER, far.host, str(tmp_path / "result"), str(data_of(tmp_path)), code]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: running(far))
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert content(tmp_path / "result.partial").keys() == {"a", "b"}
    assert left_there(far) == ("", [])


def test_lines_come_once_though_they_are_asked_for_again() -> None:
    """A cursor asks for whole seconds; what it had of them is left out, also where the stream broke off in between."""
    stamps = [f"2026-01-31T12:00:{n // 3:02d}.{n:09d}Z" for n in range(30)]
    log = [(stamp, f"line {n}\n") for n, stamp in enumerate(stamps)]
    random_ = random.Random(6)

    class Api:
        written = 0
        breaks = False

        def logs(self, name: str, *, since: int | None, **_: object) -> Iterator[bytes]:
            for stamp, text in log[: self.written]:
                if since is None or seconds_of(stamp) >= since:
                    if self.breaks and random_.random() < 0.2:
                        raise ConnectionError
                    yield f"{stamp} {text}".encode()

    class Client:
        api = Api()

    client, cursor = Client(), Cursor()
    seen: list[Any] = []
    while len(seen) < len(log):
        client.api.written = min(len(log), client.api.written + random_.randrange(4))
        client.api.breaks = not client.api.breaks
        try:
            for line in new_lines(client, "x", cursor, stdout=True):  # type: ignore[arg-type]
                seen.append(line.decode())
        except ConnectionError:
            continue
    assert seen == [text for _, text in log]
    assert len(cursor.stamps) < 10


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["copying", "running", "fetching"])
def test_packets_dropped_for_twenty_seconds(
    far: StandIn, tmp_path: Path, phase: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The step runs on meanwhile, no line is lost or doubled, the bytes are those of the same step here."""
    data, output = data_of(tmp_path, megabytes=300 if phase == "copying" else 1, seed=7), tmp_path / "result"
    code = step(40 if phase == "running" else 2, megabytes=300 if phase == "fetching" else 1)
    before = far.received()
    home = tmp_path / ".result.job/.download/result/large"
    when = {
        "copying": lambda: far.received() - before > 100 << 20,
        "running": lambda: running(far),
        "fetching": lambda: home.exists() and home.stat().st_size > 1 << 20,
    }[phase]
    cut: list[threading.Thread] = []

    def later() -> None:
        wait_until(when)
        time.sleep(3 if phase == "running" else 0)
        cut.append(far.drop_for(DROP_S))

    thread = threading.Thread(target=later)
    thread.start()
    began = time.monotonic()
    code_there = run_job_at(remote_job(output, data, code), far.host)
    took = time.monotonic() - began
    thread.join()
    cut[0].join()
    said = capfd.readouterr()
    assert code_there == 0
    assert "lost the connection to" in said.err and "reconnected to" in said.err
    assert took > DROP_S
    assert said.out.splitlines() == [f"line {n}" for n in range(160 if phase == "running" else 8)]
    if phase == "copying":  # what had arrived was not sent again
        assert far.received() - before < (300 + 100) << 20
    assert content(output) == here(tmp_path, data, code)
    assert json.loads((output / "sums.json").read_text())
    assert left_there(far) == ("", [])
