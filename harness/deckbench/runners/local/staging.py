"""The staging folder of a step in a container: next to the output, on the same disk, the only one that it can write.

`.NAME.job/` holds what the step writes. Unfinished work next to the output is moved in before and out after, whatever
the end, so that any runner resumes where another stopped; what is finished is renamed into place. A caller that was
killed leaves the folder, and the next start on the same output empties it first.
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
from deckbench.record.scores import scored_path
from deckbench.runners.local.permissions import apply_umask, take_ownership

COPIED = ".copied.json"  # in the folder: hashes of the finished files that were copied in, by name
REMOVED_MOST = 1000  # attempts to lock a folder that others keep removing; every folder in /proc looks like that


@dataclass(frozen=True)
class Staging:
    """Where a step writes on this machine. output: its final path. more: name in the folder -> another final path.

    in_place: the step writes to the output itself, a folder; the staging folder is then only a lock, and stays empty.
    """

    output: Path
    more: tuple[tuple[str, Path], ...] = ()
    in_place: bool = False

    @cached_property
    def folder(self) -> Path:
        """Next to the output; inside it where it is written in place and its parent is not writable. One that a killed
        step left there is found by the next start."""
        name = f".{self.output.name}.job"
        beside, inside = self.output.with_name(name), self.output / name
        wanted = inside.is_dir() or (self.in_place and self.output.is_dir())
        return inside if wanted and not os.access(beside.parent, os.W_OK | os.X_OK) else beside

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Names of what an unfinished run of this output leaves next to it."""
        stem = self.output.stem if self.output.suffix == ".csv" else self.output.name
        return (f"{stem}.partial", f"{stem}.logs")

    @property
    def beside(self) -> tuple[str, ...]:
        """Names of the files that belong to an output that is a file, itself last."""
        stem, kinds = self.output.stem, ("timings.csv", "unanswered.csv", "transcript.jsonl", "manifest.json")
        if self.output.suffix == ".csv":
            return (*(f"{stem}.{kind}" for kind in kinds), self.output.name)
        return (scored_path(self.output).name, self.output.name)


def missing_parents(path: Path) -> list[Path]:
    """The folders above `path` that do not exist yet, the innermost first."""
    return [parent for parent in path.parents if not parent.exists()]


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove those folders that are empty, in order."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


@contextlib.contextmanager
def locked_staging(staging: Staging) -> Iterator[bool]:
    """Lock the staging folder (created where needed) against other starts; removed afterwards, if it is empty.

    Yields whether it held left-overs. Raises OutsideError when another process has locked it.
    """
    folder = staging.folder
    parents = missing_parents(folder)
    artifact.make_parent(folder)
    handle = lock_folder(folder)
    try:
        yield any(folder.iterdir())
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()
        os.close(handle)
        remove_empty(parents)


def lock_folder(folder: Path) -> int:
    """A locked handle on the folder at this path. Raises OutsideError when another process has locked it."""
    tries = 0
    while True:
        tries += 1
        try:
            folder.mkdir(exist_ok=True)
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and tries < REMOVED_MOST:
                artifact.make_parent(folder)  # the process that had locked it has just removed it and its parents
                continue
            fix = "free disk space or fix the permissions, then rerun"
            raise OutsideError(f"cannot make the folder: {error.strerror}", folder, fix) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder.exists() and os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        except BlockingIOError:
            os.close(handle)
            what = "another run is writing this output in a container"
            raise OutsideError(what, folder, "wait until it has ended, or stop it, then rerun") from None
        except OSError as error:
            if error.errno not in {errno.ENOLCK, errno.ENOTSUP, errno.ENOENT}:
                os.close(handle)
                raise
            if error.errno != errno.ENOENT:  # a file system without locks: concurrent starts are not detected
                return handle
        os.close(handle)


def move_in(staging: Staging) -> list[str]:
    """Move what an earlier run left into the folder. Returns names to be mounted there, read-only: finished folders.

    So the step finds existing output and reports it by itself.
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
        # Renamed last: a start that is killed, or runs out of disk, leaves no partial copy that looks like a result.
        for name in copied:
            (folder / f".{name}.copy").rename(folder / name)
    return []


def is_copy(path: Path) -> bool:
    """Whether a file in the folder is still what `move_in` copied: then its final path holds the same, or newer."""
    known = path.parent / COPIED
    if not (known.is_file() and path.is_file()):
        return False
    try:
        copied = json.loads(known.read_text(encoding="utf-8"))
        return bool(artifact.hash_file(path) == copied.get(path.name))
    except (OSError, ValueError, AttributeError):  # the step has damaged the list
        return False


def move_out(staging: Staging) -> None:
    """Move what the step wrote into place, the output itself last; drafts are removed.

    What is no part of this output is removed with a message: a step must not replace other files next to its output.
    Finished folders are never overwritten. Raises OutsideError where a file or folder is in the way.
    """
    folder, more, known = staging.folder, dict(staging.more), {*staging.unfinished, *staging.beside}
    take_ownership(folder)
    apply_umask(folder, {})
    names = sorted(path.name for path in folder.iterdir())
    order = [name for name in names if name not in staging.beside]
    order += [name for name in staging.beside if name in names]
    order.sort(key=lambda name: name == COPIED)  # needed until the others are in place
    for name in order:
        if name in more:
            move_into_place(folder / name, more[name], merge=True)
        elif name in known and is_copy(folder / name):
            remove(folder / name)
        elif name in known:
            move_into_place(folder / name, staging.output.with_name(name), merge=name.endswith(".logs"))
        else:
            if not name.startswith("."):
                say(
                    f"removed {name!r}, which the step wrote next to its output: it is no part of {staging.output.name}"
                )
            remove(folder / name)


def move_into_place(source: Path, target: Path, *, merge: bool) -> None:
    """Move a file or folder to its final path. merge: that may be a folder that already holds other files."""
    if source.is_dir() and not source.is_symlink():
        if target.is_dir() and any(source.iterdir()) and any(target.iterdir()):
            if not merge:
                fix = f"remove one of the two, then rerun; the container's is {source}"
                raise OutsideError("this was created here while a container was writing it too", target, fix)
            for path in sorted(source.iterdir()):
                move_into_place(path, target / path.name, merge=True)
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
            shutil.move(source, target)  # an extra output on another disk
    except OSError as error:
        fix = f"free disk space or fix the permissions, then rerun; until then it is in {source.parent}"
        raise OutsideError(f"cannot move the result into place: {error.strerror}", target, fix) from error


def remove(path: Path) -> None:
    """Remove a file or folder; what cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
