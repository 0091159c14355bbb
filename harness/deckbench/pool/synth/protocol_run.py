"""Frames of a protocol's runs: the deck that each command should leave, deviations from it, and the checks as truth.

A run has two frames of each of its moments, and both are asked the same checks: what is wrong in one is right in the
other. A check is only chosen where both answers can be seen. So its text tells nothing of the answer, the same pictures
of a run have opposite ones, and in most frames one check is normal and another an anomaly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from deckbench.language import Text
from deckbench.pool.synth import draw
from deckbench.pool.synth import geometry as geo
from deckbench.pool.synth.anomalies import CELL, SEEN, in_frame
from deckbench.pool.synth.brush import IDS, SUPER, Array
from deckbench.pool.synth.camera import area, clip_to_frame, hull
from deckbench.pool.synth.deviations import DEVIATE, KINDS, Deviation
from deckbench.pool.synth.sample import between, pick, sample_plan
from deckbench.pool.synth.scene import Hand, Plan, Rng, Station, Tip, Truth
from deckbench.pool.synth.session import class_of, entry, frame_rng, label_text
from deckbench.pool.synth.stage import HAND_ID, Stage
from deckbench.pool.synth.staging import hand_of, stations_of
from deckbench.pool.tables import CheckRow
from deckbench.protocol import Analysis, DeckState, ExpectedCheck, Step, state_checks, step_text
from deckbench.protocol.commands import LOADS
from deckbench.yolo.frame import Box4

WAITS = frozenset({"waitForResume", "pause", "waitForDuration", "thermocycler/runProfile",
                   "thermocycler/runExtendedProfile", "thermocycler/waitForBlockTemperature"})  # fmt: skip
LID_SEEN = 0.3
DIFFERS = 30  # sum over red, green and blue from which a pixel is another one
GAP_SEEN, GAP_SHARE = 0.001, 0.5  # of the frame, and of what would be seen of the gap without the pipette
KINDS_OF_CHECK = {"labware": 3.0, "tips": 2.0, "held": 2.0, "lid": 1.0}  # how often each is asked, where it can be
TWO_WRONG = 0.2  # share of moments whose frames have a deviation each; of the others one frame has none
NO_CLASS = ("reservoir", "tube rack", "block", "adapter", "heater-shaker")  # what the ontology has no class for
SECONDS = {"pickUpTip": 6.0, "aspirate": 5.0, "dispense": 5.0, "dropTip": 4.0, "thermocycler/openLid": 18.0,
           "thermocycler/closeLid": 18.0, "moveLabware": 40.0, "waitForResume": 60.0, "pause": 60.0,
           "thermocycler/runProfile": 300.0, "thermocycler/runExtendedProfile": 300.0,
           "thermocycler/waitForBlockTemperature": 60.0}  # fmt: skip
MOST_WAIT_S = 300.0


@dataclass(frozen=True)
class Moment:
    """The deck after a command.

    time_s: since the run began, with durations as an OT-2 has them. weight: how often it is drawn: what lasts longer is
    seen more often.
    """

    number: int
    key: str
    command_type: str
    step: Text
    state: DeckState
    time_s: float
    weight: float


@dataclass(frozen=True)
class Target:
    """A check that a frame is asked about, and what would be wrong: both answers can be seen."""

    check: ExpectedCheck
    deviation: Deviation
    regions: tuple[Box4, ...]
    slots: frozenset[str]  # of the deck, and the pipette's mount, that the deviation changes


@dataclass(frozen=True)
class RunFrame:
    """A frame of a run. row: of frames.csv."""

    name: str
    picture: Image.Image
    labels: str
    row: tuple[str, ...]
    checks: tuple[CheckRow, ...]
    scene: dict[str, Any]


def moments_of(analysis: Analysis, steps: Sequence[Step]) -> tuple[Moment, ...]:
    """The commands after which something can be seen that was not before, and those during which the robot waits."""
    now, found = 0.0, []
    for step, command in zip(steps, analysis.commands, strict=True):
        seconds = command.params.get("seconds")
        lasts = float(seconds) if isinstance(seconds, int | float) else SECONDS.get(step.command_type, 1.0)
        lasts = min(max(lasts, 0.0), MOST_WAIT_S)
        now += lasts
        if step.command_type not in LOADS and (step.command_type in WAITS or seen(step.before) != seen(step.state)):
            said = step_text(step, command)
            weight = 1 + min(lasts, 60.0) / 10
            found.append(Moment(step.number, step.key, step.command_type, said, step.state, round(now, 1), weight))
    return tuple(found)


def seen(state: DeckState) -> tuple[Any, ...]:
    """What the renderer shows of a state."""
    slots = [(slot.module and (slot.module.kind, slot.module.lid), slot.stack) for slot in state.slots]
    return tuple(slots), [(one.mount, one.tips) for one in state.pipettes], replace(state.gantry, position=None)


def session_moments(moments: Sequence[Moment], seed: int, session: int, frames: int) -> tuple[Moment, ...]:
    """A session's moments, one for two frames, spread over the whole run and in its order."""
    count = -(-frames // 2)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 7, session])))
    ends = np.cumsum([moment.weight for moment in moments])
    at = (np.arange(count) + float(rng.random())) * float(ends[-1]) / count
    return tuple(moments[min(len(moments) - 1, int(index))] for index in np.searchsorted(ends, at, "right"))


class DrawnDeck:
    """A deck as drawn: stations, pipette, what is seen of each thing."""

    def __init__(self, stage: Stage, state: DeckState, rng_seed: int) -> None:
        self.stage, self.state = stage, state
        self.stations = stations_of(state, stage.plan.session, stage.plan.lid_angle)
        rng = np.random.Generator(np.random.PCG64(rng_seed))  # the same place for each state of the frame
        self.hand = hand_of(state, self.stations, stage.plan, rng)
        self.ids = stage.id_picture(self.stations, self.hand)
        self.counts = np.bincount(self.ids.ravel(), minlength=256)
        self.outlines = stage.outlines(self.stations)

    def share(self, ident: int) -> float:
        """Share of a thing that is seen."""
        full = area(self.outlines[ident]) if ident in self.outlines else 0.0
        return float(self.counts[ident]) * CELL * CELL / full if full > 1 else 0.0

    def ident(self, slot: str) -> int | None:
        """Id of the labware on top in a slot."""
        station = next((one for one in self.stations if one.slot == int(slot)), None)
        if station is None or self.state.at(slot).top is None:
            return None
        return draw.base_ident(station.slot) if station.on is None else draw.on_ident(station.slot)


def target_of(expected: DrawnDeck, check: ExpectedCheck, rng: Rng, seed: int) -> Target | None:
    """What could be wrong about a check, if both answers can be seen in this frame."""
    kind, _, about = check.id.partition(":")
    deviation = DEVIATE[kind](expected.state, about, rng)
    if deviation is None:
        return None
    actual = DrawnDeck(expected.stage, deviation.state, seed)
    if kind == "held":
        outlines = tip_outlines(expected, about)
        size = expected.stage.camera.size
        if not outlines or sum(in_frame(one, size) > 0.9 for one in outlines) * 2 < len(outlines):
            return None
    elif kind == "lid":
        outlines = [view.outlines[draw.base_ident(int(about))] for view in (expected, actual)]
        if min(view.share(draw.base_ident(int(about))) for view in (expected, actual)) < LID_SEEN:
            return None
    else:
        view = expected if expected.state.at(about).top is not None else actual
        ident = view.ident(about)
        if ident is None or view.share(ident) < SEEN:
            return None
        outlines = [view.outlines[ident]]
        if kind == "tips" and not gap_seen(expected, actual, about):
            return None
    box = box_of(np.concatenate(outlines), expected.stage.camera.size)
    after = {one.id: one.expected for one in state_checks(deviation.state)}
    if box is None or after.get(check.id, check.expected) == check.expected:
        return None
    return Target(check, deviation, (box,), changed(expected.state, deviation.state))


def gap_seen(expected: DrawnDeck, actual: DrawnDeck, slot: str) -> bool:
    """Whether a camera sees the tips that differ: enough of the frame, and most of them not behind the pipette."""
    shown, whole = gap_pixels(expected, actual, slot)
    width, height = expected.stage.camera.size
    return shown >= GAP_SEEN * width * height and shown >= GAP_SHARE * whole


def gap_pixels(expected: DrawnDeck, actual: DrawnDeck, slot: str) -> tuple[float, float]:
    """How many pixels of a slot two decks show differently: those that are seen, and those behind the pipette too."""
    sprites = [
        view.stage.sprite(next(one for one in view.stations if one.slot == int(slot))) for view in (expected, actual)
    ]
    drawn = [(one.corner, one.picture) for one in sprites if one.picture is not None]
    if not drawn:
        return 0.0, 0.0
    x0, y0 = (min(corner[axis] for corner, _ in drawn) for axis in (0, 1))
    x1, y1 = (max(corner[axis] + picture.size[axis] for corner, picture in drawn) for axis in (0, 1))
    x1, y1 = x0 - (x0 - x1) // IDS * IDS, y0 - (y0 - y1) // IDS * IDS
    pictures = []
    for sprite in sprites:
        picture = expected.stage.room.crop((x0, y0, x1, y1))
        if sprite.picture is not None:
            picture.paste(sprite.picture, (sprite.corner[0] - x0, sprite.corner[1] - y0), sprite.mask)
        pictures.append(np.asarray(picture, dtype=np.int16))
    differs = np.abs(pictures[0] - pictures[1]).sum(axis=2) > DIFFERS
    rows, columns = differs.shape[0] // IDS, differs.shape[1] // IDS
    cells = differs.reshape(rows, IDS, columns, IDS).sum(axis=(1, 3)) / SUPER**2
    ids = expected.ids[y0 // IDS : y1 // IDS, x0 // IDS : x1 // IDS]
    cells, ident = cells[: ids.shape[0], : ids.shape[1]], expected.ident(slot)
    return float(cells[ids == ident].sum()), float(cells[(ids == ident) | (ids == HAND_ID)].sum())


def changed(one: DeckState, other: DeckState) -> frozenset[str]:
    """Slots and mounts in which two states differ."""
    slots = {a.name for a, b in zip(one.slots, other.slots, strict=True) if a != b}
    return frozenset(slots | {a.mount for a, b in zip(one.pipettes, other.pipettes, strict=True) if a != b})


def tip_outlines(view: DrawnDeck, mount: str) -> list[Array]:
    """Outlines of straight tips on all the nozzles of a pipette that are in use; none where it is out of sight."""
    pipette = view.state.pipette(mount)
    if view.hand is None or pipette is None or view.state.gantry.mount != mount:
        return []
    rows = [f"{row}1" for row in "ABCDEFGH"] if pipette.channels > 1 else ["A1"]
    full = replace(view.hand, tips=tuple(Tip("straight" if row in pipette.nozzles else "missing") for row in rows))
    return [shape.straight for shape in view.stage.tip_shapes(full) if shape.tip.state == "straight"]


def box_of(points: Array, size: tuple[int, int]) -> Box4 | None:
    """The upright box around points, in fractions of the frame; None where nothing is left of it."""
    polygon = clip_to_frame(hull(points), *size)
    if len(polygon) < 3:
        return None
    low, high = polygon.min(axis=0) / size, polygon.max(axis=0) / size
    box = tuple(round(float(np.clip(value, 0, 1)), 4) for value in (*low, *high))
    return box if box[2] - box[0] > 0.004 and box[3] - box[1] > 0.004 else None  # type: ignore[return-value]


def choose(expected: DrawnDeck, rng: Rng, seed: int, count: int) -> list[Target]:
    """Up to `count` checks whose deviations do not touch each other."""
    kinds: dict[str, list[ExpectedCheck]] = {}
    for check in state_checks(expected.state):
        if check.kind in KINDS_OF_CHECK:
            kinds.setdefault(check.kind, []).append(check)
    found: list[Target] = []
    while kinds and len(found) < count:
        names = sorted(kinds)
        weights = np.array([KINDS_OF_CHECK[name] for name in names])
        kind = names[int(rng.choice(len(names), p=weights / weights.sum()))]
        check = kinds[kind].pop(int(rng.integers(len(kinds[kind]))))
        if not kinds[kind]:
            del kinds[kind]
        target = target_of(expected, check, rng, seed)
        if target is not None and not any(target.slots & other.slots for other in found):
            found.append(target)
    return found


def list_labels(actual: DrawnDeck, expected: DrawnDeck, deviations: Sequence[Deviation]) -> list[dict[str, Any]]:
    """Labelled objects as `session.list_objects` has them; what the classes do not know has no label."""
    size = actual.stage.camera.size
    kinds = {name: one.kind for one in deviations for name in changed(expected.state, one.state)}
    away = {slot for one in deviations for slot in one.away}
    found: list[dict[str, Any] | None] = []
    for station in actual.stations:
        for item, ident in ((station.base, draw.base_ident(station.slot)), (station.on, draw.on_ident(station.slot))):
            if item is None or ident not in actual.outlines or actual.share(ident) < 0.12:
                continue
            name = None if item.kind in NO_CLASS else class_of(item)
            if str(station.slot) in away:
                name = "labware_wrong"
            elif kinds.get(str(station.slot)) == "tip_rack_gap" and item.kind == "tip rack":
                name = "tip_rack_gap"
            if name is not None:
                found.append(entry(name, item.kind, item.state, station.slot, actual.outlines[ident], size))
    for deviation in deviations:
        if deviation.kind in ("labware_missing", "wrong_slot"):
            for slot in changed(expected.state, deviation.state) - set(deviation.away):
                ghost = expected.ident(slot)
                if ghost is not None:
                    found.append(
                        entry("labware_missing", "empty slot", "bare", int(slot), expected.outlines[ghost], size)
                    )
    if actual.hand is not None:
        found += tip_labels(actual, actual.hand, expected.hand, size)
    return [one for one in found if one is not None]


def tip_labels(view: DrawnDeck, hand: Hand, planned: Hand | None, size: tuple[int, int]) -> list[dict[str, Any] | None]:
    """Labels of the tips that are there, and of those that should be."""
    whole = "single_channel_tip" if hand.channels == 1 else "multi_channel_tip"
    due = planned.tips if planned is not None else ()
    shown = replace(hand, tips=hand.tips or tuple(Tip("missing") for _ in due))
    found = []
    for index, shape in enumerate(view.stage.tip_shapes(shown)):
        there = shape.tip.state == "straight"
        expected = index < len(due) and due[index].state == "straight"
        if (there or expected) and in_frame(shape.straight, size) >= 0.5:
            name = whole if there else "missing_tip"
            found.append(entry(name, "tip", shape.tip.state, int(hand.over.split()[1]), shape.straight, size))
    return found


def run_session(
    seed: int, session: int, moments: Sequence[Moment], size: tuple[int, int], shifted: bool
) -> Iterator[RunFrame]:
    """The frames of one run: one camera pose, one light, the moments in order, two frames each. A pure function."""
    plan = plan_of(seed, session, len(moments), size, shifted, moments[0].state)
    stage = Stage(plan)
    for number, moment in enumerate(moments):
        rng = frame_rng(seed, shifted, session, number, 1)
        place = int(rng.integers(1 << 40))
        expected = DrawnDeck(stage, moment.state, place)
        targets = choose(expected, rng, place, 2 if rng.random() < TWO_WRONG else 1)
        wrongs: list[Target | None] = [*targets, None][:2]
        if rng.random() < 0.5:
            wrongs.reverse()
        for index, wrong in enumerate(wrongs, 2 * number):
            name = f"images/s{session:05d}_f{index:03d}"
            noise = frame_rng(seed, shifted, session, index, 100)
            yield run_frame(name, moment, expected, targets, wrong, noise, place)


def run_frame(
    name: str,
    moment: Moment,
    expected: DrawnDeck,
    targets: Sequence[Target],
    wrong: Target | None,
    rng: Rng,
    place: int,
) -> RunFrame:
    """One frame: the deck with one of the deviations or none, and a check for each target."""
    stage, deviations = expected.stage, [] if wrong is None else [wrong.deviation]
    actual = expected if wrong is None else DrawnDeck(stage, wrong.deviation.state, place)
    objects = list_labels(actual, expected, deviations)
    liquid = pick(rng, stage.look.liquids) if rng.random() < 0.5 else None
    truth = Truth("", moment.time_s, actual.stations, actual.hand, (), (), between(rng, 0.97, 1.03), liquid)
    picture = stage.render(truth, rng)
    now = {one.id: one.expected for one in state_checks(actual.state)}
    checks = tuple(check_row(name, moment, target, target is wrong, now) for target in targets)
    session, index = stage.plan.session, int(name.rpartition("_f")[2])
    time_s = f"{session * 86400 + moment.time_s + index * 0.1:.1f}"
    row = (name, f"s{session:05d}", time_s, moment.step.en)
    return RunFrame(name, picture, label_text(objects), row, checks, scene_of(name, stage, moment, deviations, objects))


def plan_of(seed: int, session: int, count: int, size: tuple[int, int], shifted: bool, state: DeckState) -> Plan:
    """A session's camera and light as for other pools, with the protocol's deck."""
    plan = sample_plan(seed, session, count, size, shifted)
    stations: tuple[Station, ...] = stations_of(state, session, plan.lid_angle)
    return replace(plan, stations=stations, tip_mm=min(geo.tip_length("opentrons_96_tiprack_300ul"), 52.0))


def check_row(frame: str, moment: Moment, target: Target, wrong: bool, now: dict[str, Text]) -> CheckRow:
    """A check with its truth. The caption says what is there."""
    check = target.check
    kind = KINDS[target.deviation.kind] if wrong else None
    caption = now.get(check.id, check.expected)
    verdict = "anomaly" if wrong else "normal"
    return CheckRow(
        frame, moment.step, check.phase, check.check, check.expected, verdict, kind, target.regions, caption
    )


def scene_of(
    name: str, stage: Stage, moment: Moment, deviations: Sequence[Deviation], objects: list[dict[str, Any]]
) -> dict[str, Any]:
    """A frame's line in scenes.jsonl."""
    camera, look = stage.camera, stage.look
    return {
        "frame": name,
        "session": f"s{stage.plan.session:05d}",
        "command": moment.number,
        "key": moment.key,
        "command_type": moment.command_type,
        "step": moment.step.en,
        "camera": {"place": list(camera.place), "target": list(camera.target), "roll": camera.roll,
                   "field": camera.field},
        "light": {"direction": [round(v, 4) for v in look.light], "ambient": look.ambient, "gain": look.gain,
                  "tint": list(look.tint), "noise": look.noise},
        "deviations": [{"kind": one.kind, "slots_with_other_labware": list(one.away)} for one in deviations],
        "objects": objects,
        "anomalies": sorted({one.kind for one in deviations}),
    }  # fmt: skip
