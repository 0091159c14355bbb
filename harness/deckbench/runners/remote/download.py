"""What a step wrote at a far daemon, put into its place here: whole, or file by file where steps go on with it.

What lies here may have changed since it was sent: then nothing of it is lost, and nothing of what was made there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from deckbench import artifact
from deckbench.errors import OutsideError
from deckbench.runners.job import Job
from deckbench.runners.local.staging import Staging, bring_out, remove, settle
from deckbench.runners.remote.file_tree import Tree, read_trees
from deckbench.runners.remote.store import Session
from deckbench.runners.remote.store_download import Listing, fetch, listing, sent

Hashes = Mapping[str, str]  # sha256 by path in /out


def bring_home(job: Job, staging: Staging, session: Session) -> None:
    """Fetch what the step wrote, then put it into its place: all of it, or nothing yet.

    Raises OutsideError where something has changed both here and there since it was sent: then nothing here is touched
    and the job stays there.
    """
    home = staging.folder / ".home"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = "fix the rights or the disk, then run again to go on"
        raise OutsideError(f"cannot make the folder: {error.strerror}", home, fix) from error
    before, there = sent(session), listing(session, [name for name, _ in staging.more])
    fetch(session, home, there, output_here(staging, in_place=job.in_place).files)
    # Read again: fetching may have taken long.
    here = {path: found.sha256 for path, found in output_here(staging, in_place=job.in_place).files.items()}
    if job.in_place:
        before, there = (one.below(staging.output.name) for one in (before, there))
        check_changes(staging, session, changed_files(before.hashes, there.hashes, here))
        merge_home(staging, home, before, there, here)
        remove(home)
        return
    names = [*staging.unfinished, *staging.beside]
    check_changes(staging, session, changed(names, before.hashes, there.hashes, here))
    put_home(staging, home, before, there, here)
    bring_out(staging)


def output_here(staging: Staging, *, in_place: bool) -> Tree:
    """What lies here of an output, finished or not, by the names in /out."""
    names = [staging.output.name] if in_place else [*staging.unfinished, *staging.beside]
    places = [(name, staging.output.with_name(name)) for name in names]
    return read_trees((name, path) for name, path in places if path.exists())


# What has changed


def part(files: Hashes, place: str) -> Hashes:
    """A file, or a folder's files."""
    return {path: sha for path, sha in files.items() if path == place or path.startswith(f"{place}/")}


def changed(names: Iterable[str], before: Hashes, there: Hashes, here: Hashes) -> Iterator[str]:
    """Those of the names that have changed both here and there since they were sent, each in another way."""
    for name in names:
        ours, theirs, old = (part(files, name) for files in (here, there, before))
        if ours and ours not in (theirs, old) and theirs != old:
            yield name


def changed_files(before: Hashes, there: Hashes, here: Hashes) -> Iterator[str]:
    """The same of files, each by itself."""
    for path, ours in here.items():
        theirs, old = there.get(path), before.get(path)
        if ours not in (theirs, old) and theirs != old:
            yield path


def check_changes(staging: Staging, session: Session, places: Iterable[str]) -> None:
    """Raises OutsideError when any of the places was changed here and there."""
    if both := sorted(places):
        host, more = session.far.host, f" (and so were {len(both) - 1} more)" if len(both) > 1 else ""
        fix = (
            "move it elsewhere, then the same command puts what was made there into its place; or drop that: "
            f"`deckbench containers prune --uncollected --host {host}`"
        )
        what = f"this was changed here since the step was started at {host}, and it was changed there too{more}"
        raise OutsideError(what, staging.output.parent / both[0], fix)


# Into its place


def put_home(staging: Staging, home: Path, before: Listing, there: Listing, here: Hashes) -> None:
    """Move what came home into the staging folder, and what it replaces here out of the way."""
    for name in (*staging.unfinished, *staging.beside):
        ours, theirs = part(here, name), part(there.hashes, name)
        if ours and theirs in (ours, part(before.hashes, name)):  # nothing new: what is here stays
            remove(home / name)
        elif name in staging.unfinished and (local := staging.output.with_name(name)).exists():
            local.rename(staging.folder / f".old-{name}")  # goes with the drafts: what came home is newer
    for path in sorted(home.iterdir()):
        path.replace(staging.folder / path.name)


def merge_home(staging: Staging, home: Path, before: Listing, there: Listing, here: Hashes) -> None:
    """Make a folder that a step goes on with as it is there: file by file, manifests last; what went there, goes.

    What was made or changed here alone stays. Raises OutsideError where something stands in the way.
    """
    parent, old = staging.output.parent, before.hashes
    try:
        for folder in there.folders:
            (parent / folder).mkdir(parents=True, exist_ok=True)
        for path in sorted(there.files, key=lambda path: path.rpartition("/")[2] == artifact.MANIFEST):
            new = there.files[path][0]
            if path not in here or new not in (here[path], old.get(path)):
                settle(home / path, parent / path, merge=True)
        for path in old.keys() - there.files.keys():
            if here.get(path) == old[path]:
                (parent / path).unlink(missing_ok=True)
    except OSError as error:
        fix = "fix the rights or the disk, then run again to go on"
        raise OutsideError(f"cannot put the result into its place: {error.strerror}", error.filename, fix) from error
    for folder in sorted(set(before.folders) - set(there.folders), reverse=True):  # the innermost first
        with contextlib.suppress(OSError):  # what was made here is in it
            (parent / folder).rmdir()
