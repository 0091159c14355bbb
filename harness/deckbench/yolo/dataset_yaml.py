"""The yaml of a YOLO pool, in the forms its users have it: Ultralytics, Roboflow, hand-written, or none at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deckbench.disk import real_path
from deckbench.errors import InputError
from deckbench.schema import repeated
from deckbench.yamlfile import Document, kind_of, read_document
from deckbench.yolo.credit import Credit, read_credit
from deckbench.yolo.discover import (
    MAX_CLASSES,
    child,
    differing_names,
    find_names,
    find_parts,
    part_of,
    refuse_empty,
    tails,
)
from deckbench.yolo.frame import Problem
from deckbench.yolo.labels import Keypoints

FILE_NAMES = ("dataset.yaml", "data.yaml", "dataset.yml", "data.yml")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class PoolYaml:
    """file: the yaml, or without one the file with the class names. root: the folder the entries are relative to.

    entries: split -> folders, lists and pictures, resolved to existing paths (absolute, links not followed).
    keypoints: `kpt_shape` of a pose pool.
    """

    file: Path
    root: Path
    name: str
    names: tuple[str, ...]
    synthetic: bool
    entries: dict[str, tuple[Path, ...]]
    keypoints: Keypoints | None = None
    problems: list[Problem] = field(default_factory=list)
    credit: Credit | None = None


def find_yaml(path: Path) -> tuple[Path | None, list[str]]:
    """The yaml of a pool given as folder or as yaml, and the names of others beside it. Raises InputError.

    None: the folder has none.
    """
    if kind_of(path) is None:
        raise InputError("not found; a pool folder or its dataset.yaml is expected here", path, "check the path")
    if path.is_file():
        if path.suffix.lower() not in {".yaml", ".yml"}:
            raise InputError("a pool is a folder or a .yaml file", path, "give the folder that holds dataset.yaml")
        return path, []
    if not path.is_dir():
        raise InputError("this is neither a folder nor a regular file", path, "give the pool's folder")
    # A pipe, or a link that leads nowhere, is no missing yaml: its reader refuses it.
    known = [file for file in (path / name for name in FILE_NAMES) if kind_of(file) == "file" or file.is_symlink()]
    if known:
        return known[0], [other.name for other in known[1:]]
    try:
        others = sorted(p for p in path.iterdir() if p.suffix.lower() in {".yaml", ".yml"} and p.is_file())
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path, "fix the folder's permissions") from error
    pools = [other for other in others if len(others) == 1 or names_pictures(other)]
    if len(pools) > 1:
        found = ", ".join(p.name for p in pools[:5])
        what = f"the folder has no dataset.yaml or data.yaml; found {found}"
        raise InputError(what, path, "give the path of the pool's yaml itself")
    if pools and (names_pictures(pools[0]) or find_names(path) is None):
        return pools[0], []
    return None, []


def names_pictures(file: Path) -> bool:
    """Whether a yaml looks like a pool's."""
    try:
        fields = read_document(file).root.plain()
    except InputError:
        return False
    return isinstance(fields, dict) and any(part_of(key) for key in fields)


def load(file: Path) -> Document:
    """The yaml, which is a map. Raises InputError with file and line where it cannot be read."""
    document = read_document(file)
    document.mapping("it needs path, train, val and names")
    return document


def read_yaml(path: Path) -> PoolYaml:
    """Read a pool's yaml and find its folders; without a yaml, or parts in it, by the files that the tools leave.

    A `path` that is missing or wrong falls back to the yaml's folder (or what of `path` lies below it), with a notice;
    so does one that leads elsewhere while the same lies beside the yaml.
    Raises InputError when the yaml is broken, names no classes, or none of its folders exists.
    """
    path = Path(os.path.normpath(Path.cwd() / path))  # links are not followed: `images` may stand above one
    file, others = find_yaml(path)
    if file is None:
        return without_yaml(path)
    document = load(file)
    data = document.root.plain()
    problems = [
        Problem("several-yamls", f"{file.name} is used; {other} beside it is not", file.name) for other in others
    ]
    names, twice = read_names(document)
    problems += [Problem("names-repeated", f"two classes are named {name!r}", file.name) for name in twice]
    if (other := differing_names(file.parent, names)) is not None:
        shown = other[0].relative_to(file.parent).as_posix()
        text = f"{shown} names other classes, or in another order ({', '.join(other[1][:3])}); {file.name} is used"
        problems.append(Problem("names-differ", text, shown))
    written = read_entries(document)
    root, entries = choose_places(document, file, written, problems)
    name = data.get("name")
    credit = None
    try:
        credit = read_credit(data.get("credit"))
    except ValueError as error:
        problems.append(Problem("credit-unreadable", f"{error}; it is not used", file.name))
    return PoolYaml(
        file=file,
        root=root,
        name=name if isinstance(name, str) and name.strip() else file.parent.name,
        names=names,
        synthetic=data.get("synthetic") is True,
        entries=entries,
        keypoints=read_keypoints(document),
        problems=problems,
        credit=credit,
    )


