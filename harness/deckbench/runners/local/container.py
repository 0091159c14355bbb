"""Run a job in a container of the daemon here: inputs bound read-only, one folder writable, removed at every end."""

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
from deckbench.containers.install import holds_this
from deckbench.containers.spec import Image
from deckbench.errors import InputError, OutsideError
from deckbench.machine import jetson, process_identity
from deckbench.machine.daemon import LABEL, NO_SPACE, failures
from deckbench.machine.facts import Machine, daemon_machine
from deckbench.progress import say
from deckbench.runners.job import (
    IN,
    NUMBER,
    OUT,
    OWNER,
    PLACE,
    Job,
    create_arguments,
    groups,
    user,
    with_visible_cards,
    within,
)
from deckbench.runners.local.cleanup import patient, remove_dead, remove_job, remove_of
from deckbench.runners.local.permissions import as_it_is, give_back, hand_over, under_umask
from deckbench.runners.local.staging import Staging, bring_out, claimed, drop_empty, missing_parents, move_in
from deckbench.runners.stream import Pump, translator

if TYPE_CHECKING:
    from docker import DockerClient

UNIX_SOCKET = "http+docker://localhost"  # what docker's package calls every socket of this machine
LOOK_S = 0.1
GRACE_S = 10.0  # for a step that was asked to end, before it is killed
AGAIN = "run the same command again to go on"
ENDS = (0, 1, 2, 3, 4, 130)  # exit codes that are the step's own
KILLED = 128 + signal.SIGKILL
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What to do where a step ends with a signal of its own making.
ANYHOW = "run it without a container, or in another --image, to see whether the image is at fault"
CRASHES: Mapping[int, str] = {
    signal.SIGILL: f"a package in the image is not made for this processor: {ANYHOW}",
    signal.SIGBUS: f"/dev/shm was full, or the disk: `--limits memory=GIB` makes it larger, or free some; then {AGAIN}",
    signal.SIGSYS: f"docker forbids something that a package in the image asks of the system: {ANYHOW}",
    **dict.fromkeys((signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGTRAP), ANYHOW),
}
HUSHED = b"deckbench: interrupted"  # the caller says it


def run_job(job: Job, client: DockerClient) -> int:
    """Run a job in a container and return the step's exit code; its output is streamed to this process's.

    The container is gone at every end but SIGKILL of this process; then the next call removes it. What the step wrote,
    finished or not, is in its place afterwards. Raises OutsideError for all that is not the step's own doing (see
    `verdict`), KeyboardInterrupt on Ctrl-C.
    """
    check_socket(client)
    job = with_visible_cards(job)
    image = find_image(job, client)
    with failures("asking the daemon"):
        info = client.info()
    check_daemon(job, info)
    job = within(job, info)
    remove_dead(client)
    staging, number, who = staging_of(job), secrets.token_hex(6), user()
    with signals() as asked, claimed(staging) as left:
        remove_of(client, staging)
        if left:
            bring_out(staging)
        before = as_it_is(job.output) if job.in_place else {}
        made: list[Path] = []
        try:
            made = prepare(job, staging, who)
            labels = {OWNER: process_identity.own_identity(), NUMBER: number, PLACE: str(staging.folder)}
            word = container_word(job, image)
            mounts = list(mounts_of(job, staging))
            given = create_arguments(
                job,
                image=image.id,
                mounts=mounts,
                labels=labels,
                container=word,
                who=who,
                jetson=jetson.local_jetson(),
                groups=groups(),
            )
            return contained(job, client, f"{LABEL}-{number}", given, asked)
        finally:
            # As long as a container may write there (the daemon is away), the next start has to do this.
            if remove_job(client, number):
                bring_out(staging)
                if job.in_place:
                    give_back(job.output, before, who)
                    under_umask(job.output, before)
                drop_empty(made)


def staging_of(job: Job) -> Staging:
    """Where a job's step writes, by absolute paths."""
    more = tuple((PurePosixPath(inside).name, path.absolute()) for inside, path in job.more)
    return Staging(job.output.absolute(), more, job.in_place)


