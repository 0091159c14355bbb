"""ssh to other machines: a script run there, and a tunnel to the docker daemon there.

The tunnel is a local socket; each connection to it is one `ssh HOST docker system dial-stdio`. The docker SDK can start
ssh itself, but then takes no options of ours and never times out. Here a connection that carries nothing for
KEEPALIVE_S * KEEPALIVE_TIMES seconds ends, and the caller sees that.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from deckbench.errors import InputError, OutsideError
from deckbench.machine.facts import printable

CONFIG_VARIABLE = "DECKBENCH_SSH_CONFIG"  # an ssh config file to use instead of ~/.ssh/config
CONNECT_S = 15
KEEPALIVE_S = 5
KEEPALIVE_TIMES = 3
STDERR_S = 2  # how long ssh's error message is waited for
HOST = re.compile(r"ssh://([\w.-]+@)?[\w.-]+(:\d+)?", re.ASCII)
DIAL = "docker system dial-stdio"
PREFIX = "deckbench-ssh-"
CONNECTION_FAILED = 255  # ssh's own exit code; any other is the remote command's


def ssh_command(host: str, command: str) -> list[str]:
    """The argv of ssh that runs a shell command at `ssh://USER@MACHINE[:PORT]`. It never prompts: keys or failure.

    Raises InputError for a host that cannot be read.
    """
    parts = parse(host)
    config = os.environ.get(CONFIG_VARIABLE)
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": CONNECT_S,
        "ServerAliveInterval": KEEPALIVE_S,
        "ServerAliveCountMax": KEEPALIVE_TIMES,
        "ControlPath": "none",  # a shared connection would have its own idea of when the link is dead
    }
    argv = ["ssh", "-T", *(["-F", config] if config else [])]
    argv += [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    argv += ["-l", parts.username] if parts.username else []
    argv += ["-p", str(parts.port)] if parts.port else []
    return [*argv, "--", parts.hostname or "", command]


def parse(host: str) -> SplitResult:
    """The parts of `ssh://USER@MACHINE[:PORT]`. Raises InputError for anything else."""
    fix = "write ssh://USER@MACHINE, such as ssh://lab@orin"
    try:
        if HOST.fullmatch(host):
            parts = urlsplit(host)
            _ = parts.port  # a ValueError for one that is too large
            return parts
    except ValueError:
        pass
    shown = "".join(char if char.isprintable() else "?" for char in host[:80])
    raise InputError(f"cannot read the host {shown!r}", "--host", fix)


def run_script(host: str, script: bytes, *arguments: str, timeout: float) -> bytes:
    """Output of a sh script that is run at a host and stored nowhere there; its exit code does not count.

    timeout: seconds for all of it. Raises InputError for a host that cannot be read, OutsideError when it cannot be
    reached.
    """
    argv = ssh_command(host, shlex.join(["sh", "-s", "--", *arguments]))
    fix = f"`{login_command(host)} true` must work without a password"
    try:
        done = subprocess.run(argv, input=script, capture_output=True, timeout=timeout, check=False)
    except FileNotFoundError:
        raise OutsideError("the ssh client is not installed", host, "install openssh-client") from None
    except subprocess.TimeoutExpired:
        raise OutsideError(f"no complete answer within {timeout:g} s", host, fix) from None
    if done.returncode == CONNECTION_FAILED:
        lines = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        reason = printable(lines[-1]) if lines else "ssh gives no reason"
        raise OutsideError(f"cannot be reached ({reason})", host, fix)
    return done.stdout


def login_command(host: str) -> str:
    """The command to log in at `ssh://USER@MACHINE[:PORT]`: `ssh -p PORT USER@MACHINE`."""
    user, _, port = urlsplit(host).netloc.partition(":")
    return f"ssh -p {port} {user}" if port else f"ssh {user}"


class Tunnel:
    """Listens at `url` (unix://...) until closed. stderr: the last lines of ssh's, for messages."""

    def __init__(self, host: str) -> None:
        parse(host)
        remove_stale()
        base = tempfile.gettempdir()
        # a socket's path holds some hundred characters at most
        self.folder = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=base if len(base) < 50 else "/tmp")
        self.host = host
        self.stderr: deque[str] = deque(maxlen=3)
        self.path = f"{self.folder}/docker.sock"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen()
        self.running: set[subprocess.Popen[str]] = set()
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def accept(self) -> None:
        """Start one ssh for every connection."""
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return  # closed
            with connection:
                try:
                    process = subprocess.Popen(
                        ssh_command(self.host, DIAL),
                        stdin=connection.fileno(),
                        stdout=connection.fileno(),
                        stderr=subprocess.PIPE,
                        text=True,
                        errors="replace",
                        start_new_session=True,  # Ctrl-C is for this process; ssh ends on close()
                    )
                except OSError as error:
                    self.stderr.append(f"ssh: {error.strerror}")
                    continue
                self.running.add(process)  # before our end is closed: whoever sees that may call error_message
            threading.Thread(target=self.read_stderr, args=(process,), daemon=True).start()

    def read_stderr(self, process: subprocess.Popen[str]) -> None:
        """Keep the stderr of an ssh until it ends."""
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                self.stderr.append(line.strip())
        process.wait()
        self.running.discard(process)

    def error_message(self) -> str:
        """ssh's last error message; waits a little for processes that are about to end."""
        give_up = time.monotonic() + STDERR_S
        while self.running and time.monotonic() < give_up:
            time.sleep(0.01)
        return " ".join(self.stderr)[-200:]

    def close(self) -> None:
        """End all connections. May be called more than once."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for process in tuple(self.running):
            process.terminate()
        shutil.rmtree(self.folder, ignore_errors=True)


def remove_stale() -> None:
    """Remove the folders of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)
