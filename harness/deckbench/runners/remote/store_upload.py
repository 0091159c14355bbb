"""Upload files to the remote store: only what it does not hold, in pieces, each checked on arrival."""

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
from deckbench.runners.remote.store import CHUNK, ROUNDS, STORE, Session, ask_helper, checked_answer, member, padding

if TYPE_CHECKING:
    from docker import DockerClient

READ = 1 << 18


def upload(
    session: Session, inputs: Tree, seeds: Tree, make: Sequence[str], check_disk: Callable[[int, int], None]
) -> int:
    """Upload the inputs to `STORE/jobs/KEY/in`, the seeds and the folders `make` to /out.

    check_disk: called once with (bytes to send, bytes free there) before anything is sent; may raise. Returns the
    number of bytes sent: only what the store does not hold. Raises OutsideError when the connection stays lost or the
    disk there is full, InputError for a file that changes while it is copied.
    """
    trees = {"in": inputs, "out": seeds}
    sources = {found.sha256: found for tree in trees.values() for found in tree.files.values()}
    sums: dict[str, dict[str, str]] = {}
    request = {
        "files": {sha: found.size for sha, found in sources.items()},
        "chunk": CHUNK,
        "trees": {root: {**tree.content(), "folders": tree.folders} for root, tree in trees.items()},
        "make": list(make),
    }
    sent, tries, progress = 0, dict.fromkeys(sources, 0), Progress()
    while True:
        doing = "comparing with the store" if not sent else "checking the copies"
        answer = ask_helper(session, "place", {**request, "hashes": sums}, doing)
        with checked_answer(session, doing):
            missing = [(sources[sha], int(number)) for sha, numbers in answer["missing"].items() for number in numbers]
            free = int(answer["free"])
            if any(length(found, number) < 0 or number < 0 for found, number in missing):
                raise ValueError("no such piece")
        for sha in answer["missing"]:
            tries[sha] += 1
            if tries[sha] > ROUNDS:
                what = "the file changes while it is being copied, or arrives damaged every time"
                raise InputError(what, sources[sha].path, "check whether something writes to it, then rerun")
        total = sum(length(found, number) for found, number in missing)
        if not sent:
            check_disk(total, free)
        if not missing:
            return sent
        if total >= 1e6:
            say(f"copying {format_bytes(total)} to {session.daemon.host}")
        for batch in batches(missing):
            session.daemon.do("copying to the remote machine", partial(put_pieces, session, batch, sums))
            done = sum(length(found, number) for found, number in batch)
            sent += done
            progress.say(sent, sent + (total := total - done))


def length(found: Source, number: int) -> int:
    """Bytes of a file's piece."""
    return min(CHUNK, found.size - number * CHUNK)


def batches(pieces: Iterable[tuple[Source, int]]) -> Iterator[list[tuple[Source, int]]]:
    """Pieces in groups that are sent together, of CHUNK bytes at most (a tar entry takes up to 1 kB more)."""
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


def put_pieces(
    session: Session, batch: list[tuple[Source, int]], sums: dict[str, dict[str, str]], client: DockerClient
) -> None:
    """Send pieces; adds the hash of each to `sums`. A failed attempt may still be writing there: each has a folder."""

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
                        raise InputError(what, found.path, "check what writes to it, then rerun")
                    left -= len(block)
                    digest.update(block)
                    yield block
            yield filling
            sums.setdefault(found.sha256, {})[str(number)] = digest.hexdigest()
        yield bytes(2 * tarfile.BLOCKSIZE)

    client.api.put_archive(session.named("helper"), f"{STORE}/pieces", tar())


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A file to read. Raises InputError when it cannot be opened."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        if isinstance(error, ConnectionError | TimeoutError):
            raise  # of the connection that this is read for
        raise InputError(f"cannot read the file: {error.strerror}", path, "fix it, then rerun") from None
