"""Twenty runs of which five end badly, on a docker daemon of their own: nothing is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deckbench.containers.archive import add_layers, pack
from deckbench.containers.build import LAYERS, PACKAGES, packages_tag
from deckbench.containers.spec import image_named
from deckbench.machine.daemon import LABEL
from deckbench.runners.prune import prune
from tests.docker_daemon import answering, cannot, start

pytestmark = [pytest.mark.docker, pytest.mark.slow]
CALLER = str(Path(__file__).with_name("caller.py"))
GOES_ON = """
import os, time
place = '/out/x.partial'
os.makedirs(place, exist_ok=True)
done = len(os.listdir(place))
print('steps:', done, flush=True)
open(f'{place}/{done}', 'w').close()
"""
HANGS = GOES_ON + "time.sleep(120)"
TAKES_MEMORY = GOES_ON + "b = bytearray(1 << 30)"


class OwnDaemon:
    """A dockerd of a test's own, which may be restarted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, f"unix://{folder}/docker.sock"
        self.up()

    def up(self) -> None:
        folder = self.folder
        self.process = start(
            f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid", f"--host={self.url}",
            "--bridge=none", "--iptables=false", "--ip6tables=false", log=folder / "log",
        )  # fmt: skip
        self.client = answering(self.process, self.url)
        if self.client is None:
            cannot(f"a second dockerd does not start: {(folder / 'log').read_text(errors='replace')[-500:]}")

    def down(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="module")
def own() -> Iterator[OwnDaemon]:
    if os.getuid() != 0 or shutil.which("dockerd") is None:
        cannot("a daemon of a test's own takes root and dockerd")
    folder = Path(tempfile.mkdtemp(prefix="deckbench-daemon-"))  # short: the path of a socket may have 107 letters
    daemon = OwnDaemon(folder)
    yield daemon
    daemon.down()
    subprocess.run(["umount", "-R", "-l", str(folder / "data")], capture_output=True)  # where one was killed
    shutil.rmtree(folder, ignore_errors=True)


def begin(own: OwnDaemon, output: Path, code: str, *fields: str) -> subprocess.Popen[str]:
    """A job as a process of its own, on the test's daemon; it has said its first line."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, CALLER, str(output), code, *fields],
        stdout=pipe,
        stderr=pipe,
        text=True,
        env={**os.environ, "DOCKER_HOST": own.url},
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("steps:")
    return process


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit code, stderr)."""
    stderr = process.communicate(timeout=120)[1]
    return process.returncode, stderr


def test_twenty_runs_of_which_five_end_badly(own: OwnDaemon, tmp_path: Path) -> None:
    output = tmp_path / "x"
    for number in range(20):
        if number == 2:
            process = begin(own, output, HANGS)
            process.kill()
            assert finish(process)[0] == -signal.SIGKILL
        elif number == 6:
            process = begin(own, output, HANGS)
            process.send_signal(signal.SIGINT)
            assert finish(process)[0] == 130
        elif number == 10:
            code, stderr = finish(begin(own, output, HANGS, "minutes=0.05"))
            assert (code, "the time limit" in stderr) == (3, True), stderr
        elif number == 13:
            code, stderr = finish(begin(own, output, TAKES_MEMORY, "memory_gib=0.1"))
            assert (code, "out of memory" in stderr) == (3, True), stderr
        elif number == 17:
            process = begin(own, output, HANGS)
            own.down()
            time.sleep(1)
            own.up()
            code, stderr = finish(process)
            assert code == 3, stderr
            assert "rerun the same command to resume" in stderr
        else:
            code, stderr = finish(begin(own, output, GOES_ON))
            assert code == 0, stderr
            assert own.client.api.containers(all=True, filters={"label": LABEL}) == []
            assert [path.name for path in tmp_path.iterdir()] == ["x.partial"]
    # Each run has found all that the runs before it had done, however those ended.
    assert len(list((tmp_path / "x.partial").iterdir())) == 20


def test_a_daemon_that_does_not_come_back(own: OwnDaemon, tmp_path: Path) -> None:
    process = begin(own, tmp_path / "x", HANGS)
    own.process.kill()  # the container lives on, and its output has no way to us
    own.process.wait()
    code, stderr = finish(process)
    assert code == 3
    assert "lost the connection to the Docker daemon" in stderr
    assert (tmp_path / ".x.job" / "x.partial" / "0").is_file()  # it may still be written: the next start brings it out
    own.up()
    assert finish(begin(own, tmp_path / "x", GOES_ON))[0] == 0
    assert own.client.api.containers(all=True, filters={"label": LABEL}) == []
    assert len(list((tmp_path / "x.partial").iterdir())) == 2


def test_prune_removes_images_that_others_have_replaced(own: OwnDaemon, tmp_path: Path) -> None:
    image = image_named("x86-cpu")
    today, old = packages_tag(image, "bootstrap"), "deckbench/x86-cpu-packages:000000000000"
    tags = {today: PACKAGES, old: PACKAGES, f"{image.tag}-layers-1": LAYERS, image.tag: "image"}
    (tmp_path / "files").mkdir()
    for number, (tag, kind) in enumerate(tags.items()):
        (tmp_path / "files/number").write_text(str(number))
        layer = pack(tmp_path / "files", tmp_path / "layer.tar")
        add_layers(own.client, None, [layer], tag, architecture="amd64", labels={LABEL: kind})
    replaced = own.client.images.get(image.tag).id
    (tmp_path / "files/number").write_text("new")
    layer = pack(tmp_path / "files", tmp_path / "layer.tar")
    add_layers(own.client, None, [layer], image.tag, architecture="amd64", labels={LABEL: "image"})
    assert prune(own.client)["images"] == 3
    there = {tag for one in own.client.images.list() for tag in one.tags}
    assert {today, image.tag} <= there and not {old, f"{image.tag}-layers-1"} & there
    assert replaced not in {one.id for one in own.client.images.list()}
    for tag in (today, image.tag):
        own.client.images.remove(tag)


def test_prune_removes_what_the_dead_left_and_nothing_else(own: OwnDaemon, tmp_path: Path) -> None:
    dead, alive = begin(own, tmp_path / "x", HANGS), begin(own, tmp_path / "y", HANGS)
    dead.kill()
    assert finish(dead)[0] == -signal.SIGKILL
    assert prune(own.client)["containers"] == 1
    assert len(own.client.api.containers(filters={"label": LABEL})) == 1
    alive.send_signal(signal.SIGINT)
    assert finish(alive)[0] == 130
    assert own.client.api.containers(all=True, filters={"label": LABEL}) == []
