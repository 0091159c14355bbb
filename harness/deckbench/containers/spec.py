"""Schema of `containers/containers.toml`: one `Image` for each table. This module only reads and validates."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deckbench import __version__
from deckbench.errors import InputError
from deckbench.resources import data_folder
from deckbench.yamlfile import read_text

FILE = "containers.toml"
Gpu = Literal["none", "devices", "jetson"]
Platform = Literal["linux/amd64", "linux/arm64"]


class Strict(BaseModel):
    """No unknown fields: a typo is an error, not a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Debian(Strict):
    """A base made from Debian packages."""

    release: str = Field(pattern=r"^[a-z]+$")
    packages: list[str] = Field(min_length=1)


class Image(Strict):
    """One container image, as containers.toml defines it. `folder` holds its requirements and locks."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    folder: Path
    platform: Platform
    python: str = Field(pattern=r"^3\.\d+$")
    base: str
    debian: Debian | None = None
    gpu: Gpu
    l4t: str | None = Field(default=None, pattern=r"^R\d+$")
    index: dict[str, list[str]] = Field(default_factory=dict)
    built: list[str] = Field(default_factory=list)
    serves: list[str]
    memory_gib: float = Field(gt=0)
    pids: int = Field(gt=0)
    minutes: float = Field(ge=0)

    @property
    def dockerfile(self) -> Path:
        """The image's settings: its own Dockerfile, else the one that all share."""
        own = self.folder / "Dockerfile"
        return own if own.is_file() else self.folder.parent / "Dockerfile"

    @property
    def tag(self) -> str:
        """The image's name in a daemon, such as `deckbench/x86-cpu:0.1.0`."""
        return f"deckbench/{self.name}:{__version__}"

    @property
    def architecture(self) -> str:
        """`amd64` or `arm64`."""
        return self.platform.partition("/")[2]


KNOWN = [name for name in Image.model_fields if name not in {"name", "folder"}]


def containers_folder() -> Path:
    """The folder with containers.toml that travels with the package."""
    return data_folder("containers")


def load_images(folder: Path | None = None) -> dict[str, Image]:
    """All images by name, in the file's order. folder: holds containers.toml; default: DeckBench's own.

    Raises InputError when the file is missing, is not TOML, or a field is wrong.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    place = (folder or containers_folder()) / FILE
    if not place.is_file():
        raise InputError(f"no {FILE} in this folder", place.parent, "give a folder like DeckBench's containers/")
    try:
        data = tomllib.loads(read_text(place))
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is no TOMLDecodeError
        raise InputError(f"not valid TOML: {error}", place, "fix that line") from None
    images = {}
    for name, fields in data.items():
        try:
            images[name] = Image.model_validate({"name": name, "folder": place.parent / name, **fields})
        except (ValidationError, TypeError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "not a table"}
            where = ".".join(str(part) for part in (name, *first["loc"]))
            raise InputError(f"{where}: {first['msg']}", place, f"known: {', '.join(KNOWN)}") from None
    return images


def image_named(name: str, folder: Path | None = None) -> Image:
    """One image. Raises InputError for a name that is not in the file."""
    images = load_images(folder)
    if name not in images:
        raise InputError(f"unknown image {name!r}", FILE, f"one of: {', '.join(images)}")
    return images[name]
