"""Download a job's output: in pieces, each file checked; what exists on this machine already is not downloaded."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from deckbench import artifact, disk
from deckbench.errors import OutsideError
from deckbench.progress import Progress, format_bytes, say
from deckbench.runners.remote.file_tree import Source
from deckbench.runners.remote.store import (
    CHUNK,
    ROUNDS,
    STORE,
    Reader,
    Session,
    ask_helper,
    checked_answer,
    read_remote_file,
)

if TYPE_CHECKING:
    from docker import DockerClient

PULLS = 8  # batches that the helper prepares at once


@dataclass(frozen=True)
class Listing:
    """Files (sha256, bytes) and folders by their path in /out."""

    files: Mapping[str, tuple[str, int]]
    folders: tuple[str, ...]

    @property
    def hashes(self) -> dict[str, str]:
        return {path: sha for path, (sha, _) in self.files.items()}

    def below(self, place: str) -> Listing:
        """The files and folders of one folder."""
        files = {path: entry for path, entry in self.files.items() if path.startswith(f"{place}/")}
        return Listing(files, tuple(path for path in self.folders if path.startswith(f"{place}/")))


def output_listing(session: Session, also: Sequence[str] = ()) -> Listing:
    """The job's /out without drafts. also: names that begin with a dot and are none. Raises OutsideError."""
    return request_listing(session, "list", {"also": list(also)}, "listing the output")


def uploaded_listing(session: Session) -> Listing:
    """The job's /out when the step was started. Raises OutsideError."""
    return request_listing(session, "sent", {}, "listing what was uploaded")


def request_listing(session: Session, verb: str, request: Mapping[str, Any], doing: str) -> Listing:
    """A request whose answer is a listing."""
    found = ask_helper(session, verb, request, doing)
    with checked_answer(session, doing):
        files, folders = dict(found["files"]), list(found["folders"])
        for sha, size in files.values():
            if not (isinstance(sha, str) and isinstance(size, int) and size >= 0):
                raise TypeError("not a hash and a size")
        if any(path.startswith("/") or ".." in PurePosixPath(path).parts for path in (*files, *folders)):
            raise ValueError("a path leaves its folder")
        return Listing({path: (sha, size) for path, (sha, size) in files.items()}, tuple(folders))


def download(session: Session, into: Path, remote: Listing, known: Mapping[str, Source]) -> int:
    """Download the job's /out to the folder `into`, every file checked; resumes an interrupted download.

    known: files of this machine by their path in /out; where the remote one is the same, it is copied here. Returns
    the number of bytes downloaded. Raises OutsideError for the connection and the disk here.
    """
    try:
        for folder in remote.folders:
            artifact.inside(into, folder, session.daemon.host).mkdir(parents=True, exist_ok=True)
        remove_others(into, {*remote.files, *remote.folders})
        return download_files(session, into, remote.files, known)
    except OSError as error:
        fix = "free disk space, then rerun to resume"
        raise OutsideError(f"cannot write the output: {error.strerror}", into, fix) from error


def remove_others(folder: Path, wanted: set[str]) -> None:
    """Remove what an interrupted download brought and no longer exists there."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.relative_to(folder).as_posix() not in wanted:
            path.rmdir() if path.is_dir() else path.unlink()


def download_files(
    session: Session, into: Path, files: Mapping[str, tuple[str, int]], known: Mapping[str, Source]
) -> int:
    """Download `files` (path -> sha256, bytes) to `into`. Returns the number of bytes downloaded."""
    downloaded, attempts, progress = 0, 0, Progress()
    while wanted := [path for path, (sha, size) in files.items() if not is_complete(into / path, sha, size)]:
        if attempts == ROUNDS:
            fix = "check the disk there, then rerun"
            raise OutsideError("a file arrives damaged every time", f"{session.daemon.host}: {wanted[0]}", fix)
        for path in list(wanted):
            target = artifact.inside(into, path, session.daemon.host)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path in known and known[path].sha256 == files[path][0] and not attempts:
                shutil.copyfile(known[path].path, target)
                wanted.remove(path)
            elif attempts or not target.exists() or target.stat().st_size >= files[path][1]:
                target.write_bytes(b"")  # a shorter file is taken for its beginning
        attempts += 1
        total = sum(files[path][1] for path in wanted)
        if total >= 1e6:
            say(f"downloading {format_bytes(total)} from {session.daemon.host}")
        pieces = [piece for path in wanted for piece in missing_pieces(path, into / path, files[path][1])]
        groups = list(batches_of(pieces))
        for start in range(0, len(groups), PULLS):
            some = groups[start : start + PULLS]
            ask_helper(session, "pull", {"batches": some}, "preparing the output")
            for number, batch in enumerate(some):
                session.daemon.do("downloading the output", partial(write_batch, session, number, batch, into))
                downloaded += sum(piece[2] for piece in batch)
                progress.say(downloaded, total)
        for path in wanted:
            disk.fsync_path(into / path)
    return downloaded


def is_complete(target: Path, sha: str, size: int) -> bool:
    """Whether a file was downloaded already."""
    return target.is_file() and target.stat().st_size == size and artifact.hash_file(target) == sha


def missing_pieces(path: str, target: Path, size: int) -> Iterator[tuple[str, int, int]]:
    """(path, offset, length) of the pieces of a file that were not downloaded yet."""
    offset = target.stat().st_size if target.exists() else 0
    while offset < size:
        count = min(CHUNK, size - offset)
        yield path, offset, count
        offset += count


def batches_of(pieces: Iterable[tuple[str, int, int]]) -> Iterator[list[tuple[str, int, int]]]:
    """Pieces in groups of CHUNK bytes at most."""
    group: list[tuple[str, int, int]] = []
    for piece in pieces:
        if group and sum(one[2] for one in group) + piece[2] > CHUNK:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def write_batch(
    session: Session, number: int, batch: list[tuple[str, int, int]], into: Path, client: DockerClient
) -> None:
    """Write the pieces of one batch to their places."""
    name = f"{STORE}/asks/{session.key}.{number}"
    stream = io.BufferedReader(Reader(read_remote_file(client, session.named("helper"), name)))
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
