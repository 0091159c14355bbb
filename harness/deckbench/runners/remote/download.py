"""Download what a step wrote at a remote daemon and move it into place: as a whole, or file by file in a work folder.

What is here may have changed since it was uploaded: then nothing of either side is lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from deckbench import artifact
from deckbench.errors import OutsideError
from deckbench.runners.job import Job
from deckbench.runners.local.staging import Staging, move_into_place, move_out, remove
from deckbench.runners.remote.file_tree import Tree, read_tree
from deckbench.runners.remote.store import Session
from deckbench.runners.remote.store_download import Listing, download, output_listing, uploaded_listing

DOWNLOAD = ".download"  # in the staging folder
Hashes = Mapping[str, str]  # sha256 by path in /out


def download_output(job: Job, staging: Staging, session: Session) -> None:
    """Download what the step wrote, then move it into place: all of it, or nothing yet.

    Raises OutsideError where something has changed both here and there since it was uploaded: then nothing here is
    touched, and the output stays there.
    """
    folder = staging.folder / DOWNLOAD
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = "free disk space or fix the permissions, then rerun to resume"
        raise OutsideError(f"cannot make the folder: {error.strerror}", folder, fix) from error
    before, there = uploaded_listing(session), output_listing(session, [name for name, _ in staging.more])
    download(session, folder, there, local_output(staging, in_place=job.in_place).files)
    # Read again: the download may have taken long.
    here = {path: found.sha256 for path, found in local_output(staging, in_place=job.in_place).files.items()}
    if job.in_place:
        before, there = (one.below(staging.output.name) for one in (before, there))
        check_changes(staging, session, changed_files(before.hashes, there.hashes, here))
        merge_output(staging, folder, before, there, here)
        remove(folder)
        return
    names = [*staging.unfinished, *staging.beside]
    check_changes(staging, session, changed(names, before.hashes, there.hashes, here))
    stage_output(staging, folder, before, there, here)
    move_out(staging)


def local_output(staging: Staging, *, in_place: bool) -> Tree:
    """The files of an output on this machine, finished or not, by their names in /out."""
    names = [staging.output.name] if in_place else [*staging.unfinished, *staging.beside]
    places = [(name, staging.output.with_name(name)) for name in names]
    return read_tree((name, path) for name, path in places if path.exists())


# What has changed


def files_at(files: Hashes, place: str) -> Hashes:
    """A file, or a folder's files."""
    return {path: sha for path, sha in files.items() if path == place or path.startswith(f"{place}/")}


def changed(names: Iterable[str], before: Hashes, there: Hashes, here: Hashes) -> Iterator[str]:
    """The names that have changed in different ways here and there since they were uploaded."""
    for name in names:
        ours, theirs, old = (files_at(files, name) for files in (here, there, before))
        if ours and ours not in (theirs, old) and theirs != old:
            yield name


def changed_files(before: Hashes, there: Hashes, here: Hashes) -> Iterator[str]:
    """The same for single files."""
    for path, ours in here.items():
        theirs, old = there.get(path), before.get(path)
        if ours not in (theirs, old) and theirs != old:
            yield path


def check_changes(staging: Staging, session: Session, places: Iterable[str]) -> None:
    """Raises OutsideError when any of the paths was changed both here and there."""
    if both := sorted(places):
        host, more = session.daemon.host, f" (and so were {len(both) - 1} more)" if len(both) > 1 else ""
        fix = (
            "move it away, then rerun the same command to download the remote output; or discard that: "
            f"`deckbench containers prune --uncollected --host {host}`"
        )
        what = f"changed here since the step was started at {host}, and changed there too{more}"
        raise OutsideError(what, staging.output.parent / both[0], fix)


# Moving into place


def stage_output(staging: Staging, folder: Path, before: Listing, there: Listing, here: Hashes) -> None:
    """Move the download into the staging folder, and what it replaces out of the way."""
    for name in (*staging.unfinished, *staging.beside):
        ours, theirs = files_at(here, name), files_at(there.hashes, name)
        if ours and theirs in (ours, files_at(before.hashes, name)):  # nothing new: the local files stay
            remove(folder / name)
        elif name in staging.unfinished and (local := staging.output.with_name(name)).exists():
            local.rename(staging.folder / f".old-{name}")  # removed with the drafts: the download is newer
    for path in sorted(folder.iterdir()):
        path.replace(staging.folder / path.name)


def merge_output(staging: Staging, folder: Path, before: Listing, there: Listing, here: Hashes) -> None:
    """Make a work folder what it is there: file by file, manifests last; what was removed there is removed here.

    What was created or changed only here stays. Raises OutsideError where a file or folder is in the way.
    """
    parent, old = staging.output.parent, before.hashes
    try:
        for name in there.folders:
            (parent / name).mkdir(parents=True, exist_ok=True)
        for path in sorted(there.files, key=lambda path: path.rpartition("/")[2] == artifact.MANIFEST):
            new = there.files[path][0]
            if path not in here or new not in (here[path], old.get(path)):
                move_into_place(folder / path, parent / path, merge=True)
        for path in old.keys() - there.files.keys():
            if here.get(path) == old[path]:
                (parent / path).unlink(missing_ok=True)
    except OSError as error:
        fix = "free disk space or fix the permissions, then rerun to resume"
        raise OutsideError(f"cannot move the result into place: {error.strerror}", error.filename, fix) from error
    for name in sorted(set(before.folders) - set(there.folders), reverse=True):  # the innermost first
        with contextlib.suppress(OSError):  # it holds files that were created here
            (parent / name).rmdir()
