"""Run a job at the docker daemon behind `ssh://user@host`: inputs go there once, the step runs, its output comes home.

The container there is detached. A link that breaks is waited for; a caller that dies finds its job again by the job's
key, a hash of what is run on what. Nothing is left there but the store of files.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench import artifact, sshlink
from deckbench.containers.identity import identity
from deckbench.daemon import LABEL, connect, failures
from deckbench.errors import DeckBenchError, OutsideError
from deckbench.progress import say, size_text
from deckbench.runners import owner, store
from deckbench.runners.container import (
    AGAIN,
    GRACE_S,
    HUSHED,
    check_daemon,
    container_word,
    places_of,
    signals,
    staging_of,
    verdict,
)
from deckbench.runners.far import Far
from deckbench.runners.job import NUMBER, OUT, OWNER, Job, create_arguments
from deckbench.runners.leftovers import recover
from deckbench.runners.staging import Staging, bring_out, claimed, remove
from deckbench.runners.store import Session
from deckbench.runners.store_fetch import fetch
from deckbench.runners.store_send import send
from deckbench.runners.stream import Pump, translator
from deckbench.runners.tree import Tree, read_trees

if TYPE_CHECKING:
    from docker import DockerClient

LOOK_S = 1.0
FAR_JOB = "far-job"  # the label's value: the clean-up of jobs that run here leaves these alone
OUTPUT_ROOM = 1 << 30  # for what the step writes
INTERPRETER_ROOM = 1 << 30  # memory besides the weights
WEIGHTS = (".safetensors", ".bin", ".pt", ".onnx", ".engine")
UNCOLLECTED_S = 7 * 24 * 3600  # a finished job that nobody came back for is removed after so long
JETSON_FILES = ("/etc/nv_tegra_release", "/var/lib/nvpmodel")  # what `hardware` reads of a Jetson
JETSON_DEVICES = ("/dev/nvmap", "/dev/nvhost-ctrl", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0/ctrl", "/dev/dri/renderD128")


@dataclass(frozen=True)
class Machine:
    """What is known of the far machine; None where it does not say. free: bytes of the disk docker writes to."""

    memory: int | None = None
    available: int | None = None
    free: int | None = None
    files: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()


def run_job_at(job: Job, host: str) -> int:
    """Run a job there and return the step's exit code; what it says is streamed, what it wrote is in its place.

    Raises InputError for what cannot be copied or run there; OutsideError for all that is not the step's own doing: no
    room (nothing is copied then), a link that stays away (the step goes on there; the same command goes on from it),
    memory, time. KeyboardInterrupt on Ctrl-C: the step is ended and what it has comes home.
    """
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
    machine = probe(far.host, info)
    check_memory(job, machine, far.host)
    image = image_at(job, far, machine)
    inputs = read_inputs(job)
    session = Session(far, key_of(job, inputs, identity(image.attrs)), image.id, *(job.program or ())[:1])
    seeds = read_trees(seeds_of(staging, in_place=job.in_place))
    remove_leftovers(session)
    began = found(session)
    if began is None:
        begin(job, session, image, info, machine, inputs, seeds)
    else:
        say(f"this job was started at {far.host} before ({began[:19]}); going on from there")
        store.open_store(session)
    with signals() as asked:
        far.asked = asked
        pump = Pump((), translator(places_of(job)))
        reason, state = follow(job, session, pump, asked, far_seconds(info, began))
        bring_home(job, staging, session, seeds)
        store.close_store(session)
    return verdict(job, state, reason, pump)


# What is there


def probe(host: str, info: Mapping[str, Any]) -> Machine:
    """Disk, memory and a Jetson's own files, asked with one ssh command; what it does not say stays unknown."""
    root = shlex.quote(str(info.get("DockerRootDir") or "/"))
    files, devices = " ".join(JETSON_FILES), " ".join(JETSON_DEVICES)
    words = f"cat /proc/meminfo; df -Pk {root}; ls -d {files} 2>/dev/null; stat -c 'group %g' {devices} 2>/dev/null"
    try:
        said = sshlink.ask(host, f"{{ {words}; }}; true")
    except OutsideError:  # a machine may allow `docker` alone
        said = ""
    memory, available = (
        re.search(rf"^{name}:\s+(\d+) kB", said, re.MULTILINE) for name in ("MemTotal", "MemAvailable")
    )
    disk = re.search(r"^\S+\s+\d+\s+\d+\s+(\d+)\s+\d+%\s", said, re.MULTILINE)
    return Machine(
        int(memory[1]) * 1024 if memory else info.get("MemTotal"),
        int(available[1]) * 1024 if available else None,
        int(disk[1]) * 1024 if disk else None,
        tuple(name for name in JETSON_FILES if re.search(rf"^{re.escape(name)}$", said, re.MULTILINE)),
        tuple(sorted({int(group) for group in re.findall(r"^group (\d+)$", said, re.MULTILINE)} - {0})),
    )