def prepare(job: Job, staging: Staging, who: tuple[int, int]) -> list[Path]:
    """Make the place ready that the step writes to, and give it to its user. Returns folders that were made for it."""
    made: list[Path] = []
    if job.in_place:
        made = [job.output, *missing_parents(job.output)] if not job.output.exists() else []
        if job.output.exists() and not job.output.is_dir():
            raise InputError("a file stands where a folder is needed", job.output, "choose another output")
        artifact.make_parent(job.output / "x")
        hand_over(job.output, who)
    else:
        with failures("preparing the container's folder", str(staging.folder)):
            move_in(staging)
        hand_over(staging.folder, who)
    return made


def mounts_of(job: Job, staging: Staging) -> Iterator[Any]:
    """The mounts of a job: its inputs, its output, and what is finished there already, read-only."""
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
        fix = f"build it with `deckbench containers build {job.image.name}`, then run the same command again"
        raise OutsideError("the daemon does not have this image", tag, fix) from None
    wanted = job.image.architecture
    if image.attrs["Architecture"] != wanted:
        what = f"the image is for {image.attrs['Architecture']}, containers.toml says {wanted}"
        raise OutsideError(what, tag, f"build it again with `deckbench containers build {job.image.name}`")
    tell_of_another(image.attrs, job)
    return image


def tell_of_another(attrs: Mapping[str, Any], job: Job) -> None:
    """Say so where the image holds another DeckBench than the one that runs here: results are those of the image's."""
    labels = (attrs.get("Config") or {}).get("Labels") or {}
    if labels.get(LABEL) == "image" and not holds_this(attrs):
        fix = f"`deckbench containers build {job.image.name}` puts this one in"
        say(f"the image {job.image.tag} holds another DeckBench than this one; {fix}")


def check_socket(client: DockerClient) -> None:
    """Raises InputError for a daemon behind a network: the folders that it would bind are another machine's."""
    url = str(client.api.base_url)
    if url != UNIX_SOCKET:
        where = os.environ.get("DOCKER_HOST", url)
        what = "this docker daemon is on no socket of this machine, so a step there would not see these files"
        fix = "--host ssh://USER@MACHINE runs it there and copies them; unset DOCKER_HOST to run it here"
        raise InputError(what, f"DOCKER_HOST={where}", fix)


def check_daemon(job: Job, info: Mapping[str, Any]) -> None:
    """Raises OutsideError where the daemon cannot do what the job needs, InputError where the job cannot run there.

    info: what the daemon says of itself (`docker info`).
    """
    check_image(job.image, info, emulate=job.emulate)
    if info.get("MemoryLimit") is False or info.get("PidsLimit") is False:
        what = "this docker daemon cannot limit memory and processes; the step runs without these limits"
        say(f"{daemon_machine(info).where}: {what}")


def check_image(image: Image, info: Mapping[str, Any], *, emulate: bool = False) -> None:
    """Raises as `check_daemon` does, where no step of the image can run at the daemon."""
    machine = daemon_machine(info)
    where = machine.where
    if machine.architecture != image.architecture and not emulate:
        what = f"the image {image.name} is for {image.architecture}, this machine is {machine.architecture}"
        raise InputError(what, "--image", "choose another image; --emulate runs it slowly where a command has that")
    options = " ".join(info.get("SecurityOptions") or ())
    if "name=rootless" in options or "name=userns" in options:
        what = "this docker daemon gives containers other user numbers, so nothing a step writes would be yours"
        raise OutsideError(what, where, "use a daemon without rootless mode and userns-remap, or run without it")
    if not has_gpu(image, machine):
        fix = "install nvidia-container-toolkit there, then `nvidia-ctk runtime configure` and restart docker"
        raise OutsideError("this docker daemon has no nvidia runtime, so no GPU is seen in containers", where, fix)


