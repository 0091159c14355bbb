"""Run a job at the docker daemon behind `ssh://user@host`: upload inputs once, run the step, download its output.

The container there is detached. A lost connection is waited for; a caller that was killed finds its job again by the
job's key, a hash of its command and inputs. Nothing is left there but the store of files.
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
from deckbench.machine.facts import Machine, is_podman
from deckbench.progress import format_bytes, say
from deckbench.runners.job import OUT, Job, create_arguments
from deckbench.runners.local.cleanup import recover
from deckbench.runners.local.container import check_daemon, container_json, exit_code_of, path_map, signals, staging_of
from deckbench.runners.local.staging import Staging, locked_staging
from deckbench.runners.paths import absolute
from deckbench.runners.remote import store
from deckbench.runners.remote.capacity import check_memory, provide_image, resources
from deckbench.runners.remote.cleanup import clean_up
from deckbench.runners.remote.connection import RemoteDaemon
from deckbench.runners.remote.download import download_output
from deckbench.runners.remote.file_tree import Tree, read_tree
from deckbench.runners.remote.follow import follow, remote_seconds
from deckbench.runners.remote.store import Session
from deckbench.runners.remote.store_upload import upload
from deckbench.runners.remote.time_limit import timed_out, with_time_limit
from deckbench.runners.stream import Pump, translator

if TYPE_CHECKING:
    from docker import DockerClient

OUTPUT_BYTES = 1 << 30  # disk for what the step writes


def run_job_at(job: Job, host: str) -> int:
    """Run a job at a remote docker daemon; its output is streamed, its results are downloaded.

    Args:
        job: the command, its inputs and limits.
        host: `ssh://USER@HOST[:PORT]`.

    Returns:
        The step's exit code.

    Raises:
        InputError: something cannot be copied or run there.
        OutsideError: anything that is not the step's own failure: too little disk or memory (nothing is copied then), a
            connection that stays lost (the step keeps running; rerun the same command to resume), the time limit.
        KeyboardInterrupt: Ctrl-C; the step was ended and what it wrote was downloaded.
    """
    job = with_full_output(job)
    staging = staging_of(job)
    if staging.folder.is_dir() and any(not path.name.startswith(".") for path in staging.folder.iterdir()):
        recover(job.output)
    with locked_staging(staging):
        daemon = RemoteDaemon(host)
        try:
            return run_connected(job, staging, daemon)
        finally:
            daemon.close()


def run_connected(job: Job, staging: Staging, daemon: RemoteDaemon) -> int:
    """`run_job_at` with the output claimed and the daemon connected."""
    info = daemon.do("asking the daemon", lambda client: dict(client.info()))
    check_daemon(job, info)
    machine = resources(daemon.host, info)
    check_memory(job, machine, daemon.host)
    image = provide_image(job, daemon, machine)
    inputs = read_inputs(job)
    session = Session(daemon, key_of(job, inputs, identity(image.attrs)), image.id, *(job.program or ())[:1])
    clean_up(session)
    began = find_job(session)
    if began is None:
        seeds = read_tree(seeds_of(staging, in_place=job.in_place))
        start_job(job, session, image, info, machine, inputs, seeds)
    else:
        say(f"resuming: this job was started at {daemon.host} at {began[:19]}")
        store.open_store(session)
    with signals() as received:
        daemon.received = received
        pump = Pump((), translator(path_map(job)))
        reason, state = follow(job, session, pump, received, remote_seconds(info, began))
        if not reason and timed_out(job, state):
            reason = "time"
        download_output(job, staging, session)
        store.close_store(session)
    return exit_code_of(job, state, reason, pump)


def with_full_output(job: Job) -> Job:
    """The job with its output as a normalized path: its last part is the output's name there too, and `.` has none.

    Raises InputError for a path that cannot be written so.
    """
    output = Path(absolute(job.output))
    if output.name != PurePosixPath(job.inside).name or output.resolve() != job.output.resolve():
        what = "the path does not name the output"
        raise InputError(what, job.output, "write the path without `..`, of a folder below /")
    return dataclasses.replace(job, output=output)


# The identity of a job


def read_inputs(job: Job) -> Tree:
    """The job's inputs as one tree: the n-th at `n/NAME`."""
    return read_tree((tree_place(number, path), path) for number, (_, path) in enumerate(job.inputs))


