"""Build an image from its locks, without a network: base, one layer of packages, one layer of DeckBench, settings."""

from __future__ import annotations

import contextlib
import io
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench.artifact import hash_file, hash_json
from deckbench.containers import bootstrap
from deckbench.containers.archive import SETTINGS, add_layers, pack
from deckbench.containers.identity import identity, is_locked
from deckbench.containers.install import deckbench_layer, install_packages
from deckbench.containers.lock import BASE, WHEELS, check_base, default_base, missing_locks, read_wheels
from deckbench.containers.spec import Image
from deckbench.containers.wheels import check_wheels, wheels_folder
from deckbench.errors import DeckBenchError, InputError, OutsideError
from deckbench.machine.daemon import LABEL, connect, failures
from deckbench.progress import say

if TYPE_CHECKING:
    from docker import DockerClient


# Labels of intermediate images: the packages are kept for the next build.
PACKAGES, LAYERS = "packages", "layers"
SETTINGS_ONLY = (
    "ARG",
    "FROM",
    "ENV",
    "USER",
    "WORKDIR",
    "ENTRYPOINT",
    "CMD",
    "LABEL",
)  # instructions that add no layer
SYSTEM_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class BuiltImage:
    """An image in a daemon: its tag, its identity (sha256, hex) and the locks it lacks, as text."""

    tag: str
    identity: str
    unlocked: tuple[str, ...]


def build(
    client: DockerClient,
    image: Image,
    *,
    base: str | None = None,
    wheels: Path | None = None,
    unlocked: bool = False,
    cache: bool = True,
    tag: str | None = None,
) -> BuiltImage:
    """Build an image from its locks, without a network.

    Args:
        client: the daemon's.
        image: its definition in containers.toml.
        base: `registry`, the locked digest, pulled where the daemon does not have it; or `bootstrap`, Debian packages
            checked against debian.lock. Default: see `default_base`.
        wheels: the folder that `fetch_wheels` filled; default: the user's cache.
        unlocked: also build an image without a lock; it is labelled so.
        cache: reuse base and packages of an earlier build with the same locks.
        tag: in place of the image's own tag.

    Returns:
        Tag and identity of the image, and the locks it lacks.

    Raises:
        InputError: a lock is missing, or something is not what its lock says.
        OutsideError: the daemon, the disk or a mirror fails.
    """
    import docker.errors

    base = check_base(base or default_base(image))
    missing = missing_locks(image, base)
    if missing and (not unlocked or not (image.folder / WHEELS).is_file()):
        fix = f"`deckbench containers lock {image.name} --base {base}`"
        fix += "; or --unlocked to build it without" if (image.folder / WHEELS).is_file() else ""
        raise InputError(f"{image.name} has no lock file for {', '.join(missing)}", image.folder, fix)
    old = image_attrs(client, image) if tag is None else None
    with tempfile.TemporaryDirectory(prefix="deckbench-build-") as name:
        folder = Path(name)
        packaged = packages_image(client, image, base, folder, wheels or wheels_folder(), cache, bool(missing))
        say(f"{image.name}: DeckBench")
        own = deckbench_layer(folder)
        raw = f"{image.tag}-layers-{secrets.token_hex(4)}"
        add_layers(client, packaged, [own], raw, architecture=image.architecture, labels={LABEL: LAYERS})
        try:
            labels = {LABEL: "image", f"{LABEL}.base": base, f"{LABEL}.locked": "false" if missing else "true"}
            set_up(client, image, raw, tag or image.tag, labels)
        finally:
            with failures("cannot remove a name"):
                client.images.remove(raw, noprune=True)
    if old is not None and old["Id"] != client.images.get(tag or image.tag).id:
        with contextlib.suppress(docker.errors.APIError):  # a container may still use it
            client.images.remove(old["Id"])
    attrs = client.images.get(tag or image.tag).attrs
    return BuiltImage(tag or image.tag, identity(attrs), tuple(missing))


