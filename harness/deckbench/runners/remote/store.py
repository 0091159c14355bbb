"""The content-addressed store in a volume of the far daemon: files travel by sha256, in pieces, once.

What the far side has to do is done by `store_helper.py`, in a container without network that only sees the store and
the job's output. Bytes and questions go there, and come back, through the daemon's own archive calls on that container:
inputs by `store_send.py`, the output by `store_fetch.py`.
"""

from __future__ import annotations

import contextlib
import io
import json
import secrets
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench.errors import OutsideError
from deckbench.machine import process_identity
from deckbench.machine.daemon import LABEL, NO_SPACE, REMOTE_STORE
from deckbench.progress import PLAIN_EVERY_S, say
from deckbench.runners.job import NOBODY, NUMBER, OUT, OWNER
from deckbench.runners.remote import store_helper
from deckbench.runners.remote.connection import Far

if TYPE_CHECKING:
    from docker import DockerClient

VOLUME = f"{LABEL}-store"
STORE = store_helper.STORE
CHUNK = 64 << 20  # what is sent again at most when a link breaks
ROUNDS = 4  # a piece that arrives broken so often is no accident
WHO = (NOBODY, NOBODY)  # owns the store, and runs the steps there


@dataclass(frozen=True)
class Session:
    """One job's use of a store. key: the job's. image: id of the image in the far daemon, whose Python helps."""

    far: Far
    key: str
    image: str
    python: str = "python3"

    def named(self, what: str) -> str:
        """The name of this job's `job` or `helper` container, or `out` volume."""
        return f"{LABEL}-{what}-{self.key[:16]}"

    @property
    def labels(self) -> dict[str, str]:
        return {NUMBER: self.key, OWNER: process_identity.own_identity()}


# Its volumes, and the container that helps


def volume(place: str, name: str) -> Any:
    """A mounted volume. What an image has at that place does not count, nor to whom it belongs there."""
    from docker.types import Mount

    return Mount(place, name, type="volume", no_copy=True)


def open_store(session: Session) -> None:
    """Make the volumes, and the container that helps, where they are not there yet."""
    from docker.types import LogConfig

    source = Path(store_helper.__file__).read_text(encoding="utf-8")
    given = {
        "image": session.image,
        "name": session.named("helper"),
        "entrypoint": [session.python, "-I", "-c", source],
        "command": [session.key],
        "user": f"{WHO[0]}:{WHO[1]}",
        "network_mode": "none",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "init": True,
        "mem_limit": 1 << 30,
        "pids_limit": 64,
        "log_config": LogConfig(type="json-file", config={}),
        "mounts": [volume(STORE, VOLUME), volume(OUT, session.named("out"))],
        "labels": {LABEL: REMOTE_STORE, **session.labels},
    }

    def make(client: DockerClient) -> None:
        client.volumes.create(VOLUME, labels={LABEL: REMOTE_STORE})
        client.volumes.create(session.named("out"), labels={LABEL: "out", **session.labels})
        remove_container(client, session.named("helper"))
        # Its root is not read-only (WHO cannot write there): else the volumes' own folders could not be given to WHO.
        client.containers.create(**given)
        folders = [STORE[1:], *(f"{STORE[1:]}/{name}" for name in ("blobs", "pieces", "jobs", "asks")), OUT[1:]]
        client.api.put_archive(session.named("helper"), "/", folders_tar(folders))
        client.api.start(session.named("helper"))

    session.far.do("opening the store", make)


# Tar, as the daemon's archive calls take and give it


def member(name: str, size: int, *, folder: bool = False) -> tarfile.TarInfo:
    """A tar entry that belongs to WHO."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = size, int(time.time())
    entry.mode, entry.type = (0o755, tarfile.DIRTYPE) if folder else (0o600, tarfile.REGTYPE)
    entry.uid, entry.gid = WHO
    return entry


def folders_tar(names: Iterable[str]) -> bytes:
    """A tar of empty folders."""
    return b"".join(member(name, 0, folder=True).tobuf() for name in names) + bytes(2 * tarfile.BLOCKSIZE)


def padding(size: int) -> bytes:
    """What fills a tar entry up to whole blocks."""
    return bytes(-size % tarfile.BLOCKSIZE)


def read_far_file(client: DockerClient, container: str, path: str) -> Iterator[bytes]:
    """The bytes of one far file."""
    stream, _ = client.api.get_archive(container, path, chunk_size=1 << 20)
    with tarfile.open(fileobj=Reader(stream), mode="r|") as tar:
        for entry in tar:
            file = tar.extractfile(entry)
            while file is not None and (block := file.read(1 << 20)):
                yield block


class Reader(io.RawIOBase):
    """A file to read from an iterator of bytes."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self.blocks, self.rest = iter(blocks), b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self.rest:
            try:
                self.rest = next(self.blocks)
            except StopIteration:
                return 0
        count = min(len(target), len(self.rest))
        target[:count] = self.rest[:count]
        self.rest = self.rest[count:]
        return count


