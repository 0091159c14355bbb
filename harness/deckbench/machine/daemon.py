"""The docker daemon, on this machine or behind ssh: connecting to it, and its errors as DeckBench's."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

from deckbench.errors import InputError, OutsideError
from deckbench.extras import require
from deckbench.machine.facts import printable, reason_of
from deckbench.machine.ssh import Tunnel, login_command

if TYPE_CHECKING:
    from docker import DockerClient

# Every container, volume and image of DeckBench carries this label; its value says what the thing is for.
LABEL = "deckbench"
# Its values, for containers: a step; a step of a remote caller; the store helper of remote callers.
JOB, REMOTE_JOB, REMOTE_STORE = "job", "far-job", "store"
NO_MAPPING = "use a daemon that runs as root, without userns-remap; images can be built here, but no step run in them"
NO_SPACE = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)


def connect(host: str | None = None, *, timeout: float = 120) -> DockerClient:
    """A client of the daemon on this machine (or `$DOCKER_HOST`), or of the one at `ssh://user@host`.

    timeout: seconds that one answer may take. ssh is the system's own client, with its keys and known hosts; the
    remote machine needs the `docker` command. Raises InputError for a host that cannot be read, or where the package
    docker is not installed; OutsideError when no daemon answers.
    """
    require("docker", "a step in a container")
    import docker

    if host is None:
        check_address()
    where = host or "this machine"
    tunnel = None if host is None else Tunnel(host)
    try:
        if tunnel is None:
            client = docker.from_env(timeout=timeout)
        else:
            client = docker.DockerClient(base_url=tunnel.url, timeout=timeout)
            weakref.finalize(client, tunnel.close)
        client.ping()
    except Exception as error:  # docker's errors, requests', OSError: all mean the same here
        reason = reason_of(error)
        if tunnel is not None:
            reason = tunnel.error_message() or reason
            tunnel.close()
        raise OutsideError(f"no docker daemon answers ({reason})", where, fix_of(host)) from error
    return client


def check_address() -> None:
    """Raises InputError where $DOCKER_HOST is an ssh address: docker's package would connect by means of its own."""
    address = os.environ.get("DOCKER_HOST", "")
    if not address.startswith("ssh://"):
        return
    shown = printable(f"ssh://{re.sub(r':[^@/]*@', '@', address.removeprefix('ssh://'))}")
    what = f"the docker daemon of another machine ({shown}) is used with --host {shown}, not with DOCKER_HOST"
    raise InputError(what, "DOCKER_HOST", f"unset DOCKER_HOST, and add --host {shown} to run a step there")


def fix_of(host: str | None) -> str:
    """What to do where no daemon answers."""
    if host is None:
        return "start it (`systemctl start docker`), add your user to the group docker, or run without it"
    return f"`{login_command(host)} docker info` must work without a password"


@contextlib.contextmanager
def failures(doing: str, where: str | None = None) -> Iterator[None]:
    """Turn errors of the daemon into OutsideError: a full disk, an error response, a lost connection."""
    import docker.errors
    import requests.exceptions

    try:
        yield
    except docker.errors.DockerException as error:
        text = str(getattr(error, "explanation", None) or "") or reason_of(error)
        full = NO_SPACE.search(text) is not None
        fix = "free disk space there, then rerun" if full else "rerun the same command to resume"
        raise OutsideError(f"{doing}: {' '.join(text.split())[:300]}", where, fix) from error
    except (requests.exceptions.RequestException, ConnectionError) as error:
        fix = "check that the daemon runs, then rerun the same command to resume"
        raise OutsideError(f"{doing}: lost the connection to the Docker daemon", where, fix) from error
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}:
            raise
        fix = "free disk space, then rerun"
        raise OutsideError(f"{doing}: {error.strerror}", where, fix) from error
