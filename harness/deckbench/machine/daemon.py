"""The docker daemon, here or behind ssh: connecting to it, and its failures as ours."""

from __future__ import annotations

import contextlib
import errno
import re
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

from deckbench.errors import InputError, OutsideError
from deckbench.machine.ssh import Link, by_hand

if TYPE_CHECKING:
    from docker import DockerClient

# Every container, volume and image of DeckBench carries this label; its value says what the thing is for.
LABEL = "deckbench"
NO_SPACE = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)


def connect(host: str | None = None, *, timeout: float = 120) -> DockerClient:
    """A client of the daemon on this machine (or `$DOCKER_HOST`), or of the one at `ssh://user@host`.

    timeout: seconds that one answer may take. ssh is the system's own client, with its keys and known hosts; the far
    side needs the `docker` command. Raises InputError for a host that cannot be read, or where the package docker is
    not installed; OutsideError when no daemon answers.
    """
    try:
        import docker
    except ImportError:
        fix = "pip install 'deckbench[containers]'"
        raise InputError("the Python package docker is not installed", None, fix) from None
    where = host or "this machine"
    link = None if host is None else Link(host)
    try:
        if link is None:
            client = docker.from_env(timeout=timeout)
        else:
            client = docker.DockerClient(base_url=link.url, timeout=timeout)
            weakref.finalize(client, link.close)
        client.ping()
    except Exception as error:  # docker's errors, requests', OSError: all mean the same here
        said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        if link is not None:
            said = link.last_words() or said
            link.close()
        raise OutsideError(f"no docker daemon answers ({said})", where, fix_of(host)) from error
    return client


def fix_of(host: str | None) -> str:
    """What to do where no daemon answers."""
    if host is None:
        return "start it (`systemctl start docker`), or give your user the rights (group docker), or run without it"
    return f"`{by_hand(host)} docker info` must work without a password"


@contextlib.contextmanager
def failures(doing: str, where: str | None = None) -> Iterator[None]:
    """Turn what the daemon says into OutsideError: a full disk, an answer that is an error, a link that broke."""
    import docker.errors
    import requests.exceptions

    try:
        yield
    except docker.errors.DockerException as error:
        text = str(getattr(error, "explanation", None) or error)
        full = NO_SPACE.search(text) is not None
        fix = "free some disk space there, then run again" if full else "run the same command again to go on"
        raise OutsideError(f"{doing}: {' '.join(text.split())[:300]}", where, fix) from error
    except (requests.exceptions.RequestException, ConnectionError) as error:
        fix = "see whether the daemon runs, then run the same command again to go on"
        raise OutsideError(f"{doing}: the docker daemon broke off", where, fix) from error
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}:
            raise
        fix = "free some disk space, then run again"
        raise OutsideError(f"{doing}: {error.strerror}", where, fix) from error
