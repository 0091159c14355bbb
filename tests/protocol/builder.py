"""Small analyses as tests make them: commands with keys as opentrons 8.8.2 makes them, and random ids."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

ROWS = "ABCDEFGH"
COLUMNS = [[f"{row}{column}" for row in ROWS] for column in range(1, 13)]


def definition(name: str, category: str, *, tips: bool = False, display: str | None = None) -> dict[str, Any]:
    """As much of a labware definition as is read."""
    return {
        "parameters": {"loadName": name, "isTiprack": tips},
        "metadata": {"displayName": display or name, "displayCategory": category},
        "namespace": "opentrons",
        "version": 1,
        "ordering": COLUMNS,
        "wells": {well: {"totalLiquidVolume": 300} for column in COLUMNS for well in column},
    }


class Builder:
    """Adds commands; `analysis()` is the JSON."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []
        self.last = ""

    def add(
        self, kind: str, params: dict[str, Any] | None = None, result: dict[str, Any] | None = None, **more: Any
    ) -> None:
        self.last = hashlib.md5(self.last.encode() + hashlib.md5(kind.encode()).digest()).hexdigest()
        self.commands.append(
            {
                "id": str(uuid.uuid4()),
                "key": self.last,
                "commandType": kind,
                "params": params or {},
                "result": result or {},
                "status": "succeeded",
                "createdAt": "2026-11-30T10:00:00Z",
                "notes": [],
                **more,
            }
        )

    def labware(self, location: Any, name: str = "plate", category: str = "wellPlate", *, tips: bool = False) -> str:
        key = str(uuid.uuid4())
        params = {"location": location, "loadName": name, "namespace": "opentrons", "version": 1}
        self.add("loadLabware", params, {"labwareId": key, "definition": definition(name, category, tips=tips)})
        return key

    def rack(self, slot: str, name: str = "opentrons_96_tiprack_300ul") -> str:
        return self.labware({"slotName": slot}, name, "tipRack", tips=True)

    def module(self, model: str, slot: str) -> str:
        key = str(uuid.uuid4())
        self.add("loadModule", {"model": model, "location": {"slotName": slot}}, {"moduleId": key, "model": model})
        return key

    def pipette(self, name: str = "p300_multi_gen2", mount: str = "left") -> str:
        key = str(uuid.uuid4())
        self.add("loadPipette", {"pipetteName": name, "mount": mount}, {"pipetteId": key})
        return key

    def at(self, kind: str, pipette: str, labware: str, well: str = "A1") -> None:
        self.add(
            kind, {"pipetteId": pipette, "labwareId": labware, "wellName": well}, {"position": {"x": 1, "y": 2, "z": 3}}
        )

    def analysis(self, **more: Any) -> dict[str, Any]:
        return {
            "robotType": "OT-2 Standard",
            "result": "ok",
            "errors": [],
            "metadata": {"protocolName": "a test"},
            "config": {"protocolType": "python", "apiVersion": [2, 20]},
            "commands": self.commands,
            **more,
        }

    def write(self, path: Path, **more: Any) -> Path:
        path.write_text(json.dumps(self.analysis(**more)), encoding="utf-8")
        return path
