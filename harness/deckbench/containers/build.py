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
from deckbench.containers.install import install_packages, own_layer
from deckbench.containers.lock import BASE, WHEELS, base_of, check_base, missing_locks, read_wheels
from deckbench.containers.spec import Image
from deckbench.containers.wheels import check_wheels, wheels_folder
from deckbench.errors import DeckBenchError, InputError, OutsideError
from deckbench.machine.daemon import LABEL, connect, failures
from deckbench.progress import say

if TYPE_CHECKING:
    from docker import DockerClient


# Labels of what a build makes on its way: the packages are kept for the next one.
PACKAGES, LAYERS = "packages", "layers"
SET = ("ARG", "FROM", "ENV", "USER", "WORKDIR", "ENTRYPOINT", "CMD", "LABEL")  # of a Dockerfile: what adds no layer
SYSTEM_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Built:
    """An image in a daemon: its tag, its identity (sha256, hex) and what is not locked, in words."""

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
) -> Built:
    """Build `image` in a daemon under its tag (or `tag`).

    base: `registry`, the locked digest, pulled where the daemon does not have it; or `bootstrap`, Debian packages held
    against debian.lock; default: see `base_of`. wheels: the folder that `fetch_wheels` filled. unlocked: also build
    what has no lock, labelled so. cache: take base and packages from an earlier build with the same locks.

    Raises InputError where a lock is missing or something is not what its lock says, OutsideError where daemon, disk or
    mirror fail.
    """
    import docker.errors

    base = check_base(base or base_of(image))
    missing = missing_locks(image, base)
    if missing and (not unlocked or not (image.folder / WHEELS).is_file()):
        fix = f"`deckbench containers lock {image.name} --base {base}`"
        fix += "; or --unlocked, to try it without" if (image.folder / WHEELS).is_file() else ""
        raise InputError(f"{image.name} is unlocked: nobody has resolved {', '.join(missing)}", image.folder, fix)
    old = built_attrs(client, image) if tag is None else None
    with tempfile.TemporaryDirectory(prefix="deckbench-build-") as name:
        folder = Path(name)
        packaged = packages_image(client, image, base, folder, wheels or wheels_folder(), cache, bool(missing))
        say(f"{image.name}: DeckBench")
        own = own_layer(folder)
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
    return Built(tag or image.tag, identity(attrs), tuple(missing))


def packages_image(
    client: DockerClient, image: Image, base: str, folder: Path, wheels: Path, cache: bool, unlocked: bool
) -> str:
    """The image of base and packages, made or found; returns its id."""
    import docker.errors

    lock, tag = image.folder / (bootstrap.LOCK if base == "bootstrap" else BASE), packages_tag(image, base)
    locked = read_wheels(image)
    if cache and not unlocked:
        try:
            return str(client.images.get(tag).id)
        except docker.errors.ImageNotFound:
            pass
    check_wheels(locked, wheels)  # before the minutes that a base takes
    if base == "bootstrap":
        say(f"{image.name}: base from Debian packages")
        rootfs = bootstrap.bootstrap(image, folder)
        if lock.is_file():
            bootstrap.check_lock(image, rootfs)
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
    """The name of the image of base and packages: another one for other locks."""
    lock = image.folder / (bootstrap.LOCK if base == "bootstrap" else BASE)
    decides = {"base": hash_file(lock) if lock.is_file() else None, "image": image.base, "debian": str(image.debian)}
    key = hash_json({**decides, "platform": image.platform, "wheels": hash_file(image.folder / WHEELS)})[:12]
    return f"deckbench/{image.name}-packages:{key}"