def tree_place(number: int, path: Path) -> str:
    return f"{number}/{path.resolve().name}"


def key_of(job: Job, inputs: Tree, image: str) -> str:
    """What makes two jobs the same job: hex. The output's path and this machine are part of it, so that nobody resumes,
    or downloads, what somebody else has started."""
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
    """(name in /out, local path) of what a step finds there: unfinished work, and what is finished already."""
    names = [] if in_place else list(staging.unfinished)
    if staging.output.is_dir() and any(staging.output.iterdir()):
        names.append(staging.output.name)
    elif staging.output.is_file():
        names += staging.beside
    places = [(name, staging.output.with_name(name)) for name in names]
    return [(name, path) for name, path in places if path.exists()]


def find_job(session: Session) -> str | None:
    """When this job's container was started; None without one. One that was never started is removed."""
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

    return session.daemon.do("looking for this job", look)


# Starting a job


def start_job(
    job: Job, session: Session, image: Any, info: Mapping[str, Any], machine: Machine, inputs: Tree, seeds: Tree
) -> None:
    """Upload, create, start. Where that fails, what was created for the job is removed; uploads stay."""
    host = session.daemon.host

    def check_disk(needed: int, free: int) -> None:
        if needed + OUTPUT_BYTES > free:
            what = f"too little disk: {format_bytes(needed)} are to be copied and {format_bytes(OUTPUT_BYTES)} are for"
            what += f" the output, {format_bytes(free)} are free where docker keeps its data"
            what += f" ({info.get('DockerRootDir')})"
            raise OutsideError(
                what, host, f"free disk space there (`deckbench containers prune --host {host}`), then rerun"
            )

    try:
        store.open_store(session)
        upload(session, inputs, seeds, [job.output.name] if job.in_place else [], check_disk)
        session.daemon.do("starting the step", lambda client: create_container(job, session, client, image, machine))
    except BaseException:
        session.daemon.patience_s = 0
        with contextlib.suppress(DeckBenchError):
            store.close_store(session)
        raise
    say(f"the step runs at {host}; if the connection is lost it keeps running, and the same command resumes")


def create_container(job: Job, session: Session, client: DockerClient, image: Any, machine: Machine) -> None:
    """Create and start the step's container, unless it exists: the answer to an earlier attempt may have been lost."""
    import docker.errors
    from docker.types import LogConfig, Mount

    name = session.named("job")
    volumes = {what: client.api.inspect_volume(what)["Mountpoint"] for what in (store.VOLUME, session.named("out"))}
    trees = f"{volumes[store.VOLUME]}/jobs/{session.key}/in"
    # Docker before 26 mounts no part of a volume; the daemon's own path to it leads there too.
    mounts = [
        Mount(place, f"{trees}/{tree_place(number, path)}", type="bind", read_only=True)
        for number, (place, path) in enumerate(job.inputs)
    ]
    mounts.append(store.volume(OUT, session.named("out")))
    labels = {LABEL: REMOTE_JOB, **session.labels}
    described = container_json(job, image)
    given = create_arguments(
        job,
        image=image.id,
        mounts=mounts,
        labels=labels,
        container=described,
        who=store.STORE_USER,
        jetson=machine.jetson,
        podman=is_podman(client.info()),
    )
    program = given.get("entrypoint") or image.attrs["Config"].get("Entrypoint") or []
    given["entrypoint"] = with_time_limit(program, job.seconds)
    given["log_config"] = LogConfig(type="json-file", config={})  # read again and again, from where it was left
    with contextlib.suppress(docker.errors.NotFound):
        if client.api.inspect_container(name)["State"]["Status"] != "created":
            return
        store.remove_container(client, name)
    client.containers.create(name=name, **given).start()
