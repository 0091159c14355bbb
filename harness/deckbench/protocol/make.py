"""`deckbench steps`: a protocol or its analysis -> the steps file, and pictures of the deck."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deckbench.artifact import atomic_write
from deckbench.errors import InputError
from deckbench.language import LANGS
from deckbench.progress import say
from deckbench.protocol.analyse import analysis_of
from deckbench.protocol.analysis import Analysis
from deckbench.protocol.draw import check_sheet_place, write_sheet
from deckbench.protocol.fold import Step, fold
from deckbench.protocol.stepsfile import check_steps_place, steps_json
from deckbench.protocol.texts import load_texts


def make_steps(
    source: Path,
    *,
    out: Path,
    sheet: Path | None = None,
    lang: str = "both",
    texts: Path | None = None,
    python: Path | None = None,
    labware: Sequence[Path] = (),
) -> dict[str, Any]:
    """Fold a protocol into the expected state after each command, and write it with what a camera can check there.

    Args:
        source: A protocol analysis (JSON, also gzipped), or a protocol (`.py`, or a JSON of the Protocol Designer),
            which is analysed first, in a process of its own.
        out: Where the steps file is written; an older one is replaced.
        sheet: A `.png` with the steps at which something changes, or a folder for a PNG of every step.
        lang: `en`, `zh` or `both`: languages of the texts.
        texts: Templates in place of the package's own.
        python: The Python of an environment that has opentrons, for a protocol.
        labware: Custom labware of a protocol: files or folders.

    Returns:
        A summary: protocol, commands, sha256, how many steps need a person, and notes for people. The same commands and
        templates give the same file, byte for byte.

    Raises:
        InputError: The source is neither, the protocol fails, or a place is taken.
        OutsideError: opentrons cannot be installed or started.
    """
    if lang not in (*LANGS, "both"):
        raise InputError(f"the language {lang!r} is not known", "--lang", "one of en, zh, both")
    templates = load_texts(texts)
    check_steps_place(out)
    if sheet is not None:
        check_sheet_place(sheet)
    analysis = analysis_of(source, python, labware)
    steps = fold(analysis)
    langs = LANGS if lang == "both" else tuple(one for one in LANGS if one == lang)
    data, checks = steps_json(analysis, steps, templates, langs)
    if sheet is not None:
        write_sheet(analysis, steps, templates, sheet)
        say(f"sheet: {sheet}")
    atomic_write(out, data)
    return {
        "protocol": analysis.name,
        "sha256": analysis.sha256,
        "commands": len(steps),
        "needs_person": sum(step.needs_person for step in steps),
        "checks": checks,
        "notes": notes_on(analysis, steps),
    }


def notes_on(analysis: Analysis, steps: Sequence[Step]) -> list[str]:
    """What a person should know about the steps."""
    lines = [f"{analysis.name or 'protocol without a name'}: {len(steps)} commands"]
    people = [str(step.number) for step in steps if step.needs_person]
    if people:
        lines.append(
            f"a person is needed at {len(people)} commands: {', '.join(people[:10])}{', ...' * (len(people) > 10)}"
        )
    unknown = Counter(step.command_type for step in steps if not step.known)
    for name, count in sorted(unknown.items()):
        lines.append(f"not known, taken as changing nothing: {json.dumps(name)} ({count} times)")
    refilled = [step for step in steps if step.refilled]
    if refilled:
        lines.append(
            f"command {refilled[0].number} takes tips that are gone already ({len(refilled)} such commands): new tips "
            "were put in at a time that the protocol does not say"
        )
    return lines