def packages_image(
    client: DockerClient, image: Image, base: str, folder: Path, wheels: Path, cache: bool, unlocked: bool
) -> str:
    """The image of base and packages, built or from the cache; returns its id."""
    import docker.errors

    tag = packages_tag(image, base)
    locked = read_wheels(image)
    if cache and not unlocked:
        try:
            return str(client.images.get(tag).id)
        except docker.errors.ImageNotFound:
            pass
    check_wheels(locked, wheels)  # before the base, which takes minutes
    if base == "bootstrap":
        say(f"{image.name}: base from Debian packages")
        rootfs = bootstrap.locked_base(image, folder)
        parent, layers, settings = None, [rootfs.layer], {"Env": [SYSTEM_PATH]}
    else:
        parent, layers, settings = registry_base(client, image), [], None
    say(f"{image.name}: packages")
    install_packages(image, folder / "packages", wheels)
    packed = pack(folder / "packages", folder / "packages.tar")
    shutil.rmtree(folder / "packages")
    labels = {LABEL: PACKAGES}
    return add_layers(
        client, parent, [*layers, packed], tag, architecture=image.architecture, settings=settings, labels=labels
    )


def packages_tag(image: Image, base: str) -> str:
    """The tag of the image of base and packages; depends on its locks."""
    lock = image.folder / (bootstrap.LOCK if base == "bootstrap" else BASE)
    inputs = {"base": hash_file(lock) if lock.is_file() else None, "image": image.base, "debian": str(image.debian)}
    key = hash_json({**inputs, "platform": image.platform, "wheels": hash_file(image.folder / WHEELS)})[:12]
    return f"deckbench/{image.name}-packages:{key}"


def registry_base(client: DockerClient, image: Image) -> str:
    """The locked base in the daemon, pulled by digest where needed; returns its id.

    Without a lock: the base's tag, where the daemon has it. Raises InputError where the daemon's tag is no longer the
    locked digest and that cannot be pulled, OutsideError where the registry does not answer.
    """
    import docker.errors

    lock = image.folder / BASE
    wanted = lock.read_text(encoding="utf-8").strip() if lock.is_file() else image.base
    try:
        found = client.images.get(wanted)
    except docker.errors.ImageNotFound:
        say(f"{image.name}: pulling {wanted}")
        try:
            with failures(f"the base {wanted} cannot be pulled", image.name):
                found = client.images.pull(wanted, platform=image.platform)
        except OutsideError as error:
            raise moved_tag(client, image, wanted) or error from None
    if f"{found.attrs['Os']}/{found.attrs['Architecture']}" != image.platform:
        raise InputError(f"the base {wanted} is not for {image.platform}", image.name, "lock it again")
    return str(found.id)


def moved_tag(client: DockerClient, image: Image, wanted: str) -> InputError | None:
    """An error where the daemon has the base's tag, but with another digest than the locked one."""
    import docker.errors

    try:
        there = client.images.get(image.base)
    except docker.errors.ImageNotFound:
        return None
    now = ", ".join(there.attrs.get("RepoDigests") or []) or there.id
    what = f"the tag {image.base} has moved: locked is {wanted}, here it is {now}"
    return InputError(what, image.folder / BASE, f"check the new base, then `deckbench containers lock {image.name}`")


def set_up(client: DockerClient, image: Image, layered: str, tag: str, labels: dict[str, str]) -> None:
    """Apply the settings of the image's Dockerfile to its layers. Raises InputError where it holds anything else."""
    import docker.errors

    place = image.dockerfile
    check_dockerfile(place)
    draft = f"{layered}-set-up"
    with failures("the daemon cannot build", image.name):
        try:
            client.images.build(
                fileobj=io.BytesIO(place.read_bytes()),
                buildargs={"LAYERS": layered},
                tag=draft,
                labels=labels,
                network_mode="none",
                platform=image.platform,
                nocache=True,
                rm=True,
                forcerm=True,
            )
        except docker.errors.BuildError as error:
            raise InputError(
                f"the Dockerfile does not build: {error.msg}", place, "compare with DeckBench's own"
            ) from None
        built = client.images.get(draft)
        try:
            if built.attrs["RootFS"]["Layers"] != client.images.get(layered).attrs["RootFS"]["Layers"]:
                what = "the Dockerfile adds layers, which would depend on the daemon that builds them"
                raise InputError(what, place, f"only {', '.join(SETTINGS_ONLY)}; files come from requirements.in")
            built.tag(*tag.rsplit(":", 1))
        finally:
            client.images.remove(draft, noprune=True)


