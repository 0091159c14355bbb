"""Run a job in a container of the local daemon: inputs mounted read-only, one folder writable, always removed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from deckbench import artifact
from deckbench.containers.identity import identity, is_locked
from deckbench.containers.install import has_this_version
from deckbench.containers.spec import Image
from deckbench.errors import InputError, OutsideError
from deckbench.machine import jetson, process_identity
from deckbench.machine.daemon import LABEL, NO_MAPPING, NO_SPACE, failures
from deckbench.machine.facts import Machine, daemon_machine, is_podman
from deckbench.progress import say
from deckbench.runners.job import (
    IN,
    NUMBER,
    OUT,
    OWNER,
    PLACE,
    Job,
    create_arguments,
    step_groups,
    step_user,
    with_visible_gpus,
    within_memory_of,
)
from deckbench.runners.local.cleanup import remove_dead, remove_job, remove_writers_of, retry
from deckbench.runners.local.permissions import apply_umask, change_owner, restore_owners, snapshot
from deckbench.runners.local.staging import Staging, locked_staging, missing_parents, move_in, move_out, remove_empty
from deckbench.runners.stream import Pump, translator

if TYPE_CHECKING:
    from docker import DockerClient

UNIX_SOCKET = "http+docker://localhost"  # what docker's package calls every socket of this machine
LOOK_S = 0.1
GRACE_S = 10.0  # between the signal that ends a step and SIGKILL
AGAIN = "rerun the same command to resume"
STEP_CODES = (0, 1, 2, 3, 4, 130)  # exit codes of deckbench itself
KILLED = 128 + signal.SIGKILL
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What to do where a step crashes.
ELSEWHERE = "run it without a container, or in another --image, to check whether the image is at fault"
CRASHES: Mapping[int, str] = {
    signal.SIGILL: f"a package in the image is not built for this processor: {ELSEWHERE}",
    signal.SIGBUS: f"/dev/shm or the disk was full: raise `--limits memory=GIB`, or free disk space; then {AGAIN}",
    signal.SIGSYS: f"docker forbids a system call of a package in the image: {ELSEWHERE}",
    **dict.fromkeys((signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGTRAP), ELSEWHERE),
}
SUPPRESSED = b"deckbench: interrupted"  # reported by the caller


def run_job(job: Job, client: DockerClient) -> int:
    """Run a job in a container of the local docker daemon; its output is streamed, its results are moved into place.

    The container is always removed; after SIGKILL of this process, by the next call.

    Args:
        job: the command, its inputs and limits.
        client: the daemon's.

    Returns:
        The step's exit code.

    Raises:
        InputError: the image cannot run on this machine.
        OutsideError: anything that is not the step's own failure (see `exit_code_of`); what the step wrote, finished or
            not, is in place.
        KeyboardInterrupt: Ctrl-C; the step was ended.
    """
    check_socket(client)
    job = with_visible_gpus(job)
    with failures("asking the daemon"):
        info = client.info()
    check_user_ids(info)  # before anybody is told to build the image
    image = find_image(job, client)
    check_daemon(job, info)
    job = within_memory_of(job, info)
    remove_dead(client)
    staging, number, who = staging_of(job), secrets.token_hex(6), step_user()
    with signals() as received, locked_staging(staging) as left:
        remove_writers_of(client, staging)
        if left:
            move_out(staging)
        before = snapshot(job.output) if job.in_place else {}
        created: list[Path] = []
        try:
            created = prepare(job, staging, who)
            labels = {OWNER: process_identity.own_identity(), NUMBER: number, PLACE: str(staging.folder)}
            described = container_json(job, image)
            mounts = list(mounts_of(job, staging))
            given = create_arguments(
                job,
                image=image.id,
                mounts=mounts,
                labels=labels,
                container=described,
                who=who,
                jetson=jetson.local_jetson(),
                groups=step_groups(),
                podman=is_podman(info),
            )
            return run_container(job, client, f"{LABEL}-{number}", given, received)
        finally:
            # While a container may still write there (no daemon answers), this is left to the next start.
            if remove_job(client, number):
                move_out(staging)
                if job.in_place:
                    restore_owners(job.output, before, who)
                    apply_umask(job.output, before)
                remove_empty(created)


def staging_of(job: Job) -> Staging:
    """The staging of a job's output, with absolute paths."""
    more = tuple((PurePosixPath(inside).name, path.absolute()) for inside, path in job.more)
    return Staging(job.output.absolute(), more, job.in_place)


