"""`deckbench containers ...`: parses, calls, prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deckbench.cli.app import containers_app as app
from deckbench.cli.options import Json
from deckbench.errors import AnswerIsNo, DeckBenchError, InputError, OutsideError
from deckbench.progress import say

if TYPE_CHECKING:
    from deckbench.containers.spec import Image

Names = Annotated[list[str], typer.Argument(help="Images of containers.toml, such as x86-cpu.")]
KINDS = "registry: the locked digest; bootstrap: Debian packages; default: "
Base = Annotated[str | None, typer.Option(help=f"{KINDS}the one that is locked.")]
Folder = Annotated[Path | None, typer.Option(help="Holds containers.toml; default: DeckBench's own.")]
Wheels = Annotated[Path | None, typer.Option(help="Where wheels are kept; default: the user's cache.")]
Links = Annotated[list[str] | None, typer.Option("--find-links", help="A folder with more wheels; repeat.")]


def chosen(names: list[str], folder: Path | None) -> list[Image]:
    """The images asked for; all of them where none is named. Raises InputError."""
    from deckbench.containers.spec import image_named, load_images

    return [image_named(name, folder) for name in names] or list(load_images(folder).values())


@app.command("ls", epilog="Example: deckbench containers ls --json")
def ls(folder: Folder = None, as_json: Json = False) -> None:
    """List the images: platform, what is locked, what is built here."""
    from deckbench.containers.build import standing

    rows = standing(chosen([], folder))
    lines = ["{name:<10} {platform:<12} {locked}; {built} {identity:.12}".format_map(row).rstrip() for row in rows]
    print(json.dumps(rows, indent=1) if as_json else "\n".join(lines))


@app.command("lock", epilog="Example: deckbench containers lock x86-cpu --base bootstrap")
def lock(
    names: Annotated[list[str] | None, typer.Argument(help="Images; default: all.")] = None,
    base: Base = None,
    only: Annotated[str | None, typer.Option(help="packages or base; default: both.")] = None,
    find_links: Links = None,
    folder: Folder = None,
) -> None:
    """Resolve packages and base of images; what cannot be reached stays unlocked (exit 3)."""
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
def wheels(names: Names, wheels: Wheels = None, find_links: Links = None, folder: Folder = None) -> None:
    """Fetch the locked wheels of images, each checked by its hash; any machine fetches for any platform."""
    from deckbench.containers.wheels import fetch_wheels

    check_links(find_links or [])
    for image in chosen(names, folder):
        say(f"{image.name}: wheels in {fetch_wheels(image, folder=wheels, find_links=find_links or [])}")


@app.command("build", epilog="Example: deckbench containers build x86-cpu")
def build(
    names: Names,
    base: Base = None,
    wheels: Wheels = None,
    unlocked: Annotated[bool, typer.Option("--unlocked", help="Build what has no lock, to try it.")] = False,
    cache: Annotated[bool, typer.Option(help="Take base and packages from an earlier build with these locks.")] = True,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """Build images from their locks, without a network (the base: pulled by digest, or made of Debian packages)."""
    from deckbench.containers.build import build as run_build
    from deckbench.machine.daemon import connect, failures

    client, made = connect(), []
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
    unlocked: Annotated[bool, typer.Option("--unlocked", help="Also what has no lock.")] = False,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """Build images again from nothing and compare identities. Exit 4 when one differs."""
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
    store: Annotated[bool, typer.Option("--store", help="Also the inputs kept for later steps.")] = False,
    uncollected: Annotated[bool, typer.Option("--uncollected", help="Also finished steps nobody has fetched.")] = False,
    host: Annotated[str | None, typer.Option(help="ssh://USER@MACHINE; default: this machine.")] = None,
    as_json: Json = False,
) -> None:
    """Remove what dead steps left behind, and images that newer ones have replaced."""
    from deckbench.machine.daemon import connect
    from deckbench.runners.prune import prune as run_prune

    show(run_prune(connect(host), store=store, uncollected=uncollected), as_json)


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
