"""A protocol analysis, what the deck should look like after each of its commands, and what a camera can check there.

An analysis is the JSON that the robot, the app or `opentrons analyze` makes of a protocol. `read_analysis` reads it,
`fold` gives the expected state before and after every command, `join` lines a run's commands up with it. `checks_of`
and `state_checks` say what a camera should see, `step_text` what the robot does. A protocol itself is code and never
runs in this process.
"""

from deckbench.protocol.analyse import analysis_of
from deckbench.protocol.analysis import Analysis, Command, read_analysis
from deckbench.protocol.fold import Step, fold
from deckbench.protocol.join import JoinResult, join
from deckbench.protocol.state import SLOTS, DeckState, Gantry, HeldTip, Labware, Module, Pipette, Slot
from deckbench.protocol.step_texts import step_text
from deckbench.protocol.texts import ExpectedCheck, Texts, checks_of, load_texts, state_checks

__all__ = [
    "SLOTS",
    "Analysis",
    "Command",
    "DeckState",
    "ExpectedCheck",
    "Gantry",
    "HeldTip",
    "JoinResult",
    "Labware",
    "Module",
    "Pipette",
    "Slot",
    "Step",
    "Texts",
    "analysis_of",
    "checks_of",
    "fold",
    "join",
    "load_texts",
    "read_analysis",
    "state_checks",
    "step_text",
]
