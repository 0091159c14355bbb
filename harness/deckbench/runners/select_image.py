"""Which container image a command runs in: by the models it names, and by the machine of the docker daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deckbench.containers.spec import Gpu, Image, image_named, load_images
from deckbench.errors import InputError
from deckbench.machine import hardware
from deckbench.runners.kinds import Kind, Option
from deckbench.runners.paths import served_as


@dataclass(frozen=True)
class Machine:
    """What a docker daemon runs on, as far as the choice of an image asks. l4t: of a Jetson, such as R36."""

    platform: str
    gpu: Gpu
    l4t: str | None = None


def machine_of(info: Mapping[str, Any], *, here: bool) -> Machine:
    """The machine of a daemon, from what it says of itself (`docker info`). here: is it this one?"""
    words = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}
    platform = words.get(str(info.get("Architecture")), str(info.get("Architecture")))
    kernel = str(info.get("KernelVersion", ""))
    if kernel.endswith("-tegra"):
        l4t = "R36" if kernel.startswith("5.15.") else "R39" if kernel.startswith("6.8.") else None
        return Machine(platform, "jetson", l4t)
    nvidia = "nvidia" in (info.get("Runtimes") or {}) or (here and bool(hardware.accelerators()))
    return Machine(platform, "devices" if nvidia else "none")


def image_for(models: Sequence[str], machine: Machine, named: str | None) -> Image:
    """The named image, or the first one for the machine that serves the models.

    Baselines and servers need nothing that an image could lack. A model that no image of the machine serves runs in
    the first one without a GPU. Raises InputError where there is none.
    """
    if named is not None:
        return image_named(named)
    wanted = {served_as(ref) for ref in models} - {None, "baselines", "endpoint"}
    able = [image for image in load_images().values() if fits(image, machine)]
    for image in able:
        if wanted <= set(image.serves):
            return image
    plain_ones = [image for image in able if image.gpu == "none"]
    if not plain_ones:
        what = f"no image in containers.toml is for this machine ({machine.platform})"
        raise InputError(what, "--image", f"one of: {', '.join(load_images())}")
    return plain_ones[0]


def fits(image: Image, machine: Machine) -> bool:
    """Can the machine run the image, its GPU included?"""
    if image.platform != machine.platform or image.gpu not in {"none", machine.gpu}:
        return False
    return image.l4t is None or machine.l4t in {None, image.l4t}


def models_of(options: Sequence[Option]) -> list[str]:
    """The models that the options of a command name, by their kinds."""
    found: list[str] = []
    for option in options:
        if option.kind is Kind.MODEL and option.value:
            found.append(option.value)
        elif option.kind is Kind.SUITE:
            from deckbench.suite import load_suite

            suite, _ = load_suite(option.value)
            found += [*(model.ref for model in suite.models), *suite.baselines]
    return found
