"""Data files that ship with the package: in a checkout next to `harness/`, in a wheel inside the package."""

from __future__ import annotations

from pathlib import Path

from deckbench.errors import InputError

PACKAGE = Path(__file__).resolve().parent


def data_folder(name: str) -> Path:
    """The folder `tasks` or `containers`: of the checkout when this is one, else of the installed wheel.

    Raises InputError when neither exists (a broken installation).
    """
    checkout = PACKAGE.parents[1]
    places = [PACKAGE / "_data" / name]
    if (checkout / "pyproject.toml").is_file() and PACKAGE.parent.name == "harness":
        places.insert(0, checkout / name)
    for place in places:
        if place.is_dir():
            return place
    raise InputError(f"the package's folder {name}/ is missing", places[-1], "install deckbench again")


def tasks_folder() -> Path:
    """The folder with the published tasks, ontologies, suites and versions.lock."""
    return data_folder("tasks")