# Questions to the helper


def help_out(session: Session, verb: str, ask: Mapping[str, Any], doing: str) -> dict[str, Any]:
    """Let the helper do something there; its answer. Raises OutsideError when it cannot (its disk is full, ...).

    A link that breaks meanwhile does not break off what it does.
    """
    name = f"{session.key}.{secrets.token_hex(4)}"
    data = json.dumps({"do": verb, "job": session.key, **ask}).encode()
    parts = [member(f"{name}.json", len(data)).tobuf(), data, padding(len(data)), member(f"{name}.go", 0).tobuf()]
    question = b"".join(parts) + bytes(2 * tarfile.BLOCKSIZE)

    def put_question(client: DockerClient) -> None:
        client.api.put_archive(session.named("helper"), f"{STORE}/asks", question)

    session.far.do(doing, put_question)
    answer = session.far.do(doing, partial(wait, session, f"{STORE}/asks/{name}.answer", doing))
    if "error" in answer:
        said = str(answer["error"])
        full = NO_SPACE.search(said) is not None
        fix = "free some disk space there, then run again" if full else "run the same command again to go on"
        raise OutsideError(f"{doing}: {said[:300]}", session.far.host, fix)
    return answer


@contextlib.contextmanager
def understood(session: Session, doing: str) -> Iterator[None]:
    """Reads an answer of the helper. Raises OutsideError for one that is not what it must be: what answers is another
    machine's image."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        what = f"{doing}: the answer of the helper there cannot be read"
        raise OutsideError(what, session.far.host, "see whether the image there is sound, then run again") from error


def wait(session: Session, path: str, doing: str, client: DockerClient) -> dict[str, Any]:
    """Ask until the answer is there. A helper that is not running is started."""
    import docker.errors

    helper = session.named("helper")
    began = last = time.monotonic()
    starts = 0
    while True:
        try:
            text = b"".join(read_far_file(client, helper, path))
        except docker.errors.NotFound:
            pass
        else:
            with understood(session, doing):
                return dict(json.loads(text))
        state = client.api.inspect_container(helper)["State"]
        if not state["Running"]:
            if starts == ROUNDS:
                said = client.api.logs(helper, tail=5).decode(errors="replace").strip().splitlines()
                what = f"{doing}: the helper ends (exit code {state['ExitCode']}): {said[-1][:300] if said else ''}"
                raise OutsideError(what, session.far.host, "see whether the image there is sound, then run again")
            client.api.start(helper)
            starts += 1
        now = time.monotonic()
        if now - last >= PLAIN_EVERY_S:
            say(f"{doing}: {now - began:.0f} s")
            last = now
        time.sleep(min(1.0, 0.02 + (now - began) / 10))


# The end


def close_store(session: Session) -> None:
    """Remove all that was made for this job; the store's files stay."""
    help_out(session, "forget", {}, "cleaning up")

    def clean(client: DockerClient) -> None:
        for what in ("job", "helper"):
            remove_container(client, session.named(what))
        remove_volume(client, session.named("out"))

    session.far.do("cleaning up", clean)


def remove_container(client: DockerClient, name: str) -> None:
    """Remove a container by name, if it is there."""
    import docker.errors

    with contextlib.suppress(docker.errors.NotFound):
        client.api.remove_container(name, force=True, v=True)


def remove_volume(client: DockerClient, name: str) -> bool:
    """Remove a volume; False when it is in use. One that is not there is as good as removed."""
    import docker.errors

    try:
        client.api.remove_volume(name)
    except docker.errors.NotFound:
        return True
    except docker.errors.APIError as error:
        if error.status_code != 409:
            raise
        return False
    return True


def remove_store(client: DockerClient) -> bool:
    """Remove the store of a daemon (`containers prune --store`). False while a job uses it."""
    return remove_volume(client, VOLUME)
