"""Where `rule` finds what is in a frame: the labels that the dataset carries, or the YOLO texts a detector wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image

from deckbench import artifact
from deckbench.dataset import Sample, read_samples, splits_of
from deckbench.disk import read_bytes
from deckbench.errors import InputError
from deckbench.gold import read_labels
from deckbench.models.baselines.base import dataset_of
from deckbench.ontology import Ontology, map_classes
from deckbench.picture import SUFFIXES
from deckbench.yolo import frame as yolo
from deckbench.yolo.labels import RowError, parse_row
from deckbench.yolo.orphans import decoded
from deckbench.yolo.table import normal


class Box(NamedTuple):
    """Corners in fractions of the frame."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Detection:
    """One labelled or detected object. cls: of the ontology; confidence: 1 where none is stated."""

    cls: str
    box: Box
    confidence: float


class LabelSource(Protocol):
    """What `rule` reads: the objects of a sample's frame, and the frame's size in pixels where it is known."""

    def objects(self, sample: Sample, ontology: Ontology) -> list[Detection]: ...

    def size(self, sample: Sample) -> tuple[int, int] | None: ...

    def check(self, sample: Sample) -> yolo.Check | None: ...


class GoldLabels:
    """The labels of one dataset."""

    def __init__(self, dataset: Path) -> None:
        self.dataset = dataset
        self.labels = read_labels(dataset)
        self.found = {
            key: [Detection(item.cls, Box(*item.box), 1.0) for item in labels.boxes]
            for key, labels in self.labels.items()
        }

    @classmethod
    def of(cls, sample: Sample) -> GoldLabels:
        """The labels of the dataset that a sample belongs to. Raises InputError when it is none of ours."""
        folder = dataset_of(sample)
        if folder is None:
            fix = "build the dataset with `deckbench build`, or name a folder of label texts: rule:DIR"
            raise InputError("the samples belong to no dataset that carries labels", sample.image, fix)
        return cls(folder)

    def key(self, sample: Sample) -> tuple[str, str]:
        """The sample's frame in the dataset's labels. Raises InputError when it is not there."""
        key = sample.task or "", sample.frame or ""
        if key not in self.labels:
            what = f"the dataset carries no labels of the frame {sample.frame!r} for {sample.task}"
            raise InputError(what, self.dataset, "ask the datasets that were built, not a mix of several pools")
        return key

    def objects(self, sample: Sample, ontology: Ontology) -> list[Detection]:
        """What is labelled in the sample's frame."""
        return self.found[self.key(sample)]

    def size(self, sample: Sample) -> tuple[int, int] | None:
        """Width and height of the frame."""
        labels = self.labels[self.key(sample)]
        return labels.width, labels.height

    def check(self, sample: Sample) -> yolo.Check | None:
        """The check that the sample asks about."""
        asked = sample.step or "", sample.phase or "", sample.check or ""
        return next((check for check in self.labels[self.key(sample)].checks if check.key == asked), None)


