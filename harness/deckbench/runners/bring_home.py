"""What a step wrote at a far daemon, put into its place here: whole, or file by file where steps go on with it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from deckbench import artifact
from deckbench.errors import OutsideError
from deckbench.runners.job import Job
from deckbench.runners.staging import Staging, bring_out, remove
from deckbench.runners.store import Session
from deckbench.runners.store_fetch import fetch
from deckbench.runners.tree import Tree


def bring_home(job: Job, staging: Staging, session: Session, seeds: Tree) -> None:
    """Fetch what the step wrote, then put it into its place: all of it, or nothing yet."""
    home = staging.folder / ".home"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        mend = "mend the rights or the disk, then run again to go on"
        raise OutsideError(f"cannot make the folder: {error.strerror}", home, mend) from error
    also = [name for name, _ in staging.more]
    fetch(session, home, seeds.files, also)
    if job.in_place:
        merge_home(home / job.output.name, job.output, seeds, job.output.name)
        remove(home)
        return
    for name in staging.unfinished:
        if (local := staging.output.with_name(name)).exists():
            local.rename(staging.folder / f".old-{name}")  # goes with the drafts: what came home is newer
    for path in sorted(home.iterdir()):
        if path.name == staging.output.name and path.is_dir() and unchanged(path, path.name, seeds):
            remove(path)
            continue
        path.replace(staging.folder / path.name)
    bring_out(staging)


def unchanged(folder: Path, name: str, seeds: Tree) -> bool:
    """Whether a folder that came home is the one that was there."""
    before = {path: seed.sha256 for path, seed in seeds.files.items() if path.startswith(f"{name}/")}
    after = {f"{name}/{path}": entry["sha256"] for path, entry in artifact.list_files(folder).items()}
    for path in folder.rglob(artifact.MANIFEST):
        after[f"{name}/{path.relative_to(folder).as_posix()}"] = artifact.hash_file(path)
    return bool(before) and before == after


def merge_home(source: Path, target: Path, seeds: Tree, name: str) -> None:
    """Make a folder that a step goes on with as it is there: file by file, manifests last; what went there, goes."""
    paths = sorted(source.rglob("*"))
    present = {path.relative_to(source).as_posix() for path in paths}
    for path in paths:
        if path.is_dir():
            (target / path.relative_to(source)).mkdir(parents=True, exist_ok=True)
    files = [path for path in paths if path.is_file()]
    for path in sorted(files, key=lambda path: path.name == artifact.MANIFEST):
        inside = path.relative_to(source).as_posix()
        seed = seeds.files.get(f"{name}/{inside}")
        if seed is None or seed.sha256 != artifact.hash_file(path):
            path.replace(target / inside)
    before = {path.partition("/")[2] for path in (*seeds.files, *seeds.folders)} - {""}
    for inside in sorted(before - present, reverse=True):  # the innermost first
        with contextlib.suppress(OSError):
            (target / inside).rmdir() if (target / inside).is_dir() else (target / inside).unlink(missing_ok=True)
