"""A far daemon over a link that may break: what was asked is asked again when the link is back."""

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
PATIENCE_VARIABLE = "DECKBENCH_LINK_PATIENCE_S"  # seconds a link may be gone before we give up
PATIENCE_S = 600.0
BACKOFF_S = (1, 2, 4, 8, 15)
AGAIN = "run the same command again to go on from here"
REFUSED = ("Permission denied", "Host key verification failed", "REMOTE HOST IDENTIFICATION")


def patience() -> float:
    """Seconds that a link may be gone. Raises InputError when the variable is no number."""
    text = os.environ.get(PATIENCE_VARIABLE, "")
    try:
        return float(text) if text else PATIENCE_S
    except ValueError:
        raise InputError(f"cannot read {text!r} as seconds", PATIENCE_VARIABLE, "write a number, such as 600") from None


class Far:
    """The daemon at `host`. Connects at once: raises InputError or OutsideError when nothing answers."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.patience_s = patience()
        self.asked: list[int] = []  # signals this process got: then a link that is gone is not waited for
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
        """`action` with a client; once more whenever the link breaks, so it must bear being done twice.

        Raises OutsideError when the daemon refuses, the link stays away for longer than our patience, or it is broken
        when a signal asks this process to end; KeyboardInterrupt where that is SIGINT.
        """
        import docker.errors
        import requests.exceptions
        import urllib3.exceptions

        broken = (
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
            struct.error,
        )
        gone_since, tries, why = None, 0, ""
        while True:
            try:
                with daemon.failures(doing, self.host):
                    client = self.connected()
                    try:
                        result = action(client)
                    except docker.errors.DockerException:
                        raise
                    except broken as error:
                        raise LinkBroken(str(error) or type(error).__name__) from error
                if gone_since is not None:
                    say(f"the link to {self.host} is back after {time.monotonic() - gone_since:.0f} s")
                return result
            except LinkBroken as error:
                why = str(error)
            except OutsideError as error:
                if self.client is not None or any(word in error.what for word in REFUSED):
                    raise  # the daemon itself refuses
                why = error.what
            self.close()
            if self.asked:
                word = signal.Signals(self.asked[0]).name
                what = f"{word} while the link was broken; the job stays there"
                if word == "SIGINT":
                    say(f"{self.host}: {what}")
                    raise KeyboardInterrupt
                raise OutsideError(what, self.host, AGAIN)
            if gone_since is None:
                gone_since = time.monotonic()
                say(f"{doing}: the link to {self.host} broke; trying again for up to {self.patience_s:g} s")
            left = gone_since + self.patience_s - time.monotonic()
            if left <= 0:
                what = f"{doing}: the link broke and did not come back within {self.patience_s:g} s ({why[-160:]})"
                raise OutsideError(what, self.host, AGAIN)
            time.sleep(min(left, BACKOFF_S[min(tries, len(BACKOFF_S) - 1)]))
            tries += 1


class LinkBroken(Exception):
    """The connection ended where it should not."""