def prepare(job: Job, staging: Staging, who: tuple[int, int]) -> list[Path]:
    """Prepare the folder that the step writes to, owned by its user. Returns folders that were created for it."""
    made: list[Path] = []
    if job.in_place:
        made = [job.output, *missing_parents(job.output)] if not job.output.exists() else []
        if job.output.exists() and not job.output.is_dir():
            raise InputError("a file exists where a directory is expected", job.output, "choose another output")
        artifact.make_parent(job.output / "x")
        change_owner(job.output, who)
    else:
        with failures("preparing the container's folder", str(staging.folder)):
            move_in(staging)
        change_owner(staging.folder, who)
    return made


def mounts_of(job: Job, staging: Staging) -> Iterator[Any]:
    """The mounts of a job: inputs (read-only), output, and an output that is finished already (read-only)."""
    from docker.types import Mount

    for inside, path in job.inputs:
        yield Mount(inside, os.fspath(path.resolve()), type="bind", read_only=True)
    if job.in_place:
        yield Mount(job.inside, os.fspath(job.output.resolve()), type="bind")
        return
    yield Mount(OUT, os.fspath(staging.folder), type="bind")
    if (staging.folder / staging.output.name).is_dir() and staging.output.is_dir():
        finished = os.fspath(staging.output)
        yield Mount(f"{OUT}/{staging.output.name}", finished, type="bind", read_only=True)


def find_image(job: Job, client: DockerClient) -> Any:
    """The job's image in the daemon. Raises OutsideError when it was not built, InputError when it cannot run there."""
    import docker.errors

    tag = job.image.tag
    try:
        with failures("looking for the image", tag):
            image = client.images.get(tag)
    except OutsideError as error:
        if not isinstance(error.__cause__, docker.errors.ImageNotFound):
            raise
        fix = f"build it with `deckbench containers build {job.image.name}`, then rerun"
        raise OutsideError("the daemon does not have this image", tag, fix) from None
    wanted = job.image.architecture
    if image.attrs["Architecture"] != wanted:
        what = f"the image is for {image.attrs['Architecture']}, containers.toml says {wanted}"
        raise OutsideError(what, tag, f"build it again with `deckbench containers build {job.image.name}`")
    warn_other_version(image.attrs, job)
    return image


def warn_other_version(attrs: Mapping[str, Any], job: Job) -> None:
    """Warn where the image holds another version of DeckBench than this one: results are those of the image's."""
    labels = (attrs.get("Config") or {}).get("Labels") or {}
    if labels.get(LABEL) == "image" and not has_this_version(attrs):
        fix = f"`deckbench containers build {job.image.name}` installs this one"
        say(f"the image {job.image.tag} holds another version of DeckBench than this one; {fix}")


def check_socket(client: DockerClient) -> None:
    """Raises InputError for a daemon behind a network: the folders that it would mount are another machine's."""
    url = str(client.api.base_url)
    if url != UNIX_SOCKET:
        where = os.environ.get("DOCKER_HOST", url)
        what = "this docker daemon is on no socket of this machine, so a step there would not see these files"
        fix = "--host ssh://USER@MACHINE runs it there and copies them; unset DOCKER_HOST to run it here"
        raise InputError(what, f"DOCKER_HOST={where}", fix)


