"""Lining the commands of a run up with the analysis of its protocol.

`key` joins them: ids are random, new in every analysis and run. A key is a hash over the types of all commands up to
this one, not over their parameters (hash_command_params.py of opentrons 8.8.2), so that a run may have the analysis'
keys and still take other tips, where a parameter of the protocol was changed. What decides where things stand, or what
is seen, is compared too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deckbench.protocol.analysis import OUT_OF_CHAIN, Analysis, Command
from deckbench.schema import shown

# What decides which things are moved where, and what is seen. Ids are compared by what they stand for.
COMPARED = (
    "loadName", "pipetteName", "model", "mount", "location", "newLocation", "pipetteId", "labwareId", "moduleId",
    "wellName", "wellNames", "tipWellState", "addressableAreaName", "configurationParams", "quantity", "on",
    "coordinates", "axis", "distance", "axes",
)  # fmt: skip
MAY_BE_LEFT_OUT = frozenset({"axes"})  # without it all of them are meant
LOADED = ("labwareId", "moduleId", "pipetteId")  # what a load made
TOLERANCE = 1e-3  # mm, of coordinates


@dataclass(frozen=True)
class JoinResult:
    """The commands of a run, lined up with an analysis.

    steps: for each command of the run the number of its step in the analysis, or None: it is no command of the
    protocol (setup, error recovery), or comes after the run has left the analysis. left_at: number of the first command
    of the run that the analysis does not have; None: the run never left it. why: what differs there, in one line.
    """

    steps: tuple[int | None, ...]
    left_at: int | None = None
    why: str | None = None


def join(analysis: Analysis, run_commands: Sequence[Mapping[str, Any]]) -> JoinResult:
    """Line the commands of a run up with the analysis of its protocol.

    Args:
        analysis: Of the protocol that was run.
        run_commands: `data` of `GET /runs/ID/commands`, in the run's order: `commandType`, `key`, `params`, `intent` of
            each. The list may begin or end within the run.

    Returns:
        A step or None for each command, and where the run left the analysis: a run that takes another branch, or was
        given other parameters, does not come back to it.
    """
    by_key = {one.key: one for one in analysis.commands if one.in_chain}
    ids = _Ids()
    steps: list[int | None] = []
    last = -1
    for number, data in enumerate(run_commands):
        if data.get("intent") in OUT_OF_CHAIN:
            steps.append(None)
            continue
        kind = str(data.get("commandType"))
        planned = by_key.get(str(data.get("key")))
        why = None
        if planned is None or planned.command_type != kind:
            why = f"the analysis has no such {shown(kind)}"
            if planned is None and last + 1 < len(analysis.commands):
                why += f"; it goes on with {shown(analysis.commands[last + 1].command_type)}"
        elif planned.number <= last:
            why = f"step {planned.number} comes a second time"
        else:
            why = ids.difference(planned, data)
        if why is not None:
            return JoinResult((*steps, *(None for _ in run_commands[number:])), number, f"command {number}: {why}")
        assert planned is not None
        steps.append(planned.number)
        last = planned.number
    return JoinResult(tuple(steps))


class _Ids:
    """Ids of the run and the ids of the analysis that stand for the same things."""

    def __init__(self) -> None:
        self.planned: dict[str, str] = {}
        self.real: dict[str, str] = {}

    def difference(self, planned: Command, data: Mapping[str, Any]) -> str | None:
        """What differs between a command of the analysis and that of the run, in words."""
        params = data.get("params")
        if not isinstance(params, Mapping):
            return None
        for name in COMPARED:
            real, wanted = params.get(name), planned.params.get(name)
            both = name in params and name in planned.params
            if (both or name in MAY_BE_LEFT_OUT) and not self.same(wanted, real, name):
                if name.endswith("Id"):
                    return f"{planned.command_type} of another {name.removesuffix('Id')} than in the analysis"
                one, other = shown(str(real)), shown(str(wanted))
                return f"{planned.command_type} has {name} {one}, the analysis {other}"
        result = data.get("result")
        for name in LOADED:
            if isinstance(result, Mapping) and name in result and name in planned.result:
                self.same(planned.result[name], result[name], name)
        return None

    def same(self, planned: Any, real: Any, name: str) -> bool:
        """Whether two values say the same, ids by what they stand for."""
        if isinstance(planned, Mapping) and isinstance(real, Mapping):
            return planned.keys() == real.keys() and all(self.same(planned[key], real[key], key) for key in planned)
        if name.endswith("Id") and isinstance(planned, str) and isinstance(real, str):
            known = self.planned.setdefault(real, planned) == planned
            return self.real.setdefault(planned, real) == real and known
        if isinstance(planned, float | int) and isinstance(real, float | int):
            return isinstance(planned, bool) == isinstance(real, bool) and abs(planned - real) <= TOLERANCE
        return bool(planned == real)
