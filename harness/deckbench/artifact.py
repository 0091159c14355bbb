"""The one way anything is written: a folder that appears whole or not at all, with a manifest of hashes.

A manifest separates `content` (hashed: what was made, from what, with which parameters) from `observed`
(times, host, paths: never hashed). Two artifacts are the same when their content is.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deckbench.cores import in_threads
from deckbench.disk import (
    exchange,
    fsync_path,
    fsync_tree,
    lock_draft,
    open_aside,
    open_regular,
    read_bytes,
    real_path,
    remove_aside,
)
from deckbench.errors import InputError, OutsideError

MANIFEST = "manifest.json"
SCHEMA = 1
DRAFT_SUFFIX = ".draft"
MAX_NAME_BYTES = 200  # of an output; file systems take 255, and the drafts beside it have longer names
LOCKED_WITHIN_S = 60.0
MAX_SEED = 2**32 - 1


@dataclass
class Draft:
    """An artifact being written. `path` is a temporary sibling folder of the final place.

    beside: called when the manifest lies there; what it writes is part of the folder, but not of the manifest.
    """

    path: Path
    observed: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    beside: Callable[[Path], object] | None = None


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` holds. `content_hash` is the artifact's identity (sha256, hex)."""

    path: Path
    content: dict[str, Any]
    content_hash: str
    observed: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.content["kind"])


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces, UTF-8: the form that is hashed. Raises TypeError on other types."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def hash_json(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value)).hexdigest()


def hash_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def list_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Every file below `folder` but the manifest: relative posix path -> {sha256, size}, in sorted order."""
    paths = [path for path in sorted(p for p in folder.rglob("*") if p.is_file()) if path != folder / MANIFEST]
    digests = in_threads(hash_file, iter(paths))
    return {
        path.relative_to(folder).as_posix(): {"sha256": digest, "size": path.stat().st_size}
        for path, digest in zip(paths, digests, strict=True)
    }


def hash_folder(folder: Path) -> str:
    """Content hash of a folder that has no manifest: names and bytes of all its files."""
    return hash_json(list_files(folder))


def make_parent(path: Path) -> None:
    """Make the folder `path` will lie in. Raises InputError when a file stands there, OutsideError for the disk."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError("a file exists where a directory is expected", path.parent, "choose another output") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError("the path of the output is too long", path, "choose a shorter name") from error
        raise OutsideError(
            f"cannot create the directory: {error.strerror}", path.parent, "fix the permissions or the disk, then rerun"
        ) from error


def atomic_write(path: Path, data: bytes | str, *, flush: bool = True) -> None:
    """Write a file beside its place, fsync, rename. A reader sees the old bytes or the new ones, never half.

    flush: False leaves the fsyncs out, for what can be made again; after a power cut it may then be torn. Raises
    InputError when the place is a folder, or a file exists where a directory is expected; OutsideError for the disk.
    """
    atomic_write_all({path: data}, flush=flush)


def atomic_write_all(files: Mapping[Path, bytes | str], *, flush: bool = True) -> None:
    """Write files that belong together, the last of which says that all are there: all are on disk before one appears.

    Raises as `atomic_write` does; then none of them has changed.
    """
    asides: dict[Path, Path] = {}
    place = next(iter(files))
    try:
        with contextlib.ExitStack() as stack:
            for place, data in files.items():
                if place.is_dir():
                    raise InputError("the output is a directory; a file is expected", place, "name a file")
                make_parent(place)
                aside = place.with_name(f".{place.name}.tmp")
                file = stack.enter_context(open_aside(aside))
                asides[place] = aside
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                if flush:
                    os.fsync(file.fileno())
            for place, aside in asides.items():
                aside.replace(place)
                if flush:
                    fsync_path(place.parent)
            asides.clear()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError("the name of the output is too long", place, "choose a shorter name") from error
        raise OutsideError(
            f"cannot write: {error.strerror}", place, "free disk space or fix the permissions, then rerun"
        ) from error
    finally:
        for aside in asides.values():
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)


