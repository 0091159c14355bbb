"""A run as a line of time: which command ran when, what could be seen of it, and where a frame falls."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deckbench.pool.run.log import RunAlignment
from deckbench.protocol import DeckState, Step

HAND_S = 5.0  # a person who moves labware by hand is seen for so long; the robot waits longer

Phase = Literal["after", "ambiguous", "outside", "left"]


@dataclass(frozen=True)
class Place:
    """Where a frame falls.

    step: the command that ran last, or runs; None before the first, where commands are missing in the log, and after
    the run has left its analysis. phase: `after` (its state holds), `ambiguous` (something that can be seen changes, or
    may), `outside`, `left`.
    """

    step: Step | None
    phase: Phase
    why: str


def view_of(state: DeckState) -> Hashable:
    """What a camera could see of a state: no temperatures, no magnet."""
    slots = [
        (slot.module and (slot.module.kind, slot.module.lid, slot.module.latch),
         tuple((labware.name, labware.tips) for labware in slot.stack))
        for slot in state.slots
    ]  # fmt: skip
    held = [(pipette.mount, frozenset(tip.nozzle for tip in pipette.tips)) for pipette in state.pipettes]
    gantry = state.gantry
    return (tuple(slots), tuple(held), (gantry.place, gantry.mount, gantry.slot, gantry.labware, gantry.well))


class Timeline:
    """The commands of a run that are its analysis's, in robot time.

    starts, ends: seconds since 1970. steps: None for a time whose commands are missing in the log. views: a number for
    what is seen after 0, 1, ... n commands. left_at: when the run left its analysis, inf where it did not. until: from
    when on the log says nothing, inf where the run had ended.
    """

    def __init__(self, followed: RunAlignment, steps: Sequence[Step]) -> None:
        spans: list[tuple[Step | None, float, float]] = []
        states = [steps[followed.commands[0][1]].before]
        for at, (ran, number) in enumerate(followed.commands):
            if at in followed.holes:
                spans.append((None, min(spans[-1][2], ran.start_s), ran.start_s))
                states.append(steps[number].before)
            spans.append((steps[number], ran.start_s, ran.end_s))
            states.append(steps[number].state)
        self.steps = tuple(step for step, _, _ in spans)
        self.starts = np.array([start for _, start, _ in spans])
        self.ends = np.maximum.accumulate([end for _, _, end in spans])
        self.left_at, self.until = followed.left_at, followed.until
        numbers: dict[Hashable, int] = {}
        self.views = np.array([numbers.setdefault(view_of(state), len(numbers)) for state in states])

    @cached_property
    def boundaries(self) -> NDArray[np.float64]:
        """All starts and ends, sorted."""
        return np.sort(np.concatenate([self.starts, self.ends]))

    @cached_property
    def motions(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Starts and ends of the commands that change what is seen, and for how many seconds of that time they do."""
        moves = self.views[1:] != self.views[:-1]
        person = np.array([step is not None and step.needs_person for step in self.steps])
        seconds = np.where(person, np.minimum(HAND_S, self.ends - self.starts), self.ends - self.starts)
        return self.starts[moves], self.ends[moves], seconds[moves]

    def seen_at(self, times: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """What is seen at times in robot time (n,): numbers of views, and whether something moves."""
        done = np.searchsorted(self.ends, times, "right")
        started = np.searchsorted(self.starts, times, "right")
        return self.views[done], self.views[done] != self.views[np.maximum(started, done)]

    def is_unknown(self, times: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether nothing is known of the run at times in robot time: it has left its analysis, or the log ends."""
        return np.asarray(times >= min(self.left_at, self.until))

    def place(self, time_s: float, margin_s: float) -> Place:
        """Where a frame falls that was taken within `margin_s` of `time_s`, in robot time."""
        early, late = time_s - margin_s, time_s + margin_s
        if late >= self.left_at:
            return Place(None, "left", "the run has left the analysis")
        if late >= self.until:
            return Place(None, "outside", "after the log was taken")
        if late < self.starts[0] or early > self.ends[-1]:
            return Place(None, "outside", "before the run" if late < self.starts[0] else "after the run")
        started = int(np.searchsorted(self.starts, time_s, "right"))
        step = self.steps[started - 1] if started else None
        if step is None and started:
            return Place(None, "ambiguous", "commands of this time are missing in the log")
        if np.searchsorted(self.boundaries, late, "right") > np.searchsorted(self.boundaries, early, "left"):
            return Place(step, "ambiguous", "within the uncertainty of a boundary")
        done = int(np.searchsorted(self.ends, time_s, "right"))
        if self.views[done] != self.views[max(done, started)]:
            return Place(step, "ambiguous", "during a command that can be seen")
        return Place(step, "after", "")
