"""`pool check`: everything about a pool that a build would meet, every picture decoded in full, or none opened."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deckbench.yolo.frame import ERROR, VERDICTS, WHOLE_POOL, Problem
from deckbench.yolo.read import Scan, scan_pool


@dataclass(frozen=True)
class CheckReport:
    """What a check found. ok: no errors; notices do not count against a pool. labels_only: no image was opened."""

    path: Path
    scan: Scan
    labels_only: bool = False

    @property
    def problems(self) -> list[Problem]:
        return self.scan.problems

    @property
    def ok(self) -> bool:
        return not self.scan.errors

    @property
    def skipping_does_not_help(self) -> bool:
        """Whether an error spoils every frame."""
        return any(problem.kind in WHOLE_POOL for problem in self.scan.errors)

    @property
    def by_kind(self) -> dict[str, int]:
        """Kind of problem -> how often, most severe and most frequent first."""
        counts = Counter((problem.severity != ERROR, problem.kind) for problem in self.problems)
        order = sorted(counts, key=lambda key: (key[0], -counts[key], key[1]))
        return {kind: counts[mild, kind] for mild, kind in order}

    @property
    def class_counts(self) -> dict[str, int]:
        """Class name -> number of boxes in usable frames; classes without one are there with 0."""
        counts = Counter(box.cls for frame in self.scan.frames for box in frame.boxes)
        out: dict[str, int] = {}
        for number, name in enumerate(self.scan.yaml.names):
            out[name] = out.get(name, 0) + counts[number]
        return out

    @property
    def groups(self) -> dict[str, int]:
        """Group -> frames, as frames.csv has it; empty when it says nothing."""
        return dict(sorted(Counter(frame.group for frame in self.scan.frames if frame.group is not None).items()))

    @property
    def sizes(self) -> dict[str, int]:
        """WIDTHxHEIGHT -> frames, most frequent first; empty where no image was opened."""
        frames = () if self.labels_only else self.scan.frames
        return dict(Counter(f"{frame.width}x{frame.height}" for frame in frames).most_common())

    @property
    def checks(self) -> dict[str, Any]:
        """How many checks the usable frames have, their verdicts and kinds of anomaly, and frames with both answers."""
        frames = [frame for frame in self.scan.frames if frame.checks]
        checks = [check for frame in frames for check in frame.checks]
        verdicts = Counter(check.verdict for check in checks)
        both = sum({"normal", "anomaly"} <= {check.verdict for check in frame.checks} for frame in frames)
        return {
            "checks": len(checks),
            "frames": len(frames),
            "steps": len({check.key[0] for check in checks}),
            "verdicts": {verdict: verdicts[verdict] for verdict in VERDICTS},
            "anomalies": dict(Counter(kind for check in checks for kind in check.anomaly).most_common()),
            "normal_and_anomaly": both,
        }

    def as_dict(self) -> dict[str, Any]:
        """For --json: counts first, then every problem."""
        scan = self.scan
        return {
            "ok": self.ok,
            "pool": scan.yaml.name,
            "yaml": scan.yaml.file.name,
            "synthetic": scan.yaml.synthetic,
            "content_hash": scan.content_hash or None,
            "labels_only": self.labels_only,
            "pictures": scan.found,
            "frames": len(scan.frames),
            "label_files": scan.label_files,
            "background_frames": sum(not frame.boxes for frame in scan.frames),
            "boxes": sum(len(frame.boxes) for frame in scan.frames),
            "classes": self.class_counts,
            "splits": dict(Counter(frame.split or "none" for frame in scan.frames)),
            "sizes": self.sizes,
            "groups": self.groups,
            "steps": dict(sorted(Counter(frame.step for frame in scan.frames if frame.step).items())),
            "checks": self.checks,
            "errors": len(scan.errors),
            "notices": len(self.problems) - len(scan.errors),
            "by_kind": self.by_kind,
            "problems": [problem.as_dict() for problem in self.problems],
        }

    def lines(self) -> list[str]:
        """For a person: every problem with file and line, then the counts."""
        data = self.as_dict()
        lines = [str(problem) for problem in self.problems]
        if self.by_kind:
            lines.append("problems: " + ", ".join(f"{count} {kind}" for kind, count in self.by_kind.items()))
        splits = ", ".join(f"{count} {name}" for name, count in data["splits"].items())
        sizes = ", ".join(f"{count} of {size}" for size, count in list(data["sizes"].items())[:4])
        lines.append(f"pool: {data['pool']}{' (synthetic)' if data['synthetic'] else ''}")
        told = "; ".join(filter(None, (splits, sizes)))
        lines.append(f"frames: {data['frames']} of {data['pictures']} images{f' ({told})' if told else ''}")
        lines.append(f"labels: {data['label_files']} files, {data['background_frames']} frames without a box")
        lines.append(
            f"boxes: {data['boxes']} (" + ", ".join(f"{count} {name}" for name, count in data["classes"].items()) + ")"
        )
        lines.append(
            f"groups: {len(data['groups'])}" if data["groups"] else "groups: none (no frames.csv, or no group)"
        )
        if (checks := data["checks"])["checks"]:
            verdicts = ", ".join(f"{count} {verdict}" for verdict, count in checks["verdicts"].items())
            lines.append(
                f"checks: {checks['checks']} of {checks['frames']} frames at {checks['steps']} steps ({verdicts}); "
                f"{checks['normal_and_anomaly']} frames are normal in one check and an anomaly in another"
            )
        if self.labels_only:
            lines.append("images were not opened: check without --labels-only before you build")
        lines.append(f"{data['errors']} errors, {data['notices']} notices")
        return lines


def check_pool(path: Path, *, labels_only: bool = False) -> CheckReport:
    """Check a pool as a build would meet it, every image decoded in full.

    Args:
        path: The pool's folder or its yaml.
        labels_only: Check yaml, labels and tables, and open no image.

    Returns:
        All problems with file and line, and counts.

    Raises:
        InputError: There is no pool to look at.
    """
    return CheckReport(Path(path), scan_pool(Path(path), full=True, pictures=not labels_only), labels_only)
