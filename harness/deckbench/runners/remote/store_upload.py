"""Files to the far store: only what it does not hold, in pieces, each checked on arrival."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench.errors import InputError
from deckbench.progress import Progress, format_bytes, say
from deckbench.runners.remote.file_tree import Source, Tree
from deckbench.runners.remote.store import CHUNK, ROUNDS, STORE, Session, help_out, member, padding, understood

if TYPE_CHECKING:
    from docker import DockerClient

READ = 1 << 18


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
        with understood(session, doing):
            missing = [(sources[sha], int(number)) for sha, numbers in answer["missing"].items() for number in numbers]
            free = int(answer["free"])
            if any(length(found, number) < 0 or number < 0 for found, number in missing):
                raise ValueError("no such piece")
        for sha in answer["missing"]:
            tries[sha] += 1
            if tries[sha] > ROUNDS:
                what = "the file changes while it is being copied, or arrives broken every time"
                raise InputError(what, sources[sha].path, "see whether something writes to it, then run again")
        total = sum(length(found, number) for found, number in missing)
        if not sent:
            room(total, free)
        if not missing:
            return sent
        if total >= 1e6:
            say(f"copying {format_bytes(total)} to {session.far.host}")
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
        raise InputError(f"cannot read the file: {error.strerror}", path, "fix it, then run again") from None