def check_daemon(job: Job, info: Mapping[str, Any]) -> None:
    """Raises OutsideError where the daemon cannot do what the job needs, InputError where the job cannot run there.

    info: `docker info`.
    """
    check_image(job.image, info, emulate=job.emulate)
    if info.get("MemoryLimit") is False or info.get("PidsLimit") is False:
        what = "this docker daemon cannot limit memory and processes; the step runs without these limits"
        say(f"{daemon_machine(info).where}: {what}")


def check_image(image: Image, info: Mapping[str, Any], *, emulate: bool = False) -> None:
    """Raises as `check_daemon` does, where no step of the image can run at the daemon."""
    check_user_ids(info)
    machine = daemon_machine(info)
    where = machine.where
    if machine.architecture != image.architecture and not emulate:
        what = f"the image {image.name} is for {image.architecture}, this machine is {machine.architecture}"
        raise InputError(what, "--image", "choose another image; --emulate runs it slowly where a command has that")
    if not has_gpu(image, machine):
        fix = "install nvidia-container-toolkit there, then `nvidia-ctk runtime configure` and restart docker"
        raise OutsideError("this docker daemon has no nvidia runtime, so no GPU is seen in containers", where, fix)


def check_user_ids(info: Mapping[str, Any]) -> None:
    """Raises OutsideError where no step can run at a daemon, in whichever image. info: `docker info`."""
    machine = daemon_machine(info)
    if machine.id_mapping:
        what = f"this docker daemon maps user ids of containers ({machine.id_mapping})"
        raise OutsideError(f"{what}, so files that a step writes would not be yours", machine.where, NO_MAPPING)


def has_gpu(image: Image, machine: Machine) -> bool:
    """Whether a daemon can give containers the GPU that an image uses, if it uses one."""
    # Since docker 29, GPUs that the toolkit has listed to it (CDI) need no runtime of their own; a Jetson's does.
    return image.gpu == "none" or machine.has_nvidia_runtime or (image.gpu == "devices" and machine.has_nvidia_devices)


def container_json(job: Job, image: Any) -> str:
    """The value of DECKBENCH_CONTAINER: the image that a step runs in, for its manifests."""
    attrs = image.attrs
    image_facts = {"name": job.image.name, "identity": identity(attrs), "locked": is_locked(attrs)}
    return json.dumps(image_facts, sort_keys=True)


def run_container(job: Job, client: DockerClient, name: str, given: Mapping[str, Any], received: list[int]) -> int:
    """Create, start and follow a container. Returns the step's exit code; the container still exists."""
    with failures("starting the container", job.image.tag):
        container = client.containers.create(name=name, **given)
        # Before the start: on a container that has ended, attaching never returns.
        frames = container.attach(stream=True, stdout=True, stderr=True, demux=True)
        container.start()
    pump = Pump(frames, translator(path_map(job)))
    pump.start()
    reason = wait_for_end(container, pump, job.seconds, received)
    pump.join(GRACE_S)
    return exit_code_of(job, state_of(container), reason, pump)


