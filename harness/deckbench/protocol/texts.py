"""What a step is and what a camera can check there, in words: from yaml templates that a lab can replace.

Only what can be seen is checked: no temperatures, no volumes, nothing under a closed lid.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, PrivateAttr

from deckbench.errors import InputError
from deckbench.language import LANGS, Lang, Text
from deckbench.protocol.fold import Step
from deckbench.protocol.state import DeckState, Labware, LabwareKind, Module, ModuleKind, Pipette, Slot
from deckbench.questions import render
from deckbench.schema import Strict
from deckbench.yamlfile import Document, read_document

Phase = Literal["pre", "post"]
CheckKind = Literal["labware", "module", "tips", "lid", "held", "gantry", "lights", "latch", "magnet"]
SEE = "see docs/protocols.md"
OURS = Path(__file__).with_name("texts.yaml")
DEEP_MM = 30.0  # plates that are taller look different: deep-well plates are 39 mm and more, others 20 mm and less
MOST_WELLS = 12  # empty wells that are named one by one
STATES: dict[str, tuple[str, ...]] = {
    "labware": ("labware", "on module", "lid", "empty", "empty module"),
    "module": ("there",),
    "tips": ("full", "gaps", "count", "empty"),
    "lid": ("open", "closed"),
    "held": ("none", "one", "many"),
    "gantry": ("slot", "trash", "home"),
    "lights": ("on", "off"),
    "latch": ("open", "closed"),
    "magnet": ("engaged", "disengaged"),
}
# What the templates may use; which of them have a value depends on the text.
VALUES = (
    "slot", "labware", "a_labware", "module", "a_module", "mount", "gaps", "count", "wells", "well", "volume", "tips",
    "nozzles", "from_place", "to_place", "command", "message", "display", "model",
)  # fmt: skip
HAN, LATIN = "[\u4e00-\u9fff]", "[A-Za-z0-9]"
TIGHT = re.compile(f"(?<={HAN}) +(?={HAN}|[，。；：])")
LOOSE = re.compile(f"(?<={HAN})(?={LATIN})|(?<={LATIN})(?={HAN})")
Values = Mapping[str, Any]


@dataclass(frozen=True)
class ExpectedCheck:
    """One thing that a camera can check at a step.

    id: stable over steps and analyses: the kind and what it is about, e.g. `tips:4`, `held:left`, `gantry`. phase:
    before or after the step's command. check: what is to be looked for. expected: what should be seen.
    """

    id: str
    kind: CheckKind
    phase: Phase
    check: Text
    expected: Text


class CheckTexts(Strict):
    """A kind of check. check: what is looked for. expected: what should be seen, by state."""

    check: Text
    expected: dict[str, Text]


class Texts(Strict):
    """Schema of the templates' yaml. Every text is a Jinja template.

    visible: kinds of check that are made. kinds, labware, modules, mounts: what things are called, labware by load name
    first. checks: by kind. steps: by type of command; `other` for the rest.
    """

    visible: tuple[CheckKind, ...] = Field(min_length=1)
    kinds: dict[str, Text]
    labware: dict[str, Text] = Field(default_factory=dict)
    modules: dict[str, Text]
    mounts: dict[str, Text]
    checks: dict[CheckKind, CheckTexts]
    steps: dict[str, Text]
    _made: dict[Slot, tuple[ExpectedCheck, ...]] = PrivateAttr(default_factory=dict)  # most slots stay as they are


def load_texts(path: Path | None = None) -> Texts:
    """The templates of a file; the package's own without one. Raises InputError with file and line."""
    return _ours() if path is None else _read(Path(path))


@cache
def _ours() -> Texts:
    return _read(OURS)


def _read(path: Path) -> Texts:
    document = read_document(path)
    texts = document.check(Texts, SEE)
    for field, names in (
        ("kinds", (*get_args(LabwareKind), "deep plate")),
        ("modules", get_args(ModuleKind)),
        ("mounts", ("left", "right")),
        ("checks", texts.visible),
        ("steps", ("other",)),
    ):
        need(document, getattr(texts, field), names, field)
    for kind in texts.visible:
        need(document, texts.checks[kind].expected, STATES[kind], "checks", kind, "expected")
    try_out(document, texts)
    return texts


def need(document: Document, given: Mapping[str, Any], names: tuple[str, ...], *place: str) -> None:
    """Refuse a table of texts that lacks some."""
    missing = [name for name in names if name not in given]
    if missing:
        raise InputError(f"{'.'.join(place)}: no text for {', '.join(missing)}", document.where(*place), SEE)


