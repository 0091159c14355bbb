"""What is removed at a far daemon, and what is not, by whose clock: told by a daemon that is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from deckbench.machine import process_identity
from deckbench.machine.daemon import LABEL, REMOTE_JOB
from deckbench.runners.job import NUMBER, OWNER
from deckbench.runners.remote.cleanup import remove_old

NOW = datetime(2026, 6, 1, tzinfo=timezone.utc)
DEAD = " ".join((*process_identity.host_identity(), "1", "0"))
ELSEWHERE = "another-machine boot 1 1 0"
NEVER = "0001-01-01T00:00:00Z"
DAY, MINUTE = 24 * 3600.0, 60.0


@dataclass
class Acted:
    """A daemon, as far as `remove_old` asks it."""

    now: datetime = NOW
    entries: list[dict[str, Any]] = field(default_factory=list)
    ends: dict[str, str] = field(default_factory=dict)

    @property
    def api(self) -> Acted:
        return self

    def put(self, kind: str, key: str, state: str, who: str, *, made: float = 0, ended: float | None = None) -> None:
        """A container that was made, and has ended, so many seconds ago."""
        name = f"{kind}-{key}"
        labels = {LABEL: kind, NUMBER: key, OWNER: who}
        created = int((self.now - timedelta(seconds=made)).timestamp())
        self.entries.append({"Id": name, "Names": [f"/{name}"], "State": state, "Labels": labels, "Created": created})
        self.ends[name] = NEVER if ended is None else f"{self.now - timedelta(seconds=ended):%Y-%m-%dT%H:%M:%S}.5Z"

    def info(self) -> dict[str, str]:
        return {"SystemTime": f"{self.now:%Y-%m-%dT%H:%M:%S}.5Z"}

    def containers(self, **_: object) -> list[dict[str, Any]]:
        return list(self.entries)

    def inspect_container(self, key: str) -> dict[str, Any]:
        return {"State": {"FinishedAt": self.ends[key]}}

    def volumes(self, **_: object) -> dict[str, Any]:
        keys = {"alone", *(name.rpartition("-")[2] for name in self.ends)}
        return {"Volumes": [{"Name": f"out-{key}", "Labels": {NUMBER: key}} for key in keys]}

    def remove_container(self, key: str, **_: object) -> None:
        self.entries = [entry for entry in self.entries if entry["Id"] != key]

    def remove_volume(self, name: str) -> None:
        pass


def removed(there: Acted, **given: Any) -> set[str]:
    return set(remove_old(there, **given))  # type: ignore[arg-type]


def test_a_job_that_ran_for_long_stays_for_a_week_after_its_end() -> None:
    there = Acted()
    there.put(REMOTE_JOB, "long", "exited", ELSEWHERE, made=9 * DAY, ended=DAY)
    there.put("store", "long", "exited", ELSEWHERE, made=9 * DAY, ended=DAY)
    there.put(REMOTE_JOB, "runs", "running", ELSEWHERE, made=9 * DAY)
    there.put("store", "runs", "exited", ELSEWHERE, made=9 * DAY, ended=9 * DAY)
    there.put(REMOTE_JOB, "old", "exited", ELSEWHERE, made=9 * DAY, ended=8 * DAY)
    there.put("store", "old", "exited", ELSEWHERE, made=9 * DAY, ended=9 * DAY)
    assert removed(there) == {"far-job-old", "store-old", "out-old", "out-alone"}


@pytest.mark.parametrize("uncollected", [False, True])
def test_helpers_of_callers_who_live_stay(uncollected: bool) -> None:
    """Also for one that has taken up a job which a dead caller had started."""
    there = Acted()
    there.put("store", "sends", "running", ELSEWHERE, made=9 * DAY)
    there.put("store", "rests", "exited", process_identity.own_identity(), made=DAY, ended=MINUTE)
    there.put("store", "begins", "created", ELSEWHERE, made=MINUTE)
    there.put("store", "dying", "running", DEAD, made=MINUTE)
    there.put("store", "dead", "exited", DEAD, made=9 * MINUTE, ended=MINUTE)
    there.put(REMOTE_JOB, "taken", "exited", DEAD, made=DAY, ended=MINUTE)
    there.put("store", "taken", "exited", process_identity.own_identity(), made=MINUTE, ended=0)
    assert removed(there, uncollected=uncollected) == {
        *("store-dying", "out-dying", "store-dead", "out-dead", "out-alone"),
    }


def test_uncollected_jobs_go_when_that_is_asked_for() -> None:
    def made() -> Acted:
        there = Acted()
        there.put(REMOTE_JOB, "mine", "exited", DEAD, made=DAY, ended=MINUTE)
        there.put(REMOTE_JOB, "theirs", "exited", ELSEWHERE, made=DAY, ended=MINUTE)
        there.put(REMOTE_JOB, "runs", "running", DEAD, made=DAY)
        there.put(REMOTE_JOB, "never", "created", DEAD, made=MINUTE)
        there.put(REMOTE_JOB, "begins", "created", ELSEWHERE, made=MINUTE)
        return there

    assert removed(made()) == {"far-job-never", "out-never", "out-alone"}
    assert removed(made(), uncollected=True) == {"far-job-never", "out-never", "far-job-mine", "out-mine", "out-alone"}
    assert removed(made(), uncollected=True, keep="mine") == {"far-job-never", "out-never", "out-alone"}


@pytest.mark.parametrize("later", [lambda now: now, lambda now: NOW])
def test_a_clock_that_nobody_has_set(later: Callable[[datetime], datetime]) -> None:
    """An Orin without a battery begins in 1970; perhaps it is set while the job waits."""
    there = Acted(now=datetime(1970, 1, 2, tzinfo=timezone.utc))
    there.put(REMOTE_JOB, "mine", "exited", DEAD, made=DAY / 2, ended=MINUTE)
    there.put(REMOTE_JOB, "theirs", "exited", ELSEWHERE, made=DAY / 2, ended=MINUTE)
    there.put("store", "sends", "running", ELSEWHERE, made=DAY / 2)
    there.now = later(there.now)
    assert removed(there) == {"out-alone"}
