"""Runs beside the store, in a container of the far daemon: joins what came in pieces, links trees, reads outputs.

Its source travels as `python3 -c`, so it needs nothing but Python 3.10 and its standard library. One call: a question
(JSON file) as its argument, the answer written beside it as `.answer`. Every operation may be broken off and done again.

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
from typing import Any

STORE = "/store"
OUT = "/out"
BLOCK = 1 << 20
OLD_S = 14 * 24 * 3600  # pieces that nobody has gone on with for so long are dropped


def blob(sha: str) -> str:
    return f"{STORE}/blobs/{sha[:2]}/{sha}"


def size_of(path: str) -> int:
    """Bytes of a file, -1 when there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        os.unlink(path)


def feed(path: str, digest: Any, into: Any = None) -> None:
    """Hash a file, and write it to `into` as well."""
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            if into is not None:
                into.write(block)


def sha_of(path: str) -> str:
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
    whole = f"{STORE}/pieces/{sha}.whole"
    joined = max(0, size_of(whole)) // chunk
    sizes = [min(chunk, size - number * chunk) for number in range(count)]
    lacking = [n for n in range(joined, count) if size_of(f"{STORE}/pieces/{sha}.{n}") != sizes[n]]
    if lacking:
        return lacking
    digest = hashlib.sha256()
    with open(whole, "a+b") as file:
        file.truncate(min(joined * chunk, size))
        feed(whole, digest)
        for number in range(joined, count):
            piece = f"{STORE}/pieces/{sha}.{number}"
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
    os.chmod(whole, 0o444)
    os.makedirs(os.path.dirname(blob(sha)), exist_ok=True)
    os.rename(whole, blob(sha))
    return []


def place(ask: dict[str, Any]) -> dict[str, Any]:
    """files {sha: size}, chunk, hashes {sha: {number: sha}}, job, trees {root: {files: {path: sha}, folders: []}}.

    Answers missing {sha: [numbers]}, free (bytes of the disk); with nothing missing, the job's trees stand.
    """
    clean()
    missing = {}
    with open(f"{STORE}/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for sha, size in ask["files"].items():
            if lacking := take(sha, size, ask["chunk"], ask["hashes"].get(sha, {})):
                missing[sha] = lacking
    if not missing and not os.path.isdir(f"{STORE}/jobs/{ask['job']}"):
        draft = f"{STORE}/jobs/.{ask['job']}.{os.urandom(4).hex()}"
        for root, tree in ask["trees"].items():
            grow(f"{draft}/{root}", tree["files"], tree["folders"])
        os.rename(draft, f"{STORE}/jobs/{ask['job']}")
    disk = os.statvfs(STORE)
    return {"missing": missing, "free": disk.f_bavail * disk.f_frsize}


def below(root: str, path: str) -> str:
    """`root/path`, which must not leave root."""
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"the path leaves its folder: {path}")
    return f"{root}/{path}"


def grow(root: str, files: dict[str, str], folders: list[str]) -> None:
    os.makedirs(root, exist_ok=True)
    for path in folders:
        os.makedirs(below(root, path), exist_ok=True)
    for path, sha in files.items():
        target = below(root, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        try:
            os.link(blob(sha), target)
        except OSError:  # a file can have so many names only (65,000 on ext4), and thousands of labels are empty
            shutil.copyfile(blob(sha), target)


def seed(ask: dict[str, Any]) -> dict[str, Any]:
    """Copy a job's tree `out` to /out, where the step may write."""
    source = f"{STORE}/jobs/{ask['job']}/out"
    for name in os.listdir(source) if os.path.isdir(source) else []:
        remove(f"{OUT}/{name}")
        if os.path.isdir(f"{source}/{name}"):
            shutil.copytree(f"{source}/{name}", f"{OUT}/{name}", copy_function=shutil.copyfile)
        else:
            shutil.copyfile(f"{source}/{name}", f"{OUT}/{name}")
    return {}


def listing(ask: dict[str, Any]) -> dict[str, Any]:
    """Everything in /out but drafts: files {path: [sha, size]}, folders. Links do not travel, and are left out."""
    files, folders = {}, []
    for parent, names, leaves in os.walk(OUT):
        if parent == OUT:
            names[:], leaves = ([n for n in some if not n.startswith(".")] for some in (names, leaves))
        for name in names:
            if not os.path.islink(f"{parent}/{name}"):
                folders.append(os.path.relpath(f"{parent}/{name}", OUT))
        for name in leaves:
            path = f"{parent}/{name}"
            if os.path.isfile(path) and not os.path.islink(path):
                files[os.path.relpath(path, OUT)] = [sha_of(path), size_of(path)]
    return {"files": files, "folders": sorted(folders)}


def pull(ask: dict[str, Any]) -> dict[str, Any]:
    """batches: lists of [path, offset, length] of /out; each becomes one file /store/asks/JOB.N."""
    for number, batch in enumerate(ask["batches"]):
        with open(f"{STORE}/asks/{ask['job']}.{number}", "wb") as target:
            for path, offset, length in batch:
                with open(f"{OUT}/{path}", "rb") as source:
                    source.seek(offset)
                    while length and (block := source.read(min(BLOCK, length))):
                        length -= len(block)
                        target.write(block)
                if length:
                    raise ValueError(f"the file became shorter: {path}")
    return {}


def forget(ask: dict[str, Any]) -> dict[str, Any]:
    """Remove a job's trees, questions and answers. The blobs stay."""
    remove(f"{STORE}/jobs/{ask['job']}")
    for folder in ("jobs", "asks"):
        for name in os.listdir(f"{STORE}/{folder}"):
            if name.startswith((f"{ask['job']}.", f".{ask['job']}.")):
                remove(f"{STORE}/{folder}/{name}")
    return {}


def clean() -> None:
    """Remove what was left behind long ago."""
    for folder in ("pieces", "asks"):
        for name in os.listdir(f"{STORE}/{folder}"):
            path = f"{STORE}/{folder}/{name}"
            try:
                if time.time() - os.stat(path).st_mtime > OLD_S:
                    remove(path)
            except OSError:
                continue


def main(place_of_question: str) -> None:
    with open(place_of_question, encoding="utf-8") as file:
        ask = json.load(file)
    verb = {"place": place, "seed": seed, "list": listing, "pull": pull, "forget": forget}[ask["do"]]
    answer = verb(ask)
    if ask["do"] == "forget":
        return
    with open(f"{place_of_question}.answer.tmp", "w", encoding="utf-8") as file:
        json.dump(answer, file)
    os.rename(f"{place_of_question}.answer.tmp", f"{place_of_question}.answer")


if __name__ == "__main__":
    main(sys.argv[1])
