"""Follow a step at a remote daemon until it has ended: stream its output line by line, none lost and none twice."""

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
from deckbench.runners.local.container import AGAIN, GRACE_S, SUPPRESSED
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
        """Move `since` on. What was read within the last second is read again, and left out."""
        if self.stamps:
            self.since = max(self.since, seconds_of(self.stamps[-1]) - 1)
            self.stamps = [stamp for stamp in self.stamps if seconds_of(stamp) >= self.since]


def new_lines(client: DockerClient, name: str, cursor: Cursor, *, stdout: bool) -> Iterator[bytes]:
    """A container's output since `cursor`, which moves with every line: none is lost, none comes twice."""
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


def follow(
    job: Job, session: Session, pump: Pump, received: list[int], before_s: float
) -> tuple[str, Mapping[str, Any]]:
    """Stream a step's output until it has ended, or end it. Returns (why it was ended, its state); see
    `exit_code_of`.

    received: signals that this process got. before_s: how long it has been running already. Raises OutsideError when
    the connection stays lost, or this terminal is closed: then the step keeps running there.
    """
    import docker.errors

    name, daemon = session.named("job"), session.daemon
    deadline = time.monotonic() + job.seconds - before_s if job.seconds else float("inf")
    cursors = (Cursor(), Cursor())
    reason, kill_at = "", float("inf")

    def state(client: DockerClient) -> dict[str, Any]:
        try:
            return dict(client.api.inspect_container(name)["State"])
        except docker.errors.NotFound:
            return {"Running": False, "Gone": True}

    output: list[tuple[int, bytes]] = []

    def read_output(client: DockerClient) -> None:
        for number, cursor in enumerate(cursors):
            output.extend((number, text) for text in new_lines(client, name, cursor, stdout=number == 0))

    def send_signal(signal_name: str) -> None:
        def kill(client: DockerClient) -> None:
            with contextlib.suppress(docker.errors.APIError):  # it has ended meanwhile
                client.api.kill(name, signal_name)

        daemon.do("ending the step", kill)

    while True:
        now = daemon.do("following the step", state)
        if "Gone" not in now:
            try:
                daemon.do("following the step", read_output)
            finally:
                show(pump, output)
        if not now["Running"]:
            for number, rest in enumerate(pump.rests):
                pump.write(number, rest)
            return reason, now
        clock = time.monotonic()
        if not reason and received and received[0] == signal.SIGHUP:
            raise OutsideError("this terminal was closed; the step keeps running there", daemon.host, AGAIN)
        if not reason:
            reason = reason_to_end(received, clock > deadline, pump)
            if reason:
                pump.suppressed = SUPPRESSED
                send_signal("SIGINT" if reason == "SIGINT" else "SIGTERM")
                kill_at = clock + GRACE_S
        elif clock > kill_at or len(received) > 1:
            send_signal("SIGKILL")
            kill_at = float("inf")
        time.sleep(LOOK_S)


def show(pump: Pump, output: list[tuple[int, bytes]]) -> None:
    """Write a step's output; where nobody reads it any more, `pump.failed` is set."""
    try:
        for number, text in output:
            pump.take(number, text)
    except BrokenPipeError as error:
        pump.failed = error
    output.clear()


def reason_to_end(received: list[int], late: bool, pump: Pump) -> str:
    """Why a step is to be ended now; empty where it is not."""
    if received:
        return signal.Signals(received[0]).name
    if late:
        return "time"
    return "output" if isinstance(pump.failed, BrokenPipeError) else ""


def remote_seconds(info: Mapping[str, Any], began: str | None) -> float:
    """Seconds that a job has been running already, by the clock there."""
    if began is None or not info.get("SystemTime"):
        return 0.0
    return max(0.0, seconds_of(str(info["SystemTime"])) - seconds_of(began))


def seconds_of(stamp: str) -> int:
    """Whole seconds since 1970 of a time as docker writes it, such as 2026-01-31T12:00:00.123456789Z."""
    zone = re.search(r"([+-]\d\d):?(\d\d)$", stamp)
    shift = (60 * int(zone[1]) + int(zone[1][0] + zone[2])) * 60 if zone else 0
    return int(datetime.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc).timestamp()) - shift
