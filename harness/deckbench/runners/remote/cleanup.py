"""Remove from a remote daemon what killed callers left behind."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deckbench.machine import process_identity
from deckbench.machine.daemon import LABEL, REMOTE_JOB, REMOTE_STORE
from deckbench.runners.job import NUMBER, OWNER
from deckbench.runners.remote.follow import seconds_of
from deckbench.runners.remote.store import Session, remove_volume

if TYPE_CHECKING:
    from docker import DockerClient

UNCOLLECTED_S = 7 * 24 * 3600  # age at which a finished job is removed whose output nobody downloads
CLOCK_SET = seconds_of("2026-01-01T00:00:00Z")  # before DeckBench: by a clock that was not set yet


def clean_up(session: Session) -> None:
    """Remove what killed callers left there: helpers, output volumes without a job, old jobs."""

    def clean(client: DockerClient) -> None:
        remove_old(client, keep=session.key)

    session.daemon.do("cleaning up", clean)


def remove_old(client: DockerClient, keep: str = "", *, uncollected: bool = False) -> list[str]:
    """Remove old containers and volumes; returns their names. keep: a job's key.

    Running jobs are kept, and so are finished ones for UNCOLLECTED_S, since their caller may come back; uncollected:
    not those of dead callers of this machine.
    """
    now = seconds_of(str(client.info().get("SystemTime") or "1970-01-01T00:00:00Z"))
    entries = client.api.containers(all=True, filters={"label": [LABEL]})
    helpers, jobs = ([one for one in entries if one["Labels"][LABEL] == kind] for kind in (REMOTE_STORE, REMOTE_JOB))
    # A job is in use while its helper is: the caller who has it now may be another than the one that started the job.
    used = {keep, *(key_of(one) for one in helpers if not is_dead(one) and not is_old(client, one, now))}
    removed = []

    def remove(entry: Mapping[str, Any]) -> None:
        with contextlib.suppress(Exception):
            client.api.remove_container(entry["Id"], force=True, v=True)
            removed.append(entry["Names"][0].lstrip("/"))

    kept = {keep}
    for job in jobs:
        removable = is_dead(job) and (uncollected or job["State"] == "created")
        if ended(job) and key_of(job) not in used and (removable or is_old(client, job, now)):
            remove(job)
        else:
            kept.add(key_of(job))
    for helper in helpers:
        # A caller restarts one that has ended when it has a request; the next caller makes a new one.
        if key_of(helper) != keep and (is_dead(helper) or (ended(helper) and key_of(helper) not in used | kept)):
            remove(helper)
        else:
            kept.add(key_of(helper))
    for volume in client.api.volumes(filters={"label": [f"{LABEL}=out"]})["Volumes"] or []:
        labels = volume.get("Labels") or {}
        if labels.get(NUMBER) not in kept and remove_volume(client, volume["Name"]):
            removed.append(volume["Name"])
    return removed


def key_of(entry: Mapping[str, Any]) -> str:
    return str(entry["Labels"].get(NUMBER, ""))


def is_dead(entry: Mapping[str, Any]) -> bool:
    """Whether the process that created a container has ended for certain."""
    return process_identity.is_dead(entry["Labels"].get(OWNER, ""))


def ended(entry: Mapping[str, Any]) -> bool:
    """Whether a container has ended, or was not started."""
    return entry["State"] in {"created", "exited", "dead"}


def is_old(client: DockerClient, entry: Mapping[str, Any], now: int) -> bool:
    """Whether a container ended, or was created and never started, long ago, by the clock there. False where that clock
    was not set then."""
    import docker.errors

    if not ended(entry):
        return False
    since = int(entry["Created"])
    if entry["State"] != "created":
        try:
            since = seconds_of(client.api.inspect_container(entry["Id"])["State"]["FinishedAt"])
        except docker.errors.NotFound:
            return False
    return since >= CLOCK_SET and now - since > UNCOLLECTED_S
