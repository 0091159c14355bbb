"""A step in a container, against a real docker daemon: what it can reach, what comes out, how it ends."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import requests

from deckbench.errors import InputError, OutsideError
from deckbench.machine.daemon import LABEL
from deckbench.runners.job import OWNER, PLACE, Job
from deckbench.runners.local.cleanup import containers_with, remove_dead
from deckbench.runners.local.container import run_job
from tests.runners.local.caller import job

pytestmark = pytest.mark.docker
USER = 12345
CALLER = [sys.executable, str(Path(__file__).with_name("caller.py"))]

PROBE = r"""
import errno, json, os, resource, socket, sys
def tries(do):
    try:
        do()
        return "done"
    except OSError as error:
        return errno.errorcode[error.errno]
def connect(family, address):
    with socket.socket(family) as s:
        s.settimeout(3)
        s.connect(address)
def fork():
    children = []
    try:
        while len(children) < 400:
            pid = os.fork()
            if pid == 0:
                os.close(gate[1])
                os.read(gate[0], 1)
                os._exit(0)
            children.append(pid)
    finally:
        os.close(gate[1])
        for pid in children:
            os.waitpid(pid, 0)
gate = os.pipe()
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
found = {
    "uids": {int(n) for n in status["Uid"].split()} | {os.geteuid()},
    "gids": {int(n) for n in status["Gid"].split() + status["Groups"].split()},
    "capabilities": {status[name].strip() for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")},
    "no_new_privs": status["NoNewPrivs"].strip(),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "route4": tries(lambda: connect(socket.AF_INET, ("1.1.1.1", 53))),
    "route6": tries(lambda: connect(socket.AF_INET6, ("2606:4700:4700::1111", 53))),
    "private": tries(lambda: connect(socket.AF_INET, ("172.17.0.1", 22))),
    "root": tries(lambda: open("/new", "w")),
    "etc": tries(lambda: open("/etc/new", "w")),
    "opt": tries(lambda: os.mkdir("/opt")),
    "input": tries(lambda: open("/in/data/a.txt", "a")),
    "input_new": tries(lambda: open("/in/data/new", "w")),
    "input_chmod": tries(lambda: os.chmod("/in/data/a.txt", 0o777)),
    "input_remove": tries(lambda: os.unlink("/in/data/a.txt")),
    "output": tries(lambda: open("/out/x", "w").write("made")),
    "tmp": tries(lambda: open("/tmp/x", "w").write("x")),
    "tmp_full": tries(lambda: open("/tmp/y", "wb").write(bytes(600 << 20))),
    "mount": tries(lambda: os.listdir("/var/run/docker.sock")),
    "chown": tries(lambda: os.chown("/out/x", 0, 0)),
    "setuid": tries(lambda: os.setuid(0)),
    "device": tries(lambda: os.mknod("/tmp/device", 0o660 | 0o060000, os.makedev(8, 0))),
    "forks": tries(fork),
    "hard_core": resource.getrlimit(resource.RLIMIT_CORE),
    "home": os.path.expanduser("~"),
    "first": open("/proc/1/cmdline").read().split("\0")[0],
    "writable": [line.split()[4] for line in open("/proc/self/mountinfo") if "rw" in line.split()[5].split(",")],
}
print(json.dumps({key: sorted(value) if isinstance(value, set) else value for key, value in found.items()}))
"""


def call(output: Path, code: str, **fields: object) -> subprocess.CompletedProcess[str]:
    """`caller.py` to its end."""
    return subprocess.run([*CALLER, *words(output, code, **fields)], capture_output=True, text=True, timeout=120)


def words(output: Path, code: str, **fields: object) -> list[str]:
    return [str(output), code, *(f"{name}={json.dumps(value)}" for name, value in fields.items())]


def as_user(*groups: int) -> list[str]:
    """What stands before a command that somebody else is to run, in these groups and in docker's."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can be somebody else, with setpriv")
    docker = Path("/var/run/docker.sock").stat().st_gid
    if docker == 0:
        pytest.skip("the daemon here is root's alone")
    # This Python may lie in root's home: reading it is all that is kept of root's rights.
    keeps = [f"--{kind}=-all,+dac_read_search" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
    joined = ",".join(str(group) for group in (docker, *groups))
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", f"--groups={joined}", *keeps]


def call_as_user(output: Path, code: str, *groups: int, **fields: object) -> subprocess.CompletedProcess[str]:
    """`caller.py` as somebody who is not root."""
    asked = [*as_user(*groups), *CALLER, *words(output, code, **fields)]
    return subprocess.run(asked, capture_output=True, text=True, timeout=120)


def begin(output: Path, code: str, **fields: object) -> subprocess.Popen[str]:
    """`caller.py`, started; its output is read line by line."""
    return started([*CALLER, *words(output, code, **fields)])


def started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def containers_of(client: Any, output: Path) -> list[dict[str, Any]]:
    """Containers that write to an output, running or not."""
    return containers_with(client, PLACE, str(output.with_name(f".{output.name}.job")))


def told(done: subprocess.Popen[str]) -> str:
    """The first line that a started job says on stdout."""
    assert done.stdout is not None
    return done.stdout.readline()


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit code, stderr) of a started job."""
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


class ToDaemon(socketserver.StreamRequestHandler):
    """Hands a connection on to the daemon's socket."""

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as there:
            there.connect("/var/run/docker.sock")
            pairs = {self.request: there, there: self.request}
            while True:
                for source in select.select(list(pairs), [], [])[0]:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    pairs[source].sendall(data)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, with `mine` in it, which is USER's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        (Path(name) / "mine").mkdir()
        if os.getuid() == 0:
            os.chown(Path(name) / "mine", USER, USER)
        yield Path(name)


def test_a_step_is_confined(daemon: Any, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("input")
    (tmp_path / "beside").mkdir()
    data.chmod(0o777)
    (data / "a.txt").chmod(0o666)  # the rights of files are not what keeps inputs as they are
    asked = job(tmp_path / "x", PROBE, inputs=(("/in/data", data),))
    assert run_job(asked, daemon) == 0
    found = json.loads(capfdbinary.readouterr().out)
    assert 0 not in found["uids"]
    assert 0 not in found["gids"]
    assert set(found["capabilities"]) == {"0" * 16}
    assert found["no_new_privs"] == "1"
    assert found["interfaces"] == ["lo"]
    assert {found["route4"], found["route6"], found["private"]} <= {"ENETUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT"}
    assert {found["root"], found["etc"], found["opt"]} == {"EROFS"}
    assert {found[key] for key in found if key.startswith("input")} == {"EROFS"}
    assert found["output"] == "done"
    assert found["tmp"] == "done"
    assert found["tmp_full"] == "ENOSPC"
    assert found["mount"] == "ENOENT"
    assert {found["chown"], found["setuid"], found["device"]} == {"EPERM"}
    assert found["forks"] == "EAGAIN"
    assert found["home"] == "/tmp"
    assert found["first"].endswith("docker-init")
    # /dev, its parts and /proc are the container's own; of this machine, /out alone can be written
    # (a path in what a step says is the one here).
    own = {
        str(tmp_path),
        "/tmp",
        "/dev",
        "/dev/shm",
        "/dev/pts",
        "/dev/mqueue",
        "/proc",
        "/sys/fs/cgroup",
        "/proc/keys",
    }
    assert {place for place in found["writable"] if not place.startswith("/proc/")} <= own
    assert (data / "a.txt").read_text() == "input"
    made = tmp_path / "x"
    assert made.read_text() == "made"
    assert (made.stat().st_uid, made.stat().st_gid) == (os.getuid(), os.getgid())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beside", "data", "x"]
    assert not containers_of(daemon, tmp_path / "x")


def test_one_output_is_all_that_is_bound_for_writing(daemon: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    asked = job(tmp_path / "x", "import time; print('up', flush=True); time.sleep(30)")
    asked = dataclasses.replace(asked, inputs=(("/in/data", tmp_path / "data"),))

    def run() -> None:
        with pytest.raises(OutsideError):
            run_job(asked, daemon)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    for _ in range(100):
        found = containers_of(daemon, tmp_path / "x")
        if found and found[0]["State"] == "running":
            break
        time.sleep(0.1)
    attrs = daemon.api.inspect_container(found[0]["Id"])
    daemon.api.kill(found[0]["Id"])
    thread.join(30)
    host = attrs["HostConfig"]
    assert [mount["Source"] for mount in attrs["Mounts"] if mount["RW"]] == [str(tmp_path / ".x.job")]
    assert not host["Privileged"]
    assert host["ReadonlyRootfs"]
    assert host["NetworkMode"] == "none"
    assert host["Memory"] == host["MemorySwap"] == 2 << 30
    assert host["PidsLimit"] == 256
    assert host["LogConfig"]["Type"] == "none"
    assert attrs["Config"]["Labels"][LABEL] == "job"


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 130])
def test_exit_codes_and_messages_come_through(daemon: Any, tmp_path: Path, code: int) -> None:
    say = f"import sys; print('result'); print('a message', file=sys.stderr); sys.exit({code})"
    done = call(tmp_path / "x", say)
    assert (done.returncode, done.stdout, done.stderr) == (code, "result\n", "a message\n")
    assert list(tmp_path.iterdir()) == []


def test_output_is_streamed_and_paths_are_of_this_machine(daemon: Any, tmp_path: Path) -> None:
    (tmp_path / "my data").mkdir()
    code = (
        "import sys, time; print('/in/my data/a.jpg:3 is wrong', flush=True); time.sleep(4);"
        "print('see file:///out/x/index.html or /out/x.partial', file=sys.stderr)"
    )
    asked = [
        "from tests.runners.local import caller",
        "import sys",
        "from pathlib import Path",
        "from deckbench.machine.daemon import connect",
    ]
    where = f"inputs=(('/in/my data', Path({str(tmp_path / 'my data')!r})),)"
    asked += [f"sys.exit(caller.run_job(caller.job(Path({str(tmp_path / 'x')!r}), {code!r}, {where}), connect()))"]
    process = subprocess.Popen(
        [sys.executable, "-c", "\n".join(asked)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert told(process) == f"{tmp_path}/my data/a.jpg:3 is wrong\n"
    assert process.poll() is None
    ended, stderr = finish(process)
    assert ended == 0
    assert stderr == f"see {(tmp_path / 'x').as_uri()}/index.html or {tmp_path}/x.partial\n"


def test_unfinished_work_goes_in_and_comes_out(daemon: Any, tmp_path: Path) -> None:
    (tmp_path / "x.partial").mkdir()
    (tmp_path / "x.partial" / "steps").write_text("one\n")
    on = "open('/out/x.partial/steps', 'a').write('two\\n'); import os; os.mkdir('/out/.x.7-ab.draft')"
    done = call(tmp_path / "x", f"{on}; raise SystemExit(3)")
    assert done.returncode == 3
    assert (tmp_path / "x.partial" / "steps").read_text() == "one\ntwo\n"
    assert (tmp_path / "x.partial" / "steps").stat().st_uid == os.getuid()
    assert [path.name for path in tmp_path.iterdir()] == ["x.partial"]
    ends = "import os, shutil; shutil.rmtree('/out/x.partial'); os.mkdir('/out/x'); open('/out/x/f', 'w').write('all')"
    assert call(tmp_path / "x", ends).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x" / "f").read_text() == "all"


def test_what_a_group_may_read_a_step_may_read(daemon: Any, open_folder: Path) -> None:
    data = open_folder / "data"
    data.mkdir(mode=0o750)
    (data / "a.txt").write_text("of the lab")
    os.chown(data, 0, USER + 1)
    read = f"import os; print(open('/in{data}/a.txt').read(), os.getuid(), {USER + 1} in os.getgroups())"
    done = call_as_user(open_folder / "mine" / "x", read, USER + 1, inputs=[[f"/in{data}", str(data)]])
    assert done.stdout == f"of the lab {USER} True\n", done.stderr


def test_an_own_work_folder_in_a_folder_of_root_s(daemon: Any, open_folder: Path) -> None:
    """As a lab's disk that is mounted: nothing can be made beside the folder, so the claim lies in it."""
    work = open_folder / "mine"
    made = "import os; open('/out/mine/record', 'w'); print(sorted(os.listdir('/out/mine')))"
    done = call_as_user(work, made, in_place=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in work.iterdir()] == ["record"]
    hangs = "import time; print('up', flush=True); time.sleep(300)"
    process = started([*as_user(), *CALLER, *words(work, hangs, in_place=True)])
    assert told(process) == "up\n"
    at_once = call_as_user(work, made, in_place=True)
    assert "is writing this output" in at_once.stderr
    process.kill()
    finish(process)
    claim = work / ".mine.job"
    assert len(containers_with(daemon, PLACE, str(claim))) == 1
    code = "from pathlib import Path; from deckbench.runners.dispatch import recover_output; "
    code += f"recover_output(Path({str(work)!r}))"
    subprocess.run([*as_user(), sys.executable, "-c", code], check=True, timeout=60)
    assert containers_with(daemon, PLACE, str(claim)) == []
    assert [path.name for path in work.iterdir()] == ["record"]


def test_root_s_step_leaves_a_work_folder_to_its_owner(daemon: Any, open_folder: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root's steps run as another user")
    work = open_folder / "mine"
    (work / "old").touch()
    os.chown(work / "old", USER, USER)
    assert call(work, "open('/out/mine/new', 'w')", in_place=True).returncode == 0
    assert {path.name: path.stat().st_uid for path in (work, *work.iterdir())} == dict.fromkeys(
        ("mine", "old", "new"), USER
    )


@pytest.mark.parametrize("in_place", [False, True])
def test_files_have_the_rights_that_the_umask_leaves(daemon: Any, tmp_path: Path, in_place: bool) -> None:
    if in_place:
        (tmp_path / "x").mkdir(0o755)
        (tmp_path / "x" / "old").touch(0o644)
    code = "import os; os.makedirs('/out/x/deep', exist_ok=True); open('/out/x/deep/new', 'w')"
    command = ["sh", "-c", 'umask 077 && exec "$@"', "sh", *CALLER, *words(tmp_path / "x", code, in_place=in_place)]
    assert subprocess.run(command, timeout=120).returncode == 0
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "x").rglob("*")}
    assert modes == {"deep": 0o700, "new": 0o600, **({"old": 0o644} if in_place else {})}


def test_what_is_finished_is_seen_and_cannot_be_changed(daemon: Any, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "manifest.json").write_text("{}")
    look = "import os; print(os.listdir('/out/x'), flush=True); open('/out/x/new', 'w')"
    done = call(tmp_path / "x", look)
    assert done.stdout == "['manifest.json']\n"
    assert "Read-only file system" in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "manifest.json"]


def test_a_table_comes_with_its_manifest(daemon: Any, tmp_path: Path) -> None:
    makes = "[open(f'/out/a{e}', 'w').write(e) for e in ('.csv', '.manifest.json', '.timings.csv')]"
    assert call(tmp_path / "a.csv", makes).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.manifest.json", "a.timings.csv"]
    again = "print(sorted(name for name in __import__('os').listdir('/out') if name[0] != '.'))"
    assert call(tmp_path / "a.csv", again).stdout == "['a.csv', 'a.manifest.json', 'a.timings.csv']\n"


def test_ctrl_c_ends_the_step_and_leaves_nothing(daemon: Any, tmp_path: Path) -> None:
    code = (
        "import os, time; os.mkdir('/out/x.partial'); open('/out/x.partial/a', 'w'); print('up', flush=True)\n"
        "try: time.sleep(60)\n"
        "except KeyboardInterrupt: open('/out/x.partial/asked', 'w'); raise SystemExit(130)"
    )
    process = begin(tmp_path / "x", code)
    assert told(process) == "up\n"
    process.send_signal(2)
    assert finish(process)[0] == 130
    assert not containers_of(daemon, tmp_path / "x")
    assert sorted(path.name for path in (tmp_path / "x.partial").iterdir()) == ["a", "asked"]


def test_a_step_that_ignores_ctrl_c_is_killed_by_the_second(daemon: Any, tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(2, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    process = begin(tmp_path / "x", code)
    assert told(process) == "up\n"
    process.send_signal(2)
    time.sleep(1)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(2)
    assert finish(process)[0] == 130
    assert time.monotonic() - began < 5
    assert not containers_of(daemon, tmp_path / "x")


def test_sigterm_of_the_caller_ends_the_step(daemon: Any, tmp_path: Path) -> None:
    process = begin(tmp_path / "x", "import time; print('up', flush=True); time.sleep(60)")
    assert told(process) == "up\n"
    process.terminate()
    code, stderr = finish(process)
    assert code == 3
    assert "stopped by SIGTERM" in stderr
    assert not containers_of(daemon, tmp_path / "x")


def test_a_killed_caller_is_cleaned_up_by_the_next_start(daemon: Any, tmp_path: Path) -> None:
    begins = "import os, time; os.makedirs('/out/x.partial/c'); print('up', flush=True); time.sleep(300)"
    process = begin(tmp_path / "x", begins)
    assert told(process) == "up\n"
    process.kill()
    finish(process)
    assert len(containers_of(daemon, tmp_path / "x")) == 1
    other = call(tmp_path / "other", "print('hello')")  # another output: any start removes it
    assert other.returncode == 0
    assert "the command that started it has ended" in other.stderr
    assert not containers_of(daemon, tmp_path / "x")
    done = call(tmp_path / "x", "import os; print(os.listdir('/out'), os.listdir('/out/x.partial'))")
    assert done.stdout == "['x.partial'] ['c']\n"
    assert [path.name for path in tmp_path.iterdir()] == ["x.partial"]


def test_the_time_limit(daemon: Any, tmp_path: Path) -> None:
    done = call(tmp_path / "x", "import time; time.sleep(60)", minutes=0.03)
    assert done.returncode == 3
    assert "the time limit of 0.03 minutes is over" in done.stderr
    assert not containers_of(daemon, tmp_path / "x")


def test_too_much_memory(daemon: Any, tmp_path: Path) -> None:
    done = call(tmp_path / "x", "b = bytearray(1 << 30); print(len(b))", memory_gib=0.1)
    assert done.returncode == 3
    assert "out of memory: the step took more than its 0.1 GiB" in done.stderr
    assert done.stdout == ""


def test_no_limit_is_above_the_machine_s_memory(daemon: Any, tmp_path: Path) -> None:
    groups = [Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory/memory.limit_in_bytes")]
    code = f"import os; print([open(name).read() for name in {[str(name) for name in groups]} if os.path.exists(name)])"
    done = call(tmp_path / "x", code, memory_gib=100_000)
    assert done.returncode == 0, done.stderr
    if done.stdout == "[]\n":
        pytest.skip("this system shows a container no limit")
    assert int(json.loads(done.stdout.replace("'", '"'))[0]) <= daemon.info()["MemTotal"]


def test_a_crash_is_no_end_from_outside(daemon: Any, tmp_path: Path) -> None:
    done = call(tmp_path / "x", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    assert done.returncode == 3
    assert "the step crashed (SIGILL)" in done.stderr


def test_an_end_from_outside(daemon: Any, tmp_path: Path) -> None:
    process = begin(tmp_path / "x", "import time; print('up', flush=True); time.sleep(60)")
    assert told(process) == "up\n"
    daemon.api.remove_container(containers_of(daemon, tmp_path / "x")[0]["Id"], force=True)
    code, stderr = finish(process)
    assert code == 3
    assert "ended from outside" in stderr


def test_jobs_beside_each_other(daemon: Any, tmp_path: Path) -> None:
    processes = [
        begin(tmp_path / f"x{number}", f"import time; print('up', flush=True); time.sleep(3); print({number})")
        for number in range(3)
    ]
    for process in processes:
        assert told(process) == "up\n"
    assert remove_dead(daemon) == []
    same = call(tmp_path / "x0", "print('never')")
    assert same.returncode == 3
    assert "is writing this output" in same.stderr
    for number, process in enumerate(processes):
        assert process.communicate(timeout=60)[0] == f"{number}\n"
        assert process.returncode == 0


def test_output_on_a_full_disk_keeps_the_time_limit(daemon: Any, tmp_path: Path) -> None:
    much = "import time\nfor _ in range(80): print('x' * 100_000, flush=True)\ntime.sleep(60)"
    began = time.monotonic()
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [*CALLER, *words(tmp_path / "x", much, minutes=0.1)], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert time.monotonic() - began < 40
    assert "the time limit of 0.1 minutes is over" in process.stderr
    assert process.returncode == 3
    assert not containers_of(daemon, tmp_path / "x")


def test_nobody_reads_the_output(daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    process = begin(tmp_path / "x", "import time\nwhile True: print('line', flush=True); time.sleep(0.01)")
    assert told(process) == "line\n"
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(60) == 3
    assert "nobody reads what the step says any more, so it was ended half-way" in process.stderr.read()
    assert not containers_of(daemon, tmp_path / "x")


def test_the_cards_are_those_that_the_caller_may_use(
    daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Job] = []
    monkeypatch.setattr("deckbench.runners.local.container.check_daemon", lambda job, info: asked.append(job) or 1 / 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    made = job(tmp_path / "x", "print(1)")
    with pytest.raises(ZeroDivisionError):
        run_job(dataclasses.replace(made, image=made.image.model_copy(update={"gpu": "devices"})), daemon)
    assert asked[0].gpus == ("3",)


def test_what_is_missing_is_said(daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = job(tmp_path / "x", "print(1)")
    unknown = good.image.model_copy(update={"name": "never-built"})
    with pytest.raises(OutsideError, match="does not have this image") as missing:
        run_job(dataclasses.replace(good, image=unknown), daemon)
    assert "deckbench containers build never-built" in str(missing.value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if "nvidia" not in daemon.info()["Runtimes"]:
        for gpu in ("jetson", "devices"):
            image = good.image.model_copy(update={"gpu": gpu})
            with pytest.raises(OutsideError, match="no nvidia runtime"):
                run_job(dataclasses.replace(good, image=image), daemon)
    other = "linux/arm64" if good.image.platform == "linux/amd64" else "linux/amd64"
    with pytest.raises((InputError, OutsideError), match="the image is for"):
        run_job(dataclasses.replace(good, image=good.image.model_copy(update={"platform": other})), daemon)
    with pytest.raises(OutsideError, match=r"could not be started|starting the container"):
        run_job(dataclasses.replace(good, program=("/no/such/program",)), daemon)
    assert list(tmp_path.iterdir()) == []


def test_a_daemon_behind_a_network_is_pointed_to_host(daemon: Any, tmp_path: Path) -> None:
    """A real one, reached over TCP: it may be another machine's, whose folders it would bind."""
    asked = job(tmp_path / "x", "print(1)")
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), ToDaemon) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"tcp://127.0.0.1:{server.server_address[1]}"
        client = docker.DockerClient(base_url=url, timeout=20)
        assert client.ping()
        with pytest.raises(InputError, match="is on no socket of this machine") as said:
            run_job(asked, client)
        client.close()
        server.shutdown()
    assert "--host ssh://USER@MACHINE" in str(said.value)
    assert list(tmp_path.iterdir()) == []


def test_a_daemon_that_breaks_off_is_said(daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise requests.exceptions.ReadTimeout("too late")

    monkeypatch.setattr(daemon, "info", broken)
    with pytest.raises(OutsideError, match="asking the daemon: lost the connection to the Docker daemon"):
        run_job(job(tmp_path / "x", "print(1)"), daemon)


def test_a_full_disk_is_said(daemon: Any, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("a small disk can only be made by root")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=True)
    try:
        (small / "a.csv").write_bytes(bytes(700 << 10))  # there is no room for a second one
        with pytest.raises(OutsideError, match="No space left on device"):
            run_job(job(small / "a.csv", "print(1)"), daemon)
        assert (small / "a.csv").stat().st_size == 700 << 10
        assert [path.name for path in small.iterdir()] == ["a.csv"]
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_only_dead_owners_lose_their_containers(daemon: Any, tmp_path: Path) -> None:
    made: Job = job(tmp_path / "x", "")
    kept = {"another machine": "0123 boot 1 1 1", "no words": "what", "nobody": ""}
    names = {
        name: daemon.containers.create(made.image.tag, ["true"], labels={LABEL: "job", OWNER: text}).id
        for name, text in kept.items()
    }
    try:
        remove_dead(daemon)
        assert all(daemon.containers.get(key) for key in names.values())
    finally:
        for key in names.values():
            daemon.api.remove_container(key)