def check_memory(job: Job, machine: Machine, host: str) -> None:
    """Raises OutsideError when the weights among the inputs do not fit into the memory there."""
    sizes = [size for _, path in job.inputs for size in weight_sizes(path)]
    needed, free = sum(sizes) + INTERPRETER_ROOM, machine.available
    if free is not None and sizes and needed > free:
        what = f"too little memory: {size_text(needed)} are needed, {size_text(free)} are available"
        total = "" if machine.memory is None else f" of {size_text(machine.memory)}"
        raise OutsideError(what + total, host, "end other programs there, or take a smaller model")
    if sizes and needed > job.memory * (1 << 30):
        what = f"the step may take {job.memory:g} GiB of memory, its weights alone are {size_text(sum(sizes))}"
        raise OutsideError(what, job.image.name, "give it more: --limits memory=GIB")


def weight_sizes(path: Path) -> list[int]:
    """Bytes of each weight file of an input."""
    files = path.rglob("*") if path.is_dir() else [path]
    return [file.stat().st_size for file in files if file.suffix in WEIGHTS and file.is_file()]


def image_at(job: Job, far: Far, machine: Machine) -> Any:
    """The job's image in the far daemon: the one this machine has, sent if need be; else the far one of that name.

    Raises OutsideError where neither has it, or there is no room for it.
    """
    import docker.errors

    tag = job.image.tag

    def look(client: DockerClient) -> Any:
        with contextlib.suppress(docker.errors.ImageNotFound):
            return client.images.get(tag)
        return None

    def search(client: DockerClient) -> Any:
        return next((image for image in client.images.list() if identity(image.attrs) == wanted), None)

    there = far.do("looking for the image", look)
    here: Any = None
    with contextlib.suppress(DeckBenchError, docker.errors.DockerException), failures("looking for the image here"):
        here = look(connect(timeout=20))
    if here is None:
        if there is None:
            mend = f"build it with `deckbench containers build {job.image.name}`, here or there"
            raise OutsideError(f"neither this machine nor {far.host} has this image", tag, mend)
        return there
    wanted = identity(here.attrs)
    if there is not None and identity(there.attrs) == wanted:
        return there
    if (same := far.do("looking for the image", search)) is not None:
        return same
    size = int(here.attrs["Size"])
    if machine.free is not None and machine.free < 2 * size:  # its archive and its layers
        what = f"too little disk: the image takes {size_text(2 * size)} on arrival, {size_text(machine.free)} are free"
        raise OutsideError(what, far.host, "free some there (`docker system df`), then run again")
    say(f"sending the image {tag} ({size_text(size)}) to {far.host}")
    far.do("sending the image", lambda client: client.images.load(here.save(named=tag)))
    sent = far.do("looking for the image", search)
    if sent is None:
        raise OutsideError("the image that arrived is not the one that was sent", far.host, "run again")
    return sent


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
            "output": [str(job.output.absolute()), job.inside],
            "caller": owner.here()[0],
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


def far_seconds(info: Mapping[str, Any], began: str | None) -> float:
    """How long a job that was found has been running, by the clock there."""
    if began is None or not info.get("SystemTime"):
        return 0.0
    return max(0.0, seconds_of(str(info["SystemTime"])) - seconds_of(began))


