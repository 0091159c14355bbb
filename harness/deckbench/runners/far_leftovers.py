"""What killed callers left at a far daemon, and how it is removed there."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from deckbench.daemon import LABEL
from deckbench.runners import owner
from deckbench.runners.job import FAR_JOB, NUMBER, OWNER
from deckbench.runners.store import Session, remove_volume

if TYPE_CHECKING:
    from docker import DockerClient

UNCOLLECTED_S = 7 * 24 * 3600  # a finished job that nobody came back for is removed after so long


def remove_leftovers(session: Session) -> None:
    """Remove what killed callers left there: helpers, output volumes without a job, jobs nobody came back for."""

    def clean(client: DockerClient) -> None:
        remove_old(client, keep=session.key)

    session.far.do("cleaning up", clean)


def remove_old(client: DockerClient, keep: str = "", *, uncollected: bool = False) -> list[str]:
    """Names of containers and volumes that were removed. keep: a job's key. Jobs that run are left alone, and so are
    finished ones for a week, since their caller may come back; uncollected: not those of dead callers of this machine.
    """
    removed = []
    busy = set()
    for entry in client.api.containers(all=True, filters={"label": [LABEL]}):
        labels = entry["Labels"]
        kind, key, who = labels[LABEL], labels.get(NUMBER, ""), labels.get(OWNER, "")
        if kind not in {"store", FAR_JOB} or key == keep:
            continue
        old = time.time() - entry["Created"] > UNCOLLECTED_S
        if entry["State"] == "running" and not (kind == "store" and old):
            busy.add(key)
        elif old or ((kind == "store" or uncollected) and owner.is_dead(who)):
            with contextlib.suppress(Exception):
                client.api.remove_container(entry["Id"], force=True, v=True)
                removed.append(entry["Names"][0].lstrip("/"))
        else:
            busy.add(key)
    for volume in client.api.volumes(filters={"label": [f"{LABEL}=out"]})["Volumes"] or []:
        labels = volume.get("Labels") or {}
        if labels.get(NUMBER) not in busy | {keep} and remove_volume(client, volume["Name"]):
            removed.append(volume["Name"])
    return removed
