"""Follow a step at a far daemon until it has ended: what it says comes here, line by line, none lost and none twice."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from deckbench.errors import OutsideError
from deckbench.runners.job import Job
from deckbench.runners.local.container import AGAIN, GRACE_S, HUSHED
from deckbench.runners.remote.store import Session
from deckbench.runners.stream import Pump

if TYPE_CHECKING:
    from docker import DockerClient

LOOK_S = 1.0


@dataclass
class Cursor:
    """How far one of the two streams was read. since: whole seconds; stamps: of the lines from then on, in order."""

    since: int = 0
    stamps: list[str] = field(default_factory=list)

    def advance(self) -> None:
        """Ask for less next time. What was read within the last second is asked for again, and left out."""
        if self.stamps:
            self.since = max(self.since, seconds_of(self.stamps[-1]) - 1)
            self.stamps = [stamp for stamp in self.stamps if seconds_of(stamp) >= self.since]


def lines(client: DockerClient, name: str, cursor: Cursor, *, stdout: bool) -> Iterator[bytes]:
    """What a container has said since `cursor`, which moves with every line taken: none is lost, none comes twice."""
    frames = client.api.logs(
        name,
        stdout=stdout,
        stderr=not stdout,
        stream=True,
        follow=False,
        timestamps=True,
        since=cursor.since or None,
    )
    for number, frame in enumerate(frames):
        if number < len(cursor.stamps):
            continue
        stamp, _, text = frame.partition(b" ")
        cursor.stamps.append(stamp.decode("ascii", "replace"))
        yield text
    cursor.advance()


def follow(job: Job, session: Session, pump: Pump, asked: list[int], before_s: float) -> tuple[str, Mapping[str, Any]]:
    """Show what the step says until it has ended, or end it. Returns why it was ended (see `verdict`), and its state.

    before_s: how long it has been running already. Raises OutsideError when the link stays away, or this terminal goes:
    then the step goes on there.
    """
    import docker.errors

    name, far = session.named("job"), session.far
    deadline = time.monotonic() + job.seconds - before_s if job.seconds else float("inf")
    cursors = (Cursor(), Cursor())
    reason, kill_at = "", float("inf")

    def state(client: DockerClient) -> dict[str, Any]:
        try:
            return dict(client.api.inspect_container(name)["State"])
        except docker.errors.NotFound:
            return {"Running": False, "Gone": True}

    said: list[tuple[int, bytes]] = []

    def listen(client: DockerClient) -> None:
        for number, cursor in enumerate(cursors):
            said.extend((number, text) for text in lines(client, name, cursor, stdout=number == 0))

    def signal_it(word: str) -> None:
        def kill(client: DockerClient) -> None:
            with contextlib.suppress(docker.errors.APIError):  # it has ended meanwhile
                client.api.kill(name, word)

        far.do("ending the step", kill)

    while True:
        now = far.do("following the step", state)
        if "Gone" not in now:
            try:
                far.do("following the step", listen)
            finally:
                show(pump, said)
        if not now["Running"]:
            for number, rest in enumerate(pump.rests):
                pump.write(number, rest)
            return reason, now
        clock = time.monotonic()
        if not reason and asked and asked[0] == signal.SIGHUP:
            raise OutsideError("this terminal was closed; the step goes on there", far.host, AGAIN)
        if not reason:
            reason = reason_to_end(asked, clock > deadline, pump)
            if reason:
                pump.hushed = HUSHED
                signal_it("SIGINT" if reason == "SIGINT" else "SIGTERM")
                kill_at = clock + GRACE_S
        elif clock > kill_at or len(asked) > 1:
            signal_it("SIGKILL")
            kill_at = float("inf")
        time.sleep(LOOK_S)


def show(pump: Pump, said: list[tuple[int, bytes]]) -> None:
    """Write what a step said; where nobody reads it any more, `pump.failed` says so."""
    try:
        for number, text in said:
            pump.take(number, text)
    except BrokenPipeError as error:
        pump.failed = error
    said.clear()


def reason_to_end(asked: list[int], late: bool, pump: Pump) -> str:
    """Why a step is to be ended now; empty: it is not."""
    if asked:
        return signal.Signals(asked[0]).name
    if late:
        return "time"
    return "output" if isinstance(pump.failed, BrokenPipeError) else ""


def far_seconds(info: Mapping[str, Any], began: str | None) -> float:
    """How long a job that was found has been running, by the clock there."""
    if began is None or not info.get("SystemTime"):
        return 0.0
    return max(0.0, seconds_of(str(info["SystemTime"])) - seconds_of(began))


def seconds_of(stamp: str) -> int:
    """Whole seconds since 1970 of a time as docker writes it, such as 2026-01-31T12:00:00.123456789Z."""
    zone = re.search(r"([+-]\d\d):?(\d\d)$", stamp)
    shift = (60 * int(zone[1]) + int(zone[1][0] + zone[2])) * 60 if zone else 0
    return int(datetime.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc).timestamp()) - shift
