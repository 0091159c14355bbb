"""The content-addressed store in a volume of the remote daemon: files are copied by sha256, in pieces, once.

`store_helper.py` does the work there, in a container without network that only sees the store and the job's output.
Bytes and requests are copied through the daemon's own archive calls on that container: inputs by `store_upload.py`, the
output by `store_download.py`.
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
from deckbench.runners.remote.connection import RemoteDaemon

if TYPE_CHECKING:
    from docker import DockerClient

VOLUME = f"{LABEL}-store"
STORE = store_helper.STORE
CHUNK = 64 << 20  # bytes that are sent again at most after a lost connection
ROUNDS = 4  # attempts for a piece that arrives damaged, and starts of a helper that ends
STORE_USER = (NOBODY, NOBODY)  # owns the store, and runs the steps there


@dataclass(frozen=True)
class Session:
    """One job's use of a store. key: the job's. image: id of the image in the daemon, whose Python runs the helper."""

    daemon: RemoteDaemon
    key: str
    image: str
    python: str = "python3"

    def named(self, what: str) -> str:
        """The name of this job's `job` or `helper` container, or `out` volume."""
        return f"{LABEL}-{what}-{self.key[:16]}"

    @property
    def labels(self) -> dict[str, str]:
        return {NUMBER: self.key, OWNER: process_identity.own_identity()}


# Its volumes, and the helper's container


def volume(place: str, name: str) -> Any:
    """A mounted volume. What an image has at that path is not copied into it, nor its owner."""
    from docker.types import Mount

    return Mount(place, name, type="volume", no_copy=True)


def open_store(session: Session) -> None:
    """Create the volumes and start the helper's container where they do not exist yet."""
    from docker.types import LogConfig

    source = Path(store_helper.__file__).read_text(encoding="utf-8")
    given = {
        "image": session.image,
        "name": session.named("helper"),
        "entrypoint": [session.python, "-I", "-c", source],
        "command": [session.key],
        "user": f"{STORE_USER[0]}:{STORE_USER[1]}",
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
        # Its root is not read-only: else the volumes' own folders could not be given to STORE_USER. Nor writable to it.
        client.containers.create(**given)
        folders = [STORE[1:], *(f"{STORE[1:]}/{name}" for name in ("blobs", "pieces", "jobs", "asks")), OUT[1:]]
        client.api.put_archive(session.named("helper"), "/", folders_tar(folders))
        client.api.start(session.named("helper"))

    session.daemon.do("opening the store", make)


# Tar, the format of the daemon's archive calls


def member(name: str, size: int, *, folder: bool = False) -> tarfile.TarInfo:
    """A tar entry that belongs to STORE_USER."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = size, int(time.time())
    entry.mode, entry.type = (0o755, tarfile.DIRTYPE) if folder else (0o600, tarfile.REGTYPE)
    entry.uid, entry.gid = STORE_USER
    return entry


def folders_tar(names: Iterable[str]) -> bytes:
    """A tar of empty folders."""
    return b"".join(member(name, 0, folder=True).tobuf() for name in names) + bytes(2 * tarfile.BLOCKSIZE)


def padding(size: int) -> bytes:
    """The zeros that fill a tar entry up to whole blocks."""
    return bytes(-size % tarfile.BLOCKSIZE)


def read_remote_file(client: DockerClient, container: str, path: str) -> Iterator[bytes]:
    """The bytes of one file in a remote container."""
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


# Requests to the helper


def ask_helper(session: Session, verb: str, request: Mapping[str, Any], doing: str) -> dict[str, Any]:
    """Have the helper run a request; its answer. Raises OutsideError when it fails (its disk is full, ...).

    A connection that is lost meanwhile does not stop the helper.
    """
    name = f"{session.key}.{secrets.token_hex(4)}"
    data = json.dumps({"do": verb, "job": session.key, **request}).encode()
    parts = [member(f"{name}.json", len(data)).tobuf(), data, padding(len(data)), member(f"{name}.go", 0).tobuf()]
    message = b"".join(parts) + bytes(2 * tarfile.BLOCKSIZE)

    def put_request(client: DockerClient) -> None:
        client.api.put_archive(session.named("helper"), f"{STORE}/asks", message)

    session.daemon.do(doing, put_request)
    answer = session.daemon.do(doing, partial(wait_for_answer, session, f"{STORE}/asks/{name}.answer", doing))
    if "error" in answer:
        error = str(answer["error"])
        full = NO_SPACE.search(error) is not None
        fix = "free disk space there, then rerun" if full else "rerun the same command to resume"
        raise OutsideError(f"{doing}: {error[:300]}", session.daemon.host, fix)
    return answer


@contextlib.contextmanager
def checked_answer(session: Session, doing: str) -> Iterator[None]:
    """Guard the parsing of a helper's answer: it is another machine's. Raises OutsideError for one of another form."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        what = f"{doing}: the answer of the remote helper cannot be read"
        raise OutsideError(what, session.daemon.host, "check the image there, then rerun") from error


def wait_for_answer(session: Session, path: str, doing: str, client: DockerClient) -> dict[str, Any]:
    """Poll for the answer. A helper that is not running is started."""
    import docker.errors

    helper = session.named("helper")
    began = last = time.monotonic()
    starts = 0
    while True:
        try:
            text = b"".join(read_remote_file(client, helper, path))
        except docker.errors.NotFound:
            pass
        else:
            with checked_answer(session, doing):
                return dict(json.loads(text))
        state = client.api.inspect_container(helper)["State"]
        if not state["Running"]:
            if starts == ROUNDS:
                output = client.api.logs(helper, tail=5).decode(errors="replace").strip().splitlines()
                what = f"{doing}: the helper ends (exit code {state['ExitCode']}): {output[-1][:300] if output else ''}"
                raise OutsideError(what, session.daemon.host, "check the image there, then rerun")
            client.api.start(helper)
            starts += 1
        now = time.monotonic()
        if now - last >= PLAIN_EVERY_S:
            say(f"{doing}: {now - began:.0f} s")
            last = now
        time.sleep(min(1.0, 0.02 + (now - began) / 10))


# Cleanup


def close_store(session: Session) -> None:
    """Remove everything of this job; the store's files stay."""
    ask_helper(session, "forget", {}, "cleaning up")

    def clean(client: DockerClient) -> None:
        for what in ("job", "helper"):
            remove_container(client, session.named(what))
        remove_volume(client, session.named("out"))

    session.daemon.do("cleaning up", clean)


def remove_container(client: DockerClient, name: str) -> None:
    """Remove a container by name, if it exists."""
    import docker.errors

    with contextlib.suppress(docker.errors.NotFound):
        client.api.remove_container(name, force=True, v=True)


def remove_volume(client: DockerClient, name: str) -> bool:
    """Remove a volume; False when it is in use. One that does not exist counts as removed."""
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
