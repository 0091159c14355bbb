"""Runs in a container of the remote daemon that mounts the store: joins pieces to files, links trees, reads outputs.

Its source is passed as `python3 -c`, so it needs nothing but Python 3.10 and its standard library. It answers the
requests of one job, `JOB.N.json` with `JOB.N.go` after it, in `JOB.N.answer`, and ends when none has come for a while.
Every operation may be interrupted and repeated.

/store/blobs/AB/SHA256     whole files, verified, read-only
/store/pieces/JOB.X/       uploaded pieces, SHA256.N: a folder for each upload, so that no two ever write to the
                           same file; beside them SHA256.whole, what is joined so far
/store/jobs/ID/            a job's trees: hard links to blobs; sent.json
/store/asks/               requests, answers and pieces to download
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
SENT = "sent.json"  # in a job's folder: what was copied to /out, as a `listing`
BLOCK = 1 << 20
IDLE_S = 60.0
OLD_S = 14 * 24 * 3600  # older pieces are removed: nobody has resumed their upload


def blob(sha: str) -> Path:
    return BLOBS / sha[:2] / sha


def size_of(path: Path) -> int:
    """Bytes of a file, -1 when there is none, or the daemon is still writing it: then it is not owned by us yet."""
    try:
        found = path.stat()
    except OSError:
        return -1
    return found.st_size if found.st_uid == os.getuid() else -1


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def hash_into(path: Path, digest: Any, into: Any = None) -> None:
    """Hash a file, and write it to `into` as well."""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            if into is not None:
                into.write(block)


def sha_of(path: Path) -> str:
    digest = hashlib.sha256()
    hash_into(path, digest)
    return digest.hexdigest()


def received_pieces() -> dict[str, list[Path]]:
    """All pieces by their name, of this job and of others."""
    found: dict[str, list[Path]] = {}
    for folder in PIECES.iterdir():
        for path in folder.iterdir() if folder.is_dir() else ():
            found.setdefault(path.name, []).append(path)
    return found


def join_pieces(sha: str, size: int, request: dict[str, Any], pieces: dict[str, list[Path]]) -> list[int]:
    """Make the blob from its pieces if they are all there. Returns the numbers of those that must be sent (again).

    This job's pieces go as soon as they are joined, so that a file never takes its space twice.
    """
    if size_of(blob(sha)) == size:
        return []
    chunk, hashes = request["chunk"], request["hashes"].get(sha, {})
    count = max(1, -(-size // chunk))
    whole = PIECES / f"{sha}.whole"
    joined = min(count, max(0, size_of(whole)) // chunk)
    there = {}
    for number in range(joined, count):
        wanted = min(chunk, size - number * chunk)
        there[number] = [path for path in pieces.get(f"{sha}.{number}", ()) if size_of(path) == wanted]
    if absent := [number for number, paths in there.items() if not paths]:
        return absent
    digest = hashlib.sha256()
    with whole.open("a+b") as file:
        file.truncate(min(joined * chunk, size))
        hash_into(whole, digest)
        for number, paths in there.items():
            wanted = hashes.get(str(number))
            piece = next((path for path in paths if wanted is None or sha_of(path) == wanted), None)
            if piece is None:
                return [number]
            hash_into(piece, digest, file)
            file.flush()
            for path in paths:
                if path.parent.name.startswith(f"{request['job']}."):
                    remove(path)
        os.fsync(file.fileno())
    if digest.hexdigest() != sha:
        remove(whole)
        return list(range(count))
    whole.chmod(0o444)
    blob(sha).parent.mkdir(exist_ok=True)
    whole.rename(blob(sha))
    return []


def place(request: dict[str, Any]) -> dict[str, Any]:
    """files {sha: size}, chunk, hashes {sha: {number: sha}}, trees {root: {files: {path: sha}, folders: []}}, make.

    Answers missing {sha: [numbers]}, free (bytes of the disk). With nothing missing the job's trees exist, and /out
    holds a copy of the one called out and the folders `make`.
    """
    clean()
    missing = {}
    with Path(STORE, "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pieces = received_pieces()
        for sha, size in request["files"].items():
            if absent := join_pieces(sha, size, request, pieces):
                missing[sha] = absent
        if not missing:
            drop_pieces(request["job"])
    if not missing:
        remove(JOBS / request["job"])
        draft = JOBS / f".{request['job']}.{os.urandom(4).hex()}"
        for root, tree in request["trees"].items():
            link_tree(draft / root, tree["files"], tree["folders"])
        put = request["trees"]["out"]
        files = {path: [sha, request["files"][sha]] for path, sha in put["files"].items()}
        (draft / SENT).write_text(json.dumps({"files": files, "folders": put["folders"]}), encoding="utf-8")
        draft.rename(JOBS / request["job"])
        copy_seeds(JOBS / request["job"] / "out", request["make"])
    disk = os.statvfs(STORE)
    return {"missing": missing, "free": disk.f_bavail * disk.f_frsize}


def drop_pieces(job: str) -> None:
    """Remove a job's pieces."""
    for folder in PIECES.glob(f"{job}.*"):
        if folder.is_dir():
            remove(folder)


