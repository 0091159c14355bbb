"""The yaml of a YOLO pool, in the forms its users have it: Ultralytics, Roboflow, hand-written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deckbench.errors import InputError
from deckbench.schema import repeated
from deckbench.yamlfile import Document, read_document
from deckbench.yolo.frame import Problem

FILE_NAMES = ("dataset.yaml", "data.yaml", "dataset.yml", "data.yml")
SPLITS = ("train", "val", "test")
MAX_CLASSES = 100_000
ALIASES = {"valid": "val", "validation": "val"}


@dataclass(frozen=True)
class PoolYaml:
    """file: the yaml. root: the folder its entries are relative to.

    entries: split -> folders and lists as written, resolved to existing paths (absolute, links not followed).
    """

    file: Path
    root: Path
    name: str
    names: tuple[str, ...]
    synthetic: bool
    entries: dict[str, tuple[Path, ...]]
    problems: list[Problem] = field(default_factory=list)


def find_yaml(path: Path) -> tuple[Path, list[str]]:
    """The yaml of a pool given as folder or as yaml, and the names of others beside it. Raises InputError."""
    if not path.exists():
        raise InputError("not found; a pool folder or its dataset.yaml is expected here", path, "check the path")
    if path.is_file():
        if path.suffix.lower() not in {".yaml", ".yml"}:
            raise InputError("a pool is a folder or a .yaml file", path, "give the folder that holds dataset.yaml")
        return path, []
    if not path.is_dir():
        raise InputError("this is neither a folder nor a regular file", path, "give the pool's folder")
    known = [path / name for name in FILE_NAMES if (path / name).is_file()]
    if known:
        return known[0], [other.name for other in known[1:]]
    others = sorted(p for p in path.iterdir() if p.suffix.lower() in {".yaml", ".yml"} and p.is_file())
    if len(others) == 1:
        return others[0], []
    found = f"; found {', '.join(p.name for p in others[:5])}" if others else ""
    raise InputError(
        f"the folder has no dataset.yaml or data.yaml{found}",
        path,
        "give the path of the pool's yaml itself" if others else "write one with path, train, val and names",
    )


def load(file: Path) -> Document:
    """The yaml, which is a map. Raises InputError with file and line where it cannot be read."""
    document = read_document(file)
    document.mapping("it needs path, train, val and names")
    return document


def read_yaml(path: Path) -> PoolYaml:
    """Read a pool's yaml and find its folders.

    A `path` that is missing or wrong falls back to the yaml's folder (or what of `path` lies below it), with a notice.
    Raises InputError when the yaml is broken, names no classes, or none of its folders exists.
    """
    file, others = find_yaml(Path(path))
    file = Path(os.path.normpath(Path.cwd() / file))  # links are not followed: `images` may stand above one
    document = load(file)
    data = document.root.plain()
    problems = [
        Problem("several-yamls", f"{file.name} is used; {other} beside it is not", file.name) for other in others
    ]
    names, twice = read_names(document)
    problems += [Problem("names-repeated", f"two classes are named {name!r}", file.name) for name in twice]
    written = read_entries(document)
    root = choose_root(document, file, written, problems)
    entries: dict[str, tuple[Path, ...]] = {}
    missing: list[tuple[str, str]] = []
    for split, texts in written.items():
        places = []
        for text in texts:
            place = locate(root, text)
            if place is None:
                missing.append((split, text))
            else:
                places.append(place)
        if places:
            entries[split] = tuple(places)
    if not entries or (missing and missing[0][0] == "train"):
        split, text = missing[0]
        raise InputError(
            f"the {split} entry {text!r} does not exist (looked in {root})",
            file,
            "fix `path` or the entry; entries are relative to `path`, or to the yaml's folder",
        )
    for split, text in missing:
        kind = "split-list-missing" if text.lower().endswith(".txt") else "split-folder-missing"
        problems.append(Problem(kind, f"the {split} entry {text!r} does not exist; this part is empty", file.name))
    name = data.get("name")
    return PoolYaml(
        file=file,
        root=root,
        name=name if isinstance(name, str) and name.strip() else file.parent.name,
        names=names,
        synthetic=data.get("synthetic") is True,
        entries=entries,
        problems=problems,
    )


def read_names(document: Document) -> tuple[tuple[str, ...], list[str]]:
    """Class names by number, and those that occur twice. Raises InputError."""
    data = document.root.plain()
    names, count = data.get("names"), data.get("nc")
    where, fix = document.where("names"), "`names` is a list, or a map from 0, 1, 2, ... to names"
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= MAX_CLASSES):
        what = f"`nc` is {count!r}, not a positive number up to {MAX_CLASSES}"
        raise InputError(what, document.where("nc"), "`nc` is the number of classes")
    if names is None:
        if count is None:
            raise InputError("the yaml names no classes: neither `names` nor `nc`", where, fix)
        return tuple(f"class_{number}" for number in range(count)), []
    if isinstance(names, dict):
        try:
            numbered = {int(key): value for key, value in names.items()}
        except ValueError as error:
            raise InputError("a key of `names` is not a number", where, fix) from error
        if sorted(numbered) != list(range(len(names))):
            raise InputError("the numbers in `names` have a gap or a repetition", where, fix)
        values = [numbered[number] for number in range(len(numbered))]
    elif isinstance(names, list):
        values = names
    else:
        raise InputError(f"`names` is {type(names).__name__}, neither list nor map", where, fix)
    if not values:
        raise InputError("`names` is empty", where, fix)
    texts = []
    for value in values:
        if isinstance(value, (dict, list)) or value is None or not str(value).strip():
            raise InputError(f"the class name {value!r} is not a text", where, fix)
        texts.append(str(value).strip())
    if count is not None and count != len(texts):
        what = f"`nc` is {count} but `names` has {len(texts)}"
        raise InputError(what, document.where("nc"), "make them agree, or remove `nc`")
    return tuple(texts), sorted({text for _, text in repeated(texts)})


def read_entries(document: Document) -> dict[str, list[str]]:
    """split -> entries as written. Raises InputError when there are none or one is not a text."""
    data = document.root.plain()
    written: dict[str, list[str]] = {}
    for key in (*SPLITS, *ALIASES):
        value = data.get(key)
        split = ALIASES.get(key, key)
        if value is None or value == "" or value == [] or split in written:
            continue
        texts = value if isinstance(value, list) else [value]
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                what, fix = f"the {key} entry {text!r} is not a path", "a folder, a .txt list, or a list of them"
                raise InputError(what, document.where(key), fix)
        written[split] = [text.strip() for text in texts]
    if not written:
        raise InputError(
            "the yaml has no train, val or test entry",
            document.source,
            "name at least one folder or .txt list, like `train: images`",
        )
    return {split: written[split] for split in SPLITS if split in written}


def as_path(base: Path, text: str) -> Path:
    """`text` below `base`, with `~` and a lab's Windows separators understood; `..` is resolved in the text only."""
    if re.fullmatch(r"[^/]*\\[^/]*", text):
        text = text.replace("\\", "/")
    place = Path(text)
    if text.startswith("~"):
        try:
            place = place.expanduser()
        except RuntimeError:
            return base / text
    return Path(os.path.normpath(base / place))


