"""What labels, frames.csv and checks.csv say about a whole frame: normal, an anomaly, or not known; and what is wrong.

What is not known is never "normal".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from deckbench.ontology import Ontology, Verdict
from deckbench.yolo.frame import Check, Frame


def label_verdict(ontology: Ontology, frame: Frame, cls: str) -> Verdict | None:
    """The verdict on a label; none in a frame that has checks, which takes its verdicts from them alone."""
    return None if frame.checks else ontology.verdict(cls, frame.step)


def said_anomalies(ontology: Ontology, frame: Frame) -> list[str] | None:
    """The anomalies that frames.csv names: the ontology's classes by any spelling, other words as they stand."""
    if frame.anomalies is None or frame.checks:
        return None
    words = [item.partition("@")[0].strip() for item in frame.anomalies]
    return [ontology.class_of(word) or word for word in words]


def wrong_classes(ontology: Ontology, frame: Frame, classes: Sequence[str]) -> list[str]:
    """What is wrong in a frame: its checks' kinds, else classes by label or by frames.csv, in the ontology's order.

    classes: the ontology's class of each label.
    """
    if frame.checks:
        kinds = {
            kind for check in frame.checks for kind in check.anomaly or (check.verdict,) if check.verdict == "anomaly"
        }
        return sorted(kinds)
    found = {cls for cls in classes if label_verdict(ontology, frame, cls) == "anomaly"}
    found |= set(said_anomalies(ontology, frame) or ())
    known = [cls for cls in ontology.classes if cls in found]
    return known + sorted(found - set(known))


def frame_verdict(
    ontology: Ontology, frame: Frame, classes: Sequence[str], *, synthetic: bool
) -> tuple[bool | None, str]:
    """(is the frame anomalous, why it cannot be said). classes: as for `wrong_classes`."""
    if frame.checks:
        return checks_verdict(frame.checks)
    by_label = [label_verdict(ontology, frame, cls) for cls in classes]
    if frame.anomalies is not None:
        if not frame.anomalies and "anomaly" in by_label:
            return None, "frames.csv says no anomaly, a label says one"
        return bool(frame.anomalies), ""
    if "anomaly" in by_label:
        return True, ""
    unknown = [
        cls
        for cls, verdict in zip(classes, by_label, strict=True)
        if verdict is None and ontology.classes[cls].verdict == "depends"
    ]
    if unknown:
        return None, "the verdict depends on a step that is not known"
    if not by_label and not (synthetic or ontology.exhaustive is True):
        return None, "no label, and the ontology does not say that all is labelled"
    return False, ""


def checks_verdict(checks: Sequence[Check]) -> tuple[bool | None, str]:
    """`frame_verdict` by checks: an anomaly where one is found, at every step and phase that was checked."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for check in checks:
        found[check.key[:2]].add(check.verdict)
    verdicts = {min(("anomaly", "unknown", "normal"), key=lambda word: word not in at) for at in found.values()}
    if {"normal", "anomaly"} <= verdicts:
        return None, "normal at one step and an anomaly at another"
    return (None, "a check whose verdict is unknown") if "unknown" in verdicts else (verdicts == {"anomaly"}, "")
