"""Run a job at the docker daemon behind `ssh://user@host`: inputs go there once, the step runs, its output comes home.

The container there is detached. A link that breaks is waited for; a caller that dies finds its job again by the job's
key, a hash of what is run on what. Nothing is left there but the store of files.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from deckbench import artifact
from deckbench.containers.identity import identity
from deckbench.errors import DeckBenchError, InputError, OutsideError
from deckbench.machine import process_identity
from deckbench.machine.daemon import LABEL, REMOTE_JOB
from deckbench.machine.facts import Machine
from deckbench.progress import format_bytes, say
from deckbench.runners.job import OUT, Job, create_arguments
from deckbench.runners.local.cleanup import recover
from deckbench.runners.local.container import check_daemon, container_word, places_of, signals, staging_of, verdict
from deckbench.runners.local.staging import Staging, claimed
from deckbench.runners.paths import absolute
from deckbench.runners.remote import store
from deckbench.runners.remote.capacity import check_memory, image_at, resources
from deckbench.runners.remote.cleanup import remove_leftovers
from deckbench.runners.remote.connection import Far
from deckbench.runners.remote.download import bring_home
from deckbench.runners.remote.file_tree import Tree, read_trees
from deckbench.runners.remote.follow import far_seconds, follow
from deckbench.runners.remote.store import Session
from deckbench.runners.remote.store_upload import send
from deckbench.runners.remote.time_limit import limited, was_ended
from deckbench.runners.stream import Pump, translator

if TYPE_CHECKING:
    from docker import DockerClient

OUTPUT_ROOM = 1 << 30  # for what the step writes


def run_job_at(job: Job, host: str) -> int:
    """Run a job there and return the step's exit code; what it says is streamed, what it wrote is in its place.

    Raises InputError for what cannot be copied or run there; OutsideError for all that is not the step's own doing: no
    room (nothing is copied then), a link that stays away (the step goes on there; the same command goes on from it),
    memory, time. KeyboardInterrupt on Ctrl-C: the step is ended and what it has comes home.
    """
    job = placed(job)
    staging = staging_of(job)
    if staging.folder.is_dir() and any(not path.name.startswith(".") for path in staging.folder.iterdir()):
        recover(job.output)
    with claimed(staging):
        far = Far(host)
        try:
            return at(job, staging, far)
        finally:
            far.close()


def at(job: Job, staging: Staging, far: Far) -> int:
    """`run_job_at` with the output claimed and the daemon connected."""
    info = far.do("asking the daemon", lambda client: dict(client.info()))
    check_daemon(job, info)
    machine = resources(far.host, info)
    check_memory(job, machine, far.host)
    image = image_at(job, far, machine)
    inputs = read_inputs(job)
    session = Session(far, key_of(job, inputs, identity(image.attrs)), image.id, *(job.program or ())[:1])
    remove_leftovers(session)
    began = found(session)
    if began is None:
        seeds = read_trees(seeds_of(staging, in_place=job.in_place))
        begin(job, session, image, info, machine, inputs, seeds)
    else:
        say(f"this job was started at {far.host} before ({began[:19]}); going on from there")
        store.open_store(session)
    with signals() as asked:
        far.asked = asked
        pump = Pump((), translator(places_of(job)))
        reason, state = follow(job, session, pump, asked, far_seconds(info, began))
        if not reason and was_ended(job, state):
            reason = "time"
        bring_home(job, staging, session)
        store.close_store(session)
    return verdict(job, state, reason, pump)


def placed(job: Job) -> Job:
    """The job with its output by its whole path: its last part is the output's name there too, and `.` has none.

    Raises InputError for a path that cannot be written so.
    """
    output = Path(absolute(job.output))
    if output.name != PurePosixPath(job.inside).name or output.resolve() != job.output.resolve():
        what = "the path does not say what the output is called"
        raise InputError(what, job.output, "write the path without `..`, of a folder below /")
    return dataclasses.replace(job, output=output)


# What makes this job


def read_inputs(job: Job) -> Tree:
    """The job's inputs as one tree: the n-th at `n/NAME`."""
    return read_trees((place_of(number, path), path) for number, (_, path) in enumerate(job.inputs))


def place_of(number: int, path: Path) -> str:
    return f"{number}/{path.resolve().name}"


