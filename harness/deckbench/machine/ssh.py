"""The way to a far docker daemon: a local socket; each connection to it is one `ssh HOST docker system dial-stdio`.

The docker SDK can start ssh itself, but then takes no options of ours and never times out: over a link that has gone
silent it would wait for ever. Here a link that carries nothing for KEEPALIVE_S * KEEPALIVE_TIMES seconds ends, the
connection with it, and the caller sees that.
"""

from __future__ import annotations

import contextlib
import os
import re
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

CONFIG_VARIABLE = "DECKBENCH_SSH_CONFIG"  # an ssh config file to use instead of ~/.ssh/config
CONNECT_S = 15
KEEPALIVE_S = 5
KEEPALIVE_TIMES = 3
LAST_WORDS_S = 2
HOST = re.compile(r"ssh://([\w.-]+@)?[\w.-]+(:\d+)?", re.ASCII)
DIAL = "docker system dial-stdio"
PREFIX = "deckbench-ssh-"


def ssh_command(host: str, words: str) -> list[str]:
    """The ssh command line that runs `words` at `ssh://USER@MACHINE[:PORT]`. It asks nothing: keys or failure.

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
    command = ["ssh", "-T", *(["-F", config] if config else [])]
    command += [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    command += ["-l", parts.username] if parts.username else []
    command += ["-p", str(parts.port)] if parts.port else []
    return [*command, "--", parts.hostname or "", words]


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


def ask(host: str, words: str, *, timeout: float = 60) -> str:
    """What a shell command says at the far machine (stdout). Raises OutsideError when ssh or the command fails."""
    where = urlsplit(host).netloc
    try:
        done = subprocess.run(
            ssh_command(host, words), capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
    except FileNotFoundError:
        raise OutsideError("the ssh client is not installed", where, "install openssh-client") from None
    except subprocess.TimeoutExpired:
        raise OutsideError(f"no answer within {timeout:g} s", where, "see whether the machine is up") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[-200:] or f"ssh ended with {done.returncode}"
        raise OutsideError(said, where, f"`{by_hand(host)} true` must work without a password")
    return done.stdout


def by_hand(host: str) -> str:
    """How a person logs in at `ssh://USER@MACHINE[:PORT]`: `ssh -p PORT USER@MACHINE`."""
    user, _, port = urlsplit(host).netloc.partition(":")
    return f"ssh -p {port} {user}" if port else f"ssh {user}"


class Link:
    """Listens at `url` (unix://...) until closed; `said` are ssh's last words, for messages."""

    def __init__(self, host: str) -> None:
        parse(host)
        remove_dead()
        base = tempfile.gettempdir()
        # a socket's path holds some hundred characters at most
        self.folder = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=base if len(base) < 50 else "/tmp")
        self.host = host
        self.said: deque[str] = deque(maxlen=3)
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
        """Hand every connection to an ssh of its own."""
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
                        start_new_session=True,  # Ctrl-C is for us; ssh ends when we close
                    )
                except OSError as error:
                    self.said.append(f"ssh: {error.strerror}")
                    continue
                self.running.add(process)  # before our end is closed: who sees that may ask for the last words
            threading.Thread(target=self.listen, args=(process,), daemon=True).start()

    def listen(self, process: subprocess.Popen[str]) -> None:
        """Keep what ssh says, until it ends."""
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                self.said.append(line.strip())
        process.wait()
        self.running.discard(process)

    def last_words(self) -> str:
        """What ssh said before it ended; waits a little for those that are about to."""
        give_up = time.monotonic() + LAST_WORDS_S
        while self.running and time.monotonic() < give_up:
            time.sleep(0.01)
        return " ".join(self.said)[-200:]

    def close(self) -> None:
        """End all connections. May be called more than once."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for process in tuple(self.running):
            process.terminate()
        shutil.rmtree(self.folder, ignore_errors=True)


def remove_dead() -> None:
    """Remove the folders of processes that were killed."""
    for place in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        pid = place.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(place, ignore_errors=True)