def without_yaml(folder: Path) -> PoolYaml:
    """A pool by the files that a labelling tool leaves. Raises InputError when they are none."""
    found = find_names(folder)
    parts = find_parts(folder) if found is not None else {}
    if found is None or not parts:
        raise refuse_empty(folder, None if found is None else found[1])
    names, file = found
    text = f"no yaml; class names: {file.relative_to(folder).as_posix()}; {parts_text(parts, folder)}"
    problems = [Problem("no-yaml", text, file.relative_to(folder).as_posix())]
    problems += [Problem("names-repeated", f"two classes are named {name!r}", file.name) for _, name in repeated(names)]
    entries = {part: tuple(places) for part, places in parts.items()}
    return PoolYaml(file, folder, folder.name, names, False, entries, None, problems)


def parts_text(parts: dict[str, list[Path]], folder: Path) -> str:
    """`train: images/Train, val: images/Valid`."""
    shown = []
    for part, places in parts.items():
        named = [place.relative_to(folder).as_posix() for place in places[:2]]
        more = f" and {len(places) - 2} more" if len(places) > 2 else ""
        shown.append(f"{part}: {', '.join(named)}{more}")
    return "; ".join(shown)


def read_keypoints(document: Document) -> Keypoints | None:
    """`kpt_shape`, None without one. Raises InputError when it is none."""
    shape = document.root.plain().get("kpt_shape")
    if shape is None:
        return None
    whole = isinstance(shape, list) and [int(n) for n in shape if type(n) in {int, float} and n == n // 1] == shape
    if not whole or len(shape) != 2 or not 1 <= shape[0] <= 10_000 or shape[1] not in {2, 3}:
        what = f"`kpt_shape` is {shape!r}, not [number of keypoints, 2 or 3]"
        raise InputError(what, document.where("kpt_shape"), "fix it, or remove it from a pool without keypoints")
    return int(shape[0]), int(shape[1])


def read_names(document: Document) -> tuple[tuple[str, ...], list[str]]:
    """Class names by number, and those that occur twice. Raises InputError."""
    data = document.root.plain()
    names, count = data.get("names"), data.get("nc")
    where, fix = document.where("names"), "`names` is a list, or a map from 0, 1, 2, ... to names"
    if isinstance(count, float) and count == count // 1:
        count = int(count)
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= MAX_CLASSES):
        what = f"`nc` is {count!r}, not a positive number up to {MAX_CLASSES}"
        raise InputError(what, document.where("nc"), "`nc` is the number of classes")
    if names is None:
        if count is None:
            found = find_names(document.source.parent) if isinstance(document.source, Path) else None
            if found is not None:
                return found[0], []
            raise InputError("the yaml names no classes: neither `names` nor `nc`", where, fix)
        return tuple(f"class_{number}" for number in range(count)), []
    if isinstance(names, dict):
        try:
            numbered = {int(key): value for key, value in names.items()}
        except ValueError as error:
            raise InputError("a key of `names` is not a number", where, fix) from error
        if sorted(numbered) != list(range(len(names))):
            what = "the numbers in `names` have a gap or a repetition"
            raise InputError(what if 0 in numbered else "the numbers in `names` do not start at 0", where, fix)
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
    """split -> entries as written; empty when there are none. Raises InputError when one is not a text."""
    data = document.root.plain()
    written: dict[str, list[str]] = {}
    for key in sorted(data, key=lambda key: (key not in SPLITS, key)):
        split, value = part_of(key), data[key]
        if split is None or value is None or value == "" or value == [] or split in written:
            continue
        texts = value if isinstance(value, list) else [value]
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                what, fix = f"the {key} entry {text!r} is not a path", "a folder, a .txt list, or a list of them"
                raise InputError(what, document.where(key), fix)
        written[split] = [text.strip() for text in texts]
    return {split: written[split] for split in SPLITS if split in written}


def choose_places(
    document: Document, file: Path, written: dict[str, list[str]], problems: list[Problem]
) -> tuple[Path, dict[str, tuple[Path, ...]]]:
    """The root, and split -> the existing places of its entries. Raises InputError when there are none."""
    if not written:
        parts = find_parts(file.parent)
        if not parts:
            raise InputError(
                "the yaml has no train, val or test entry",
                document.source,
                "name at least one folder or .txt list, like `train: images`",
            )
        text = f"the yaml names no train, val or test; {parts_text(parts, file.parent)}"
        problems.append(Problem("parts-found", text, file.name))
        return file.parent, {part: tuple(places) for part, places in parts.items()}
    root = choose_root(document, file, written, problems)
    entries: dict[str, tuple[Path, ...]] = {}
    missing: list[tuple[str, str]] = []
    for split, texts in written.items():
        places = [(text, locate(root, text, file, problems)) for text in texts]
        missing += [(split, text) for text, place in places if place is None]
        for text, place in places:
            if place is not None and too_wide(place, root, file.parent):
                what = f"the {split} entry {text!r} leads to a folder that holds much more than a pool"
                raise InputError(what, document.where(split), "name the folder of the images itself")
        if found := [place for _, place in places if place is not None]:
            entries[split] = tuple(found)
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
    return root, entries