def check_dockerfile(place: Path) -> None:
    """Refuse a Dockerfile that is more than settings, with its line, before the daemon sees it. Raises InputError."""
    if not place.is_file():
        raise InputError("not found", place, "compare with DeckBench's own containers/Dockerfile")
    continued = False
    for number, line in enumerate(place.read_text(encoding="utf-8").splitlines(), 1):
        word, _, rest = line.strip().partition(" ")
        starts, continued = not continued, line.rstrip().endswith("\\")
        if not starts or not word or word.startswith("#"):
            continue
        if word.upper() not in SETTINGS_ONLY:
            what = f"{word} in a Dockerfile that may only hold settings"
            raise InputError(
                what, f"{place}:{number}", f"only {', '.join(SETTINGS_ONLY)}; files come from requirements.in"
            )
        if word.upper() == "FROM" and rest.strip() != "${LAYERS}":
            fix = "write FROM ${LAYERS}; the base is in the locks"
            raise InputError(f"FROM {rest.strip()}", f"{place}:{number}", fix)


def verify(
    client: DockerClient, image: Image, *, base: str | None, wheels: Path | None, unlocked: bool
) -> dict[str, Any]:
    """Rebuild an image from scratch under another tag, and compare identities.

    Args:
        client: the daemon's.
        image: its definition in containers.toml; it must have been built there.
        base: as for `build`; default: the kind that it was built on.
        wheels: as for `build`.
        unlocked: as for `build`.

    Returns:
        name; same: whether the identities are equal; identity, again: of both builds (sha256, hex); differs: the layers
        and settings that differ.

    Raises:
        InputError: as `build`, and where the image is not built there.
        OutsideError: as `build`.
    """
    tag = f"{image.tag}-verify-{secrets.token_hex(4)}"
    before = image_attrs(client, image)
    if before is None:
        raise InputError(f"{image.name} is not built here", image.tag, f"`deckbench containers build {image.name}`")
    base = base or (before["Config"].get("Labels") or {}).get(f"{LABEL}.base")
    again = build(client, image, base=base, wheels=wheels, unlocked=unlocked, cache=False, tag=tag)
    after = client.images.get(tag).attrs
    with failures("cannot remove the second build"):
        client.images.remove(tag)
    was = identity(before)
    return {
        "name": image.name,
        "same": was == again.identity,
        "identity": was,
        "again": again.identity,
        "differs": differing(before, after),
    }


def recreate(client: DockerClient, image: Image, wanted: str) -> str:
    """Provide an image in the daemon, if possible the one of identity `wanted`; returns the identity of what is there.

    An existing one of that identity is used, else it is built from this DeckBench and its locks. Where that fails, an
    existing one of another identity is kept. Raises DeckBenchError where there is none at all.
    """
    there = image_attrs(client, image)
    if there is not None and identity(there) == wanted:
        return wanted
    try:
        return build(client, image).identity
    except DeckBenchError:
        if there is None:
            raise
        return identity(there)


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs in the identities of two images: `layer 2 of 3`, `Env` ..."""
    found = [name for name in SETTINGS if (before["Config"].get(name) or None) != (after["Config"].get(name) or None)]
    found += [name for name in ("Architecture", "Os") if before[name] != after[name]]
    old, new = before["RootFS"]["Layers"], after["RootFS"]["Layers"]
    found += [f"{len(old)} layers, then {len(new)}"] if len(old) != len(new) else []
    return found + [f"layer {n} of {len(old)}" for n, (a, b) in enumerate(zip(old, new, strict=False), 1) if a != b]


def image_attrs(client: DockerClient, image: Image) -> dict[str, Any] | None:
    """`docker image inspect` of an image; None where it is not built."""
    import docker.errors

    try:
        attrs: dict[str, Any] = client.images.get(image.tag).attrs
    except docker.errors.ImageNotFound:
        return None
    return attrs


def image_table(images: Sequence[Image]) -> list[dict[str, str]]:
    """A row for each image: name, platform, locked, built, identity, serves. Works without a daemon."""
    client: DockerClient | None = None
    why = ""
    try:
        client = connect(timeout=10)
    except DeckBenchError as error:
        why = error.what if "package" in error.what else "no docker daemon"
        if error.where == "DOCKER_HOST":
            say(error.what)
    rows = []
    for image in images:
        attrs = image_attrs(client, image) if client else None
        missing = {base: missing_locks(image, base) for base in ("registry", *(["bootstrap"] if image.debian else []))}
        good = [base for base, what in missing.items() if not what]
        lacks = ", ".join(missing["registry"])
        rows.append(
            {
                "name": image.name,
                "platform": image.platform,
                "locked": f"locked ({' and '.join(good)})" if good else f"unlocked: {lacks}",
                "built": why or ("not built" if not attrs else "built" if is_locked(attrs) else "built unlocked"),
                "identity": identity(attrs) if attrs else "",
                "serves": ", ".join(image.serves),
            }
        )
    return rows