def seconds_of(stamp: str) -> int:
    """Whole seconds since 1970 of a time as docker writes it, such as 2026-01-31T12:00:00.123456789Z."""
    zone = re.search(r"([+-]\d\d):?(\d\d)$", stamp)
    shift = (60 * int(zone[1]) + int(zone[1][0] + zone[2])) * 60 if zone else 0
    return int(datetime.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc).timestamp()) - shift


# There and back


def begin(
    job: Job, session: Session, image: Any, info: Mapping[str, Any], machine: Machine, inputs: Tree, seeds: Tree
) -> None:
    """Copy, create, start. Where that fails, what was made for the job is removed; what was copied stays."""
    host = session.far.host

    def room(needed: int, free: int) -> None:
        if needed + OUTPUT_ROOM > free:
            what = (
                f"too little disk: {size_text(needed)} are to be copied and {size_text(OUTPUT_ROOM)} are for the output"
            )
            what += f", {size_text(free)} are free where docker keeps its data ({info.get('DockerRootDir')})"
            raise OutsideError(what, host, "free some there (`deckbench containers prune`, docker), then run again")

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
    if job.image.gpu == "jetson":
        mounts += [Mount(path, path, type="bind", read_only=True) for path in machine.files]
    labels = {LABEL: FAR_JOB, **session.labels}
    word = container_word(job, image)
    given = create_arguments(job, image=image.id, mounts=mounts, labels=labels, container=word, who=store.WHO)
    given["log_config"] = LogConfig(type="json-file", config={})  # read again and again, from where we stopped
    if job.image.gpu == "jetson":
        given["group_add"] = [str(group) for group in machine.groups]
    with contextlib.suppress(docker.errors.NotFound):
        if client.api.inspect_container(name)["State"]["Status"] != "created":
            return
        store.remove_container(client, name)
    client.containers.create(name=name, **given).start()


@dataclass
class Cursor:
    """How far one of the two streams was read. since: whole seconds; stamps: of the lines from then on, in order."""

    since: int = 0
    stamps: list[str] = field(default_factory=list)

    def advance(self) -> None:
        """Ask for less next time. What was read within the last second is asked for again, and left out."""
        if self.stamps:
            self.since = max(self.since, seconds_of(self.stamps[-1]) - 1)
            self.stamps = [stamp for stamp in self.stamps if seconds_of(stamp) >= self.since]


def lines(client: DockerClient, name: str, cursor: Cursor, *, stdout: bool) -> Iterator[bytes]:
    """What a container has said since `cursor`, which moves with every line taken: none is lost, none comes twice."""
    frames = client.api.logs(
        name,
        stdout=stdout,
        stderr=not stdout,
        stream=True,
        follow=False,
        timestamps=True,
        since=cursor.since or None,
    )
    for number, frame in enumerate(frames):
        if number < len(cursor.stamps):
            continue
        stamp, _, text = frame.partition(b" ")
        cursor.stamps.append(stamp.decode("ascii", "replace"))
        yield text
    cursor.advance()


def follow(job: Job, session: Session, pump: Pump, asked: list[int], before_s: float) -> tuple[str, Mapping[str, Any]]:
    """Show what the step says until it has ended, or end it. Returns why it was ended (see `verdict`), and its state.

    before_s: how long it has been running already. Raises OutsideError when the link stays away, or this terminal goes:
    then the step goes on there.
    """
    import docker.errors

    name, far = session.named("job"), session.far
    deadline = time.monotonic() + job.seconds - before_s if job.seconds else float("inf")
    cursors = (Cursor(), Cursor())
    reason, kill_at = "", float("inf")

    def state(client: DockerClient) -> dict[str, Any]:
        try:
            return dict(client.api.inspect_container(name)["State"])
        except docker.errors.NotFound:
            return {"Running": False, "Gone": True}

    said: list[tuple[int, bytes]] = []

    def listen(client: DockerClient) -> None:
        for number, cursor in enumerate(cursors):
            said.extend((number, text) for text in lines(client, name, cursor, stdout=number == 0))

    def signal_it(word: str) -> None:
        def kill(client: DockerClient) -> None:
            with contextlib.suppress(docker.errors.APIError):  # it has ended meanwhile
                client.api.kill(name, word)

        far.do("ending the step", kill)

    while True:
        now = far.do("following the step", state)
        if "Gone" not in now:
            try:
                far.do("following the step", listen)
            finally:
                show(pump, said)
        if not now["Running"]:
            for number, rest in enumerate(pump.rests):
                pump.write(number, rest)
            return reason, now
        clock = time.monotonic()
        if not reason and asked and asked[0] == signal.SIGHUP:
            raise OutsideError("this terminal was closed; the step goes on there", far.host, AGAIN)
        if not reason:
            reason = reason_to_end(asked, clock > deadline, pump)
            if reason:
                pump.hushed = HUSHED
                signal_it("SIGINT" if reason == "SIGINT" else "SIGTERM")
                kill_at = clock + GRACE_S
        elif clock > kill_at or len(asked) > 1:
            signal_it("SIGKILL")
            kill_at = float("inf")
        time.sleep(LOOK_S)


