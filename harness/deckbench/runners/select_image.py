"""Which container image a command runs in: by the models it names, and by the machine of the docker daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from deckbench.containers.spec import Gpu, Image, image_named, load_images
from deckbench.errors import InputError
from deckbench.machine import hardware
from deckbench.machine.facts import Machine, daemon_machine
from deckbench.models.families import served_as
from deckbench.runners.kinds import Kind, Option


def machine_of(info: Mapping[str, Any], *, local: bool) -> Machine:
    """The machine of a daemon, as `docker info` describes it. local: it is this machine, whose GPUs count too."""
    machine = daemon_machine(info)
    if local and not machine.is_jetson and not machine.has_nvidia_runtime:
        return replace(machine, gpus=hardware.gpus())
    return machine


def gpu_of(machine: Machine) -> Gpu:
    """The kind of GPU that an image can use on a machine."""
    if machine.is_jetson:
        return "jetson"
    return "devices" if machine.has_nvidia_runtime or machine.gpus else "none"


def image_for(models: Sequence[str], machine: Machine, named: str | None) -> Image:
    """The named image, or the first one for the machine that serves the models.

    Baselines and servers need nothing that an image could lack. A model that no image of the machine serves runs in
    the first one without a GPU. Raises InputError where there is none.
    """
    if named is not None:
        return image_named(named)
    wanted = {served_as(ref) for ref in models} - {"baselines", "endpoint"}
    able = [image for image in load_images().values() if fits(image, machine)]
    for image in able:
        if wanted <= set(image.serves):
            return image
    plain_ones = [image for image in able if image.gpu == "none"]
    if not plain_ones:
        what = f"no image in containers.toml is for this machine ({machine.architecture})"
        raise InputError(what, "--image", f"one of: {', '.join(load_images())}")
    return plain_ones[0]


def fits(image: Image, machine: Machine) -> bool:
    """Can the machine run the image, its GPU included?"""
    if image.architecture != machine.architecture or image.gpu not in {"none", gpu_of(machine)}:
        return False
    return image.l4t is None or machine.l4t_number is None or image.l4t == f"R{machine.l4t_number}"


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
