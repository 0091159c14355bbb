"""When a frame was taken: file names, EXIF, tables, zones; and the estimate's bounds."""

from __future__ import annotations

import resource
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deckbench.errors import InputError
from deckbench.pool.run import clock
from deckbench.pool.run.log import RunAlignment, RunCommand
from deckbench.pool.run.timeline import Timeline
from deckbench.pool.run.times import read_shots
from deckbench.protocol import DeckState, Gantry, Step

AT = datetime(2026, 11, 30, 14, 46, 14, 250000, tzinfo=timezone.utc).timestamp()


def picture(path: Path, taken: str = "", fraction: str = "", offset: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (32, 32))
    exif = Image.Exif()
    if taken:
        details = exif.get_ifd(0x8769)
        details[0x9003] = taken
        if fraction:
            details[0x9291] = fraction
        if offset:
            details[0x9011] = offset
    image.save(path, exif=exif)


@pytest.mark.parametrize(
    ("name", "times", "zone", "moves"),
    [
        ("cam_20261130_144614_250.jpg", None, None, 0.0),
        ("2026-11-30T14-46-14.250.jpg", "name", None, 0.0),
        ("2026-11-30 22.46.14,25.jpg", "name", "+08:00", 0.0),
        ("cam7_20261130-144614.jpg", "name:cam*_%Y%m%d-%H%M%S", None, -0.25),
        ("x_1796049974.250.jpg", "name:x_%s", None, 0.0),
        ("x_1796049974.250.jpg", "name:x_%s", "+08:00", 0.0),  # seconds since 1970 need no zone
        ("d30m11y26 14h46m14f25.png", "name:d%dm%my%y %Hh%Mm%Sf%f", None, 0.0),
        ("2026_334_144614250.jpg", "name:%Y_%j_%H%M%S%f", None, 0.0),
        ("20261130_094614_25.jpg", "name", "-05:00", 0.0),
    ],
)
def test_times_in_file_names(name: str, times: str | None, zone: str | None, moves: float, tmp_path: Path) -> None:
    picture(tmp_path / "sub" / name)
    shots = read_shots(tmp_path, times=times, table=None, zone=zone)
    assert [shot.name for shot in shots.frames] == [f"sub/{name}"]
    assert shots.frames[0].time_s == pytest.approx(AT + moves, abs=1e-3)
    assert shots.zone == (None if "%s" in (times or "") else zone or "UTC (assumed)")


@pytest.mark.parametrize(
    ("taken", "fraction", "offset", "zone", "said"),
    [
        ("2026:11:30 14:46:14", "25", "", None, "UTC (assumed)"),
        ("2026:11:30 22:46:14", "250", "+08:00", None, None),
        ("2026:11:30 22:46:14", "250000", "", "Asia/Shanghai", "Asia/Shanghai"),
        ("2026:11:30 09:46:14", "25", "-05:00", "+08:00", None),  # what the camera says counts
    ],
)
def test_times_in_exif(
    taken: str, fraction: str, offset: str, zone: str | None, said: str | None, tmp_path: Path
) -> None:
    picture(tmp_path / "a.jpg", taken, fraction, offset)
    shots = read_shots(tmp_path, times=None, table=None, zone=zone)
    assert (shots.source, shots.zone) == ("exif", said)
    assert shots.frames[0].time_s == pytest.approx(AT, abs=1e-3)


def test_exif_of_some_frames_is_not_mixed_with_names(tmp_path: Path) -> None:
    picture(tmp_path / "a_20261130_144614.jpg", "2026:11:30 10:00:00")
    picture(tmp_path / "b_20261130_144615.jpg")
    assert read_shots(tmp_path, times=None, table=None, zone=None).source == "name"
    with pytest.raises(InputError, match="1 of 2 frames have no time"):
        read_shots(tmp_path, times="exif", table=None, zone=None)


@pytest.mark.parametrize(
    ("text", "relative", "moves"),
    [
        ("frame,time\na.jpg,2026-11-30T14:46:14.25Z\nsub/b,2026-11-30T22:46:15.25+08:00\n", False, AT),
        ("time_s,frame\n0.5,a\n1.5,b.jpg\n", True, 0.5),
        ("frame,timestamp\na,1796049974.25\nb,1796049975.25\n", False, AT),
    ],
)
def test_times_in_a_table(text: str, relative: bool, moves: float, tmp_path: Path) -> None:
    picture(tmp_path / "frames/a.jpg")
    picture(tmp_path / "frames/sub/b.jpg")
    (tmp_path / "t.csv").write_text(text)
    shots = read_shots(tmp_path / "frames", times=None, table=tmp_path / "t.csv", zone=None)
    assert shots.relative == relative and [shot.path.name for shot in shots.frames] == ["a.jpg", "b.jpg"]
    assert [shot.time_s - moves for shot in shots.frames] == pytest.approx([0.0, 1.0], abs=1e-3)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("frame,when\na,1\n", "columns `frame` and `time`"),
        ("frame,time\na,soon\n", "t.csv:2: 'soon' is no time"),
        ("frame,time\na,nan\n", "t.csv:2: 'nan' is no time"),
        ("frame,time\nc,1\n", "t.csv:2: the frame 'c' is none"),
        ("frame,time\na,1\na,2\n", "t.csv:3: the frame 'a' has two times"),
        ("frame,time\na,1\n", "1 of 2 images have no time: 'b.jpg'"),
        ("frame,time\na,1\nb,2026-11-30\n", "some times are dates"),
        ('frame,time\na,"1\n', "not a valid CSV"),
        ("", "columns `frame` and `time`"),
    ],
)
def test_broken_tables(text: str, what: str, tmp_path: Path) -> None:
    picture(tmp_path / "frames/a.jpg")
    picture(tmp_path / "frames/b.jpg")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=what):
        read_shots(tmp_path / "frames", times=None, table=tmp_path / "t.csv", zone=None)


