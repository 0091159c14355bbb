"""Containers that were left behind: which ones are a job's, whose caller is gone, and how they are removed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench.errors import DeckBenchError, OutsideError
from deckbench.machine import process_identity
from deckbench.machine.daemon import JOB, LABEL, connect, failures
from deckbench.progress import say
from deckbench.runners.job import NUMBER, OWNER, PLACE, user
from deckbench.runners.local.permissions import as_it_is, give_back
from deckbench.runners.local.staging import Staging, bring_out, claimed

if TYPE_CHECKING:
    from docker import DockerClient

BACK_S = 20.0  # for a daemon that is being restarted


def patient(ask: Callable[[], Any], doing: str) -> Any:
    """Ask the daemon, again and again for a while when it does not answer. Raises OutsideError."""
    give_up = time.monotonic() + BACK_S
    while True:
        try:
            with failures(doing):
                return ask()
        except OutsideError as error:
            import docker.errors

            if isinstance(error.__cause__, docker.errors.APIError) or time.monotonic() > give_up:
                raise
            time.sleep(0.5)


def remove_job(client: DockerClient, number: str) -> bool:
    """Remove a job's container, if it was made. False where the daemon is away: then the next start removes it."""
    try:
        patient(lambda: [remove(client, entry["Id"]) for entry in labelled(client, NUMBER, number)], "cleaning up")
    except DeckBenchError:
        return False
    return True


def labelled(client: DockerClient, label: str, value: str) -> list[dict[str, Any]]:
    """Containers of jobs with a label's value, running or not, as the daemon lists them."""
    filters = {"label": [f"{LABEL}={JOB}", f"{label}={value}"]}
    found: list[dict[str, Any]] = client.api.containers(all=True, filters=filters)
    return found


def remove(client: DockerClient, key: str) -> bool:
    """End and remove one container with its volumes. False when somebody else does or did."""
    import docker.errors

    try:
        client.api.remove_container(key, force=True, v=True)
    except docker.errors.NotFound:
        return False
    except docker.errors.APIError as error:
        if error.status_code != 409:  # its removal is under way
            raise
        return False
    return True


def remove_dead(client: DockerClient) -> list[str]:
    """Remove containers of jobs whose caller is gone for sure (`process_identity.is_dead`); returns their names.

    Raises OutsideError when the daemon fails.
    """
    removed = []
    with failures("removing containers that were left behind"):
        for entry in client.api.containers(all=True, filters={"label": [f"{LABEL}={JOB}"]}):
            if process_identity.is_dead(entry["Labels"].get(OWNER, "")) and remove(client, entry["Id"]):
                removed.append(entry["Names"][0].lstrip("/") if entry["Names"] else entry["Id"][:12])
    for name in removed:
        say(f"removed the container {name}: the command that started it is gone")
    return removed


def remove_of(client: DockerClient, staging: Staging) -> None:
    """Remove containers that write to a staging folder we hold: whoever started them holds it no more."""
    with failures("removing containers that were left behind"):
        for entry in labelled(client, PLACE, str(staging.folder)):
            if entry["Labels"].get(OWNER, "").split(" ")[0] == process_identity.host_identity()[0]:
                remove(client, entry["Id"])


def recover(output: Path) -> None:
    """Before a step makes `output` without a container: bring out what a killed containerised start left.

    Raises OutsideError when a container is at it.
    """
    staging = Staging(output.absolute())
    if not staging.folder.is_dir():
        return
    with claimed(staging):
        with contextlib.suppress(DeckBenchError):  # no daemon, no container
            remove_of(connect(timeout=10), staging)
        bring_out(staging)
        give_back(output, as_it_is(output), user())