def too_wide(place: Path, root: Path, here: Path) -> bool:
    """Whether an entry names the home folder, or one that holds the yaml's own; `path: ..` with `train: .` may."""
    if place == here or place == root == here.parent:
        return False
    return here.is_relative_to(place) or place == as_path(here, "~")


def as_path(base: Path, text: str) -> Path:
    """`text` below `base`, with `~` and a lab's Windows separators understood; `..` is resolved in the text only."""
    if re.fullmatch(r"[^/]*\\[^/]*", text) or re.match(r"[A-Za-z]:\\", text):
        text = text.replace("\\", "/")
    place = Path(text)
    if text.startswith("~"):
        try:
            place = place.expanduser()
        except RuntimeError:
            return base / text
    return Path(os.path.normpath(base / place))


def is_absolute(text: str) -> bool:
    return text.startswith(("/", "~")) or re.match(r"[A-Za-z]:[\\/]", text) is not None


def look_up(root: Path, text: str) -> Path | None:
    """An entry's existing place, or None. Roboflow writes `../train/images` for `train/images`; case may differ."""
    place = as_path(root, text)
    if kind_of(place) is not None:
        return place
    stripped = re.sub(r"^(\.\./)+", "", text.replace("\\", "/"))
    if is_absolute(text):
        return None
    place = root
    for part in (part for part in stripped.split("/") if part not in {"", "."}):
        found = child(place, part) if part != ".." else None
        if found is None:
            return None
        place = found
    return place if kind_of(place) is not None else None


def locate(root: Path, text: str, file: Path, problems: list[Problem]) -> Path | None:
    """An entry's place, or None. What a whole path names is looked for beside the yaml first: folders are copied."""
    place = look_up(root, text)
    upwards = text.replace("\\", "/").startswith("../") and root == file.parent  # another pool's, or Roboflow's own
    if not (is_absolute(text) or upwards) or (place is not None and place.is_relative_to(file.parent)):
        return place
    # A folder's name alone says little: where the whole path leads nowhere, it may be another pool's.
    named = not upwards and place is not None
    ends = [tail for tail in tails("/" + text if upwards else text) if named or "/" in tail]
    beside = next(filter(None, (look_up(file.parent, end) for end in ends)), None)
    if beside is None:
        return place
    shown = beside.relative_to(file.parent).as_posix()
    if place is None:
        text = f"the entry {text!r} does not exist; {shown} beside the yaml is used"
        problems.append(Problem("path-fallback", text, file.name))
    elif real_path(place) != real_path(beside):
        text = f"the entry {text!r} leads elsewhere; {shown} beside the yaml is used"
        problems.append(Problem("path-stale", text, file.name))
    return beside


def local_roots(given: str, here: Path) -> Iterator[Path]:
    """The yaml's folder, and what of a path from another machine lies below it."""
    yield here
    for tail in tails("/" + given.lstrip("/")):
        yield here / tail


def choose_root(document: Document, file: Path, written: dict[str, list[str]], problems: list[Problem]) -> Path:
    """The folder that the entries are relative to. Raises InputError when two may be meant."""
    given = document.root.plain().get("path")
    here = file.parent
    if given is not None and not isinstance(given, str):
        what = f"`path` is {given!r}, not a text"
        raise InputError(what, document.where("path"), "write the pool's folder, or remove `path`")
    if given is None or not given.strip():
        return here
    texts = [text for texts in written.values() for text in texts]
    first = texts[0]
    root: Path | None = as_path(here, given.strip())
    if root is not None and not (kind_of(root) == "directory" and look_up(root, first) is not None):
        root = None
    if root is not None and is_absolute(first):
        place = locate(root, first, file, [])
        return here if place is not None and place.is_relative_to(here) else root
    if root is not None and (root.is_relative_to(here) or (here.is_relative_to(root) and not is_absolute(given))):
        return root  # below the yaml, or the yaml lies in it
    candidates = (place for place in local_roots(given, here) if kind_of(place) == "directory")
    local = next((place for place in candidates if look_up(place, first) is not None), None)
    if local is None or (root is not None and real_path(local) == real_path(root)):
        if root is not None and is_absolute(given):
            problems.append(Problem("path-outside", f"the absolute path {given!r} is used", file.name))
        return root or here
    shown = local.relative_to(here).as_posix()
    used = "the yaml's folder is used" + ("" if shown == "." else f" ({shown})")
    if root is None:
        what = f"the path {given!r} does not lead to {first!r}; {used}"
        problems.append(Problem("path-fallback", what, file.name))
        return local
    if away := [text for text in texts if look_up(local, text) is None and look_up(root, text) is not None]:
        what = f"`path` leads to another folder, which has {away[0]!r}; beside the yaml there is only {first!r}"
        raise InputError(what, document.where("path"), "which is meant? Remove `path`, or the folder beside the yaml")
    what = f"the path {given!r} leads to another folder with {first!r}; {used}; fix or remove `path`"
    problems.append(Problem("path-stale", what, file.name))
    return local
