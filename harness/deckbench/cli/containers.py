"""`deckbench containers ...`: parses, calls, prints."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deckbench.cli.app import containers_app as app
from deckbench.cli.options import CachePath, HostRef, Json, Links, OptionalInput, OptionalText, Texts
from deckbench.errors import AnswerIsNo, DeckBenchError, InputError, OutsideError
from deckbench.progress import say
from deckbench.runners.kinds import Kind

if TYPE_CHECKING:
    from deckbench.containers.spec import Image

Names = Annotated[list[str], Kind.TEXT, typer.Argument(help="Images of containers.toml, e.g. x86-cpu.")]
KINDS = "registry: the locked digest; bootstrap: Debian packages; default: "
Base = Annotated[OptionalText, typer.Option(help=f"{KINDS}the locked one.")]
Folder = Annotated[OptionalInput, typer.Option(help="Folder of containers.toml; default: DeckBench's own.")]
Wheels = Annotated[CachePath, typer.Option(help="Wheel cache; default: in the user's cache.")]
FindLinks = Annotated[Links, typer.Option("--find-links", help="A folder or address with more wheels; repeatable.")]


def chosen(names: list[str], folder: Path | None) -> "list[Image]":
    """The images asked for; all of them where none is named. Raises InputError."""
    from deckbench.containers.spec import image_named, load_images

    return [image_named(name, folder) for name in names] or list(load_images(folder).values())


@app.command("ls", epilog="Example: deckbench containers ls --json")
def ls(folder: Folder = None, as_json: Json = False) -> None:
    """List the images: platform, locks, what is built."""
    from deckbench.containers.build import image_table

    rows = image_table(chosen([], folder))
    lines = ["{name:<10} {platform:<12} {locked}; {built} {identity:.12}".format_map(row).rstrip() for row in rows]
    print(json.dumps(rows, indent=1) if as_json else "\n".join(lines))


@app.command("lock", epilog="Example: deckbench containers lock x86-cpu --base bootstrap")
def lock(
    names: Annotated[Texts, typer.Argument(help="Images; default: all.")] = None,
    base: Base = None,
    only: Annotated[OptionalText, typer.Option(help="packages or base; default: both.")] = None,
    find_links: FindLinks = None,
    folder: Folder = None,
) -> None:
    """Lock packages and bases of images. Exit 3 if an index or registry cannot be reached."""
    from deckbench.containers.lock import lock_image

    failed = []
    check_links(find_links or [])
    for image in chosen(names or [], folder):
        for part in ("packages", "base") if only is None else (only,):
            try:
                say(f"{image.name}: {lock_image(image, part, base=base, find_links=find_links or [])}")
            except DeckBenchError as error:
                if not isinstance(error, OutsideError):
                    raise
                say(f"{image.name}: {part} as before: {error.message()}")
                failed.append(f"{image.name} ({part})")
    if failed:
        what = f"not resolved: {', '.join(failed)}"
        raise OutsideError(what, None, "an image without a lock is unlocked; run again where index and registry answer")


@app.command("wheels", epilog="Example: deckbench containers wheels x86-cpu arm64-cpu")
def wheels(names: Names, wheels: Wheels = None, find_links: FindLinks = None, folder: Folder = None) -> None:
    """Download the locked wheels of images and check their hashes.

    Any machine can do it for any platform.
    """
    from deckbench.containers.wheels import fetch_wheels

    check_links(find_links or [])
    for image in chosen(names, folder):
        say(f"{image.name}: wheels in {fetch_wheels(image, folder=wheels, find_links=find_links or [])}")


@app.command("build", epilog="Example: deckbench containers build x86-cpu")
def build(
    names: Names,
    base: Base = None,
    wheels: Wheels = None,
    unlocked: Annotated[bool, typer.Option("--unlocked", help="Build images without a lock, to try them.")] = False,
    cache: Annotated[bool, typer.Option(help="Reuse base and packages of an earlier build with these locks.")] = True,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """Build images from their locks, offline.

    Their bases are pulled by digest, or bootstrapped from Debian packages.
    """
    from deckbench.containers.build import build as run_build
    from deckbench.machine.daemon import connect, failures

    client, made = connect(), []
    warn_user_ids(client)
    for image in chosen(names, folder):
        with failures("building the image", image.name):
            built = run_build(client, image, base=base, wheels=wheels, unlocked=unlocked, cache=cache)
        made.append({"name": image.name, "tag": built.tag, "identity": built.identity, "locked": not built.unlocked})
    show(made, as_json)


@app.command("verify", epilog="Example: deckbench containers verify x86-cpu")
def verify(
    names: Names,
    base: Base = None,
    wheels: Wheels = None,
    unlocked: Annotated[bool, typer.Option("--unlocked", help="Also images without a lock.")] = False,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """Rebuild images from scratch and compare identities. Exit 4 if one differs."""
    from deckbench.containers.build import verify as run_verify
    from deckbench.machine.daemon import connect, failures

    client, found = connect(), []
    for image in chosen(names, folder):
        with failures("building the image again", image.name):
            found.append(run_verify(client, image, base=base, wheels=wheels, unlocked=unlocked))
    show(found, as_json)
    if other := [one["name"] for one in found if not one["same"]]:
        raise AnswerIsNo(
            f"another image came out: {', '.join(other)}", None, "see which layer or setting differs, above"
        )


@app.command("prune", epilog="Example: deckbench containers prune")
def prune(
    store: Annotated[bool, typer.Option("--store", help="Also inputs cached for later steps.")] = False,
    uncollected: Annotated[
        bool, typer.Option("--uncollected", help="Also finished steps whose results were not downloaded.")
    ] = False,
    host: Annotated[HostRef, typer.Option(help="ssh://USER@HOST; default: this machine.")] = None,
    as_json: Json = False,
) -> None:
    """Remove leftovers of dead steps, and replaced images."""
    from deckbench.machine.daemon import connect
    from deckbench.runners.prune import prune as run_prune

    show(run_prune(connect(host), store=store, uncollected=uncollected), as_json)


def warn_user_ids(client: Any) -> None:
    """Say before anything is built where no step can run at this daemon."""
    from deckbench.machine.daemon import NO_MAPPING, failures
    from deckbench.machine.facts import daemon_machine

    with failures("asking the daemon"):
        machine = daemon_machine(client.info())
    if machine.id_mapping:
        say(f"this docker daemon is {machine.id_mapping}, so no step can run there: {NO_MAPPING}")


def check_links(places: list[str]) -> None:
    """Raises InputError for a folder of `--find-links` that is not there; addresses are not looked at."""
    for place in places:
        if "://" not in place and not Path(place).is_dir():
            raise InputError("there is no such folder", place, "give --find-links a folder with wheels, or an address")


def show(result: Any, as_json: bool) -> None:
    """A result on stdout: as JSON, or a line for each entry."""
    if as_json:
        print(json.dumps(result, indent=1))
        return
    for row in result if isinstance(result, list) else [result]:
        print(", ".join(f"{key}: {value}" for key, value in row.items()))
