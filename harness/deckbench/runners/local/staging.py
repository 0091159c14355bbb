"""The folder that a containerised step writes to: beside the output, on the same disk, and the only one it can write.

`.NAME.job/` holds what the step makes. Unfinished work that lies beside the output is moved in before and out after,
whatever the end, so that any runner goes on where any other stopped; what is finished is renamed into place. A caller
that was killed leaves the folder, and the next start on the same output empties it first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import filecmp
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from deckbench import artifact
from deckbench.errors import OutsideError
from deckbench.progress import say
from deckbench.runners.local.permissions import own_again, under_umask

More = Sequence[tuple[str, Path]]
COPIED = ".copied.json"  # in the folder: hashes of the finished files that were copied in, by name
REMOVED_MOST = 1000  # so often others may remove the folder before we can lock it; /proc says the same of every folder


@dataclass(frozen=True)
class Staging:
    """Where a step writes on this machine. output: its final place. more: name in the folder -> another final place.

    in_place: the step writes to the output itself, a folder; the one here is then a lock and a mark, and stays empty.
    """

    output: Path
    more: tuple[tuple[str, Path], ...] = ()
    in_place: bool = False

    @cached_property
    def folder(self) -> Path:
        """Beside the output; in it where it is written in place and nothing can be made beside it (an own folder on
        a disk that is root's). One that a killed start left there is found by whoever makes the output next."""
        name = f".{self.output.name}.job"
        beside, inside = self.output.with_name(name), self.output / name
        wanted = inside.is_dir() or (self.in_place and self.output.is_dir())
        return inside if wanted and not os.access(beside.parent, os.W_OK | os.X_OK) else beside

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Names of what an unfinished run of this output leaves beside it."""
        stem = self.output.stem if self.output.suffix == ".csv" else self.output.name
        return (f"{stem}.partial", f"{stem}.logs")

    @property
    def beside(self) -> tuple[str, ...]:
        """Names of the files that belong to an output that is a file; itself the last."""
        stem, kinds = self.output.stem, ("timings.csv", "unanswered.csv", "manifest.json")
        return (*(f"{stem}.{kind}" for kind in kinds if self.output.suffix == ".csv"), self.output.name)


def missing_parents(path: Path) -> list[Path]:
    """The folders above `path` that are not there yet, the innermost first."""
    return [parent for parent in path.parents if not parent.exists()]


def drop_empty(folders: Sequence[Path]) -> None:
    """Remove those folders that are empty, in order."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


@contextlib.contextmanager
def claimed(staging: Staging) -> Iterator[bool]:
    """Hold the staging folder (made if need be) against other starts; it is gone afterwards, if it is empty.

    Yields whether something was left in it. Raises OutsideError when another process holds it.
    """
    folder = staging.folder
    parents = missing_parents(folder)
    artifact.make_parent(folder)
    handle = hold(folder)
    try:
        yield any(folder.iterdir())
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()
        os.close(handle)
        drop_empty(parents)


def hold(folder: Path) -> int:
    """A locked handle on a folder that lies at its path. Raises OutsideError when another process has locked it."""
    tries = 0
    while True:
        tries += 1
        try:
            folder.mkdir(exist_ok=True)
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and tries < REMOVED_MOST:
                artifact.make_parent(folder)  # the one who held it has just removed it, and parents made for it
                continue
            fix = "fix the rights or the disk, then run again"
            raise OutsideError(f"cannot make the folder: {error.strerror}", folder, fix) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder.exists() and os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        except BlockingIOError:
            os.close(handle)
            what = "another run is making this output in a container"
            raise OutsideError(what, folder, "wait until it has ended, or end it, then run again") from None
        except OSError as error:
            if error.errno not in {errno.ENOLCK, errno.ENOTSUP, errno.ENOENT}:
                os.close(handle)
                raise
            if error.errno != errno.ENOENT:  # a disk without locks: two starts at once are then not noticed
                return handle
        os.close(handle)


def move_in(staging: Staging) -> list[str]:
    """Bring what an earlier run left into the folder. Returns names to be mounted there, read-only: finished folders.

    A step looks at its place before it writes: so it finds what lies there, and says itself what it thinks of that.
    """
    folder, parent = staging.folder, staging.output.parent
    for name in staging.unfinished:
        if (parent / name).is_dir() and not (folder / name).exists():
            (parent / name).rename(folder / name)
    if staging.output.is_dir():
        if not any(staging.output.iterdir()):
            return []
        (folder / staging.output.name).mkdir(exist_ok=True)
        return [staging.output.name]
    if staging.output.is_file():
        copied = [name for name in staging.beside if (parent / name).is_file()]
        for name in copied:
            shutil.copy2(parent / name, folder / f".{name}.copy")
        hashes = {name: artifact.hash_file(folder / f".{name}.copy") for name in copied}
        (folder / COPIED).write_text(json.dumps(hashes), encoding="utf-8")
        # Renamed last: a start that is killed, or has no room, leaves no half a copy that would pass for a result.
        for name in copied:
            (folder / f".{name}.copy").rename(folder / name)
    return []


def is_copy(path: Path) -> bool:
    """Whether a file in the folder is still what `move_in` copied: what lies in its place now is newer, or the same."""
    known = path.parent / COPIED
    if not (known.is_file() and path.is_file()):
        return False
    try:
        copied = json.loads(known.read_text(encoding="utf-8"))
        return bool(artifact.hash_file(path) == copied.get(path.name))
    except (OSError, ValueError, AttributeError):  # the step has spoilt the list
        return False


def bring_out(staging: Staging) -> None:
    """Put what the step made into its place, the output itself last; drafts of a step that is gone are dropped.

    What is no part of this output is removed, with a line that says so: beside the output lie files of others, which a
    step must not replace. Nothing that is finished is overwritten but single files. Raises OutsideError where something
    stands in the way.
    """
    folder, more, known = staging.folder, dict(staging.more), {*staging.unfinished, *staging.beside}
    own_again(folder)
    under_umask(folder, {})
    names = sorted(path.name for path in folder.iterdir())
    order = [name for name in names if name not in staging.beside]
    order += [name for name in staging.beside if name in names]
    order.sort(key=lambda name: name == COPIED)  # needed until the others are settled
    for name in order:
        if name in more:
            settle(folder / name, more[name], merge=True)
        elif name in known and is_copy(folder / name):
            remove(folder / name)
        elif name in known:
            settle(folder / name, staging.output.with_name(name), merge=name.endswith(".logs"))
        else:
            if not name.startswith("."):
                say(f"removed {name!r}, which the step wrote beside its output: it is no part of {staging.output.name}")
            remove(folder / name)


def settle(source: Path, target: Path, *, merge: bool) -> None:
    """Move a file or folder into its place. merge: the place may be a folder that holds other things already."""
    if source.is_dir() and not source.is_symlink():
        if target.is_dir() and any(source.iterdir()) and any(target.iterdir()):
            if not merge:
                fix = f"remove one of both, then run again; the container's is {source}"
                raise OutsideError("this was made here while a container was making it too", target, fix)
            for path in sorted(source.iterdir()):
                settle(path, target / path.name, merge=True)
        if target.is_dir() and not any(source.iterdir()):
            source.rmdir()
            return
    elif target.is_file() and filecmp.cmp(source, target, shallow=False):
        source.unlink()
        return
    artifact.make_parent(target)
    try:
        try:
            source.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            shutil.move(source, target)  # a picture folder on another disk
    except OSError as error:
        fix = f"free some disk space or fix the rights, then run again; until then it lies in {source.parent}"
        raise OutsideError(f"cannot put the result into its place: {error.strerror}", target, fix) from error


def remove(path: Path) -> None:
    """Remove a file or a folder; what cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
