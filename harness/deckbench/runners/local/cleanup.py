"""Remove containers of steps whose caller has ended."""

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
from deckbench.runners.job import NUMBER, OWNER, PLACE, step_user
from deckbench.runners.local.permissions import restore_owners, snapshot
from deckbench.runners.local.staging import Staging, locked_staging, move_out

if TYPE_CHECKING:
    from docker import DockerClient

RESTART_S = 20.0  # time for a daemon to restart


def retry(action: Callable[[], Any], doing: str) -> Any:
    """Call the daemon, repeatedly for RESTART_S when it does not answer. Raises OutsideError."""
    give_up = time.monotonic() + RESTART_S
    while True:
        try:
            with failures(doing):
                return action()
        except OutsideError as error:
            import docker.errors

            if isinstance(error.__cause__, docker.errors.APIError) or time.monotonic() > give_up:
                raise
            time.sleep(0.5)


def remove_job(client: DockerClient, number: str) -> bool:
    """Remove a job's container, if it exists. False where no daemon answers: then the next start removes it."""
    try:
        retry(lambda: [remove(client, entry["Id"]) for entry in containers_with(client, NUMBER, number)], "cleaning up")
    except DeckBenchError:
        return False
    return True


def containers_with(client: DockerClient, label: str, value: str) -> list[dict[str, Any]]:
    """Containers of jobs with this value of a label, running or not, as the daemon lists them."""
    filters = {"label": [f"{LABEL}={JOB}", f"{label}={value}"]}
    found: list[dict[str, Any]] = client.api.containers(all=True, filters=filters)
    return found


def remove(client: DockerClient, key: str) -> bool:
    """Kill and remove one container with its volumes. False when somebody else does or did."""
    import docker.errors

    try:
        client.api.remove_container(key, force=True, v=True)
    except docker.errors.NotFound:
        return False
    except docker.errors.APIError as error:
        if error.status_code != 409:  # it is being removed
            raise
        return False
    return True


def remove_dead(client: DockerClient) -> list[str]:
    """Remove containers of jobs whose caller has ended for certain (`process_identity.is_dead`); returns their names.

    Raises OutsideError when the daemon fails.
    """
    removed = []
    with failures("removing left-over containers"):
        for entry in client.api.containers(all=True, filters={"label": [f"{LABEL}={JOB}"]}):
            if process_identity.is_dead(entry["Labels"].get(OWNER, "")) and remove(client, entry["Id"]):
                removed.append(entry["Names"][0].lstrip("/") if entry["Names"] else entry["Id"][:12])
    for name in removed:
        say(f"removed the container {name}: the command that started it has ended")
    return removed


def remove_writers_of(client: DockerClient, staging: Staging) -> None:
    """Remove containers that write to a staging folder that this process has locked: their callers have ended."""
    with failures("removing left-over containers"):
        for entry in containers_with(client, PLACE, str(staging.folder)):
            if entry["Labels"].get(OWNER, "").split(" ")[0] == process_identity.host_identity()[0]:
                remove(client, entry["Id"])


def recover(output: Path) -> None:
    """Before a step writes `output` without a container: move out what a killed step in a container left.

    Raises OutsideError when a container is writing it.
    """
    staging = Staging(output.absolute())
    if not staging.folder.is_dir():
        return
    with locked_staging(staging):
        with contextlib.suppress(DeckBenchError):  # no daemon, no container
            remove_writers_of(connect(timeout=10), staging)
        move_out(staging)
        restore_owners(output, snapshot(output), step_user())
