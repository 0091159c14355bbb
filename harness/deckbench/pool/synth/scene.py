"""What is true in a scene: the session's plan, look and camera, and the state of each frame. No drawing here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from deckbench.pool.synth.camera import Camera

Rng = np.random.Generator
Colour = tuple[int, int, int]

CLASSES = (
    "magnetic_module", "temperature_module", "pcr_lid_open", "pcr_lid_closed", "single_channel_tip",
    "multi_channel_tip", "damaged_tip", "trash_bin", "tip_rack", "tip_rack_gap", "white_plate", "square_well_plate",
    "plate_crooked", "labware_missing", "labware_wrong", "missing_tip", "spill", "trash_overfull",
)  # fmt: skip
CLASSES_ZH = (
    "磁力模块", "温控模块", "PCR仪盖打开", "PCR仪盖关闭", "单通道吸头", "八通道吸头", "损坏的吸头", "垃圾桶", "吸头盒",
    "吸头盒缺吸头", "白色孔板", "方孔板", "孔板歪斜", "缺少耗材", "耗材错误", "缺失的吸头", "液体泄漏", "垃圾桶溢满",
)  # fmt: skip
STEPS = ("setup", "pick_up_tips", "transfer", "load_pcr", "thermocycle", "unload_pcr", "drop_tips")
ALWAYS = frozenset(
    ("damaged_tip", "tip_rack_gap", "plate_crooked", "labware_missing", "labware_wrong", "missing_tip", "spill",
     "trash_overfull")
)  # fmt: skip
AT_STEP = {
    "pcr_lid_open": ("thermocycle",),
    "pcr_lid_closed": ("load_pcr", "unload_pcr"),
    "single_channel_tip": ("drop_tips",),
    "multi_channel_tip": ("drop_tips",),
}
LID_AT = {"thermocycle": "closed", "load_pcr": "open", "unload_pcr": "open"}
TIPS_AT = {"setup": 0.35, "pick_up_tips": 0.8, "transfer": 0.9, "load_pcr": 0.65, "thermocycle": 0.35,
           "unload_pcr": 0.65, "drop_tips": 0.0}  # fmt: skip

WHITE_PLATES = (("nest_96_wellplate_100ul_pcr_full_skirt", 5), ("opentrons_96_wellplate_200ul_pcr_full_skirt", 4))
SQUARE_PLATES = (("nest_96_wellplate_2ml_deep", 5),)
RACKS = (("opentrons_96_tiprack_300ul", 1),)
TUBE_RACKS = (("opentrons_24_tuberack_nest_1.5ml_snapcap", 2),)
RESERVOIRS = (("nest_12_reservoir_15ml", 3),)
SHIFTED_WHITE = (("corning_384_wellplate_112ul_flat", 5), ("biorad_96_wellplate_200ul_pcr", 5))
SHIFTED_SQUARE = (("ibidi_96_square_well_plate_300ul", 2), ("usascientific_96_wellplate_2.4ml_deep", 4))
SHIFTED_RACKS = (("opentrons_96_filtertiprack_200ul", 1), ("tipone_96_tiprack_200ul", 1))
SHIFTED_TUBES = (("opentrons_10_tuberack_falcon_4x50ml_6x15ml_conical", 3),)
SHIFTED_RESERVOIRS = (("nest_1_reservoir_195ml", 3),)


def anomalies_of(classes: list[str], step: str) -> list[str]:
    """The rule of the ontology: which of these classes are anomalies at this step, in class order, each once."""
    found = []
    for name in CLASSES:
        if name in classes:
            if name in ALWAYS:
                found.append(name)
            elif step in AT_STEP.get(name, ()):
                found.append(f"{name}@{step}")
    return found


@dataclass(frozen=True)
class Item:
    """A thing on the deck. `detail` says how it stands or what it lacks; `look` seeds its small differences."""

    kind: str
    state: str
    model: tuple[str, int] = ("", 0)
    detail: tuple[Any, ...] = ()
    look: int = 0


@dataclass(frozen=True)
class Station:
    """A slot's content: a module or labware, and what stands on it; `between`: what stands between the two."""

    slot: int
    base: Item | None
    on: Item | None = None
    between: tuple[Item, ...] = ()


@dataclass(frozen=True)
class Look:
    """Colours and light of a session. Colours are 8-bit RGB before light; `light` is a unit vector to the lamp."""

    deck: Colour
    room: Colour
    rack: Colour
    tip: Colour
    white: Colour
    square: Colour
    thermocycler: Colour
    lid: Colour
    magnetic: Colour
    temperature: Colour
    trash: Colour
    pipette: Colour
    light: tuple[float, float, float]
    ambient: float
    tint: tuple[float, float, float]
    gain: float
    slope: tuple[float, float]
    vignette: float
    noise: float
    blur: float
    liquids: tuple[Colour, ...]
    clutter: int


@dataclass(frozen=True)
class Plan:
    """What a session keeps: camera, look, deck as planned, pipette."""

    session: int
    camera: Camera
    look: Look
    stations: tuple[Station, ...]
    channels: int
    tip_mm: float
    used_first: int
    start_s: float
    step_s: float
    steps: tuple[str, ...]
    lid_angle: float
    emphasis: tuple[tuple[str, float], ...] = ()  # kinds of anomaly that are so many times as likely as usual


@dataclass(frozen=True)
class Tip:
    """A tip on a nozzle: straight, bent (how: bend, kink or broken; numbers) or missing."""

    state: str
    how: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Puddle:
    """A spill: outline points relative to `middle` at height z, colour, and the slot it lies on (or None)."""

    middle: tuple[float, float, float]
    outline: tuple[tuple[float, float], ...]
    drops: tuple[tuple[float, float, float], ...]
    colour: Colour
    slot: int | None
    surface: int


@dataclass(frozen=True)
class Hand:
    """The pipette in a frame: where its middle nozzle is, over what, and its tips (empty = none).

    channels: 1 or 8, where it is another pipette than the session's.
    """

    place: tuple[float, float, float]
    over: str
    tips: tuple[Tip, ...]
    channels: int | None = None


@dataclass(frozen=True)
class Truth:
    """All that is true in one frame."""

    step: str
    time_s: float
    stations: tuple[Station, ...]
    hand: Hand | None
    puddles: tuple[Puddle, ...]
    missing: tuple[tuple[int, Item], ...]  # slot, the labware that should stand there
    flicker: float
    liquid: Colour | None