def registry_base(client: DockerClient, image: Image) -> str:
    """The locked base in the daemon, pulled by digest where it is not there; returns its id.

    Unlocked: the base's tag, where the daemon has it. Raises InputError where the tag that the daemon has is no longer
    the locked digest and the locked one cannot be had, OutsideError where the registry does not answer.
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
    return InputError(what, image.folder / BASE, f"look at the new base, then `deckbench containers lock {image.name}`")


def set_up(client: DockerClient, image: Image, layered: str, tag: str, labels: dict[str, str]) -> None:
    """The settings of the image's Dockerfile on top of its layers. Raises InputError where it holds anything else."""
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
            raise InputError(f"the Dockerfile does not build: {error.msg}", place, "see DeckBench's own") from None
        made = client.images.get(draft)
        try:
            if made.attrs["RootFS"]["Layers"] != client.images.get(layered).attrs["RootFS"]["Layers"]:
                what = "the Dockerfile changes layers, which would then depend on the daemon that builds"
                raise InputError(what, place, f"only {', '.join(SET)}; files come from requirements.in")
            made.tag(*tag.rsplit(":", 1))
        finally:
            client.images.remove(draft, noprune=True)


def check_dockerfile(place: Path) -> None:
    """Refuse a Dockerfile that is more than settings, with its line, before the daemon sees it. Raises InputError."""
    if not place.is_file():
        raise InputError("there is no Dockerfile", place, "see DeckBench's own containers/Dockerfile")
    goes_on = False
    for number, line in enumerate(place.read_text(encoding="utf-8").splitlines(), 1):
        word, _, rest = line.strip().partition(" ")
        begins, goes_on = not goes_on, line.rstrip().endswith("\\")
        if not begins or not word or word.startswith("#"):
            continue
        if word.upper() not in SET:
            what = f"{word} in a Dockerfile that holds settings alone"
            raise InputError(what, f"{place}:{number}", f"only {', '.join(SET)}; files come from requirements.in")
        if word.upper() == "FROM" and rest.strip() != "${LAYERS}":
            fix = "write FROM ${LAYERS}; the base is in the locks"
            raise InputError(f"FROM {rest.strip()}", f"{place}:{number}", fix)


def verify(
    client: DockerClient, image: Image, *, base: str | None, wheels: Path | None, unlocked: bool
) -> dict[str, Any]:
    """Build an image again from nothing, under a name of its own, and compare; returns {name, same, identity, ...}.

    base: default, the kind that it was built on. Raises as `build`, and InputError where there is none to compare with.
    """
    tag = f"{image.tag}-verify-{secrets.token_hex(4)}"
    before = built_attrs(client, image)
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
    """Have an image in the daemon, the one of identity `wanted` if it can be; returns the identity that is there.

    One that is there already is taken, else it is built from this DeckBench and its locks. Where that fails, another
    one that is there stays. Raises DeckBenchError where there is none at all.
    """
    there = built_attrs(client, image)
    if there is not None and identity(there) == wanted:
        return wanted
    try:
        return build(client, image).identity
    except DeckBenchError:
        if there is None:
            raise
        return identity(there)


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What of two images' identities differs: `layer 2 of 3`, `Env` ..."""
    found = [name for name in SETTINGS if (before["Config"].get(name) or None) != (after["Config"].get(name) or None)]
    found += [name for name in ("Architecture", "Os") if before[name] != after[name]]
    old, new = before["RootFS"]["Layers"], after["RootFS"]["Layers"]
    found += [f"{len(old)} layers, then {len(new)}"] if len(old) != len(new) else []
    return found + [f"layer {n} of {len(old)}" for n, (a, b) in enumerate(zip(old, new, strict=False), 1) if a != b]


def built_attrs(client: DockerClient, image: Image) -> dict[str, Any] | None:
    """What the daemon says of an image; None where it is not built."""
    import docker.errors

    try:
        attrs: dict[str, Any] = client.images.get(image.tag).attrs
    except docker.errors.ImageNotFound:
        return None
    return attrs


def standing(images: Sequence[Image]) -> list[dict[str, str]]:
    """For each image what `containers ls` shows: name, platform, locked, built, identity, serves. Needs no daemon."""
    client: DockerClient | None = None
    why = ""
    try:
        client = connect(timeout=10)
    except DeckBenchError as error:
        why = "no docker daemon" if isinstance(error, OutsideError) else error.what
    rows = []
    for image in images:
        attrs = built_attrs(client, image) if client else None
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
