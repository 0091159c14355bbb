"""Runs beside the store, in a container of the far daemon: joins what came in pieces, links trees, reads outputs.

Its source travels as `python3 -c`, so it needs nothing but Python 3.10 and its standard library. One call: a question
(JSON file) as its argument, the answer written beside it as `.answer`. Every operation may be broken off and done
again.

/store/blobs/AB/SHA256     whole files, verified, read-only
/store/pieces/SHA256.N     pieces on their way; SHA256.whole what is joined so far
/store/jobs/ID/            a job's trees: hard links to blobs
/store/asks/               questions, answers and pieces on their way home
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path, PurePosixPath
from typing import Any

STORE = "/store"
OUT = "/out"
BLOBS, PIECES, JOBS, ASKS = (Path(STORE, name) for name in ("blobs", "pieces", "jobs", "asks"))
BLOCK = 1 << 20
OLD_S = 14 * 24 * 3600  # pieces that nobody has gone on with for so long are dropped


def blob(sha: str) -> Path:
    return BLOBS / sha[:2] / sha


def size_of(path: Path) -> int:
    """Bytes of a file, -1 when there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def feed(path: Path, digest: Any, into: Any = None) -> None:
    """Hash a file, and write it to `into` as well."""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            if into is not None:
                into.write(block)


def sha_of(path: Path) -> str:
    digest = hashlib.sha256()
    feed(path, digest)
    return digest.hexdigest()


def take(sha: str, size: int, chunk: int, hashes: dict[str, str]) -> list[int]:
    """Make the blob from its pieces if they are all there. Returns the numbers of those that must be sent (again).

    A piece goes as soon as it is joined, so that a file never takes its space twice.
    """
    if size_of(blob(sha)) == size:
        return []
    count = max(1, -(-size // chunk))
    whole = PIECES / f"{sha}.whole"
    joined = min(count, max(0, size_of(whole)) // chunk)
    sizes = [min(chunk, size - number * chunk) for number in range(count)]
    lacking = [n for n in range(joined, count) if size_of(PIECES / f"{sha}.{n}") != sizes[n]]
    if lacking:
        return lacking
    digest = hashlib.sha256()
    with whole.open("a+b") as file:
        file.truncate(min(joined * chunk, size))
        feed(whole, digest)
        for number in range(joined, count):
            piece = PIECES / f"{sha}.{number}"
            wanted = hashes.get(str(number))
            if wanted is not None and sha_of(piece) != wanted:
                remove(piece)
                return [number]
            feed(piece, digest, file)
            file.flush()
            remove(piece)
        os.fsync(file.fileno())
    if digest.hexdigest() != sha:
        remove(whole)
        return list(range(count))
    whole.chmod(0o444)
    blob(sha).parent.mkdir(exist_ok=True)
    whole.rename(blob(sha))
    return []


def place(ask: dict[str, Any]) -> dict[str, Any]:
    """files {sha: size}, chunk, hashes {sha: {number: sha}}, job, trees {root: {files: {path: sha}, folders: []}}.

    Answers missing {sha: [numbers]}, free (bytes of the disk); with nothing missing, the job's trees stand.
    """
    clean()
    missing = {}
    with Path(STORE, "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for sha, size in ask["files"].items():
            if lacking := take(sha, size, ask["chunk"], ask["hashes"].get(sha, {})):
                missing[sha] = lacking
    if not missing:
        remove(JOBS / ask["job"])
        draft = JOBS / f".{ask['job']}.{os.urandom(4).hex()}"
        for root, tree in ask["trees"].items():
            grow(draft / root, tree["files"], tree["folders"])
        draft.rename(JOBS / ask["job"])
    disk = os.statvfs(STORE)
    return {"missing": missing, "free": disk.f_bavail * disk.f_frsize}


def below(root: Path, path: str) -> Path:
    """`root/path`, which must not leave root."""
    if path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise ValueError(f"the path leaves its folder: {path}")
    return root / path


def grow(root: Path, files: dict[str, str], folders: list[str]) -> None:
    """Make a tree of hard links."""
    root.mkdir(parents=True)
    for path in folders:
        below(root, path).mkdir(parents=True, exist_ok=True)
    for path, sha in files.items():
        target = below(root, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(blob(sha), target)
        except OSError:  # a file can have so many names only (65,000 on ext4), and thousands of labels are empty
            shutil.copyfile(blob(sha), target)


def seed(ask: dict[str, Any]) -> dict[str, Any]:
    """Copy a job's tree `out` to /out, where the step may write; make `folders` there."""
    source = JOBS / ask["job"] / "out"
    for path in source.iterdir():
        target = Path(OUT, path.name)
        remove(target)
        if path.is_dir():
            shutil.copytree(path, target, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(path, target)
    for name in ask["folders"]:
        Path(OUT, name).mkdir(exist_ok=True)
    return {}


def listing(ask: dict[str, Any]) -> dict[str, Any]:
    """Everything in /out but drafts: files {path: [sha, size]}, folders. Links do not travel, and are left out.

    also: names that begin with a dot and are no drafts.
    """
    files, folders = {}, []
    for parent, names, leaves in os.walk(OUT):
        if parent == OUT:
            names[:], leaves = ([n for n in some if n[0] != "." or n in ask["also"]] for some in (names, leaves))
        for path in (Path(parent, name) for name in (*names, *leaves)):
            inside = path.relative_to(OUT).as_posix()
            if path.is_symlink():
                continue
            if path.is_dir():
                folders.append(inside)
            elif path.is_file():
                files[inside] = [sha_of(path), size_of(path)]
    return {"files": files, "folders": sorted(folders)}


def pull(ask: dict[str, Any]) -> dict[str, Any]:
    """batches: lists of [path, offset, length] of /out; each becomes one file /store/asks/JOB.N."""
    for number, batch in enumerate(ask["batches"]):
        with (ASKS / f"{ask['job']}.{number}").open("wb") as target:
            for inside, offset, length in batch:
                left = length
                with below(Path(OUT), inside).open("rb") as source:
                    source.seek(offset)
                    while left and (block := source.read(min(BLOCK, left))):
                        left -= len(block)
                        target.write(block)
                if left:
                    raise ValueError(f"the file became shorter: {inside}")
    return {}


def forget(ask: dict[str, Any]) -> dict[str, Any]:
    """Remove a job's trees, questions and answers. The blobs stay."""
    remove(JOBS / ask["job"])
    for folder in (JOBS, ASKS):
        for path in folder.iterdir():
            if path.name.startswith((f"{ask['job']}.", f".{ask['job']}.")):
                remove(path)
    return {}


def clean() -> None:
    """Remove what was left behind long ago."""
    for folder in (PIECES, ASKS):
        for path in folder.iterdir():
            try:
                if time.time() - path.stat().st_mtime > OLD_S:
                    remove(path)
            except OSError:
                continue


def main(question: Path) -> None:
    ask = json.loads(question.read_text(encoding="utf-8"))
    verb = {"place": place, "seed": seed, "list": listing, "pull": pull, "forget": forget}[ask["do"]]
    answer = verb(ask)
    if ask["do"] != "forget":
        draft = question.with_name(f"{question.name}.answer.tmp")
        draft.write_text(json.dumps(answer), encoding="utf-8")
        draft.rename(question.with_name(f"{question.name}.answer"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