def try_out(document: Document, texts: Texts) -> None:
    """Render each template once with placeholder values, so that a typo is found before anything is folded."""
    values = dict.fromkeys(VALUES, "x")
    places: list[tuple[tuple[str, ...], Text]] = []
    for field in ("kinds", "labware", "modules", "mounts", "steps"):
        places += [((field, name), text) for name, text in getattr(texts, field).items()]
    for kind, both in texts.checks.items():
        places.append((("checks", kind, "check"), both.check))
        places += [(("checks", kind, "expected", state), text) for state, text in both.expected.items()]
    for place, text in places:
        for lang in LANGS:
            where = f"{document.where(*place)}: {'.'.join(place)}.{lang}"
            if not render(text.get(lang), values, where).strip():
                raise InputError("the text is empty", where, "write a text")


# Names


def labware_name(labware: Labware, texts: Texts, lang: Lang) -> str:
    """What a labware is called in one language, without article."""
    kind: str = labware.kind
    if kind == "plate" and labware.height is not None and labware.height >= DEEP_MM:
        kind = "deep plate"
    volume = "" if labware.volume is None else number(labware.volume)
    values = {"wells": sum(map(len, labware.columns)), "volume": volume, "display": labware.display}
    text = texts.labware.get(labware.name) or texts.kinds[kind]
    return " ".join(rendered(text.get(lang), tuple(values.items())).split())


def module_name(module: Module, texts: Texts, lang: Lang) -> str:
    """What a module is called in one language."""
    return rendered(texts.modules[module.kind].get(lang), (("model", module.model),))


def number(value: float) -> str:
    """A number as people write it."""
    return f"{value:g}"


def with_article(noun: str, lang: Lang) -> str:
    """`a plate`, `an adapter`; a noun that starts with a digit is read as a number."""
    if lang != "en":
        return noun
    first = noun[:2]
    return f"{'an' if first[:1].lower() in 'aeiou' or first in ('8-', '8 ', '11', '18') else 'a'} {noun}"


def gaps_in(labware: Labware, lang: Lang) -> str | None:
    """Columns and wells of a rack that hold no tip, in words; None where there are too many to be named."""
    columns = labware.empty_columns
    tips = labware.tips or frozenset()
    runs: list[str] = []
    loose = 0
    for index, wells in enumerate(labware.columns, 1):
        if index in columns:
            continue
        empty = [row for row, well in enumerate(wells) if well not in tips]
        loose += len(empty)
        for start, end in ranges(empty):
            runs.append(wells[start] if start == end else f"{wells[start]}-{wells[end]}")
    if loose > MOST_WELLS:
        return None
    named = ", ".join(f"{start}" if start == end else f"{start}-{end}" for start, end in ranges(columns))
    several = len(columns) > 1
    if lang == "en":
        parts = [f"column{'s' if several else ''} {named}"] if columns else []
        parts += [f"well{'s' if loose > 1 else ''} {', '.join(runs)}"] if runs else []
        return " and ".join(parts)
    parts = [f"第 {named} 列"] if columns else []
    parts += [f"孔 {'、'.join(runs)}"] if runs else []
    return "和".join(parts)