def locate(root: Path, text: str) -> Path | None:
    """An entry's existing place, or None. Roboflow writes `../train/images` for `train/images`."""
    place = as_path(root, text)
    if place.exists():
        return place
    stripped = re.sub(r"^(\.\./)+", "", text.replace("\\", "/"))
    if stripped != text and (root / stripped).exists():
        return root / stripped
    return None


def candidate_roots(data: dict[str, Any], file: Path) -> Iterator[tuple[Path, str]]:
    """(folder, why) in the order in which they are tried."""
    here = file.parent
    given = data.get("path")
    if isinstance(given, str) and given.strip():
        yield as_path(here, given.strip()), "given"
        yield here, "here"
        # A path from another machine: its tail often lies below the yaml.
        parts = [part for part in given.replace("\\", "/").split("/") if part not in {"", ".", "..", "~"}]
        for start in range(len(parts)):
            yield here.joinpath(*parts[start:]), "tail"
    else:
        yield here, "given"


def choose_root(document: Document, file: Path, written: dict[str, list[str]], problems: list[Problem]) -> Path:
    data = document.root.plain()
    given = data.get("path")
    if given is not None and not isinstance(given, str):
        what = f"`path` is {given!r}, not a text"
        raise InputError(what, document.where("path"), "write the pool's folder, or remove `path`")
    first = next(iter(written.values()))[0]
    for root, why in candidate_roots(data, file):
        if root.is_dir() and locate(root, first) is not None:
            if why != "given":
                shown = root.relative_to(file.parent).as_posix()
                text = f"the path {given!r} does not lead to {first!r}; the yaml's folder is used"
                problems.append(Problem("path-fallback", text + ("" if shown == "." else f" ({shown})"), file.name))
            elif Path(str(given or "")).is_absolute():
                problems.append(Problem("path-outside", f"the absolute path {given!r} is used", file.name))
            return root
    return file.parent