def below(root: Path, path: str) -> Path:
    """`root/path`, which must not leave root."""
    if path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise ValueError(f"the path leaves its folder: {path}")
    return root / path


def link_tree(root: Path, files: dict[str, str], folders: list[str]) -> None:
    """Create a tree of hard links."""
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


def copy_seeds(source: Path, folders: list[str]) -> None:
    """Copy a job's tree `out` to /out, where the step may write; make `folders` there."""
    for path in source.iterdir():
        target = Path(OUT, path.name)
        remove(target)
        if path.is_dir():
            shutil.copytree(path, target, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(path, target)
    for name in folders:
        Path(OUT, name).mkdir(exist_ok=True)


def listing(request: dict[str, Any]) -> dict[str, Any]:
    """Everything in /out but drafts: files {path: [sha, size]}, folders. Links are left out.

    also: names that begin with a dot and are no drafts.
    """
    files, folders = {}, []
    for parent, names, leaves in os.walk(OUT):
        if parent == OUT:
            names[:], leaves = ([n for n in some if n[0] != "." or n in request["also"]] for some in (names, leaves))
        for path in (Path(parent, name) for name in (*names, *leaves)):
            inside = path.relative_to(OUT).as_posix()
            if path.is_symlink():
                continue
            if path.is_dir():
                folders.append(inside)
            elif path.is_file():
                files[inside] = [sha_of(path), size_of(path)]
    return {"files": files, "folders": sorted(folders)}


def sent(request: dict[str, Any]) -> dict[str, Any]:
    """What `place` copied to /out. Empty where the job's trees are gone: its output was downloaded then."""
    try:
        found: dict[str, Any] = json.loads((JOBS / request["job"] / SENT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"files": {}, "folders": []}
    return found


def pull(request: dict[str, Any]) -> dict[str, Any]:
    """batches: lists of [path, offset, length] of /out; each becomes one file /store/asks/JOB.N."""
    for number, batch in enumerate(request["batches"]):
        with (ASKS / f"{request['job']}.{number}").open("wb") as target:
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


def forget(request: dict[str, Any]) -> dict[str, Any]:
    """Remove a job's trees, requests and answers. The blobs stay."""
    remove(JOBS / request["job"])
    for folder in (JOBS, ASKS):
        for path in folder.iterdir():
            if path.name.startswith((f"{request['job']}.", f".{request['job']}.")):
                remove(path)
    return {}


def clean() -> None:
    """Remove old leftovers."""
    for folder in (PIECES, ASKS):
        for path in folder.iterdir():
            try:
                if time.time() - path.stat().st_mtime > OLD_S:
                    remove(path)
            except OSError:
                continue


VERBS = {"place": place, "list": listing, "sent": sent, "pull": pull, "forget": forget}


def has_arrived(go: Path) -> bool:
    """Whether the daemon is done with a file. It writes it, gives it to us, then sets its time, to whole seconds; one
    that we remove before makes it fail."""
    found = go.stat()
    return found.st_uid == os.getuid() and found.st_mtime_ns % 10**9 == 0


def answer(go: Path) -> None:
    """Answer one request; an exception is an answer too: `error`."""
    try:
        request = json.loads(go.with_suffix(".json").read_text(encoding="utf-8"))
        result = VERBS[request["do"]](request)
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    draft = go.with_suffix(".draft")
    draft.write_text(json.dumps(result), encoding="utf-8")
    draft.rename(go.with_suffix(".answer"))
    remove(go.with_suffix(".json"))
    remove(go)


def serve(job: str) -> None:
    """Answer a job's requests until none has come for IDLE_S."""
    last = time.monotonic()
    while time.monotonic() - last < IDLE_S:
        for go in filter(has_arrived, sorted(ASKS.glob(f"{job}.*.go"))):
            answer(go)
            last = time.monotonic()
        time.sleep(0.05)


if __name__ == "__main__":
    serve(sys.argv[1])
