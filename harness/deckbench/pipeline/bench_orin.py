"""`bench-orin`: the latency bench on a Jetson AGX Orin, over ssh or on this machine, or emulated."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from deckbench.containers.spec import Image, image_named, load_images
from deckbench.doctor import assess
from deckbench.errors import InputError
from deckbench.machine.daemon import connect
from deckbench.machine.facts import Machine
from deckbench.machine.local import local_machine
from deckbench.machine.remote import probe_machine
from deckbench.progress import say
from deckbench.runners.dispatch import Target, job_of
from deckbench.runners.kinds import Option

EMULATED = "arm64-cpu"
# Emulated, one query of each kind proves the packaging; a token takes seconds. Option -> (bench's default, short one).
SHORT = {"min_seconds": (10.0, 0.1), "max_queries": (5000, 1), "warmup": (3, 0)}
NEEDS = (
    "name it: --host ssh://lab@orin (login without a password; docker and the nvidia runtime there); "
    "or run this on the Orin itself; or --emulate, which proves the packaging and measures nothing"
)


@dataclass(frozen=True)
class Place:
    """Where the bench runs, and in which image. host: None for this machine."""

    image: Image
    host: str | None = None
    emulate: bool = False


def find(host: str | None, *, emulate: bool, image: str | None) -> Place:
    """The Orin to bench and the image for its L4T release.

    image: a name in containers.toml, in place of the release's; then it may be any machine, and its figures are that
    machine's. Raises InputError where there is no Orin, or its release is not supported.
    """
    named = None if image is None else image_named(image)
    if emulate:
        if host is not None:
            raise InputError("--emulate and --host exclude each other", "--emulate", "remove one of the two")
        emulated = named or image_named(EMULATED)
        if emulated.architecture != "arm64":
            what = f"the image {emulated.name} is for {emulated.architecture}: nothing would be emulated"
            raise InputError(what, "--image", f"choose one for arm64, such as {EMULATED}")
        return Place(emulated, emulate=True)
    machine = local_machine() if host is None else probe_machine(host)
    if host is None and not machine.is_jetson and named is None:
        raise InputError("there is no Orin: this machine is not a Jetson, and no other is named", "bench-orin", NEEDS)
    if named is not None:
        if not machine.is_jetson:
            say(f"{machine.where} is not a Jetson: the figures will be those of {machine.board or machine.cpu}")
        return Place(named, host)
    return Place(image_of(machine), host)


def image_of(machine: Machine) -> Image:
    """The image for a Jetson's L4T release. Raises InputError for no Jetson, and a release that is not supported."""
    if not machine.is_jetson:
        what = f"this is not a Jetson ({machine.board or machine.system or machine.machine})"
        raise InputError(what, machine.where, "name the Orin; or --image NAME to measure this machine as it is")
    found = assess.release(machine)
    if found.state != "good" or machine.l4t is None:
        raise InputError(f"L4T {found.found}", machine.where, found.fix)
    for image in load_images().values():
        if image.l4t == f"R{machine.l4t[0]}":
            return image
    raise InputError(f"no image in containers.toml is for L4T R{machine.l4t[0]}", machine.where, "give --image")


def bench(place: Place, options: list[Option], limits: str | None) -> int:
    """Run `bench` with these options at the place; its exit code. Raises DeckBenchError."""
    target = Target("docker", place.host, place.image.name, limits)
    if place.emulate:
        say("emulated: this proves that it runs on arm64; the times mean nothing, and are never ranked")
        options = [dataclasses.replace(option, value=short_of(option)) for option in options]
    job = dataclasses.replace(job_of("bench", options, place.image, target), emulate=place.emulate)
    say(f"bench-orin: {place.image.name} at {place.host or 'this machine'}")
    if place.host is not None:
        from deckbench.runners.remote.run import run_job_at

        return run_job_at(job, place.host)
    from deckbench.runners.local.container import run_job

    client = connect()
    try:
        return run_job(job, client)
    finally:
        client.close()


def short_of(option: Option) -> Any:
    """An option's value for an emulated bench: a short one in place of the default."""
    default, short = SHORT.get(option.name, (None, None))
    return short if default is not None and option.value == default else option.value