@pytest.mark.parametrize("times", ["file", "name:", "name:%Q", "name:%Y%m", "name:%d%d", "name:cam_%H%M%S", "exif:x"])
def test_sources_that_are_none(times: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="--times"):
        read_shots(tmp_path, times=times, table=None, zone=None)


def test_folders_that_hold_no_times(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        read_shots(tmp_path, times=None, table=None, zone=None)
    picture(tmp_path / "a_99999999_999999.jpg")
    with pytest.raises(InputError, match="neither in EXIF nor in all file names"):
        read_shots(tmp_path, times=None, table=None, zone=None)
    with pytest.raises(InputError, match="not a directory"):
        read_shots(tmp_path / "none", times=None, table=None, zone=None)


def long_run(commands: int, seed: int) -> Timeline:
    """A gantry that goes from slot to slot, and waits."""
    rng = np.random.Generator(np.random.PCG64(seed))
    now, steps, ran, state = 0.0, [], [], DeckState()
    for number in range(commands):
        moves = number % 3 != 2
        after = DeckState(gantry=Gantry("slot", "left", str(1 + number % 9))) if moves else state
        end = now + float(rng.uniform(2, 6) if moves else rng.uniform(5, 40))
        steps.append(Step(number, str(number), "aspirate" if moves else "waitForDuration", state, after))
        ran.append((RunCommand(steps[-1].command_type, "succeeded", now, end, number), number))
        now, state = end + 0.01, after
    return Timeline(RunAlignment(tuple(ran), np.inf, None), steps)


@pytest.mark.slow
@pytest.mark.parametrize("reach", [120.0, 3600.0])
def test_the_estimate_is_bounded_in_time_and_memory(reach: float) -> None:
    """A day's run: 20,000 frames."""
    timeline = long_run(4000, 1)
    rng = np.random.Generator(np.random.PCG64(2))
    times = np.linspace(1, float(timeline.ends[-1]) - 1, 20_000)
    view, moving = timeline.seen_at(times)
    changed = np.where((view[1:] != view[:-1]) | moving[1:] | moving[:-1], 3.0, 1.0) + rng.normal(
        0, 0.2, len(times) - 1
    )
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = clock.estimate(times - 17.3, changed, timeline, reach_s=reach, step_s=0.001)
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{found}; {time.process_time() - start:.1f} s, {used:.0f} MiB")
    assert abs(found.offset_s - 17.3) <= max(found.uncertainty_s, 0.3)
    assert time.process_time() - start < 30 and used < 700


@pytest.mark.parametrize(
    ("stamp", "what", "first", "second"),
    [
        ("20261025_023000", "comes twice", "+02:00", "+01:00"),
        ("20260329_023000", "is left out", "+01:00", "+02:00"),
    ],
)
def test_hours_that_come_twice_or_never_are_refused(
    stamp: str, what: str, first: str, second: str, tmp_path: Path
) -> None:
    folder = tmp_path / "frames"
    name = f"{stamp}.jpg"
    picture(folder / name)
    table = tmp_path / "times.csv"
    iso = datetime.strptime(stamp, "%Y%m%d_%H%M%S").isoformat()
    table.write_text(f"frame,time\n{name},{iso}\n")
    for given, where in ((None, name), (table, "times.csv:2")):
        with pytest.raises(InputError, match=f"{where}[\\s\\S]*{what} in Europe/Berlin") as caught:
            read_shots(folder, times=None, table=given, zone="Europe/Berlin")
        assert f"--zone {first} or --zone {second}" in str(caught.value)
        moment = datetime.fromisoformat(iso).replace(tzinfo=timezone.utc).timestamp()
        for zone in (first, second):
            shots = read_shots(folder, times=None, table=given, zone=zone)
            assert shots.frames[0].time_s == moment - 3600 * int(zone[1:3])
    table.write_text(f"frame,time\n{name},{iso}{first}\n")
    assert read_shots(folder, times=None, table=table, zone="Europe/Berlin").zone is None
