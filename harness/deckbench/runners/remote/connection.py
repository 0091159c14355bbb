"""A remote daemon over a connection that may be lost: calls are repeated when it is back."""

from __future__ import annotations

import http.client
import os
import signal
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from deckbench.errors import InputError, OutsideError
from deckbench.machine import daemon
from deckbench.progress import say

if TYPE_CHECKING:
    from docker import DockerClient

T = TypeVar("T")
PATIENCE_VARIABLE = "DECKBENCH_LINK_PATIENCE_S"  # seconds to wait for a lost connection
PATIENCE_S = 600.0
BACKOFF_S = (1, 2, 4, 8, 15)
AGAIN = "rerun the same command to resume"
REFUSED = ("Permission denied", "Host key verification failed", "REMOTE HOST IDENTIFICATION")


def link_patience() -> float:
    """Seconds to wait for a lost connection. Raises InputError when the variable is no number."""
    text = os.environ.get(PATIENCE_VARIABLE, "")
    try:
        return float(text) if text else PATIENCE_S
    except ValueError:
        raise InputError(f"cannot read {text!r} as seconds", PATIENCE_VARIABLE, "write a number, such as 600") from None


class RemoteDaemon:
    """The daemon at `host`. Connects at once: raises InputError or OutsideError when nothing answers."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.patience_s = link_patience()
        self.received: list[int] = []  # signals this process got: then a lost connection is not waited for
        self.client: DockerClient | None = daemon.connect(host)

    def close(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None

    def connected(self) -> DockerClient:
        if self.client is None:
            self.client = daemon.connect(self.host)
        return self.client

    def do(self, doing: str, action: Callable[[DockerClient], T]) -> T:
        """Call `action` with a client, again whenever the connection is lost: it must be safe to repeat.

        Raises OutsideError when the daemon refuses, the connection stays lost for longer than `patience_s`, or it is
        lost when a signal asks this process to end; KeyboardInterrupt where that is SIGINT.
        """
        import docker.errors
        import requests.exceptions
        import urllib3.exceptions

        lost = (
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
            struct.error,
        )
        lost_since, tries, why = None, 0, ""
        while True:
            try:
                with daemon.failures(doing, self.host):
                    client = self.connected()
                    try:
                        result = action(client)
                    except docker.errors.DockerException:
                        raise
                    except lost as error:
                        raise ConnectionLost(str(error) or type(error).__name__) from error
                if lost_since is not None:
                    say(f"reconnected to {self.host} after {time.monotonic() - lost_since:.0f} s")
                return result
            except ConnectionLost as error:
                why = str(error)
            except OutsideError as error:
                if self.client is not None or any(text in error.what for text in REFUSED):
                    raise  # the daemon itself refuses
                why = error.what
            self.close()
            if self.received:
                name = signal.Signals(self.received[0]).name
                what = f"{name} while the connection was lost; the job keeps running there"
                if name == "SIGINT":
                    say(f"{self.host}: {what}")
                    raise KeyboardInterrupt
                raise OutsideError(what, self.host, AGAIN)
            if lost_since is None:
                lost_since = time.monotonic()
                say(f"{doing}: lost the connection to {self.host}; retrying for up to {self.patience_s:g} s")
            left = lost_since + self.patience_s - time.monotonic()
            if left <= 0:
                what = f"{doing}: lost the connection, and no reconnect within {self.patience_s:g} s ({why[-160:]})"
                raise OutsideError(what, self.host, AGAIN)
            time.sleep(min(left, BACKOFF_S[min(tries, len(BACKOFF_S) - 1)]))
            tries += 1


class ConnectionLost(Exception):
    """The connection ended in the middle of a call."""