def show(pump: Pump, said: list[tuple[int, bytes]]) -> None:
    """Write what a step said; where nobody reads it any more, `pump.failed` says so."""
    try:
        for number, text in said:
            pump.take(number, text)
    except BrokenPipeError as error:
        pump.failed = error
    said.clear()


def reason_to_end(asked: list[int], late: bool, pump: Pump) -> str:
    """Why a step is to be ended now; empty: it is not."""
    if asked:
        return signal.Signals(asked[0]).name
    if late:
        return "time"
    return "output" if isinstance(pump.failed, BrokenPipeError) else ""


def bring_home(job: Job, staging: Staging, session: Session, seeds: Tree) -> None:
    """Fetch what the step wrote, then put it into its place: all of it, or nothing yet."""
    home = staging.folder / ".home"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        mend = "mend the rights or the disk, then run again to go on"
        raise OutsideError(f"cannot make the folder: {error.strerror}", home, mend) from error
    also = [name for name, _ in staging.more]
    fetch(session, home, seeds.files, also)
    if job.in_place:
        merge_home(home / job.output.name, job.output, seeds, job.output.name)
        remove(home)
        return
    for name in staging.unfinished:
        if (local := staging.output.with_name(name)).exists():
            local.rename(staging.folder / f".old-{name}")  # goes with the drafts: what came home is newer
    for path in sorted(home.iterdir()):
        if path.name == staging.output.name and path.is_dir() and unchanged(path, path.name, seeds):
            remove(path)
            continue
        path.replace(staging.folder / path.name)
    bring_out(staging)


def unchanged(folder: Path, name: str, seeds: Tree) -> bool:
    """Whether a folder that came home is the one that was there."""
    before = {path: seed.sha256 for path, seed in seeds.files.items() if path.startswith(f"{name}/")}
    after = {f"{name}/{path}": entry["sha256"] for path, entry in artifact.list_files(folder).items()}
    for path in folder.rglob(artifact.MANIFEST):
        after[f"{name}/{path.relative_to(folder).as_posix()}"] = artifact.hash_file(path)
    return bool(before) and before == after


def merge_home(source: Path, target: Path, seeds: Tree, name: str) -> None:
    """Make a folder that a step goes on with as it is there: file by file, manifests last; what went there, goes."""
    paths = sorted(source.rglob("*"))
    present = {path.relative_to(source).as_posix() for path in paths}
    for path in paths:
        if path.is_dir():
            (target / path.relative_to(source)).mkdir(parents=True, exist_ok=True)
    files = [path for path in paths if path.is_file()]
    for path in sorted(files, key=lambda path: path.name == artifact.MANIFEST):
        inside = path.relative_to(source).as_posix()
        seed = seeds.files.get(f"{name}/{inside}")
        if seed is None or seed.sha256 != artifact.hash_file(path):
            path.replace(target / inside)
    before = {path.partition("/")[2] for path in (*seeds.files, *seeds.folders)} - {""}
    for inside in sorted(before - present, reverse=True):  # the innermost first
        with contextlib.suppress(OSError):
            (target / inside).rmdir() if (target / inside).is_dir() else (target / inside).unlink(missing_ok=True)


# What was left behind


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
        if labels.get(NUMBER) not in busy | {keep} and store.remove_volume(client, volume["Name"]):
            removed.append(volume["Name"])
    return removed