def ranges(numbers: tuple[int, ...] | list[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers in an ascending list, each as (first, last)."""
    found: list[tuple[int, int]] = []
    for value in numbers:
        if found and value == found[-1][1] + 1:
            found[-1] = (found[-1][0], value)
        else:
            found.append((value, value))
    return found


# Checks


def state_checks(state: DeckState, texts: Texts | None = None, phase: Phase = "post") -> tuple[ExpectedCheck, ...]:
    """Everything that a camera can check in one expected state.

    Args:
        state: As `fold` gives it.
        texts: Templates; the package's own without them.
        phase: What the checks are said to be: of the state before or after a step's command.

    Returns:
        The checks in a fixed order: slots, pipettes, gantry, lights. What is not known has none.
    """
    texts = texts or load_texts()
    found: list[ExpectedCheck] = []
    for slot in state.slots:
        if slot not in texts._made:
            texts._made[slot] = tuple(slot_checks(slot, texts, "post"))
        found += (one if phase == "post" else replace(one, phase=phase) for one in texts._made[slot])
    for pipette in state.pipettes:
        found += held_checks(pipette, texts, phase)
    gantry = state.gantry
    if gantry.place != "unknown":

        def of_gantry(lang: Lang) -> Values:
            return {"mount": texts.mounts[gantry.mount].get(lang) if gantry.mount else "", "slot": gantry.slot or ""}

        found += made("gantry", "", gantry.place, of_gantry, texts, phase)
    if state.lights is not None:
        found += made("lights", "", "on" if state.lights else "off", lambda lang: {}, texts, phase)
    return tuple(found)


def checks_of(step: Step, texts: Texts | None = None) -> tuple[ExpectedCheck, ...]:
    """What a camera can check before and after a step's command, of what the command is about.

    That is what the command changes, the labware or module that it names, the pipette that it moves, and where the
    gantry is once it has moved. `state_checks` gives all of a state.

    Args:
        step: As `fold` gives it.
        texts: Templates; the package's own without them.

    Returns:
        Checks with the phase `pre`, then those with the phase `post`.
    """
    texts = texts or load_texts()
    before, after = state_checks(step.before, texts, "pre"), state_checks(step.state, texts, "post")
    then = {one.id: one.expected for one in before}
    now = {one.id: one.expected for one in after}
    about = {name for name in {*then, *now} if then.get(name) != now.get(name)}
    if step.slot is not None:
        about |= {f"{kind}:{step.slot}" for kind in ("labware", "module", "tips", "lid", "latch", "magnet")}
    if step.mount is not None:
        about |= {f"held:{step.mount}", "gantry"}
    return tuple(one for one in (*before, *after) if one.id in about)


def slot_checks(slot: Slot, texts: Texts, phase: Phase) -> list[ExpectedCheck]:
    """Checks of one slot: module, its lid, latch and magnet, labware, tips."""
    found: list[ExpectedCheck] = []
    module, top = slot.module, slot.top
    lidded = len(slot.stack) > 1 and slot.stack[-1].kind == "lid" and slot.stack[-2].kind != "lid"
    if slot.covered_by is not None:
        return found

    def values(lang: Lang) -> Values:
        given: dict[str, Any] = {"slot": slot.name}
        if module is not None:
            name = module_name(module, texts, lang)
            given |= {"module": name, "a_module": with_article(name, lang)}
        seen = slot.stack[-2] if lidded else top
        if seen is not None:
            name = labware_name(seen, texts, lang)
            given |= {"labware": name, "a_labware": with_article(name, lang), "wells": sum(map(len, seen.columns))}
            if seen.tips is not None:
                given |= {"count": len(seen.tips), "gaps": gaps_in(seen, lang) or ""}
        return given

    about = slot.name
    state: str
    if module is not None:
        found += made("module", about, "there", values, texts, phase)
        for kind, part in (("lid", module.lid), ("latch", module.latch), ("magnet", module.magnet)):
            if part is not None:
                found += made(kind, about, part, values, texts, phase)
        if module.kind == "thermocycler" and module.lid != "open":
            return found  # what stands in it is not seen
    if slot.later:
        return found  # a person may have put there already what is loaded later
    if top is None:
        state = "empty" if module is None else "empty module"
    elif lidded:
        state = "lid"
    else:
        state = "labware" if module is None else "on module"
    found += made("labware", about, state, values, texts, phase)
    if top is not None and top.tips is not None and top.tips_known:
        missing = sum(map(len, top.columns)) - len(top.tips)
        state = "full" if not missing else "empty" if not top.tips else "gaps" if gaps_in(top, "en") else "count"
        found += made("tips", about, state, values, texts, phase)
    return found


def held_checks(pipette: Pipette, texts: Texts, phase: Phase) -> list[ExpectedCheck]:
    """The check of the tips on a pipette."""
    count = len(pipette.tips)
    state = "none" if not count else "one" if count == 1 else "many"
    return made(
        "held",
        pipette.mount,
        state,
        lambda lang: {"mount": texts.mounts[pipette.mount].get(lang), "count": count},
        texts,
        phase,
    )


def made(
    kind: Any, about: str, state: str, values: Callable[[Lang], Values], texts: Texts, phase: Phase
) -> list[ExpectedCheck]:
    """One check with its texts, or none if a camera is not said to see it."""
    if kind not in texts.visible:
        return []
    both = texts.checks[kind]
    name = f"{kind}:{about}" if about else kind
    return [ExpectedCheck(name, kind, phase, fill(both.check, values), fill(both.expected[state], values))]


@lru_cache(maxsize=1 << 14)
def rendered(source: str, values: tuple[tuple[str, Any], ...]) -> str:
    """A template with its values; protocols repeat themselves."""
    return render(source, dict(values))


def fill(text: Text, values: Callable[[Lang], Values]) -> Text:
    """A template in every language, with its values, spaced as is usual; a sentence begins with a capital letter."""
    filled = {lang: " ".join(rendered(text.get(lang), tuple(values(lang).items())).split()) for lang in LANGS}
    return Text(en=filled["en"][:1].upper() + filled["en"][1:], zh=LOOSE.sub(" ", TIGHT.sub("", filled["zh"])))
