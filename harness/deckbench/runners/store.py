"""The content-addressed store in a volume of the far daemon: files travel by sha256, in pieces, once.

What the far side has to do is done by `store_helper.py`, in a container without network that only sees the store and
the job's output. Bytes and questions go there, and come back, through the daemon's own archive calls on that container.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import secrets
import shutil
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench import artifact
from deckbench.daemon import LABEL, NO_SPACE
from deckbench.errors import InputError, OutsideError
from deckbench.progress import PLAIN_EVERY_S, Progress, say, size_text
from deckbench.runners import owner, store_helper
from deckbench.runners.far import Far
from deckbench.runners.job import NOBODY, NUMBER, OUT, OWNER
from deckbench.runners.tree import Source, Tree

if TYPE_CHECKING:
    from docker import DockerClient

VOLUME = f"{LABEL}-store"
STORE = store_helper.STORE
CHUNK = 64 << 20  # what is sent again at most when a link breaks
READ = 1 << 18
PULLS = 8  # pieces that the helper lays ready at once
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
        return {NUMBER: self.key, OWNER: owner.mine()}


# The far side


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
        "labels": {LABEL: "store", **session.labels},
    }

    def make(client: DockerClient) -> None:
        client.volumes.create(VOLUME, labels={LABEL: "store"})
        client.volumes.create(session.named("out"), labels={LABEL: "out", **session.labels})
        remove_container(client, session.named("helper"))
        # Its root is not read-only (WHO cannot write there): else the volumes' own folders could not be given to WHO.
        client.containers.create(**given)
        folders = [STORE[1:], *(f"{STORE[1:]}/{name}" for name in ("blobs", "pieces", "jobs", "asks")), OUT[1:]]
        client.api.put_archive(session.named("helper"), "/", folders_tar(folders))
        client.api.start(session.named("helper"))

    session.far.do("opening the store", make)


def remove_container(client: DockerClient, name: str) -> None:
    """Remove a container by name, if it is there."""
    import docker.errors

    with contextlib.suppress(docker.errors.NotFound):
        client.api.remove_container(name, force=True, v=True)


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
        full = NO_SPACE.search(answer["error"]) is not None
        mend = "free some disk space there, then run again" if full else "run the same command again to go on"
        raise OutsideError(f"{doing}: {answer['error'][:300]}", session.far.host, mend)
    return answer


def wait(session: Session, path: str, doing: str, client: DockerClient) -> dict[str, Any]:
    """Ask until the answer is there. A helper that is not running is started."""
    import docker.errors

    helper = session.named("helper")
    began = last = time.monotonic()
    starts = 0
    while True:
        try:
            found: dict[str, Any] = json.loads(b"".join(read_far_file(client, helper, path)))
            return found
        except docker.errors.NotFound:
            pass
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


# To the far side


def send(session: Session, inputs: Tree, seeds: Tree, make: Sequence[str], room: Callable[[int, int], None]) -> int:
    """Bring the inputs to `STORE/jobs/KEY/in`, the seeds and the folders `make` to /out. Returns the bytes that travel:
    only what the store does not hold.

    room: called once with (bytes to send, bytes free there) before anything is copied; may raise. Raises OutsideError
    when the link stays away or the disk there is full, InputError for a file that changes while it is copied.
    """
    trees = {"in": inputs, "out": seeds}
    sources = {found.sha256: found for tree in trees.values() for found in tree.files.values()}
    sums: dict[str, dict[str, str]] = {}
    question = {
        "files": {sha: found.size for sha, found in sources.items()},
        "chunk": CHUNK,
        "trees": {root: {**tree.content(), "folders": tree.folders} for root, tree in trees.items()},
        "make": list(make),
    }
    sent, tries, progress = 0, dict.fromkeys(sources, 0), Progress()
    while True:
        doing = "comparing with the store" if not sent else "checking what was copied"
        answer = help_out(session, "place", {**question, "hashes": sums}, doing)
        missing = [(sources[sha], number) for sha, numbers in answer["missing"].items() for number in numbers]
        for sha in answer["missing"]:
            tries[sha] += 1
            if tries[sha] > ROUNDS:
                what = "the file changes while it is being copied, or arrives broken every time"
                raise InputError(what, sources[sha].path, "see whether something writes to it, then run again")
        total = sum(length(found, number) for found, number in missing)
        if not sent:
            room(total, answer["free"])
        if not missing:
            return sent
        if total >= 1e6:
            say(f"copying {size_text(total)} to {session.far.host}")
        for batch in batches(missing):
            session.far.do("copying to the far machine", partial(put, session, batch, sums))
            done = sum(length(found, number) for found, number in batch)
            sent += done
            progress.say(sent, sent + (total := total - done))


def length(found: Source, number: int) -> int:
    """Bytes of a file's piece."""
    return min(CHUNK, found.size - number * CHUNK)


def batches(pieces: Iterable[tuple[Source, int]]) -> Iterator[list[tuple[Source, int]]]:
    """Pieces in groups that travel together, of CHUNK bytes at most (a tar entry of a small file takes 1 kB more)."""
    group: list[tuple[Source, int]] = []
    size = 0
    for found, number in pieces:
        more = length(found, number) + 1024
        if group and size + more > CHUNK:
            yield group
            group, size = [], 0
        group.append((found, number))
        size += more
    if group:
        yield group


