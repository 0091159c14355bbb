"""A stand-in for the Orin: sshd and a docker daemon of its own in a network namespace of this machine.

It is another network and another daemon, not another computer: processor, kernel and disk are this machine's.
Needs root, iproute2, iptables, openssh-server and dockerd; `missing()` says which of them is not here.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TOOLS = ("ip", "iptables", "nsenter", "sshd", "ssh", "ssh-keygen", "dockerd", "docker")
START_S = 180


def missing() -> str | None:
    """Why no stand-in can be started here, or None."""
    if os.geteuid() != 0:
        return "a network namespace needs root"
    lacking = [tool for tool in TOOLS if which(tool) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else None


def which(tool: str) -> str | None:
    return shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin")


def call(*words: str) -> str:
    """Run a command that must succeed; its stdout."""
    program = which(words[0]) or words[0]
    done = subprocess.run([program, *words[1:]], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@dataclass
class StandIn:
    """A running stand-in. `host` is what --host takes, with `ssh_config` as $DECKBENCH_SSH_CONFIG."""

    folder: Path
    namespace: str
    address: str
    host: str
    ssh_config: Path
    docker_host: str
    started: list[subprocess.Popen[bytes]]

    def drop(self, on: bool = True) -> None:
        """Drop every packet of the link, or let them through again. Nothing says so to either end."""
        for chain in ("INPUT", "OUTPUT"):
            self.inside("iptables", "-A" if on else "-D", chain, "-j", "DROP")

    @contextlib.contextmanager
    def dropped(self) -> Iterator[None]:
        self.drop()
        try:
            yield
        finally:
            self.drop(False)

    def drop_for(self, seconds: float) -> threading.Thread:
        """Drop packets from now on for so long, in the background."""
        self.drop()

        def later() -> None:
            time.sleep(seconds)
            self.drop(False)

        thread = threading.Thread(target=later)
        thread.start()
        return thread

    def inside(self, *words: str) -> str:
        return call("nsenter", f"--net=/run/netns/{self.namespace}", which(words[0]) or words[0], *words[1:])

    def docker(self, *words: str) -> str:
        return call("docker", "-H", self.docker_host, *words)

    def received(self) -> int:
        """Bytes the link has carried to the stand-in so far."""
        for line in self.inside("cat", "/proc/net/dev").splitlines():
            if line.strip().startswith("far:"):
                return int(line.split()[1])
        raise RuntimeError("the link is not there")


@contextlib.contextmanager
def stand_in(images: tuple[str, ...] = (), disk: str | None = None) -> Iterator[StandIn]:
    """Start it, load `images` of this machine's daemon into it, and take all of it down again, whatever happens.

    disk: such as `400m`: the daemon's disk is so small. A file system in memory.
    """
    name = f"db{secrets.token_hex(3)}"
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    number = secrets.randbelow(200) + 20
    near, far = f"10.199.{number}.1", f"10.199.{number}.2"
    user = getpass.getuser()
    place = StandIn(
        folder,
        name,
        far,
        f"ssh://{user}@{name}",
        folder / "ssh_config",
        f"unix://{folder}/docker.sock",
        [],
    )
    try:
        call("ip", "netns", "add", name)
        call("ip", "link", "add", name, "type", "veth", "peer", "name", "far", "netns", name)
        call("ip", "addr", "add", f"{near}/30", "dev", name)
        call("ip", "link", "set", name, "up")
        place.inside("ip", "addr", "add", f"{far}/30", "dev", "far")
        place.inside("ip", "link", "set", "far", "up")
        place.inside("ip", "link", "set", "lo", "up")
        if disk is not None:
            (folder / "data").mkdir()
            call("mount", "-t", "tmpfs", "-o", f"size={disk}", "tmpfs", str(folder / "data"))
        start_dockerd(place)
        start_sshd(place, user)
        for image in images:
            call("bash", "-c", f"set -o pipefail; docker save {image} | docker -H {place.docker_host} load")
        yield place
    finally:
        take_down(place)


def start_dockerd(place: StandIn) -> None:
    folder = place.folder
    words = [which("nsenter") or "nsenter", f"--net=/run/netns/{place.namespace}", which("dockerd") or "dockerd"]
    words += [f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/docker.pid"]
    words += ["-H", place.docker_host, "--bridge=none", "--iptables=false", f"--containerd-namespace={place.namespace}"]
    words += [f"--containerd-plugins-namespace={place.namespace}-plugins"]
    with (folder / "dockerd.log").open("wb") as log:
        place.started.append(subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True))
    wait_for(lambda: place.docker("version"), place.started[-1], folder / "dockerd.log")


def start_sshd(place: StandIn, user: str) -> None:
    folder = place.folder
    for name in ("host_key", "user_key"):
        call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    Path("/run/sshd").mkdir(exist_ok=True)
    config = {
        "Port": 22,
        "ListenAddress": place.address,
        "HostKey": folder / "host_key",
        "PidFile": "none",
        "UsePAM": "no",
        "StrictModes": "no",
        "PermitRootLogin": "prohibit-password",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "SetEnv": f"DOCKER_HOST={place.docker_host}",
        "ClientAliveInterval": 5,
        "ClientAliveCountMax": 2,
        "MaxStartups": "100",
    }
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in config.items()))
    public = (folder / "host_key.pub").read_text().split()
    (folder / "known_hosts").write_text(f"{place.namespace} {public[0]} {public[1]}\n")
    client = {
        "HostName": place.address,
        "HostKeyAlias": place.namespace,
        "User": user,
        "IdentityFile": folder / "user_key",
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": folder / "known_hosts",
        "StrictHostKeyChecking": "yes",
    }
    place.ssh_config.write_text(f"Host {place.namespace}\n" + "".join(f"  {k} {v}\n" for k, v in client.items()))
    words = [which("nsenter") or "nsenter", f"--net=/run/netns/{place.namespace}", which("sshd") or "sshd"]
    with (folder / "sshd.log").open("wb") as log:
        words += ["-D", "-e", "-f", str(folder / "sshd_config")]
        place.started.append(subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True))
    probe = ("ssh", "-F", str(place.ssh_config), "-o", "BatchMode=yes", place.namespace, "docker version")
    wait_for(lambda: call(*probe), place.started[-1], folder / "sshd.log")


def wait_for(ready: object, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until `ready()` no longer fails. Raises RuntimeError with the end of the log."""
    end = time.monotonic() + START_S
    while True:
        try:
            ready()  # type: ignore[operator]
            return
        except RuntimeError as error:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{error}\n{log.read_text(errors='replace')[-2000:]}") from None
        time.sleep(0.3)


