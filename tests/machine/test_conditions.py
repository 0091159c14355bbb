"""The rule that says whether times are comparable, and the files of a system that it reads."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from deckbench.machine import conditions, hardware
from deckbench.machine.conditions import Watch, disturbances, together

QUIET: dict[str, Any] = {
    "seconds": 10.0,
    "cores": 4,
    "others_s": 0.3,
    "steal_s": 0.0,
    "clock_mhz": [2950, 3000],
    "hottest_c": 61.0,
    "throttle_events": 0,
}
UNKNOWN = {"others_s": None, "steal_s": None, "clock_mhz": None, "hottest_c": None, "throttle_events": None}


@pytest.mark.parametrize(
    ("changed", "parts", "words"),
    [
        ({}, [], []),
        (UNKNOWN, [], []),
        ({}, [[0.1] * 5, [0.109] * 5], []),
        ({}, [[0.1] * 5, [0.2] * 4], []),  # too few to say
        ({"others_s": 4.0}, [], []),  # a tenth of 4 cores for 10 s
        ({"others_s": 4.2}, [], ["other processes used 10%"]),
        ({"others_s": 40.0}, [], ["other processes used 100%"]),
        ({"steal_s": 1.0}, [], ["the hypervisor used 2%"]),
        ({"throttle_events": 3}, [], ["the processor throttled (3 events)"]),
        ({"clock_mhz": [2000, 3000]}, [], ["the clock fell from 3000 to 2000 MHz"]),
        ({}, [[0.307] * 5, [0.918] * 6], ["unequal: the median was 0.307 s, then 0.918 s"]),
        ({"others_s": 9.0, "throttle_events": 1}, [], ["other processes", "the processor throttled"]),
    ],
)
def test_one_rule(changed: dict[str, Any], parts: list[list[float]], words: list[str]) -> None:
    found = disturbances({**QUIET, **changed}, parts)
    assert len(found) == len(words) and all(text.startswith(word) for text, word in zip(found, words, strict=True))


def test_several_stretches_as_one() -> None:
    whole = together([{**QUIET, "throttle_events": 2}, {**QUIET, "clock_mhz": [1000, 1200]}, {**QUIET, **UNKNOWN}])
    assert whole == {
        "seconds": 30.0,
        "cores": 4,
        "others_s": 0.6,
        "steal_s": 0.0,
        "clock_mhz": [1000, 3000],
        "hottest_c": 61.0,
        "throttle_events": 2,
    }


def test_own_work_is_not_that_of_others() -> None:
    watch = Watch()
    until = time.process_time() + 0.5
    while time.process_time() < until:
        pass
    found = watch.end()
    assert found["seconds"] >= 0.5 and found["cores"] >= 1
    assert found["others_s"] is None or found["others_s"] <= found["seconds"] * (os.cpu_count() or 1) - 0.4


def system(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up /proc and /sys."""
    for name, text in {
        "stat": "cpu  100 0 50 9000 0 0 0 7 0 0\n",
        "cpu/cpu0/cpufreq/scaling_cur_freq": "3000000\n",
        "cpu/cpu1/cpufreq/scaling_cur_freq": "2000000\n",
        "cpu/cpu0/thermal_throttle/core_throttle_count": "4\n",
        "cpu/cpu0/thermal_throttle/package_throttle_count": "5\n",
        "thermal/thermal_zone0/temp": "-256000\n",
        "thermal/thermal_zone1/temp": "52968\n",
        "hwmon/hwmon0/name": "ina3221\n",
        "hwmon/hwmon3/name": "soctherm_oc\n",
        "hwmon/hwmon3/oc1_event_cnt": "1\n",
        "hwmon/hwmon3/oc2_event_cnt": "2\n",
        "hwmon/hwmon3/oc3_event_cnt": "70\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for constant, name in (
        ("PROC_STAT", "stat"),
        ("CPU_ROOT", "cpu"),
        ("THERMAL_ROOT", "thermal"),
        ("HWMON_ROOT", "hwmon"),
    ):
        monkeypatch.setattr(hardware if hasattr(hardware, constant) else conditions, constant, root / name)


def test_reads_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system(tmp_path, monkeypatch)
    watch = Watch()
    (tmp_path / "stat").write_text("cpu  1100 0 50 9000 0 0 0 57 0 0\n")
    (tmp_path / "hwmon/hwmon3/oc1_event_cnt").write_text("3\n")
    (tmp_path / "hwmon/hwmon3/oc3_event_cnt").write_text("99\n")  # rises under any hard load
    watch.sample()  # too soon: no second look
    monkeypatch.setattr(conditions, "EVERY_S", 0.0)
    (tmp_path / "cpu/cpu0/cpufreq/scaling_cur_freq").write_text("1000000\n")
    found = watch.end()
    per_second = os.sysconf("SC_CLK_TCK")
    assert found["others_s"] == pytest.approx(1000 / per_second, abs=1.0)
    assert found["steal_s"] == 50 / per_second
    assert hardware.state()["clock_mhz"] == 1500 and hardware.state()["hottest_c"] == 53.0
    assert found["clock_mhz"] == [1500, 2500] and found["hottest_c"] == 53.0 and found["throttle_events"] == 2


def test_a_system_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for constant in ("PROC_STAT", "CPU_ROOT", "THERMAL_ROOT", "HWMON_ROOT"):
        monkeypatch.setattr(hardware if hasattr(hardware, constant) else conditions, constant, tmp_path / "none")
    found = Watch().end()
    assert all(found[name] is None for name in UNKNOWN) and disturbances(found) == []
