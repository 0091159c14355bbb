"""The pictures of a pool and their label files, found by its yaml; nothing is opened here."""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deckbench.disk import real_path
from deckbench.errors import InputError
from deckbench.picture import OTHER_PICTURE_SUFFIXES, SUFFIXES
from deckbench.yamlfile import kind_of
from deckbench.yolo.dataset_yaml import PoolYaml
from deckbench.yolo.discover import child, tails
from deckbench.yolo.frame import Problem
from deckbench.yolo.table import normal

MAX_LIST_BYTES = 16 << 20
COPY = "`cp -rL POOL COPY` makes a copy that holds the files themselves"


MAX_PATH = 4096  # letters of a path: Linux's PATH_MAX


@dataclass(frozen=True)
class ImageFile:
    """A picture before it is opened. labels: where its label file stands, None when there is none."""

    id: str
    path: Path
    split: str
    labels: Path | None


def display_path(path: Path, root: Path) -> str:
    """A path for a message: relative to the pool where it lies in it."""
    with contextlib.suppress(ValueError):
        return path.relative_to(root).as_posix()
    return str(path)


def walk(folder: Path, unreadable: Callable[[OSError], None]) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk`. Raises InputError for folders that are nested too deeply."""
    try:
        yield from os.walk(folder, onerror=unreadable)
    except RecursionError as error:
        raise InputError("folders are nested too deeply", folder, "move the images further up") from error


def why_unusable(path: Path) -> str | None:
    """Why a path cannot be read as a file; None when it is a regular file."""
    try:
        if stat.S_ISREG(path.stat().st_mode):
            return None
        return "this is no regular file"
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"


class Finder:
    """Walks the folders and lists of a pool's yaml and collects pictures and label files.

    unused: ids of pictures that are there and cannot be used.
    """

    def __init__(self, pool: PoolYaml) -> None:
        self.pool = pool
        self.root = pool.root
        self.problems = list(pool.problems)
        self.found: dict[str, ImageFile] = {}
        self.unused: dict[str, str] = {}
        self.path_ids: dict[Path, str] = {}
        self.overlaps: Counter[tuple[str, str]] = Counter()
        self.overlap_example: dict[tuple[str, str], str] = {}
        self.label_files: dict[Path, dict[str, Path]] = {}
        self.label_places: dict[Path, list[Path]] = {}
        self.split_of_id: dict[str, set[str]] = defaultdict(set)
        self.links: dict[Path, list[Path]] = {}
        self.inside: set[Path] = set()  # folders that are known to lie there
        # Where files may really lie: the pool, and what its yaml names outside it by path (never through a link).
        self.allowed = [real_path(self.root)]

    def add(self, kind: str, text: str, file: Path, line: int | None = None, frame: str | None = None) -> None:
        self.problems.append(Problem(kind, text, display_path(file, self.root), line, frame))

    def run(self) -> dict[str, ImageFile]:
        for split, places in self.pool.entries.items():
            for place in places:
                self.allow(place)
                if place.is_dir():
                    self.folder(place, split)
                elif place.suffix.lower() in SUFFIXES:
                    self.picture(place, split, place.parent)
                else:
                    self.text_list(place, split)
        self.report_overlaps()
        self.report_links()
        return self.found

    def allow(self, place: Path) -> None:
        if not place.is_relative_to(self.root):
            text = f"the yaml names a place outside the pool: {place}"
            self.problems.append(Problem("path-outside", text, self.pool.file.name))
            # Labels stand beside `images`, so the folder that holds it is what the yaml really names.
            folder = place if place.is_dir() else place.parent
            if (at := images_at(folder)) is not None:
                folder = Path(*folder.parts[:at])
            self.allowed.append(real_path(folder))

    def is_allowed(self, path: Path) -> bool:
        if path.parent in self.inside and not path.is_symlink():
            return True
        real = real_path(path)
        allowed = any(real.is_relative_to(base) for base in self.allowed)
        if allowed and path.parent not in self.inside and real.parent == real_path(path.parent):
            parent = real.parent
            if any(parent.is_relative_to(base) for base in self.allowed):
                self.inside.add(path.parent)
        return allowed

    def folder(self, folder: Path, split: str) -> None:
        if not self.is_allowed(folder):
            self.add("link-leaves-pool", f"a link leads out of the pool ({split}); {COPY}", folder)
            return

        def unreadable(error: OSError) -> None:
            self.add("picture-unreadable", f"the folder cannot be read ({error.strerror})", Path(error.filename))

        for parent, folders, names in walk(folder, unreadable):
            here = Path(parent)
            folders.sort()
            for name in list(folders):
                if (here / name).is_symlink():
                    inside = self.is_allowed(here / name)
                    text = "a link to a folder is not followed" if inside else f"a link leads out of the pool; {COPY}"
                    self.add("link-not-followed" if inside else "link-leaves-pool", text, here / name)
            for name in sorted(names):
                suffix = Path(name).suffix.lower()
                if name.startswith("."):  # macOS writes `._x.jpg` beside x.jpg on foreign disks
                    continue
                if suffix in SUFFIXES:
                    self.picture(here / name, split, folder)
                elif suffix in OTHER_PICTURE_SUFFIXES:
                    self.add("picture-format", f"{suffix} images are not read; convert it to PNG or JPEG", here / name)

    def text_list(self, file: Path, split: str) -> None:
        if not self.is_allowed(file):
            self.add("link-leaves-pool", f"a link leads out of the pool; {COPY}", file)
            return
        if (why := why_unusable(file)) is not None:
            self.add("split-list-missing", f"the {split} list: {why}", file)
            return
        try:
            if file.stat().st_size > MAX_LIST_BYTES:
                self.add("split-list-missing", f"the {split} list is larger than {MAX_LIST_BYTES >> 20} MiB", file)
                return
            lines = file.read_bytes().decode("utf-8-sig").splitlines()
        except (UnicodeDecodeError, OSError):
            self.add("split-list-missing", f"the {split} list cannot be read as UTF-8 text", file)
            return
        elsewhere: list[tuple[int, str, Path]] = []
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            if "\0" in text or len(text) > MAX_PATH:
                self.add("picture-missing", "the line is not a path", file, number)
                continue
            text = text.replace("\\", "/") if "\\" in text and "/" not in text else text
            place, written = self.listed(text, file)
            if place is None:
                self.add("picture-missing", f"the listed image {text[:200]!r} does not exist", file, number)
            elif place.suffix.lower() not in SUFFIXES:
                self.add("picture-format", f"{text!r} is not an image that is read", file, number)
            else:
                if not written and text != f"data/{display_path(place, self.root)}":  # as CVAT and darknet write it
                    elsewhere.append((number, text, place))
                elif Path(text).is_absolute() and not place.is_relative_to(self.root):
                    self.allow(place)
                self.picture(place, split, file.parent)
        if elsewhere:
            number, text, place = elsewhere[0]
            more = f", and {len(elsewhere) - 1} more lines alike" if len(elsewhere) > 1 else ""
            shown = display_path(place, self.root)
            self.add("path-fallback", f"{text!r} is not in the pool; {shown} is used{more}", file, number)

    def listed(self, text: str, file: Path) -> tuple[Path | None, bool]:
        """(the picture that a line of a list names, whether it is there as written).

        `./x` is relative to the list (Ultralytics); other relative paths to the pool or to the list. What a path from
        another place (CVAT: `data/...`) leads to in the pool goes before the same outside it: pools are copied.
        """
        bases = [file.parent, self.root] if text.startswith("./") else [self.root, file.parent]
        places = [Path(os.path.normpath(base / text)) for base in bases]
        place = next((place for place in places if kind_of(place) == "file"), None)
        if place is not None and (place.is_relative_to(self.root) or not Path(text).is_absolute()):
            return place, True
        ends = tails(text)
        ends = [end for end in ends if "/" in end] or ends[:1]  # a file name alone may be another folder's
        for end in ends:
            for base in bases:
                if kind_of(base / end) == "file":
                    return base / end, False
        return place, True

    def picture(self, path: Path, split: str, base: Path) -> None:
        if path in self.path_ids:
            self.overlap(self.path_ids[path], split)
            return
        key = self.id_of(path, split, base)
        if not key.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in key):
            shown = key.encode("utf-8", "backslashreplace").decode()
            self.problems.append(Problem("picture-name", "the name is not UTF-8 text; rename the image", shown))
            return
        why = why_unusable(path)
        if not self.is_allowed(path) and path.is_symlink() and why is None:
            self.links.setdefault(path.parent, []).append(path)
        elif not self.is_allowed(path) and why is None:
            self.add("link-leaves-pool", f"a link leads out of the pool; {COPY}", path, frame=key)
        elif why is not None:
            self.add("picture-unreadable", why, path, frame=key)
        else:
            self.use(path, key, split)
            return
        self.path_ids[path] = key
        self.unused[key] = path.name

    def use(self, path: Path, key: str, split: str) -> None:
        self.path_ids[path] = key
        if key in self.found:
            other = self.found[key].path
            self.add(
                "one-stem-two-pictures",
                f"{path.name} and {other.name} share one label file; rename or remove one",
                path,
                frame=key,
            )
            return
        self.split_of_id[key].add(split)
        self.found[key] = ImageFile(key, path, split, self.label_of(path, key))

    def id_of(self, path: Path, split: str, base: Path) -> str:
        """Relative to the pool; pictures that the yaml names outside it go by split and place."""
        for top, prefix in ((self.root, ""), (base, f"{split}/")):
            with contextlib.suppress(ValueError):
                return normal(prefix + path.relative_to(top).with_suffix("").as_posix())
        return normal(f"{split}/{path.with_suffix('').name}")

    def overlap(self, key: str, split: str) -> None:
        if key not in self.found or split in self.split_of_id[key]:
            return  # the same entry twice in one part
        self.split_of_id[key].add(split)
        pair = (self.found[key].split, split)
        self.overlaps[pair] += 1
        self.overlap_example.setdefault(pair, key)

    def report_overlaps(self) -> None:
        sizes = Counter(split for splits in self.split_of_id.values() for split in splits)
        file = self.pool.file.name
        for (first, second), count in sorted(self.overlaps.items()):
            if count == sizes[second] == sizes[first]:
                if self.pool.synthetic and {first, second} == {"train", "val"}:
                    continue  # `pool synth` names no part of its own; Ultralytics asks for both keys
                kind = "val-is-train" if {first, second} == {"train", "val"} else "split-overlap"
                text = f"{second} is the same as {first} ({count} images); they count as {first}"
            else:
                kind = "split-overlap"
                example = self.overlap_example[first, second]
                text = f"{count} images are in {first} and in {second}, like {example}; they count as {first}"
            self.problems.append(Problem(kind, text, file))

    def report_links(self) -> None:
        for folder, paths in sorted(self.links.items()):
            what = "the image is a link that leads" if len(paths) == 1 else f"{len(paths)} images are links that lead"
            like = "" if len(paths) == 1 else f", such as {paths[0].name}"
            shown = paths[0] if len(paths) == 1 else folder
            self.add("link-leaves-pool", f"{what} out of the pool{like}; {COPY}", shown)

    def label_of(self, picture: Path, key: str) -> Path | None:
        for folder in self.places_of(picture.parent):
            path = self.files_in(folder).get(normal(picture.stem))
            if path is None:
                continue
            if not self.is_allowed(path):
                self.add("link-leaves-pool", f"a link leads out of the pool; {COPY}", path, frame=key)
                return None
            return path
        return None

    def places_of(self, pictures: Path) -> list[Path]:
        """Where the labels of a folder of pictures may stand, looked up once."""
        if pictures not in self.label_places:
            self.label_places[pictures] = label_folders(pictures)
        return self.label_places[pictures]

    def files_in(self, folder: Path) -> dict[str, Path]:
        """stem -> label file of a folder, listed once."""
        if folder not in self.label_files:
            files: dict[str, Path] = {}
            try:
                names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
            except OSError as error:
                names = []
                self.add("label-encoding", f"the folder of labels cannot be read ({error.strerror})", folder)
            for name in names:
                path = folder / name
                if path.suffix.lower() == ".txt" and not name.startswith(".") and kind_of(path) != "directory":
                    files.setdefault(normal(path.stem), path)
            self.label_files[folder] = files
        return self.label_files[folder]


def images_at(folder: Path) -> int | None:
    """At which of a path's parts its last `images` stands, in any case."""
    parts = folder.parts
    return next((at for at in range(len(parts) - 1, -1, -1) if parts[at].lower() == "images"), None)


def label_folders(pictures: Path) -> list[Path]:
    """Where the labels of a folder of pictures stand: the last `images` becomes `labels` (Ultralytics), else beside.

    datumaro also reads `annotations`; capitals do not matter.
    """
    at = images_at(pictures)
    if at is None:
        return [pictures]
    base, below = Path(*pictures.parts[:at]), pictures.parts[at + 1 :]
    place = child(base, "labels") or child(base, "annotations") or base / "labels"
    for part in below:
        place = child(place, part) or place / part
    return [place, pictures]