def put(
    session: Session, batch: list[tuple[Source, int]], sums: dict[str, dict[str, str]], client: DockerClient
) -> None:
    """Send pieces; notes the hash of each in `sums`. A try that broke may still be writing there: each has a folder."""

    folder = f"{session.key}.{secrets.token_hex(4)}"

    def tar() -> Iterator[bytes]:
        yield member(folder, 0, folder=True).tobuf()
        for found, number in batch:
            left = length(found, number)
            yield member(f"{folder}/{found.sha256}.{number}", left).tobuf()
            filling, digest = padding(left), hashlib.sha256()
            with opened(found.path) as file:
                file.seek(number * CHUNK)
                while left:
                    block = file.read(min(READ, left))
                    if not block:
                        what = "the file became shorter while it was copied"
                        raise InputError(what, found.path, "see what writes to it, then run again")
                    left -= len(block)
                    digest.update(block)
                    yield block
            yield filling
            sums.setdefault(found.sha256, {})[str(number)] = digest.hexdigest()
        yield bytes(2 * tarfile.BLOCKSIZE)

    client.api.put_archive(session.named("helper"), f"{STORE}/pieces", tar())


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A file to read. Raises InputError when it cannot be."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        if isinstance(error, ConnectionError | TimeoutError):
            raise  # thrown into us by whoever sends
        raise InputError(f"cannot read the file: {error.strerror}", path, "mend it, then run again") from None


# From the far side


def fetch(session: Session, into: Path, known: Mapping[str, Source], also: Sequence[str] = ()) -> int:
    """Bring what lies in the job's /out to the folder `into`, every file checked; goes on where it was broken off.

    known: files of this machine by their path in /out; where the far one is the same, it is copied here. also: names
    that begin with a dot and are no drafts. Returns the bytes that travelled. Raises OutsideError for the link and the
    disk here.
    """
    found = help_out(session, "list", {"also": list(also)}, "listing the output")
    files: dict[str, tuple[str, int]] = {path: (entry[0], entry[1]) for path, entry in found["files"].items()}
    try:
        for folder in found["folders"]:
            artifact.inside(into, folder, session.far.host).mkdir(parents=True, exist_ok=True)
        drop_others(into, {*files, *found["folders"]})
        return fetch_files(session, into, files, known)
    except OSError as error:
        mend = "free some disk space, then run again to go on"
        raise OutsideError(f"cannot write the output: {error.strerror}", into, mend) from error


def drop_others(folder: Path, wanted: set[str]) -> None:
    """Remove what an earlier, broken fetch brought and is no longer there."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.relative_to(folder).as_posix() not in wanted:
            path.rmdir() if path.is_dir() else path.unlink()


def fetch_files(session: Session, into: Path, files: Mapping[str, tuple[str, int]], known: Mapping[str, Source]) -> int:
    """Make `files` (path -> sha256, bytes) stand in `into`. Returns the bytes that travelled."""
    travelled, broken, progress = 0, 0, Progress()
    while wanted := [path for path, (sha, size) in files.items() if not has(into / path, sha, size)]:
        if broken == ROUNDS:
            mend = "see whether its disk is sound, then run again"
            raise OutsideError("a file arrives broken every time", f"{session.far.host}: {wanted[0]}", mend)
        for path in list(wanted):
            target = artifact.inside(into, path, session.far.host)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path in known and known[path].sha256 == files[path][0] and not broken:
                shutil.copyfile(known[path].path, target)
                wanted.remove(path)
            elif broken or not target.exists() or target.stat().st_size >= files[path][1]:
                target.write_bytes(b"")  # what is shorter is taken for its beginning
        broken += 1
        total = sum(files[path][1] for path in wanted)
        if total >= 1e6:
            say(f"fetching {size_text(total)} from {session.far.host}")
        pieces = [piece for path in wanted for piece in rest(path, into / path, files[path][1])]
        groups = list(packed(pieces))
        for start in range(0, len(groups), PULLS):
            some = groups[start : start + PULLS]
            help_out(session, "pull", {"batches": some}, "laying the output ready")
            for number, batch in enumerate(some):
                session.far.do("fetching the output", partial(get, session, number, batch, into))
                travelled += sum(piece[2] for piece in batch)
                progress.say(travelled, total)
        for path in wanted:
            artifact.fsync_path(into / path)
    return travelled


def has(target: Path, sha: str, size: int) -> bool:
    """Whether a file is there already."""
    return target.is_file() and target.stat().st_size == size and artifact.hash_file(target) == sha


def rest(path: str, target: Path, size: int) -> Iterator[tuple[str, int, int]]:
    """(path, offset, length) of the pieces of a file that are not here yet."""
    offset = target.stat().st_size if target.exists() else 0
    while offset < size:
        count = min(CHUNK, size - offset)
        yield path, offset, count
        offset += count


def packed(pieces: Iterable[tuple[str, int, int]]) -> Iterator[list[tuple[str, int, int]]]:
    """Pieces in groups of CHUNK bytes at most."""
    group: list[tuple[str, int, int]] = []
    for piece in pieces:
        if group and sum(one[2] for one in group) + piece[2] > CHUNK:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def get(session: Session, number: int, batch: list[tuple[str, int, int]], into: Path, client: DockerClient) -> None:
    """Write the pieces of one batch to their places."""
    name = f"{STORE}/asks/{session.key}.{number}"
    stream = io.BufferedReader(Reader(read_far_file(client, session.named("helper"), name)))
    for path, offset, count in batch:
        with (into / path).open("r+b") as file:
            file.seek(offset)
            left = count
            while left:
                block = stream.read(min(1 << 20, left))
                if not block:
                    raise ConnectionError("the stream ended early")
                file.write(block)
                left -= len(block)


# The end


def close_store(session: Session) -> None:
    """Remove all that was made for this job; the store's files stay."""
    help_out(session, "forget", {}, "cleaning up")

    def clean(client: DockerClient) -> None:
        for what in ("job", "helper"):
            remove_container(client, session.named(what))
        remove_volume(client, session.named("out"))

    session.far.do("cleaning up", clean)


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
