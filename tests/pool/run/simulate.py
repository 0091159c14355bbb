"""A simulated run: frames drawn from the expected states, and the run log that a robot would give."""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

from deckbench.pool.synth.sample import sample_plan
from deckbench.pool.synth.scene import Truth
from deckbench.pool.synth.stage import Stage
from deckbench.pool.synth.staging import hand_of, stations_of
from deckbench.protocol import Analysis, DeckState, Gantry, fold
from deckbench.protocol.state import slot_at

BACK = (330.0, 330.0, 100.0)  # where the gantry leaves the picture on its way home
START = datetime(2026, 11, 30, 10, 0, 0, tzinfo=timezone.utc)
SECONDS = {
    "home": 12.0, "pickUpTip": 6.0, "aspirate": 5.0, "dispense": 5.0, "moveToAddressableAreaForDropTip": 3.0,
    "dropTipInPlace": 1.5, "dropTip": 4.0, "thermocycler/openLid": 18.0, "thermocycler/closeLid": 18.0,
    "moveLabware": 35.0, "waitForResume": 20.0, "waitForDuration": 15.0, "thermocycler/runProfile": 30.0,
}  # fmt: skip


@dataclass(frozen=True)
class Simulated:
    """log: `GET /runs/ID/commands`. frames: name -> number of the command that ran or had run last, and whether the
    frame was taken while something moved."""

    folder: Path
    log: Path
    truth: dict[str, tuple[int, bool]]
    times: dict[str, float]


def iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")


def log_of(analysis: Analysis, seed: int = 0, scale: float = 1.0) -> tuple[dict[str, Any], list[tuple[float, float]]]:
    """A finished run of an analysis, with durations like a robot's; start and end of each command in s from START."""
    rng = np.random.Generator(np.random.PCG64(seed))
    now, spans, data = 2.0, [], []
    for command in analysis.commands:
        seconds = SECONDS.get(command.command_type, 0.02) * scale
        seconds *= float(rng.uniform(0.8, 1.25))
        start, end = now, now + seconds
        now = end + 0.015
        spans.append((start, end))
        data.append(
            {
                "id": f"run-{command.number}",
                "key": command.key,
                "commandType": command.command_type,
                "params": dict(command.params),
                "status": "succeeded",
                "createdAt": iso(START + timedelta(seconds=start - 0.01)),
                "startedAt": iso(START + timedelta(seconds=start)),
                "completedAt": iso(START + timedelta(seconds=end)),
            }
        )
    return {"data": data, "meta": {"cursor": 0, "totalLength": len(data)}}, spans


def simulate(
    folder: Path, analysis: Analysis, *, offset_s: float, jitter_s: float, every_s: float, seed: int = 0,
    size: tuple[int, int] = (320, 180),
) -> Simulated:  # fmt: skip
    """Frames of a run every few seconds. Their stamp is the robot's time minus `offset_s`, plus a normal jitter."""
    steps = fold(analysis)
    log, spans = log_of(analysis, seed)
    place = folder / "run.json"
    place.write_text(json.dumps(log), encoding="utf-8")
    pictures = folder / "frames"
    pictures.mkdir()
    rng = np.random.Generator(np.random.PCG64(seed + 1))
    plan = sample_plan(seed, 0, 8, size, False)
    stage = Stage(replace(plan, stations=stations_of(steps[-1].state, 0, plan.lid_angle)))
    starts = [start for start, _ in spans]
    truth: dict[str, tuple[int, bool]] = {}
    times: dict[str, float] = {}
    now = 1.0
    while now < spans[-1][1] + 3:
        running = bisect_right(starts, now) - 1
        moving, state, angle = False, steps[0].before, plan.lid_angle
        if running >= 0:
            before, state = steps[running].before, steps[running].state
            moving = now < spans[running][1] and before != state
            if moving:
                share = (now - spans[running][0]) / (spans[running][1] - spans[running][0])
                turned = lid_angle(before, state, share, plan.lid_angle)
                state = between(before, state, share) if turned is None else opened(state)
                angle = turned or angle
        stations = stations_of(state, 0, angle)
        hand = hand_of(state, stations, plan, np.random.Generator(np.random.PCG64(running + 7)))
        frame = stage.render(Truth("", 0.0, stations, hand, (), (), float(rng.uniform(0.98, 1.02)), None), rng)
        stamp = START + timedelta(seconds=now - offset_s + float(rng.normal(0, jitter_s)))
        name = f"cam_{stamp:%Y%m%d_%H%M%S}_{stamp.microsecond // 1000:03d}.jpg"
        frame.save(pictures / name, "JPEG", quality=85)
        truth[name], times[name] = (running, moving), now
        now += every_s * float(rng.uniform(0.9, 1.1))
    return Simulated(pictures, place, truth, times)


def opened(state: DeckState) -> DeckState:
    """The deck with its lid not closed."""
    slots = (
        replace(slot, module=replace(slot.module, lid="open")) if slot.module and slot.module.lid else slot
        for slot in state.slots
    )
    return replace(state, slots=tuple(slots))


def between(before: DeckState, after: DeckState, share: float) -> DeckState:
    """While a command runs: the deck of before, the gantry on its way to the place of after."""
    one, two = before.gantry, after.gantry
    if one == two or (one.position is None and two.position is None):
        return before if share < 0.5 else after
    here, there = one.position or BACK, two.position or BACK
    mount = two.mount or one.mount
    position = tuple(a + (b - a) * min(1.0, share * 1.3) for a, b in zip(here, there, strict=True))
    slot = slot_at(position[0], position[1]) or "11"
    return replace(before, gantry=Gantry("slot", mount, slot, None, None, position))  # type: ignore[arg-type]


def lid_angle(before: DeckState, after: DeckState, share: float, angle: float) -> float | None:
    """The lid's angle while it moves; None where none does."""
    lids = [tuple(module.lid for module in state.modules) for state in (before, after)]
    if lids[0] == lids[1]:
        return None
    return angle * max(0.15, share if "open" in lids[1] else 1 - share)