def path_map(job: Job) -> dict[str, Path]:
    """Folders in the container that messages may name -> local folders."""
    # `run` prints absolute paths wherever it runs.
    folder = job.output.absolute().parent if job.in_place else job.output.parent
    return {OUT: folder, IN: Path("/"), **{inside: path for inside, path in job.inputs}}


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """Collect Ctrl-C, SIGTERM and SIGHUP in a list instead of ending at once; the third raises KeyboardInterrupt.

    Outside the main thread nothing is collected.
    """
    received: list[int] = []

    def collect(number: int, frame: Any) -> None:
        received.append(number)
        if len(received) > 2:
            raise KeyboardInterrupt

    before: dict[signal.Signals, Any] = {}
    with contextlib.suppress(ValueError):  # not the main thread
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                before[number] = signal.signal(number, collect)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for_end(container: Any, pump: Pump, seconds: float, received: list[int]) -> str:
    """Wait until the container has ended, or end it. Returns why it was ended: "", "time", "output" or a signal.

    seconds: the time limit; 0: none. received: signals that this process got.
    """
    deadline = time.monotonic() + seconds if seconds else float("inf")
    reason, kill_at = "", float("inf")
    while True:
        pump.join(LOOK_S)
        now = time.monotonic()
        if not pump.is_alive():
            # The stream ends with the container, or with the connection.
            if not state_of(container).get("Running"):
                return reason
            time.sleep(10 * LOOK_S)
        if not reason:
            if received:
                reason = signal.Signals(received[0]).name
            elif now > deadline:
                reason = "time"
            elif isinstance(pump.failed, BrokenPipeError):
                reason = "output"
            if reason:
                pump.suppressed = SUPPRESSED
                send_signal(container, "SIGINT" if reason == "SIGINT" else "SIGTERM")
                kill_at = now + GRACE_S
        elif now > kill_at or len(received) > 1:
            send_signal(container, "SIGKILL")
            kill_at, received[1:] = float("inf"), []


def send_signal(container: Any, signal_name: str) -> None:
    """Send the step a signal; no error where it has ended meanwhile."""
    import docker.errors

    with contextlib.suppress(docker.errors.APIError), failures("ending the container"):
        container.kill(signal=signal_name)


def state_of(container: Any) -> dict[str, Any]:
    """A container's state; waits for a daemon that is being restarted.

    Raises OutsideError when it does not come back.
    """
    import docker.errors

    def inspect() -> dict[str, Any]:
        try:
            state: dict[str, Any] = container.client.api.inspect_container(container.id)["State"]
        except docker.errors.NotFound:
            return {"Running": False, "ExitCode": KILLED, "Gone": True}
        return state

    found: dict[str, Any] = retry(inspect, "asking for the container's state")
    return found


def exit_code_of(job: Job, state: Mapping[str, Any], reason: str, pump: Pump) -> int:
    """The exit code of a step that ended by itself.

    reason: why this process ended it, if it did. Raises OutsideError for the time limit, a signal, memory, a failed
    start, a crash, a kill from outside, and where nobody reads our output; KeyboardInterrupt for Ctrl-C.
    """
    code, where = int(state.get("ExitCode", KILLED)), job.image.name
    if reason == "SIGINT":
        raise KeyboardInterrupt
    if reason == "output":
        what = "nobody reads what the step says any more, so it was ended half-way"
        raise OutsideError(what, where, f"{AGAIN}, its output into a file or to a program that reads all of it")
    if reason == "time":
        fix = f"{AGAIN}; `--limits minutes=N` gives it more time"
        raise OutsideError(f"the time limit of {job.seconds / 60:g} minutes is over", where, fix)
    if reason:
        raise OutsideError(f"stopped by {reason}", where, AGAIN)
    if state.get("OOMKilled") and code != 0:
        fix = "`--limits memory=GIB` gives it more, smaller batches take less; then " + AGAIN
        raise OutsideError(f"out of memory: the step took more than its {job.memory:g} GiB", where, fix)
    if pump.failed is not None and NO_SPACE.search(str(pump.failed)):
        raise OutsideError("the output cannot be written: no space left on device", where, f"free some, then {AGAIN}")
    if code in (125, 126, 127):
        what = f"the image's program could not be started (exit code {code})"
        raise OutsideError(what, job.image.tag, f"build it again with `deckbench containers build {job.image.name}`")
    if code - 128 in CRASHES:
        what = f"the step crashed ({signal.Signals(code - 128).name})"
        raise OutsideError(what, where, CRASHES[code - 128])
    if code not in STEP_CODES:
        what = f"the container was ended from outside (exit code {code}): by hand, or with the docker daemon"
        # podman does not say that a step ran out of memory
        raise OutsideError(what, where, f"{AGAIN}; `--limits memory=GIB` if it was memory" if code == KILLED else AGAIN)
    return code
