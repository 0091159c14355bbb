"""Reproducible archives, and images built from them.

An entry's time, owner and permissions come from fixed rules and entries are sorted by name, so the same files give the
same bytes, whichever machine packs them.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, cast

from deckbench.artifact import hash_file
from deckbench.errors import OutsideError
from deckbench.machine.daemon import failures

if TYPE_CHECKING:
    from docker import DockerClient

SETTINGS = ("Env", "Entrypoint", "Cmd", "User", "WorkingDir")  # of an image's config: what its identity holds
EPOCH = 1704067200  # 2024-01-01: the time of every file in an image (seconds, UTC)
BLOCK = 1 << 20


@dataclass(frozen=True)
class Layer:
    """A layer: its tar and the tar's sha256 (hex), which is the layer's diff id."""

    tar: Path
    sha256: str


def normalized(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """The entry with a fixed time, root as owner, and mode 755 or 644."""
    entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = EPOCH, 0, 0, "", ""
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o111 else 0o644
    entry.pax_headers = {}
    return entry


def pack(root: Path, out: Path) -> Layer:
    """Write all below `root` into the tar `out`, sorted, folders first.

    Links are kept as links; bytecode (`__pycache__`, `*.pyc`) is left out.
    """
    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).parts):
            if "__pycache__" in path.parts or path.suffix == ".pyc":
                continue
            entry = normalized(tar.gettarinfo(path, path.relative_to(root).as_posix()))
            if entry.islnk():  # two names of one file: which is the link depends on the disk, so both are files
                entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", path.stat().st_size
            if entry.isreg():
                with path.open("rb") as file:
                    tar.addfile(entry, file)
            else:
                tar.addfile(entry)
    return Layer(out, hash_file(out))


def repack(tar: Path, out: Path, dropped: Sequence[str]) -> Layer:
    """A root file system's tar, sorted and with our times.

    Owners and permissions stay (a system needs them). dropped: paths that depend on the building machine; a path's
    whole subtree is removed, the folder of a path ending in `/` stays, empty.
    """
    whole = [PurePosixPath(path) for path in dropped if not path.endswith("/")]
    inner = [PurePosixPath(path) for path in dropped if path.endswith("/")]
    with tarfile.open(tar) as old, tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as new:
        entries = {}
        for entry in old:
            path = PurePosixPath(entry.name)
            if any(path.is_relative_to(drop) for drop in whole) or any(drop in path.parents for drop in inner):
                continue
            if path.parts:
                entries[entry.islnk(), path.parts] = entry  # hard links last: what they point to is there by then
        for key in sorted(entries):
            entry = entries[key]
            content = old.extractfile(entry) if entry.isreg() else None
            entry.name = PurePosixPath(entry.name).as_posix()
            entry.mtime, entry.uname, entry.gname, entry.pax_headers = EPOCH, "", "", {}
            if entry.islnk():
                entry.linkname = PurePosixPath(entry.linkname).as_posix()
            new.addfile(entry, content)
    return Layer(out, hash_file(out))


def add_layers(
    client: DockerClient,
    parent: str | None,
    layers: Sequence[Layer],
    tag: str,
    *,
    architecture: str,
    settings: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
) -> str:
    """Make the image `tag` of `parent` (an id; None: nothing) and more layers on top; returns its id.

    settings: Env, Entrypoint ... of the image; default: the parent's. labels: its own, none of the parent's. The
    archive that the daemon loads is written here because the daemon's own commit gives a layer the time and the tar
    dialect of that daemon. Raises OutsideError.
    """
    below: list[Layer | str] = []
    if parent is not None:
        attrs = client.images.get(parent).attrs
        below = list(attrs["RootFS"]["Layers"])
        settings = {key: attrs["Config"].get(key) for key in SETTINGS} if settings is None else settings
    settings = {**(settings or {}), "Labels": dict(labels or {})}
    try:
        return load_layers(client, [*below, *layers], settings, tag, architecture)
    except OutsideError:
        if parent is None:
            raise
    # A daemon that keeps images in containerd wants the parent's layers too, though it has them.
    with tempfile.TemporaryDirectory(prefix="deckbench-layers-") as folder:
        saved = save_layers(client, parent, Path(folder))
        return load_layers(client, [*saved, *layers], settings, tag, architecture)


def load_layers(
    client: DockerClient, layers: Sequence[Layer | str], settings: Mapping[str, Any], tag: str, architecture: str
) -> str:
    """Load an image of `layers`, the lowest first, under `tag`; returns its id. A diff id stands for a layer it has."""
    time = datetime.fromtimestamp(EPOCH, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = {
        "architecture": architecture,
        "os": "linux",
        "created": time,
        "config": {key: value for key, value in settings.items() if value},
        "rootfs": {
            "type": "layers",
            "diff_ids": [one if isinstance(one, str) else f"sha256:{one.sha256}" for one in layers],
        },
        "history": [{"created": time, "created_by": "deckbench containers build"} for _ in layers],
    }
    text = json.dumps(config, sort_keys=True).encode()
    name = f"{hashlib.sha256(text).hexdigest()}.json"
    places = [f"{number}/layer.tar" for number in range(len(layers))]
    listed = json.dumps([{"Config": name, "RepoTags": [tag], "Layers": places}]).encode()
    parts: list[tuple[str, bytes | Path]] = [(name, text), ("manifest.json", listed)]
    parts += [(place, one.tar) for place, one in zip(places, layers, strict=True) if not isinstance(one, str)]
    with failures("cannot load the image into the daemon"):
        client.images.load(tar_stream(parts))
        return str(client.images.get(tag).id)


def tar_stream(parts: Sequence[tuple[str, bytes | Path]]) -> Iterator[bytes]:
    """A tar in pieces, written while it is sent: never complete in memory, nor on disk a second time."""
    for name, source in parts:
        entry = tarfile.TarInfo(name)
        entry.size = len(source) if isinstance(source, bytes) else source.stat().st_size
        yield normalized(entry).tobuf(tarfile.GNU_FORMAT)
        if isinstance(source, bytes):
            yield source
        else:
            with source.open("rb") as file:
                while block := file.read(BLOCK):
                    yield block
        yield bytes(-entry.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def unpacked(layer: IO[bytes], image_id: str) -> IO[bytes]:
    """A layer's tar: a daemon that keeps images in containerd saves pulled ones compressed.

    Raises OutsideError for a compression that cannot be read here.
    """
    start = layer.read(4)
    layer.seek(0)
    if start[:2] == b"\x1f\x8b":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=layer))
    if start == b"\x28\xb5\x2f\xfd":
        what = "the daemon keeps a layer of the image compressed with zstd, which is not read here"
        raise OutsideError(what, image_id, "pull the base on a daemon with the classic image store (overlay2)")
    return layer


def save_layers(client: DockerClient, image_id: str, folder: Path) -> list[Layer]:
    """An image's layers as tars in `folder`, the lowest first. Raises OutsideError, also for a damaged layer."""
    with failures("cannot read the image from the daemon"):
        expected = client.images.get(image_id).attrs["RootFS"]["Layers"]
        archive = folder / "image.tar"
        with archive.open("wb") as file:
            for chunk in client.images.get(image_id).save(chunk_size=BLOCK):
                file.write(chunk)
    layers = []
    with tarfile.open(archive) as tar:
        listed = tar.extractfile("manifest.json")
        assert listed is not None
        for number, name in enumerate(json.load(listed)[0]["Layers"]):
            place = folder / f"layer-{number}.tar"
            source = tar.extractfile(name)  # follows the link that stands for a layer that is there twice
            assert source is not None
            with unpacked(source, image_id) as plain_tar, place.open("wb") as file:
                shutil.copyfileobj(plain_tar, file, BLOCK)
            layers.append(Layer(place, hash_file(place)))
    archive.unlink()
    if [f"sha256:{layer.sha256}" for layer in layers] != expected:
        raise OutsideError("the layers that the daemon saved are not those of the image", image_id, "rerun")
    return layers