def manifest_of(
    folder: Path,
    kind: str,
    *,
    inputs: Mapping[str, Any],
    params: Mapping[str, Any],
    seed: int | None,
    observed: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest of a finished folder, as a plain dict."""
    files = list_files(folder)
    content = {"kind": kind, "inputs": dict(inputs), "params": dict(params), "seed": seed, "files": files}
    return {"schema": SCHEMA, "content_hash": hash_json(content), "content": content, "observed": dict(observed)}


def check_name(out: Path) -> None:
    """Refuse an output whose name the disk would not take. Raises InputError."""
    *folders, name = (len(os.fsencode(part)) for part in Path(out).absolute().parts)
    if name > MAX_NAME_BYTES:
        what = f"the name of the output is too long: {name} bytes"
        raise InputError(what, out, f"choose a name of at most {MAX_NAME_BYTES} bytes")
    if max(folders, default=0) > 255 or sum(folders) + len(folders) + name > 4000:
        raise InputError("the path of the output is too long", out, "choose shorter names of folders")


def check_free(out: Path) -> None:
    """Refuse an output place that is taken, or whose name is too long. Raises InputError."""
    check_name(out)
    if out.is_file():
        raise InputError("the output is an existing file", out, "choose another --out")
    if out.is_dir() and any(out.iterdir()):
        what = (
            "the output folder already holds a finished artifact"
            if (out / MANIFEST).exists()
            else "the output folder is not empty"
        )
        raise InputError(what, out, "choose another --out, or remove that folder first")


def remove_dead_drafts(folder: Path, name: str = "*") -> None:
    """Remove drafts in a folder, of the output `name` or of any, whose process is gone (killed while writing).

    A writer holds a lock on its draft: process numbers say nothing about one in a container.
    """
    for draft in folder.glob(f".{glob.escape(name) if name != '*' else name}.*{DRAFT_SUFFIX}"):
        pid = draft.name.removesuffix(DRAFT_SUFFIX).rpartition(".")[2].partition("-")[0]
        with contextlib.suppress(OSError):
            handle = lock_draft(draft)
            if handle is not None:
                os.close(handle)
            # One that was made just now may not be locked yet; where the disk has no locks, the number has to do. A
            # process that writes this now has no other draft of it: one of its number was of its like in a container.
            young = time.time() - draft.stat().st_mtime < LOCKED_WITHIN_S
            alive = pid.isdigit() and pid != str(os.getpid()) and Path(f"/proc/{pid}").exists()
            if not (alive and (young or handle is None)):
                shutil.rmtree(draft, ignore_errors=True)


def remove_leftovers(work: Path) -> None:
    """Remove what killed processes left in a work folder: drafts and temporary files, two levels deep."""
    for folder in (work, *work.glob("*/"), *work.glob("*/*/")):
        remove_dead_drafts(folder)
        for aside in folder.glob(".*.tmp"):
            remove_aside(aside)


@contextlib.contextmanager
def writing(
    out: Path,
    kind: str,
    *,
    inputs: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    seed: int | None = None,
    replace: bool = False,
) -> Iterator[Draft]:
    """Write an artifact: yields a Draft whose `path` is filled by the caller, then becomes `out` in one rename.

    On any exception the draft is removed and `out` is untouched. The seed and params are part of the identity;
    `draft.observed` is not.

    Args:
        out: the place.
        kind: what it is.
        inputs: what it is made from, by name.
        params: with which parameters; `draft.params` may be added to.
        seed: of all that is random.
        replace: whether an artifact that stands at `out` is replaced: at no moment is there none.

    Raises:
        InputError: `out` is taken.
        OutsideError: the disk fails.
    """
    out = Path(out)
    if not (replace and (out / MANIFEST).is_file()):
        check_free(out)
    make_parent(out)
    remove_dead_drafts(out.parent, out.name)
    aside = out.with_name(f".{out.name}.{os.getpid()}-{secrets.token_hex(4)}{DRAFT_SUFFIX}")
    lock = None
    try:
        aside.mkdir()
        lock = lock_draft(aside)
    except OSError as error:
        raise OutsideError(
            f"cannot write the {kind}: {error.strerror}", out, "fix the permissions or the disk, then rerun"
        ) from error
    draft = Draft(aside, params=dict(params or {}))
    try:
        yield draft
        manifest = manifest_of(
            aside, kind, inputs=inputs or {}, params=draft.params, seed=seed, observed=draft.observed
        )
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if draft.beside is not None:
            draft.beside(aside)
        fsync_tree(aside)
        if replace and (out / MANIFEST).is_file():
            exchange(aside, out)  # what is at `aside` now goes below
        else:
            if out.is_dir():
                out.rmdir()
            aside.rename(out)
        fsync_path(out.parent)
        remove_dead_drafts(out.parent, out.name)  # again: a killed writer's workers may have written on
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST} and out.is_dir():
            raise InputError("another process wrote this output meanwhile", out, "choose another --out") from error
        if error.errno in {5, 27, 28, 30, 122}:  # EIO, EFBIG, ENOSPC, EROFS, EDQUOT: the disk's fault
            raise OutsideError(
                f"cannot write the {kind}: {error.strerror}", out, "free disk space, then rerun"
            ) from error
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def read_json(place: Path, fix: str) -> dict[str, Any]:
    """The JSON object in a file. Raises InputError, with `fix`, for anything else, however large or deeply nested."""
    try:
        value = json.loads(read_bytes(place).decode())
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", place, fix) from error
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise InputError(f"cannot be read: not JSON ({why})", f"{place}{line}", fix) from error
    if not isinstance(value, dict):
        raise InputError("is not a JSON object", place, fix)
    return value


def check_shape(manifest: Manifest) -> None:
    """Raises TypeError or KeyError unless everything in a manifest is of its type."""
    content = manifest.content
    parts = (content, content["inputs"], content["params"], content["files"], manifest.observed)
    entries = content["files"].values() if all(isinstance(part, dict) for part in parts) else [None]
    hashes = [entry["sha256"] if isinstance(entry, dict) else None for entry in entries]
    if not all(isinstance(text, str) and text for text in (content["kind"], manifest.content_hash, *hashes)):
        raise TypeError


def has_hash(place: Path, sha256: str) -> bool:
    """Whether a file is there and has this hash."""
    try:
        return place.is_file() and hash_file(place) == sha256
    except (OSError, ValueError):
        return False


def read(path: Path, kind: str | None = None, *, verify: bool | Collection[str] = False) -> Manifest:
    """Read an artifact's manifest.

    kind: what it must be. verify: also hash every file again, or those that are named.

    Raises InputError when the folder has no manifest, the manifest is damaged, the kind is another one, or a verified
    file is missing or changed.
    """
    path = Path(path)
    place = path / MANIFEST
    wanted = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}" if kind else "an artifact"
    if not path.exists():
        raise InputError(f"not found; {wanted} folder is expected here", path, "check the path")
    if not place.is_file():
        raise InputError(
            f"no {MANIFEST}: this is not {wanted} folder",
            path,
            "an unfinished or foreign folder has none; make it again",
        )
    data = read_json(place, "make the artifact again")
    try:
        manifest = Manifest(path, data["content"], data["content_hash"], data["observed"])
        check_shape(manifest)
        good = hash_json(manifest.content) == manifest.content_hash and data["schema"] == SCHEMA
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"the manifest cannot be read ({type(error).__name__})", place, "make the artifact again"
        ) from error
    if not good:
        raise InputError(
            "the manifest's hash does not fit its content", place, "it was edited; make the artifact again"
        )
    if kind is not None and manifest.kind != kind:
        found, wanted = (f"{'an' if word[0] in 'aeiou' else 'a'} {word}" for word in (manifest.kind, kind))
        raise InputError(f"this is {found}, not {wanted}", path, f"give the folder of {wanted}")
    if verify:
        files = manifest.content["files"]
        for name in files if verify is True else [name for name in verify if name in files]:
            if not has_hash(path / name, files[name]["sha256"]):
                raise InputError(
                    "the file is missing or was changed since the artifact was made",
                    path / name,
                    "make it again",
                )
    return manifest


def inside(folder: Path, relative: str, where: str | Path) -> Path:
    """`folder/relative`, refused when it leaves the folder (absolute, `..`, or a link out). Raises InputError."""
    base = real_path(folder)
    path = real_path(base / relative)
    if Path(relative).is_absolute() or not path.is_relative_to(base):
        raise InputError(f"the path {relative!r} leaves the folder", where, "paths are relative to the dataset folder")
    return path
