"""A pool without a full yaml: class names and parts by the files that labelling tools leave.

Label Studio writes `classes.txt` and `notes.json`; CVAT and datumaro write `obj.data`, `obj.names`, lists and
`obj_*_data` folders, as darknet has them; FiftyOne's v4 form has `obj.names`, `images.txt` and `data/`; supervision
names no parts in its yaml; Roboflow's darknet form has `_darknet.labels` in each part; labelImg has `classes.txt`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path, PurePosixPath

from deckbench.errors import InputError
from deckbench.picture import OTHER_PICTURE_SUFFIXES, SUFFIXES
from deckbench.yamlfile import UNUSABLE, kind_of

MAX_CLASSES = 100_000
MAX_BYTES = 32 << 20  # of a file with class names
# What tools call the parts of a split.
PARTS = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
NAME_FILES = ("notes.json", "classes.txt", "obj.names", "classes.names", "_darknet.labels", "predefined_classes.txt")
LISTS = (*PARTS, "images")
DARKNET_KEYS = frozenset({"classes", "names", "backup", "results", "eval", "top"})
SHOWN = 3


def part_of(name: str) -> str | None:
    """train, val or test for a part's name as a tool writes it, else None."""
    return PARTS.get(name.strip().lower())


def read_small(file: Path) -> str:
    """The text of a file with class names or a configuration. Raises InputError."""
    try:
        if not file.is_file():
            raise InputError("this is no regular file", file, "replace it by a plain text file")
        if file.stat().st_size > MAX_BYTES:
            raise InputError(
                f"larger than {MAX_BYTES >> 20} MiB", file, "this holds a list of class names, a line each"
            )
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", file, "save the file as UTF-8") from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file, "fix the file's permissions") from error


def child(folder: Path, name: str) -> Path | None:
    """The entry of a folder with this name, else the only one that differs in case; None when there is none."""
    if os.path.lexists(folder / name):
        return folder / name
    alike = [entry for entry in names_below(folder) if entry.lower() == name.lower()]
    return folder / alike[0] if len(alike) == 1 else None


def names_below(folder: Path) -> list[str]:
    """The names in a folder; none where it cannot be read."""
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []


def tails(text: str) -> list[str]:
    """The ends of a path, the longest first: `data/images/a.png` -> `images/a.png`, `a.png`."""
    parts = [part for part in text.replace("\\", "/").split("/") if part not in {"", ".", "..", "~"}]
    first = 0 if text.startswith(("/", "~")) or re.match(r"^[A-Za-z]:", text) else 1
    return ["/".join(parts[start:]) for start in range(first, len(parts))]


# --- class names -------------------------------------------------------------------------------------------------


def names_in(file: Path) -> tuple[str, ...]:
    """Class names by number from one file. Raises InputError."""
    text = read_small(file)
    if file.suffix.lower() == ".json":
        return names_of_notes(text, file)
    lines = [line.strip() for line in text.rstrip().splitlines()]
    for number, line in enumerate(lines, 1):
        if not line:
            fix = "write a name on every line: the line gives the class its number"
            raise InputError("an empty line among the class names", f"{file}:{number}", fix)
    if not lines:
        raise InputError("the file names no class", file, "write one class name a line")
    if len(lines) > MAX_CLASSES:
        raise InputError(f"more than {MAX_CLASSES} class names", file, "one class name a line")
    return tuple(lines)


def names_of_notes(text: str, file: Path) -> tuple[str, ...]:
    """The categories of Label Studio's notes.json by their id. Raises InputError."""
    fix = "export the project again, or write classes.txt with one class name a line"
    try:
        categories = json.loads(text)["categories"]
        named = {entry["id"]: entry["name"] for entry in categories}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError("no list of categories with `id` and `name`", file, fix) from error
    good = all(isinstance(name, str) and name.strip() and not UNUSABLE.search(name) for name in named.values())
    if not named or not good or len(named) != len(categories) or set(named) != set(range(len(named))):
        raise InputError("the ids of the categories are not 0, 1, 2, ... with a name each", file, fix)
    return tuple(named[number].strip() for number in range(len(named)))


def find_names(folder: Path) -> tuple[tuple[str, ...], Path] | None:
    """(class names, the file that holds them) of a folder without a yaml; None when no file does.

    Raises InputError when a file is broken, or two files disagree.
    """
    places = [folder, *filter(None, (child(folder, name) for name in ("labels", "data", "annotations")))]
    places += [entry for entry in folders_in(folder) if part_of(entry.name)]
    files = [place / name for place in places for name in NAME_FILES if (place / name).is_file()]
    for place in places[:2]:
        files += sorted(path for path in place.glob("*.names") if path not in files and path.is_file())
    if (config := darknet_config(folder)) is not None and "names" in config:
        named = darknet_place(folder, config["names"])
        files = ([] if named is None else [named]) + files
    found = {file: names_in(file) for file in dict.fromkeys(files)}
    if not found:
        return None
    file, names = next(iter(found.items()))
    for other, others in found.items():
        if others != names:
            what = f"{other.relative_to(folder)} and {file.relative_to(folder)} name the classes differently"
            raise InputError(what, folder, "remove the wrong one, or write a data.yaml with `names`")
    return names, file


