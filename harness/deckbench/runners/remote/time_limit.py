"""A job's time limit at a far machine: it holds there too while no caller is connected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deckbench.runners.job import Job
from deckbench.runners.local.container import GRACE_S, KILLED
from deckbench.runners.remote.follow import seconds_of

SPARE_S = 60  # so long the caller may take to end the step itself: it knows why, and shows what the step says then
TIMED_OUT = 124  # how timeout(1) ends when it had to end the program


def limited(program: Sequence[str], seconds: float) -> list[str]:
    """A container's program, ended there some time after the job's limit: SIGTERM, SIGKILL somewhat later.

    seconds: the limit; 0: none. timeout(1) is in every base; in the foreground it leaves signals and exit codes as
    they are.
    """
    if not seconds:
        return list(program)
    limit = ["timeout", "--foreground", "--signal=TERM", f"--kill-after={GRACE_S:.0f}", f"{seconds + SPARE_S:.0f}"]
    return [*limit, *program]


def was_ended(job: Job, state: Mapping[str, Any]) -> bool:
    """Whether a container that has ended was ended by its limit."""
    if not job.seconds or "FinishedAt" not in state:
        return False
    late = seconds_of(state["FinishedAt"]) - seconds_of(state["StartedAt"]) >= job.seconds
    code = state.get("ExitCode")
    return late and (code == TIMED_OUT or (code == KILLED and not state.get("OOMKilled")))
