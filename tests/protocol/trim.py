"""Makes the analyses that are committed: labware definitions are most of an analysis, and hardly any of it is read.

    opentrons analyze --json-output analysis.json PROTOCOL.py          # opentrons 8.8.2
    python -m tests.protocol.trim analysis.json OUT.json.gz

What is left of a definition is what `deckbench.protocol` reads. Nothing else is touched.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

KEPT = ("metadata", "namespace", "version", "ordering", "dimensions", "allowedRoles")


def trim_definition(definition: dict[str, Any]) -> dict[str, Any]:
    """A labware definition without what is not read; the volumes of wells are of tip racks alone."""
    parameters = {name: definition["parameters"].get(name) for name in ("loadName", "isTiprack")}
    found: dict[str, Any] = {
        "parameters": parameters,
        **{name: definition[name] for name in KEPT if name in definition},
    }
    if parameters["isTiprack"]:
        found["wells"] = {
            name: {"totalLiquidVolume": well["totalLiquidVolume"]} for name, well in definition["wells"].items()
        }
    return found


def trim(value: Any) -> Any:
    """An analysis with all its definitions trimmed."""
    if isinstance(value, list):
        return [trim(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: trim_definition(one) if name in ("definition", "lidStackDefinition") and one else trim(one)
        for name, one in value.items()
    }


def main(source: Path, out: Path) -> None:
    """Trim an analysis; gzipped where the name says so, always the same bytes."""
    data = json.dumps(trim(json.loads(source.read_text(encoding="utf-8"))), ensure_ascii=False, separators=(",", ":"))
    out.write_bytes(gzip.compress(data.encode(), mtime=0) if out.suffix == ".gz" else data.encode() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
