"""What a machine did while something was timed on it, and the one rule that says whether the times are comparable.

Load by others is the processors' busy time (proc(5), /proc/stat) without this process's own; steal is what a hypervisor
took. Clocks and temperatures are sampled, throttle events counted by the kernel: `thermal_throttle` of x86 processors,
`soctherm_oc` of a Jetson, whose third counter rises under any hard load and is not counted.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from deckbench.cores import usable_cores
from deckbench.machine import hardware

PROC_STAT = Path("/proc/stat")
HWMON_ROOT = Path("/sys/class/hwmon")
EVERY_S = 0.5  # between samples of clock and temperature
OTHERS = 0.1  # of the usable cores, used by other processes
STEAL = 0.02  # of the usable cores' time
CLOCK = 0.9  # of the highest clock seen
EVEN = 0.1  # between the medians of the parts of a run
FEWEST = 5  # times in a part for its median to say something
SLACK_S = 0.05  # /proc/stat counts in hundredths of a second, for each core


class Watch:
    """Watches the machine from its making to `end`; `sample` between two measurements, as often as one likes."""

    def __init__(self) -> None:
        self.began, self.sampled = time.monotonic(), float("-inf")
        self.busy, self.steal = processor_seconds()
        self.own, self.throttled = own_seconds(), throttle_events()
        self.clocks: list[float] = []
        self.hottest: list[float] = []
        self.sample()

    def sample(self) -> None:
        """Look at clocks and temperatures, where the last look is EVERY_S ago."""
        if time.monotonic() - self.sampled < EVERY_S:
            return
        self.sampled = time.monotonic()
        if clock := hardware.clock_mhz():
            self.clocks.append(clock)
        if (hottest := hardware.hottest_c()) is not None:
            self.hottest.append(hottest)

    def end(self) -> dict[str, Any]:
        """What happened since, as plain JSON; what is unknown is null.

        `seconds`; `cores` (usable); `others_s`, `steal_s`: processor seconds that other processes and the hypervisor
        took; `clock_mhz`: [lowest, highest] of the mean over cores; `hottest_c`; `throttle_events`.
        """
        self.sample()
        busy, steal = processor_seconds()
        own, throttled = own_seconds() - self.own, throttle_events()
        known = busy is not None and self.busy is not None
        events = None if throttled is None or self.throttled is None else throttled - self.throttled
        return {
            "seconds": round(time.monotonic() - self.began, 3),
            "cores": usable_cores(),
            "others_s": round(max(0.0, busy - self.busy - own), 3) if known else None,  # type: ignore[operator]
            "steal_s": round(max(0.0, steal - self.steal), 3) if known else None,
            "clock_mhz": [round(min(self.clocks)), round(max(self.clocks))] if self.clocks else None,
            "hottest_c": round(max(self.hottest), 1) if self.hottest else None,
            "throttle_events": events,
        }


def together(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The conditions of several stretches of time as those of one."""

    def known(name: str) -> list[Any]:
        return [part[name] for part in parts if part[name] is not None]

    clocks = [clock for pair in known("clock_mhz") for clock in pair]
    return {
        "seconds": round(sum(known("seconds")), 3),
        "cores": min(known("cores")),
        "others_s": round(sum(known("others_s")), 3) if known("others_s") else None,
        "steal_s": round(sum(known("steal_s")), 3) if known("steal_s") else None,
        "clock_mhz": [min(clocks), max(clocks)] if clocks else None,
        "hottest_c": max(known("hottest_c"), default=None),
        "throttle_events": sum(known("throttle_events")) if known("throttle_events") else None,
    }


def disturbances(conditions: Mapping[str, Any], parts: Sequence[Sequence[float]] = ()) -> list[str]:
    """Why times taken under these conditions are not comparable with others, a few words each; empty: they are.

    Other processes used more than a tenth of the usable cores, or a hypervisor took more than 2% of their time; the
    processor throttled, or its clock fell by more than a tenth; or the medians of the `parts` of the run (times in
    seconds, each part's in order) differ by more than a tenth.
    """
    found = []
    room = conditions["cores"] * conditions["seconds"]
    for name, share, who in (("others_s", OTHERS, "other processes"), ("steal_s", STEAL, "the hypervisor")):
        used = conditions[name]
        if used is not None and used > share * room + SLACK_S:
            found.append(f"{who} used {100 * used / room:.0f}% of the processor")
    if conditions["throttle_events"]:
        found.append(f"the processor throttled ({conditions['throttle_events']} events)")
    clock = conditions["clock_mhz"]
    if clock is not None and clock[0] < CLOCK * clock[1]:
        found.append(f"the clock fell from {clock[1]} to {clock[0]} MHz")
    medians = [median(part) for part in parts if len(part) >= FEWEST]
    if len(medians) > 1 and max(medians) > (1 + EVEN) * min(medians):
        found.append(f"unequal: the median was {min(medians):.3g} s, then {max(medians):.3g} s")
    return found


def processor_seconds() -> tuple[float | None, float]:
    """(busy, stolen) seconds of all processors since the start, from the first line of /proc/stat; None: unknown."""
    try:
        line = PROC_STAT.read_text(encoding="ascii", errors="replace").splitlines()[0]
        ticks = [int(text) for text in line.split()[1:9]]
        user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
    except (OSError, ValueError, IndexError):
        return None, 0.0
    per_second = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / per_second, steal / per_second


def own_seconds() -> float:
    """Processor seconds of this process and of its children that have ended."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def throttle_events() -> int | None:
    """How often the processor was throttled since the machine started; None where nothing counts it."""
    paths = sorted(hardware.CPU_ROOT.glob("cpu[0-9]*/thermal_throttle/*_throttle_count"))
    for place in sorted(HWMON_ROOT.glob("hwmon*")):
        if hardware.read_text(place / "name") == "soctherm_oc":
            paths += [place / "oc1_event_cnt", place / "oc2_event_cnt"]
    counts = [number for path in paths if (number := hardware.whole_number(path)) is not None]
    return sum(counts) if counts else None
