"""Owners and permissions of a step's files: its user's while it runs, then as without a container."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deckbench.errors import OutsideError


def walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """A folder and everything in it, each with its stat; links are not followed, what is removed meanwhile left out."""
    below = (Path(parent, name) for parent, folders, files in os.walk(folder) for name in (*folders, *files))
    for path in (folder, *below):
        with contextlib.suppress(FileNotFoundError):
            yield path, path.lstat()


def change_owner(folder: Path, who: tuple[int, int]) -> None:
    """Make a user the owner of a folder and everything in it; only root can, and only root needs to.

    Raises OutsideError on a file system without owners.
    """
    if os.getuid() == 0:
        for path, state in walk(folder):
            set_owner(path, state, who)


def set_owner(path: Path, state: os.stat_result, who: tuple[int, int]) -> None:
    """Make a user the owner of a file, folder or link. Raises OutsideError."""
    if (state.st_uid, state.st_gid) == who:
        return
    try:
        os.chown(path, *who, follow_symlinks=False)
    except FileNotFoundError:  # another step has just removed it
        return
    except OSError as error:
        fix = "this file system keeps no owners (NFS, vfat): run as a user who is not root, or write to another disk"
        raise OutsideError(f"cannot change the owner: {error.strerror}", path, fix) from error


@dataclass(frozen=True)
class Ownership:
    """Inode and owner of a file or folder before a step."""

    inode: int
    who: tuple[int, int]


def snapshot(folder: Path) -> dict[Path, Ownership]:
    """The state of a folder that a step will write in place, to recognize what it creates. Empty without a folder."""
    return {path: Ownership(state.st_ino, (state.st_uid, state.st_gid)) for path, state in walk(folder)}


def restore_owners(folder: Path, before: Mapping[Path, Ownership], step: tuple[int, int]) -> None:
    """Give files of the step's user back to their owner of before, new ones to the folder's. Only root needs to.

    step: (uid, gid) of the step. Where a killed step left the folder with the step's user, it becomes the caller's.
    Raises OutsideError.
    """
    if os.getuid() != 0:
        return
    mine = (os.getuid(), os.getgid())
    owners = {path: was.who for path, was in before.items() if was.who[0] != step[0]}
    for path, state in walk(folder):
        if state.st_uid == step[0]:
            set_owner(path, state, owners.get(path) or owners.get(folder) or mine)


def apply_umask(folder: Path, before: Mapping[Path, Ownership]) -> None:
    """Apply the caller's umask to what is new in a folder: a container has docker's own."""
    os.umask(mask := os.umask(0o077))  # it can be read only by setting it
    for path, state in walk(folder):
        was, mode = before.get(path), stat.S_IMODE(state.st_mode)
        if (was is None or was.inode != state.st_ino) and mode & mask and not path.is_symlink():
            with contextlib.suppress(OSError):  # a file system without permissions, or another owner's file
                path.chmod(mode & ~mask)


def take_ownership(folder: Path) -> None:
    """Make the caller the owner of a folder and everything in it."""
    change_owner(folder, (os.getuid(), os.getgid()))
