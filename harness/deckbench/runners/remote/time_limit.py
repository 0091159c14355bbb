"""A job's time limit at a remote machine, which holds while no caller is connected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deckbench.runners.job import Job
from deckbench.runners.local.container import GRACE_S, KILLED
from deckbench.runners.remote.follow import seconds_of

SPARE_S = 60  # for the caller to end the step itself: it reports why, and streams the last output
TIMED_OUT = 124  # exit code of timeout(1) when it ended the program


def with_time_limit(program: Sequence[str], seconds: float) -> list[str]:
    """A container's program, ended SPARE_S after the job's limit: SIGTERM, then SIGKILL.

    seconds: the limit; 0: none. timeout(1) is in every base; in the foreground it changes neither signals nor
    exit codes.
    """
    if not seconds:
        return list(program)
    limit = ["timeout", "--foreground", "--signal=TERM", f"--kill-after={GRACE_S:.0f}", f"{seconds + SPARE_S:.0f}"]
    return [*limit, *program]


def timed_out(job: Job, state: Mapping[str, Any]) -> bool:
    """Whether a container was ended by its time limit."""
    if not job.seconds or "FinishedAt" not in state:
        return False
    late = seconds_of(state["FinishedAt"]) - seconds_of(state["StartedAt"]) >= job.seconds
    code = state.get("ExitCode")
    return late and (code == TIMED_OUT or (code == KILLED and not state.get("OOMKilled")))
