#!/usr/bin/env bash
# opentrons 8.8.2 (the last that analyses OT-2 protocols): what `python -m opentrons.cli analyze --json-output` does not say.
# Seen, and exit 1 when it changes:
# 1. A protocol that fails is analysed with exit code 0; look at `result` and `errors`. One that does not compile: exit
#    code 1 and no file.
# 2. `key`, which joins a run with its analysis, is a hash of the types of the commands so far, not of their parameters:
#    a run that takes its tips from other wells has the keys of the analysis (hash_command_params.py has a TODO on it).
# 3. `labware` at the top is where each stands at the end: a plate that was moved never stands at its first place there.
# 4. pickUpTip names one well. That eight tips are gone, or four, follows from the pipette and configureNozzleLayout.
# 5. A tip may be picked up twice from one well that is named: no error, no note.
# 6. Up to API 2.13 a key is a counter (`command.PICK_UP_TIP-0`), every position is the origin, and a protocol that loads
#    a module fails: "Could not find a module with model ...". On a robot it runs.
# 7. A tip that was returned counts as gone (`has_tip` is False), though it stands in the rack.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "opentrons==8.8.2" "numpy<2" "jsonschema<4.18"
cd "$folder"
HOME="$folder" "$folder/venv/bin/python" - <<'PY'
import json
import subprocess
import sys
from pathlib import Path

HEAD = 'requirements = {"robotType": "OT-2", "apiLevel": "2.20"}\ndef run(ctx):\n'
LOADS = """
    rack = ctx.load_labware("opentrons_96_tiprack_300ul", 4)
    plate = ctx.load_labware("nest_96_wellplate_200ul_flat", 1)
    pipette = ctx.load_instrument("p300_multi_gen2", "left", tip_racks=[rack])
"""
OLD = 'metadata = {"apiLevel": "2.13"}\ndef run(ctx):\n'


def analyse(text):
    Path("p.py").write_text(text)
    Path("out.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", "opentrons.cli", "analyze", "--json-output", "out.json", "p.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, json.loads(Path("out.json").read_text()) if Path("out.json").exists() else None


def of(data, kind):
    return [one for one in data["commands"] if one["commandType"] == kind]


def keys(data):
    return [one["key"] for one in data["commands"]]


def say(number, what, seen, holds):
    print(f"{number}. {what}: {seen}")
    if not holds:
        sys.exit(f"{number} has changed")


code, data = analyse(HEAD + "    ctx.load_labware('nobody', 4)\n")
say(1, "a protocol that fails", (code, data["result"], len(data["errors"])), (code, data["result"]) == (0, "not-ok"))
code, nothing = analyse("def run(\n")
say(1, "one that does not compile", (code, nothing), (code, nothing) == (1, None))
_, first = analyse(HEAD + LOADS + "    pipette.pick_up_tip(rack['A1']); pipette.drop_tip()\n")
_, second = analyse(HEAD + LOADS + "    pipette.pick_up_tip(rack['A9']); pipette.drop_tip()\n")
same = keys(first) == keys(second)
say(2, "keys of two protocols that take other tips are equal", same, same)
_, moved = analyse(HEAD + LOADS + "    ctx.move_labware(plate, 9)\n")
place = moved["labware"][1]["location"]
say(3, "place of a plate that was moved from 1 to 9", place, place == {"slotName": "9"})
named = of(first, "pickUpTip")[0]
say(4, "pickUpTip of an eight-channel pipette", named["params"]["wellName"], "wells" not in str(named["result"]))
_, twice = analyse(HEAD + LOADS + "    for _ in 'ab':\n        pipette.pick_up_tip(rack['A1']); pipette.drop_tip()\n")
say(5, "one tip taken twice", twice["result"], twice["result"] == "ok" and len(of(twice, "pickUpTip")) == 2)
_, old = analyse(OLD + LOADS.replace("_gen2", "") + "    pipette.pick_up_tip(); pipette.drop_tip()\n")
tip = of(old, "pickUpTip")[0]
seen = tip["key"], tip["result"]["position"]
say(6, "API 2.13", seen, seen == ("command.PICK_UP_TIP-0", {"x": 0.0, "y": 0.0, "z": 0.0}))
_, module = analyse(OLD + "    ctx.load_module('temperature module gen2', 1)\n")
fault = module["errors"][0]["detail"]
say(6, "API 2.13 with a module", fault, "Could not find a module" in fault)
_, back = analyse(HEAD + LOADS + "    pipette.pick_up_tip(); pipette.return_tip(); ctx.comment(str(rack['A1'].has_tip))\n")
told = of(back, "comment")[0]["params"]["message"]
say(7, "has_tip of a tip that was returned", told, told == "False")
PY
