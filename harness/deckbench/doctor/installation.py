"""DeckBench on this machine: version, optional packages, the files that travel with it, disk."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from importlib import metadata
from pathlib import Path

from deckbench import __version__
from deckbench.doctor.finding import GB, Finding
from deckbench.errors import DeckBenchError
from deckbench.extras import EXTRAS, install_command
from deckbench.machine import hardware
from deckbench.machine.facts import printable
from deckbench.progress import format_bytes

LITTLE_DISK = 2 * GB  # the demo writes somewhat above 1 GB
# Optional packages and what each is for. torch is checked in a process of its own.
OPTIONAL = {
    "openai": "models behind a server",
    "docker": "container images and remote machines",
    "uv": "resolving the images' locks",
    "deepspeed": "ZeRO in training",
}


def installation_findings() -> list[Finding]:
    """DeckBench itself: its version, optional packages, the files that travel with it, the disk it writes to."""
    container = container_name()
    findings = [Finding("DeckBench", "good", __version__ + (f", in the container {container}" if container else ""))]
    findings.append(Finding("Python", "good", f"{platform.python_version()} ({platform.python_implementation()})"))
    findings += [optional_package(name) for name in OPTIONAL]
    findings += [embedded_models(), embedded_files(), working_disk()]
    return findings


def container_name() -> str:
    """Name and identity of the container image this runs in; empty outside."""
    image = hardware.container()
    return "" if image is None else printable(f"{image.get('name', '?')} {str(image.get('identity', ''))[:19]}")


def optional_package(name: str) -> Finding:
    """One optional package; it is not imported, some take seconds and some print."""
    purpose, fix = OPTIONAL[name], install_command(EXTRAS[name])
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        program = shutil.which(name) if name == "uv" else None
        if program:
            return Finding(name, "good", f"{program}; for {purpose}")
        return Finding(name, "absent", f"not installed; for {purpose}", fix)
    if importlib.util.find_spec(name) is None:
        return Finding(name, "bad", f"{version} is listed, and its files are missing", fix)
    return Finding(name, "good", f"{version}; for {purpose}")


def embedded_models() -> Finding:
    """The models that ship in the package: whether all their files are there and complete."""
    from deckbench.doctor.fits import headers
    from deckbench.models.families import family_of, packaged

    try:
        for folder in packaged().values():
            family_of(folder)
            headers(folder)
    except DeckBenchError as error:
        return Finding("embedded models", "bad", printable(error.message()), "install deckbench again")
    return Finding("embedded models", "good", ", ".join(packaged()))


def embedded_files() -> Finding:
    """The tasks and container definitions that travel with the package."""
    from deckbench.containers.spec import load_images
    from deckbench.suite import load_suite

    try:
        suite, _ = load_suite("demo")
        images = load_images()
    except DeckBenchError as error:
        return Finding("embedded files", "bad", printable(error.message()), "install deckbench again")
    found = f"the suite {suite.name}, {len(images)} container definitions"
    return Finding("embedded files", "good", found)


def working_disk() -> Finding:
    """Free disk in the working directory."""
    free = shutil.disk_usage(Path.cwd()).free
    fix = "free disk space, or work in another folder" if free < LITTLE_DISK else ""
    return Finding("disk of this folder", "bad" if fix else "good", f"{format_bytes(free)} free", fix)
