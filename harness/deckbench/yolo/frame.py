"""What a pool is in memory: frames with boxes, and the problems found while reading them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deckbench.language import AnyText
from deckbench.yolo.credit import Credit

Verdict = Literal["normal", "anomaly", "unknown"]
VERDICTS: tuple[Verdict, ...] = ("normal", "anomaly", "unknown")
Box4 = tuple[float, float, float, float]  # x0, y0, x1, y1 in fractions of the upright frame
ERROR = "error"
NOTICE = "notice"

# Every kind of problem a pool can have, and whether it stops a build.
KINDS: dict[str, str] = {
    # the yaml
    "names-repeated": NOTICE,
    "path-fallback": NOTICE,
    "path-outside": NOTICE,
    "path-stale": NOTICE,
    "no-yaml": NOTICE,
    "parts-found": NOTICE,
    "names-differ": NOTICE,
    "several-yamls": NOTICE,
    "split-folder-missing": NOTICE,
    "split-list-missing": ERROR,
    "val-is-train": NOTICE,
    "split-overlap": NOTICE,
    "credit-unreadable": NOTICE,
    # pictures
    "picture-unreadable": ERROR,
    "picture-truncated": ERROR,
    "picture-too-large": ERROR,
    "picture-too-small": ERROR,
    "picture-format": ERROR,
    "picture-missing": ERROR,
    "picture-turned": NOTICE,
    "picture-name": ERROR,
    "link-leaves-pool": ERROR,
    "link-not-followed": NOTICE,
    "one-stem-two-pictures": ERROR,
    "identical-pictures": NOTICE,
    # labels
    "no-labels": ERROR,
    "label-broken-row": ERROR,
    "label-columns": ERROR,
    "label-not-finite": ERROR,
    "label-negative-size": ERROR,
    "label-no-area": NOTICE,
    "label-class": ERROR,
    "label-outside": ERROR,
    "label-clipped": NOTICE,
    "label-repeated": NOTICE,
    "label-encoding": ERROR,
    "label-without-picture": NOTICE,
    "label-name": NOTICE,
    "label-name-mismatch": ERROR,
    # the labels of the whole pool
    "labels-count-from-1": ERROR,
    "keypoints-undeclared": ERROR,
    "class-0-unused": NOTICE,
    # frames.csv
    "frames-csv": ERROR,
    "frames-csv-unknown-column": NOTICE,
    "frames-csv-unknown-frame": ERROR,
    "frames-csv-ambiguous-frame": ERROR,
    "frames-csv-repeated-frame": ERROR,
    "frames-csv-time": ERROR,
    "frames-csv-no-group": ERROR,
    # checks.csv
    "checks-csv": ERROR,
    "checks-csv-unknown-column": NOTICE,
    "checks-csv-unknown-frame": ERROR,
    "checks-csv-ambiguous-frame": ERROR,
    "checks-csv-text": ERROR,
    "checks-csv-verdict": ERROR,
    "checks-csv-anomaly": ERROR,
    "checks-csv-region": ERROR,
    "checks-csv-repeated": NOTICE,
    "checks-csv-differs": ERROR,
    "checks-csv-two-verdicts": ERROR,
}
# What is wrong with every label at once: leaving frames out does not help.
WHOLE_POOL = frozenset({"labels-count-from-1", "keypoints-undeclared"})


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a pool. `file` is relative to the pool's root; `frame` is the id of the frame it spoils."""

    kind: str
    text: str
    file: str
    line: int | None = None
    frame: str | None = None

    @property
    def severity(self) -> str:
        return KINDS[self.kind]

    @property
    def where(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"

    def __str__(self) -> str:
        return f"{self.where}: {self.severity}: {self.text} [{self.kind}]"

    def as_dict(self) -> dict[str, str | int | None]:
        return {
            "kind": self.kind,
            "severity": self.severity,
            "file": self.file,
            "line": self.line,
            "frame": self.frame,
            "text": self.text,
        }


@dataclass(frozen=True)
class Box:
    """A labelled object. Coordinates are fractions of the upright frame, clipped to 0..1; line: in the label file."""

    cls: int
    name: str
    x0: float
    y0: float
    x1: float
    y1: float
    polygon: tuple[tuple[float, float], ...] | None
    line: int


@dataclass(frozen=True)
class Check:
    """One thing that a frame is checked for at a protocol step, as checks.csv has it; None where it does not say.

    phase: when within the step, such as pre and post. expected: what stands there when all is well. anomaly: kinds of
    anomaly, none unless the verdict is anomaly. anomaly_zh: the same in Chinese. regions: where the verdict is seen.
    caption: what the frame shows. line: in checks.csv.
    """

    step: AnyText | None
    phase: AnyText | None
    check: AnyText
    expected: AnyText | None
    verdict: Verdict
    anomaly: tuple[str, ...]
    regions: tuple[Box4, ...]
    caption: AnyText | None
    line: int = 0
    anomaly_zh: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """Step, phase and check: what a frame has one verdict for."""
        return self.step.any if self.step else "", self.phase.any if self.phase else "", self.check.any


@dataclass(frozen=True)
class Frame:
    """A camera picture with its labels.

    id: path of the picture relative to the pool's root, posix, without extension; unique in the pool.
    labels: the label file, None when there is none. width, height: pixels of the upright picture.
    split: as the pool's yaml has it. group, time_s, step, anomalies, view: from frames.csv, None where it does not say.
    checks: from checks.csv; a frame that has some takes its verdicts from them alone.
    """

    id: str
    path: Path
    labels: Path | None
    width: int
    height: int
    boxes: tuple[Box, ...]
    split: str | None
    group: str | None
    time_s: float | None
    step: str | None
    anomalies: tuple[str, ...] | None
    sha256: str
    view: str | None = None
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class Pool:
    """A pool that was read. frames: sorted by id. left_out: the errors that `skip_bad` went past.

    content_hash: sha256 over names and frames (pictures, boxes, split, group, time, step, anomalies, view,
    checks); paths and left-out files have no part in it.
    """

    root: Path
    name: str
    names: tuple[str, ...]
    frames: tuple[Frame, ...]
    synthetic: bool
    content_hash: str
    left_out: tuple[Problem, ...]
    notices: tuple[Problem, ...] = ()
    credit: Credit | None = None

    @property
    def notice_counts(self) -> dict[str, int]:
        """Kind -> notices."""
        return dict(sorted(Counter(problem.kind for problem in self.notices).items()))
