"""Whose a step's files are, and who may read them: the step's user's while it runs, then as without a container."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deckbench.errors import OutsideError


def all_below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """A folder and all in it, each with its state; links are not followed, and what goes meanwhile is left out."""
    below = (Path(parent, name) for parent, folders, files in os.walk(folder) for name in (*folders, *files))
    for path in (folder, *below):
        with contextlib.suppress(FileNotFoundError):
            yield path, path.lstat()


def hand_over(folder: Path, who: tuple[int, int]) -> None:
    """Give a folder and all in it to a user; only root can, and only root needs to.

    Raises OutsideError on a disk that keeps no owners.
    """
    if os.getuid() == 0:
        for path, state in all_below(folder):
            own(path, state, who)


def own(path: Path, state: os.stat_result, who: tuple[int, int]) -> None:
    """Make a user the owner of a file, folder or link. Raises OutsideError."""
    if (state.st_uid, state.st_gid) == who:
        return
    try:
        os.chown(path, *who, follow_symlinks=False)
    except FileNotFoundError:  # a step that runs elsewhere has just removed it
        return
    except OSError as error:
        fix = "this disk keeps no owners (NFS, vfat): run as a user who is not root, or write to another disk"
        raise OutsideError(f"cannot give this to another user: {error.strerror}", path, fix) from error


@dataclass(frozen=True)
class Was:
    """What a file or folder was before a step: its inode, its owner."""

    inode: int
    who: tuple[int, int]


def as_it_is(folder: Path) -> dict[Path, Was]:
    """All in a folder that a step is to write in place, to be told from what it makes. Empty where there is none."""
    return {path: Was(state.st_ino, (state.st_uid, state.st_gid)) for path, state in all_below(folder)}


def give_back(folder: Path, before: Mapping[Path, Was], step: tuple[int, int]) -> None:
    """Give what belongs to the step's user to its owner of before; what is new, to the folder's. Only root needs to.

    step: (uid, gid) of the step. Where a killed start left the folder with the step's user, it becomes the caller's.
    Raises OutsideError.
    """
    if os.getuid() != 0:
        return
    mine = (os.getuid(), os.getgid())
    owners = {path: was.who for path, was in before.items() if was.who[0] != step[0]}
    for path, state in all_below(folder):
        if state.st_uid == step[0]:
            own(path, state, owners.get(path) or owners.get(folder) or mine)


def under_umask(folder: Path, before: Mapping[Path, Was]) -> None:
    """Take from what is new in a folder the rights that the caller's umask takes: a container has docker's own."""
    os.umask(mask := os.umask(0o077))  # it can be read only by setting it
    for path, state in all_below(folder):
        was, mode = before.get(path), stat.S_IMODE(state.st_mode)
        if (was is None or was.inode != state.st_ino) and mode & mask and not path.is_symlink():
            with contextlib.suppress(OSError):  # a disk without rights, or somebody else's file
                path.chmod(mode & ~mask)


def own_again(folder: Path) -> None:
    """Give a folder and all in it back to the caller."""
    hand_over(folder, (os.getuid(), os.getgid()))
