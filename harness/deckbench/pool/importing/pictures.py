"""The pictures that the records of a data set name: found inside its folder, looked at once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePosixPath

from deckbench.cores import in_threads
from deckbench.disk import real_path
from deckbench.picture import SUFFIXES, PictureError, PictureFacts, inspect_picture
from deckbench.pool.importing.data import Refused
from deckbench.progress import track

NAME = re.compile(r"[\w()+-][\w .()+-]*", re.ASCII)


def look_at_pictures(folder: Path, named: Iterable[str]) -> dict[str, PictureFacts | Refused]:
    """Each name -> its picture decoded once, or why it gives no frame."""
    names = dict.fromkeys(named)
    results = in_threads(partial(look, folder), iter(names))
    return dict(zip(names, track(results, "looking at pictures", total=len(names)), strict=True))


def look(folder: Path, name: str) -> PictureFacts | Refused:
    try:
        facts = inspect_picture(find_picture(folder, name))
    except PictureError as error:
        return Refused("picture-unreadable", str(error))
    except Refused as refused:
        return refused
    if facts.turned:
        return Refused("picture-unreadable", "its EXIF turns it; which way its boxes count is not known")
    return facts


def find_picture(folder: Path, name: str) -> Path:
    """The picture that a record means; it may name the folder that this one was copied from. Raises Refused."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or ".." in parts or parts[0] == "/" or ":" in parts[0]:
        raise Refused("picture-path", f"{name[:100]!r} leaves the folder")
    if NAME.fullmatch(parts[-1]) is None or PurePosixPath(parts[-1]).suffix.lower() not in SUFFIXES:
        raise Refused("picture-name", f"{parts[-1][:100]!r} is no name of a picture")
    for start in range(min(len(parts), 3)):
        try:
            path = folder.joinpath(*parts[start:])
            if not path.is_file():
                continue
        except (OSError, ValueError):  # a name that no disk takes
            break
        if not real_path(path).is_relative_to(real_path(folder)):
            raise Refused("picture-path", f"{name[:100]!r} is a link out of the folder")
        return path
    raise Refused("picture-missing", f"{name[:100]!r} is not there")