def key_of(job: Job, inputs: Tree, image: str) -> str:
    """What makes two jobs the same job: hex. The output's place and this machine are part of it, so that nobody takes
    up, or takes away, what somebody else has started."""
    return artifact.hash_json(
        {
            "command": [list(job.program or ()), list(job.command)],
            "inputs": inputs.content(),
            "places": [place for place, _ in job.inputs],
            "image": image,
            "env": dict(job.env),
            "limits": [job.memory, job.pids, job.seconds, list(job.gpus), job.network],
            "output": [str(job.output), job.inside],
            "caller": process_identity.host_identity()[0],
        }
    )[:32]


def seeds_of(staging: Staging, *, in_place: bool) -> list[tuple[str, Path]]:
    """(name in /out, path here) of what a step finds in its place: unfinished work, and what is finished already."""
    names = [] if in_place else list(staging.unfinished)
    if staging.output.is_dir() and any(staging.output.iterdir()):
        names.append(staging.output.name)
    elif staging.output.is_file():
        names += staging.beside
    places = [(name, staging.output.with_name(name)) for name in names]
    return [(name, path) for name, path in places if path.exists()]


def found(session: Session) -> str | None:
    """When this job's container was started; None where there is none. One that was never started is removed."""
    import docker.errors

    def look(client: DockerClient) -> str | None:
        name = session.named("job")
        try:
            state = client.api.inspect_container(name)["State"]
        except docker.errors.NotFound:
            return None
        if state["Status"] == "created":
            store.remove_container(client, name)
            return None
        return str(state["StartedAt"])

    return session.far.do("looking for this job", look)


# Its start


def begin(
    job: Job, session: Session, image: Any, info: Mapping[str, Any], machine: Machine, inputs: Tree, seeds: Tree
) -> None:
    """Copy, create, start. Where that fails, what was made for the job is removed; what was copied stays."""
    host = session.far.host

    def room(needed: int, free: int) -> None:
        if needed + OUTPUT_ROOM > free:
            what = f"too little disk: {format_bytes(needed)} are to be copied and {format_bytes(OUTPUT_ROOM)} are for"
            what += f" the output, {format_bytes(free)} are free where docker keeps its data"
            what += f" ({info.get('DockerRootDir')})"
            raise OutsideError(
                what, host, f"free some there (`deckbench containers prune --host {host}`), then run again"
            )

    try:
        store.open_store(session)
        send(session, inputs, seeds, [job.output.name] if job.in_place else [], room)
        session.far.do("starting the step", lambda client: start(job, session, client, image, machine))
    except BaseException:
        session.far.patience_s = 0
        with contextlib.suppress(DeckBenchError):
            store.close_store(session)
        raise
    say(f"the step runs at {host}; it goes on there if the link breaks, and the same command finds it again")


def start(job: Job, session: Session, client: DockerClient, image: Any, machine: Machine) -> None:
    """Create and start the step's container, unless it is there: the answer to an earlier try may have been lost."""
    import docker.errors
    from docker.types import LogConfig, Mount

    name = session.named("job")
    volumes = {what: client.api.inspect_volume(what)["Mountpoint"] for what in (store.VOLUME, session.named("out"))}
    trees = f"{volumes[store.VOLUME]}/jobs/{session.key}/in"
    # Docker before 26 mounts no part of a volume; the daemon's own path to it leads there too.
    mounts = [
        Mount(place, f"{trees}/{place_of(number, path)}", type="bind", read_only=True)
        for number, (place, path) in enumerate(job.inputs)
    ]
    mounts.append(store.volume(OUT, session.named("out")))
    labels = {LABEL: REMOTE_JOB, **session.labels}
    word = container_word(job, image)
    given = create_arguments(
        job, image=image.id, mounts=mounts, labels=labels, container=word, who=store.WHO, jetson=machine.jetson
    )
    program = given.get("entrypoint") or image.attrs["Config"].get("Entrypoint") or []
    given["entrypoint"] = limited(program, job.seconds)
    given["log_config"] = LogConfig(type="json-file", config={})  # read again and again, from where we stopped
    with contextlib.suppress(docker.errors.NotFound):
        if client.api.inspect_container(name)["State"]["Status"] != "created":
            return
        store.remove_container(client, name)
    client.containers.create(name=name, **given).start()
