"""What the robot does in a step, in one sentence."""

from __future__ import annotations

from deckbench.language import Lang, Text
from deckbench.protocol.analysis import Command
from deckbench.protocol.fold import Step
from deckbench.protocol.state import DeckState
from deckbench.protocol.texts import Texts, Values, fill, labware_name, load_texts, module_name, number

MOST_MESSAGE = 200  # characters of what a protocol says itself


def step_text(step: Step, command: Command, texts: Texts | None = None) -> Text:
    """What the robot does in a step, as one sentence.

    Args:
        step: As `fold` gives it.
        command: The command of that number.
        texts: Templates; the package's own without them.
    """
    texts = texts or load_texts()
    template = texts.steps.get(step.command_type, texts.steps["other"])
    return fill(template, lambda lang: step_values(step, command, texts, lang))


def step_values(step: Step, command: Command, texts: Texts, lang: Lang) -> Values:
    """Values that the template of a step may use; empty texts for what the command does not have."""
    names = ("slot", "labware", "module", "mount", "volume", "tips", "nozzles", "from_place", "to_place")
    values = {**dict.fromkeys(names, ""), "command": step.command_type}
    values["slot"] = step.slot or (step.state.gantry.slot if step.mount else None) or ""
    values["well"] = str(command.params.get("wellName", ""))
    values["message"] = " ".join(str(command.params.get("message") or "").split())[:MOST_MESSAGE]
    volume = command.params.get("volume")
    values["volume"] = number(float(volume)) if isinstance(volume, int | float) else ""
    if step.labware is not None:
        values["labware"] = labware_name(step.labware, texts, lang)
    module = step.state.at(step.slot).module if step.slot else None
    if module is not None:
        values["module"] = module_name(module, texts, lang)
    if step.mount is not None:
        values["mount"] = texts.mounts[step.mount].get(lang)
        pipette, earlier = step.state.pipette(step.mount), step.before.pipette(step.mount)
        held = max(len(one.tips) if one else 0 for one in (pipette, earlier))
        values["tips"] = counted(held, "tip", "吸头", lang)
        values["nozzles"] = counted(len(pipette.nozzles) if pipette else 0, "nozzle", "吸嘴", lang)
    if step.command_type == "moveLabware":
        values["from_place"] = place_name(left(step.before, step.state), step.before, texts, lang)
        values["to_place"] = place_name(step.slot, step.state, texts, lang)
    return values


def counted(count: int, noun: str, noun_zh: str, lang: Lang) -> str:
    """`one tip`, `8 tips`."""
    if lang == "en":
        return f"one {noun}" if count == 1 else f"{count} {noun}s" if count else f"the {noun}s"
    return f"{count} 个{noun_zh}" if count else noun_zh


def left(before: DeckState, after: DeckState) -> str | None:
    """The slot that a labware was moved from; None: it came from off the deck."""
    return next(
        (one.name for one, now in zip(before.slots, after.slots, strict=True) if len(one.stack) > len(now.stack)), None
    )


def place_name(slot: str | None, state: DeckState, texts: Texts, lang: Lang) -> str:
    """`slot 4`, `the magnetic module in slot 6`, `off the deck`."""
    if slot is None:
        return "off the deck" if lang == "en" else "台面外"
    module = state.at(slot).module
    if module is None:
        return f"slot {slot}" if lang == "en" else f" {slot} 号板位"
    name = module_name(module, texts, lang)
    return f"the {name} in slot {slot}" if lang == "en" else f" {slot} 号板位的{name}"
