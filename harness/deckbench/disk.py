"""The disk: opening what others wrote, locks on outputs, temporary files, the exchange of two folders.

Reading never hangs and is bounded: a pipe or a device is refused, so is a file larger than its kind can be.

One writer for each output: a second command on the same `--out` is refused before it does any work. The lock is a POSIX
one (fcntl(2)) on a file beside the output: it ends with its process, however that ends, and forked workers that outlive
it for a moment do not hold it. Where a disk has no locks, nothing is refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from deckbench.errors import OutsideError

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # fcntl.h, linux/fs.h
BUSY = -1
MAX_TEXT_BYTES = 256 << 20
FLUSHES = 16
SETTLED_NS = 100_000_000  # many times the clock's tick
held: set[Path] = set()  # outputs that this process has claimed


def real_path(path: Path) -> Path:
    """The path without links. One that goes in a circle, or cannot be followed, stays as it is written."""
    return Path(os.path.realpath(path))


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading. Raises OSError, for a pipe, a device or a folder too."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "a directory" if stat.S_ISDIR(mode) else "not a regular file", os.fspath(path))
    return os.fdopen(handle, "rb")


def read_bytes(path: Path, most: int = MAX_TEXT_BYTES) -> bytes:
    """The bytes of a regular file. Raises OSError, for one that has more than `most` too."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # A read of n bytes allocates n at once: the size is asked for first, and one more, for a file that grows.
        if size <= most and len(data := file.read(size + 1)) <= size:
            return data
    raise OSError(errno.EFBIG, f"larger than {most >> 20} MiB", os.fspath(path))


def version_of(path: Path) -> tuple[int, ...] | None:
    """What a file's bytes cannot change without: device, inode, size, times of writing and of change (ns).

    None for a file that is gone, or so young that it may change again within the clock's tick.
    """
    try:
        now, found = time.time_ns(), path.stat()
    except OSError:
        return None
    young = now - max(found.st_mtime_ns, found.st_ctime_ns) < SETTLED_NS
    return None if young else (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def fsync_path(path: Path) -> None:
    """Force a file or a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(folder: Path) -> None:
    """Force a folder and all in it to disk, many files at once: a journalling file system commits those together."""
    with ThreadPoolExecutor(FLUSHES) as pool:
        for _ in pool.map(fsync_path, [*folder.rglob("*"), folder]):
            pass


def lock_of(out: Path) -> Path:
    """The lock file of an output."""
    return out.with_name(f".{out.name}.lock")


@contextlib.contextmanager
def claim(out: Path) -> Iterator[None]:
    """Be the only process that writes `out`. Folders that have to be made for its lock go again if they stay empty.

    A claim within one of the same output, in the same process, is part of it.

    Raises:
        OutsideError: another process holds it.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 (resolve() would follow links)
    if out in held or not out.name:
        yield
        return
    place = lock_of(out)
    made = [parent for parent in place.parents if not os.path.lexists(parent)]
    handle = None
    try:
        # A place where nothing can be written is refused by the step itself, if it has to write there.
        with contextlib.suppress(OSError, ValueError):
            place.parent.mkdir(parents=True, exist_ok=True)
            handle = take(place)
        if handle == BUSY:
            fix = "wait until it has ended, or choose another output"
            raise OutsideError("another process is writing this output", out, fix)
        held.add(out)
        yield
    finally:
        if handle != BUSY:
            held.discard(out)
        if handle is not None and handle != BUSY:
            with contextlib.suppress(OSError):
                place.unlink()
            os.close(handle)
        with contextlib.suppress(OSError, ValueError):
            for parent in made:
                parent.rmdir()


def take(place: Path) -> int | None:
    """A handle that holds the lock until it is closed; BUSY where another process does, None where there are no locks.

    Raises OSError where the file cannot be made.
    """
    while True:
        handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), place.stat()):
                return handle
        except (BlockingIOError, PermissionError):
            os.close(handle)
            return BUSY
        except FileNotFoundError:  # its last holder has removed it in between
            pass
        except OSError:
            os.close(handle)
            place.unlink(missing_ok=True)
            return None
        os.close(handle)


def lock_draft(draft: Path) -> int | None:
    """Lock a draft as its writer; a handle that holds the lock until it is closed, None where the disk has no locks.

    Raises BlockingIOError when another process holds it.
    """
    handle = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return handle


def open_aside(aside: Path) -> IO[bytes]:
    """The empty temporary file `aside`, locked until it is closed. What a killed process left there is overwritten."""
    while True:
        file = os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666), "wb")
        with contextlib.suppress(OSError):  # a disk without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), aside.stat()):
                file.truncate(0)
                return file
        file.close()  # another writer has just put it in place


def remove_aside(aside: Path) -> None:
    """Remove a temporary file, unless it is being written."""
    with contextlib.suppress(OSError), aside.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        aside.unlink()


def exchange(first: Path, second: Path) -> None:
    """Swap two folders of one disk: in one step by renameat2(2), by renames where there is none. Raises OSError."""
    swap = getattr(ctypes.CDLL(None), "renameat2", None)
    paths = (os.fsencode(first), os.fsencode(second))
    if swap is not None and swap(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE) == 0:
        return
    aside = first.with_name(f"{first.stem}-old{first.suffix}")
    second.rename(aside)
    try:
        first.rename(second)
    except OSError:
        aside.rename(second)
        raise
    aside.rename(first)