def take_down(place: StandIn) -> None:
    """End what was started, by pid; then what still runs in the namespace; then mounts, namespace, folder."""
    with contextlib.suppress(Exception):
        place.drop(False)
    if place.started:
        with contextlib.suppress(Exception):
            ids = place.docker("ps", "-aq").split()
            if ids:
                place.docker("rm", "-f", *ids)
    for process in reversed(place.started):
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
    with contextlib.suppress(Exception):
        for pid in call("ip", "netns", "pids", place.namespace).split():
            os.kill(int(pid), signal.SIGKILL)
    for line in reversed(Path("/proc/mounts").read_text().splitlines()):
        target = line.split()[1]
        if target.startswith(f"{place.folder}/"):
            with contextlib.suppress(Exception):
                call("umount", "-l", target)
    for words in (("ip", "link", "del", place.namespace), ("ip", "netns", "del", place.namespace)):
        with contextlib.suppress(Exception):
            call(*words)
    shutil.rmtree(place.folder, ignore_errors=True)


if __name__ == "__main__":  # python tests/runners/remote/orin_namespace.py IMAGE...: a stand-in to try things on
    import sys

    with stand_in(tuple(sys.argv[1:])) as here:
        print(f"export DECKBENCH_SSH_CONFIG={here.ssh_config}\nhost {here.host}\ndaemon {here.docker_host}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.sigwait({signal.SIGTERM, signal.SIGINT})