def has_gpu(image: Image, machine: Machine) -> bool:
    """Whether a daemon can give containers the GPU that an image uses, if it uses one."""
    # Since docker 29, GPUs that the toolkit has listed to it (CDI) need no runtime of their own; a Jetson's does.
    return image.gpu == "none" or machine.has_nvidia_runtime or (image.gpu == "devices" and machine.has_nvidia_devices)


def container_word(job: Job, image: Any) -> str:
    """The value of DECKBENCH_CONTAINER: which image a step runs in, for what it writes."""
    attrs = image.attrs
    word = {"name": job.image.name, "identity": identity(attrs), "locked": is_locked(attrs)}
    return json.dumps(word, sort_keys=True)


def contained(job: Job, client: DockerClient, name: str, given: Mapping[str, Any], asked: list[int]) -> int:
    """Create, start and watch a container. Returns the step's exit code; the container is still there."""
    with failures("starting the container", job.image.tag):
        container = client.containers.create(name=name, **given)
        # Before the start: on a container that has ended, attaching never returns.
        frames = container.attach(stream=True, stdout=True, stderr=True, demux=True)
        container.start()
    pump = Pump(frames, translator(places_of(job)))
    pump.start()
    reason = watch(container, pump, job.seconds, asked)
    pump.join(GRACE_S)
    return verdict(job, state_of(container), reason, pump)


def places_of(job: Job) -> dict[str, Path]:
    """Folders in the container that messages may name -> the folders here."""
    # `run` prints whole paths wherever it runs.
    folder = job.output.absolute().parent if job.in_place else job.output.parent
    return {OUT: folder, IN: Path("/"), **{inside: path for inside, path in job.inputs}}


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """Collect Ctrl-C, SIGTERM and SIGHUP in a list instead of ending at once; the third one ends after all.

    Outside the main thread nothing is collected.
    """
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        asked.append(number)
        if len(asked) > 2:
            raise KeyboardInterrupt

    before: dict[signal.Signals, Any] = {}
    with contextlib.suppress(ValueError):  # not the main thread
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                before[number] = signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def watch(container: Any, pump: Pump, seconds: float, asked: list[int]) -> str:
    """Wait until the container has ended, or end it. Returns why it was ended: "", "time", "output" or a signal.

    seconds: the time limit; 0: none. asked: signals that this process got.
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
            if asked:
                reason = signal.Signals(asked[0]).name
            elif now > deadline:
                reason = "time"
            elif isinstance(pump.failed, BrokenPipeError):
                reason = "output"
            if reason:
                pump.hushed = HUSHED
                end(container, "SIGINT" if reason == "SIGINT" else "SIGTERM")
                kill_at = now + GRACE_S
        elif now > kill_at or len(asked) > 1:
            end(container, "SIGKILL")
            kill_at, asked[1:] = float("inf"), []


def end(container: Any, signal_name: str) -> None:
    """Send the step a signal; one that has ended meanwhile is none the worse."""
    import docker.errors

    with contextlib.suppress(docker.errors.APIError), failures("ending the container"):
        container.kill(signal=signal_name)


def state_of(container: Any) -> dict[str, Any]:
    """What the daemon says of a container's state; waits a while for a daemon that is being restarted.

    Raises OutsideError when it does not come back.
    """
    import docker.errors

    def ask() -> dict[str, Any]:
        try:
            state: dict[str, Any] = container.client.api.inspect_container(container.id)["State"]
        except docker.errors.NotFound:
            return {"Running": False, "ExitCode": KILLED, "Gone": True}
        return state

    found: dict[str, Any] = patient(ask, "asking for the container's state")
    return found


def verdict(job: Job, state: Mapping[str, Any], reason: str, pump: Pump) -> int:
    """What the end of a step means: its exit code where that is its own.

    reason: why it was ended from here, if it was. Raises OutsideError for the time limit, a signal, memory, a start
    that failed, a crash, an end from outside, and where nobody reads our output; KeyboardInterrupt for Ctrl-C.
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
    if code not in ENDS:
        what = f"the container was ended from outside (exit code {code}): by hand, or with the docker daemon"
        raise OutsideError(what, where, AGAIN)
    return code