def differing_names(folder: Path, names: tuple[str, ...]) -> tuple[Path, tuple[str, ...]] | None:
    """A tool's list beside the labels that does not name what the yaml names; None when there is none."""
    for file in (folder / "labels" / "classes.txt", folder / "classes.txt", folder / "notes.json"):
        try:
            if file.is_file() and (others := names_in(file)) != names:
                return file, others
        except InputError:
            continue
    return None


# --- parts -------------------------------------------------------------------------------------------------------


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, hidden ones left out."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    except OSError:
        return []
    return [folder / name for name in names]


def is_picture(name: str) -> bool:
    suffix = PurePosixPath(name).suffix.lower()
    return not name.startswith(".") and (suffix in SUFFIXES or suffix in OTHER_PICTURE_SUFFIXES)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures that stand directly in a folder, sorted."""
    return [folder / name for name in sorted(names_below(folder)) if is_picture(name)]


def has_pictures(folder: Path) -> bool:
    """Whether any picture stands in a folder or below it."""
    return any(is_picture(name) for _, _, names in os.walk(folder) for name in names)


def darknet_config(folder: Path) -> dict[str, str] | None:
    """`key = value` of darknet's obj.data, None where there is none."""
    file = folder / "obj.data"
    others = sorted(folder.glob("*.data"))
    if not file.is_file():
        if len(others) != 1 or not others[0].is_file():
            return None
        file = others[0]
    pairs = (line.partition("=") for line in read_small(file).splitlines())
    return {key.strip(): value.strip() for key, equals, value in pairs if equals and value.strip()}


def darknet_place(folder: Path, text: str) -> Path | None:
    """A file that obj.data names: as written, or by the end of its path, for it starts where darknet was called."""
    for name in (text, *tails(text)):
        place = Path(os.path.normpath(folder / name))
        if kind_of(place) == "file" and place.is_relative_to(folder):
            return place
    return None


def find_parts(folder: Path) -> dict[str, list[Path]]:
    """split -> folders, lists and pictures of a pool whose yaml names no parts; empty when no picture is found."""
    found: dict[str, list[Path]] = {}

    def add(part: str, *places: Path) -> None:
        found.setdefault(part, []).extend(places)

    for key, value in (darknet_config(folder) or {}).items():
        place = None if key.lower() in DARKNET_KEYS else darknet_place(folder, value)
        if place is not None:
            add(part_of(key) or "train", place)
    if not found:
        for name in LISTS:
            file = child(folder, f"{name}.txt")
            if file is not None and lists_pictures(file):
                add(part_of(name) or "train", file)
    if found:
        return in_order(found)
    images = child(folder, "images")
    if images is not None and images.is_dir():
        parts_below(images, add)
    for below in folders_in(folder):
        darknet = re.fullmatch(r"obj_(.+)_data", below.name)
        part = (part_of(darknet[1]) or "train") if darknet else part_of(below.name)
        if part is None or not has_pictures(below):
            continue
        inner = child(below, "images")
        add(part, inner if inner is not None and has_pictures(inner) else below)
    if not found and has_pictures(folder):
        add("train", folder)
    return in_order(found)


def parts_below(images: Path, add: object) -> None:
    """Add the parts below `images`: its folders by name, and what stands beside them as train."""
    assert callable(add)
    below = [folder for folder in folders_in(images) if has_pictures(folder)]
    named = [(part, folder) for folder in below if (part := part_of(folder.name))]
    if not named:
        if has_pictures(images):
            add("train", images)
        return
    for part, folder in named:
        add(part, folder)
    rest = [folder for folder in below if part_of(folder.name) is None]
    add("train", *rest, *pictures_in(images))


def lists_pictures(file: Path) -> bool:
    """Whether a text is a list of pictures."""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        start = opened.read(1 << 16).decode("utf-8-sig", "replace").splitlines()
    first = next((line.strip() for line in start if line.strip()), "")
    return is_picture(PurePosixPath(first.replace("\\", "/")).name)


def in_order(found: dict[str, list[Path]]) -> dict[str, list[Path]]:
    return {part: found[part] for part in ("train", "val", "test") if found.get(part)}


def refuse_empty(folder: Path, names: Path | None) -> InputError:
    """Why a folder is no pool."""
    labels = child(folder, "labels")
    texts = next((True for _ in (labels or folder).rglob("*.txt")), False) if names is not None else False
    if texts:
        what = f"class names ({names.name if names else ''}) and labels, but no image"
        fix = "export again with images (Label Studio: YOLO with Images; CVAT: Save images), or copy them into images/"
        return InputError(what, folder, fix)
    inner = [below for below in folders_in(folder) if looks_like_pool(below)]
    what = "the folder has no dataset.yaml or data.yaml, and no classes.txt, notes.json, obj.names or obj.data"
    if names is not None:
        what = f"class names ({names.name}), but no image"
    if inner:
        what += f"; {', '.join(below.name for below in inner[:SHOWN])} below it looks like a pool"
        return InputError(what, folder, f"give {inner[0]}")
    return InputError(what, folder, "write a data.yaml with train, val and names")


def looks_like_pool(folder: Path) -> bool:
    files = ("dataset.yaml", "data.yaml", "obj.data", *NAME_FILES)
    return any((folder / name).is_file() for name in files)