class LabelFolder:
    """A pool, or any folder of YOLO texts `class cx cy w h [confidence]` named after the frames."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError("not found; a folder of YOLO label texts is expected here", root, "rule:gold or rule:DIR")
        self.root = root
        self.found: dict[str, list[Detection]] = {}
        self.matches = False

    def check_match(self, samples: Sequence[Sample]) -> None:
        """Raises InputError when no text belongs to any frame of the asked samples, nor of their dataset.

        Nothing would be detected anywhere, and every frame be called normal.
        """
        if self.matches:
            return
        frames = {str(sample.frame) for sample in samples}
        self.matches = any(self.text_of(frame) for frame in frames)
        folder = None if self.matches else dataset_of(samples[0])
        if folder is not None:
            parts = [read_samples(folder, part) for part in splits_of(folder)]
            frames = {str(sample.frame) for part in parts for sample in part}
            self.matches = any(self.text_of(frame) for frame in frames)
        if not self.matches:
            what = f"none of {len(self.texts)} label texts, such as {self.texts[0].name}, is named after an asked frame"
            raise InputError(f"{what}, such as {min(frames)}", self.root, "give the folder of this pool's detections")

    @property
    def content_hash(self) -> str:
        """Hash of the names and bytes of all label texts."""
        return artifact.hash_json(
            {path.relative_to(self.root).as_posix(): artifact.hash_file(path) for path in self.texts}
        )

    @cached_property
    def texts(self) -> list[Path]:
        """All label texts below the folder. Raises InputError when there is none."""
        found = sorted(path for path in self.root.rglob("*.txt") if path.name not in {"classes.txt", "notes.txt"})
        if not found:
            raise InputError("the folder holds no label texts", self.root, "YOLO texts named after the frames")
        return found

    @cached_property
    def by_name(self) -> dict[str, Path | None]:
        """File stem, and path below the folder without ending -> text; None: several texts have that stem."""
        found: dict[str, Path | None] = {}
        for path in self.texts:
            for name in {normal(path.stem), decoded(path.stem)}:
                found[name] = None if name in found else path
        for path in self.texts:
            found[normal(path.relative_to(self.root).with_suffix("").as_posix())] = path
        return found

    def text_of(self, frame: str) -> Path | None:
        """The label text of a frame; None: nothing was labelled or detected there. Raises InputError when in doubt."""
        parts = frame.split("/")
        swapped = list(parts)
        if "images" in parts:
            swapped[len(parts) - 1 - parts[::-1].index("images")] = "labels"
        for name in ("/".join(swapped), frame, "/".join(swapped[1:]), parts[-1]):
            if name in self.by_name:
                path = self.by_name[name]
                if path is None:
                    raise InputError(
                        f"several label texts are named {name}.txt, one is needed for the frame {frame!r}",
                        self.root,
                        "keep the folders of the frames",
                    )
                return path
        return None

    @cached_property
    def names(self) -> tuple[str, ...] | None:
        """Class names by number: of the pool's yaml in or above the folder, or of a tool's list there; else None."""
        from deckbench.yolo.dataset_yaml import find_yaml, load, read_names
        from deckbench.yolo.discover import find_names

        for folder in (self.root, *self.root.resolve().parents[:2]):
            try:
                file, _ = find_yaml(folder)
            except InputError:
                continue
            if file is not None:
                return read_names(load(file))[0]
        for folder in (self.root, self.root.parent) if self.root.name.lower() == "labels" else (self.root,):
            if (listed := find_names(folder)) is not None:
                return listed[0]
        return None

    def objects(self, sample: Sample, ontology: Ontology) -> list[Detection]:
        """What is detected in the sample's frame, read once."""
        frame = str(sample.frame)
        if frame not in self.found:
            path = self.text_of(frame)
            names = self.names or tuple(ontology.classes)
            self.found[frame] = [] if path is None else read_objects(path, names, ontology)
        return self.found[frame]

    def size(self, sample: Sample) -> tuple[int, int] | None:
        """Width and height of the pool's picture, None when the folder holds labels only."""
        for suffix in sorted(SUFFIXES):
            for ending in (suffix, suffix.upper()):
                path = self.root / f"{sample.frame}{ending}"
                if path.is_file():
                    with Image.open(path) as picture:
                        turned = picture.getexif().get(0x0112, 1) in {5, 6, 7, 8}
                        width, height = picture.size
                        return (height, width) if turned else (width, height)
        return None

    def check(self, sample: Sample) -> yolo.Check | None:
        """Raises InputError: what a detector finds does not say whether a check is passed."""
        what = f"{sample.id} is a question about a check, which labels of objects do not answer"
        raise InputError(what, self.root, "ask `rule:gold`, which knows the dataset's checks")


def read_objects(path: Path, names: tuple[str, ...], ontology: Ontology) -> list[Detection]:
    """The objects of one YOLO text. Raises InputError with file and line."""
    rows: list[tuple[yolo.Box, float]] = []
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"the label text cannot be read ({type(error).__name__})", path, "save it as UTF-8") from error
    for number, line in enumerate(lines, 1):
        cells = line.split()
        if not cells:
            continue
        confidence = 1.0
        if len(cells) % 2 == 0:  # an even count of cells: the last one is the confidence
            try:
                confidence = float(cells.pop())
            except ValueError:
                confidence = -1.0
            if not 0 <= confidence <= 1:
                raise InputError("the confidence is not a number from 0 to 1", f"{path}:{number}", "fix the row")
        try:
            box = parse_row(" ".join(cells), names, number)
        except RowError as error:
            raise InputError(str(error), f"{path}:{number}", "a row is: class cx cy w h [confidence]") from error
        rows.append((box, confidence))
    classes = map_classes(names, [box.cls for box, _ in rows], ontology, path)
    return [Detection(classes[box.cls], Box(box.x0, box.y0, box.x1, box.y1), confidence) for box, confidence in rows]
