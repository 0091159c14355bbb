"""A job's output from the far side: in pieces, each file checked; what is here already does not travel."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from deckbench import artifact
from deckbench.errors import OutsideError
from deckbench.progress import Progress, format_bytes, say
from deckbench.runners.remote.file_tree import Source
from deckbench.runners.remote.store import CHUNK, ROUNDS, STORE, Reader, Session, help_out, read_far_file, understood

if TYPE_CHECKING:
    from docker import DockerClient

PULLS = 8  # pieces that the helper lays ready at once


@dataclass(frozen=True)
class Listing:
    """Files (sha256, bytes) and folders by their path in /out."""

    files: Mapping[str, tuple[str, int]]
    folders: tuple[str, ...]

    @property
    def hashes(self) -> dict[str, str]:
        return {path: sha for path, (sha, _) in self.files.items()}

    def below(self, place: str) -> Listing:
        """What lies in one folder."""
        files = {path: entry for path, entry in self.files.items() if path.startswith(f"{place}/")}
        return Listing(files, tuple(path for path in self.folders if path.startswith(f"{place}/")))


def listing(session: Session, also: Sequence[str] = ()) -> Listing:
    """What lies in the job's /out but drafts. also: names that begin with a dot and are none. Raises OutsideError."""
    return ask_listing(session, "list", {"also": list(also)}, "listing the output")


def sent(session: Session) -> Listing:
    """What lay in /out when the step was started. Raises OutsideError."""
    return ask_listing(session, "sent", {}, "asking what was sent")


def ask_listing(session: Session, verb: str, ask: Mapping[str, Any], doing: str) -> Listing:
    """A question whose answer is a listing."""
    found = help_out(session, verb, ask, doing)
    with understood(session, doing):
        files, folders = dict(found["files"]), list(found["folders"])
        for sha, size in files.values():
            if not (isinstance(sha, str) and isinstance(size, int) and size >= 0):
                raise TypeError("not a hash and a size")
        if any(path.startswith("/") or ".." in PurePosixPath(path).parts for path in (*files, *folders)):
            raise ValueError("a path leaves its folder")
        return Listing({path: (sha, size) for path, (sha, size) in files.items()}, tuple(folders))


def fetch(session: Session, into: Path, there: Listing, known: Mapping[str, Source]) -> int:
    """Bring what lies in the job's /out to the folder `into`, every file checked; goes on where it was broken off.

    known: files of this machine by their path in /out; where the far one is the same, it is copied here. Returns the
    bytes that travelled. Raises OutsideError for the link and the disk here.
    """
    try:
        for folder in there.folders:
            artifact.inside(into, folder, session.far.host).mkdir(parents=True, exist_ok=True)
        drop_others(into, {*there.files, *there.folders})
        return fetch_files(session, into, there.files, known)
    except OSError as error:
        fix = "free some disk space, then run again to go on"
        raise OutsideError(f"cannot write the output: {error.strerror}", into, fix) from error


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
            fix = "see whether its disk is sound, then run again"
            raise OutsideError("a file arrives broken every time", f"{session.far.host}: {wanted[0]}", fix)
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
            say(f"fetching {format_bytes(total)} from {session.far.host}")
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
