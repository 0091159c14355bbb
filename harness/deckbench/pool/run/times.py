"""When each frame was taken: from a csv, from EXIF, or from file names."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path

from deckbench.disk import read_bytes
from deckbench.errors import InputError
from deckbench.picture import SUFFIXES, taken
from deckbench.pool.run.log import trimmed

MAX_CSV_BYTES = 64 << 20
MAX_FRAMES = 200_000
EPOCH_FROM = 1e8  # seconds; smaller numbers count from some zero of their own
FORMS = "exif, name, or name:PATTERN with the fields of strftime, like name:cam_%Y%m%d-%H%M%S"
# 2026-11-30T14-46-14.250, 20261130_144614, ...: a fraction may follow
STAMP = re.compile(
    r"(?<!\d)(?P<Y>20\d\d)[-_.]?(?P<m>\d\d)[-_.]?(?P<d>\d\d)[-_ T.]?(?P<H>\d\d)[-_.:h]?(?P<M>\d\d)[-_.:m]?(?P<S>\d\d)"
    r"(?:[-_.,](?P<f>\d{1,6}))?(?!\d)",
    re.ASCII,
)
FIELDS = {"Y": r"\d{4}", "m": r"\d{1,2}", "d": r"\d{1,2}", "H": r"\d{1,2}", "M": r"\d{1,2}", "S": r"\d{1,2}",
          "f": r"\d{1,9}", "s": r"\d{9,11}(?:\.\d{1,9})?", "y": r"\d{2}", "j": r"\d{1,3}"}  # fmt: skip


@dataclass(frozen=True)
class Shot:
    """A frame's file, its name below the folder, and when its camera says that it was taken.

    time_s: seconds since 1970 (UTC), or since the run began where `relative`.
    """

    path: Path
    name: str
    time_s: float


@dataclass(frozen=True)
class Shots:
    """All frames in order of time.

    source: where times come from. zone: what was taken for the camera's zone, None where the times say it themselves.
    step_s: the smallest step that they can show.
    """

    frames: tuple[Shot, ...]
    source: str
    zone: str | None
    relative: bool
    step_s: float


def parse_zone(text: str) -> tzinfo:
    """`UTC`, `+08:00` or an IANA name such as Asia/Shanghai. Raises InputError."""
    match = re.fullmatch(r"([+-])(\d\d):?(\d\d)", text)
    if text.upper() in {"UTC", "Z"}:
        return timezone.utc
    if match is not None and int(match[2]) <= 14 and int(match[3]) < 60:
        ahead = timedelta(hours=int(match[2]), minutes=int(match[3]))
        return timezone(ahead if match[1] == "+" else -ahead)
    try:
        from zoneinfo import ZoneInfo

        return ZoneInfo(text)
    except (ValueError, OSError, LookupError):
        raise InputError(
            f"{text!r} is no time zone", "--zone", "write UTC, +08:00, or a name such as Asia/Shanghai"
        ) from None


def find_pictures(folder: Path) -> dict[str, Path]:
    """Every image below a folder: relative posix path -> file. Raises InputError."""
    if not folder.is_dir():
        raise InputError("not a directory", folder, "give the folder of the frames")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            found[path.relative_to(folder).as_posix()] = path
            if len(found) > MAX_FRAMES:
                raise InputError(f"more than {MAX_FRAMES} images", folder, "give the frames of one run")
    stems = Counter(name.rpartition(".")[0] for name in found)
    if stems and max(stems.values()) > 1:
        twice = next(name for name in found if stems[name.rpartition(".")[0]] > 1)
        raise InputError("another image has this name with another ending", folder / twice, "rename one of them")
    if any(not name.isprintable() for name in found):
        name = next(name for name in found if not name.isprintable())
        raise InputError(f"the name {name!r} holds characters that cannot be shown", folder, "rename the image")
    if not found:
        raise InputError("the folder holds no images", folder, "give the folder of the frames")
    return found


def read_shots(folder: Path, *, times: str | None, table: Path | None, zone: str | None) -> Shots:
    """Frames and their times, in order.

    Args:
        folder: The frames.
        times: `exif`, `name` or `name:PATTERN`; None: EXIF where every frame has it, else names.
        table: A csv `frame,time` instead (ISO times, or seconds).
        zone: The camera's time zone, where the times have none; None: UTC.

    Raises:
        InputError: A frame has no time.
    """
    pictures = find_pictures(folder)
    where = parse_zone(zone) if zone is not None else timezone.utc
    if table is not None:
        if times is not None:
            raise InputError("times from a csv and by --times", "--times", "give one of the two")
        return from_table(table, pictures, where, zone)
    if times is not None:
        found = by_word(times)
        read = {name: found(path) for name, path in pictures.items()}
        missing = [name for name, value in read.items() if value is None]
        if missing:
            fix = "give another --times, or a csv with --times-csv"
            raise InputError(f"{len(missing)} of {len(read)} frames have no time: {missing[0]!r}", "--times", fix)
        return in_order(pictures, read, where, zone, times)
    for word in ("exif", "name"):
        found = by_word(word)
        read = {}
        for name, path in pictures.items():
            read[name] = found(path)
            if read[name] is None:
                break
        else:
            return in_order(pictures, read, where, zone, word)
    what = "the frames' times are neither in EXIF nor in all file names"
    raise InputError(what, folder, f"give --times ({FORMS}) or --times-csv")


def by_word(times: str) -> Callable[[Path], datetime | None]:
    """What reads a frame's time. Raises InputError."""
    word, _, pattern = times.partition(":")
    if times == "exif":
        return taken
    if times == "name":
        return lambda path: named(STAMP, path.stem)
    if word == "name" and pattern:
        compiled = compile_pattern(pattern)
        return lambda path: named(compiled, path.name)
    raise InputError(f"{times!r} is no source of times", "--times", f"use {FORMS}")


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A strftime pattern as a regular expression; `*` stands for anything. Raises InputError."""
    parts, used = [], set[str]()
    for piece in re.split(r"(%.|\*)", pattern):
        if piece.startswith("%") and len(piece) == 2 and piece != "%%":
            field = piece[1]
            if field not in FIELDS or field in used:
                fix = f"each once: {', '.join('%' + name for name in FIELDS)}"
                raise InputError(f"the field {piece} of {pattern!r} cannot be used", "--times", fix)
            used.add(field)
            wide = FIELDS[field].replace("{1,2}", "{2}") if adjoining(pattern, piece) else FIELDS[field]
            parts.append(f"(?P<{field}>{wide})")
        else:
            parts.append(".*?" if piece == "*" else re.escape("%" if piece == "%%" else piece))
    if "s" not in used and not ({"Y", "y"} & used and ({"m", "d"} <= used or "j" in used) and {"H", "M"} <= used):
        fix = "it needs %s, or year, day, hour and minute"
        raise InputError(f"the pattern {pattern!r} holds no whole time", "--times", fix)
    return re.compile("".join(parts), re.ASCII)


def adjoining(pattern: str, piece: str) -> bool:
    """Whether another field stands right beside this one: then it has all its digits."""
    at = pattern.index(piece)
    return pattern[at + 2 : at + 3] == "%" or (at >= 2 and pattern[at - 2] == "%")


def named(pattern: re.Pattern[str], name: str) -> datetime | None:
    """The time in a file name, without a zone except for seconds since 1970."""
    match = pattern.search(name)
    if match is None:
        return None
    part = {key: value for key, value in match.groupdict().items() if value}
    try:
        micros = int(part.get("f", "0")[:6].ljust(6, "0"))
        if "s" in part:
            return datetime.fromtimestamp(float(part["s"]), timezone.utc) + timedelta(microseconds=micros)
        year = int(part["Y"]) if "Y" in part else 2000 + int(part["y"])
        clock = (int(part["H"]), int(part["M"]), int(part.get("S", 0)), micros)
        if "j" in part:
            return datetime(year, 1, 1, *clock) + timedelta(days=int(part["j"]) - 1)
        return datetime(year, int(part["m"]), int(part["d"]), *clock)
    except (ValueError, OverflowError, OSError):
        return None


def in_order(
    pictures: dict[str, Path], read: dict[str, datetime | None], where: tzinfo, zone: str | None, source: str
) -> Shots:
    """Frames by time; those of one moment by name."""
    frames, assumed = [], False
    for name, moment in read.items():
        assert moment is not None
        if moment.tzinfo is None:
            moment, assumed = in_zone(moment, where, str(pictures[name])), True
        frames.append(Shot(pictures[name], name, moment.timestamp()))
    frames.sort(key=lambda shot: (shot.time_s, shot.name))
    return Shots(tuple(frames), source, (zone or "UTC (assumed)") if assumed else None, False, step_of(frames))


def in_zone(moment: datetime, where: tzinfo, at: str) -> datetime:
    """A time without a zone in the camera's. Raises InputError where its clocks show it twice, or never."""
    first, second = (moment.replace(tzinfo=where, fold=fold) for fold in (0, 1))
    one, two = first.utcoffset(), second.utcoffset()
    if one is None or two is None or one == two:
        return first
    often = "comes twice" if one > two else "is left out"
    choice = " or ".join(f"--zone {signed(offset)}" for offset in (one, two))
    fix = f"give the offset that the camera's clock had: {choice}; or times with their offsets by --times-csv"
    raise InputError(f"the time {moment.isoformat(' ')} {often} in {where}, where clocks are changed", at, fix)


def signed(offset: timedelta) -> str:
    """An offset from UTC as --zone takes it."""
    minutes = round(offset.total_seconds() / 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def step_of(frames: Sequence[Shot]) -> float:
    """1 s where all times are whole seconds, else 1 ms: what a stamp can tell apart."""
    return 1.0 if len(frames) > 3 and all(abs(f.time_s - round(f.time_s)) < 1e-6 for f in frames) else 0.001


def from_table(table: Path, pictures: dict[str, Path], where: tzinfo, zone: str | None) -> Shots:
    """Times from a csv `frame,time`. Raises InputError with the line."""
    try:
        text = read_bytes(table, MAX_CSV_BYTES).decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        names = [name.strip() for name in rows.fieldnames or ()]
    except UnicodeDecodeError:
        raise InputError("not UTF-8", table, "save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", table, "check the path") from error
    except csv.Error as error:
        raise InputError(f"not a valid CSV ({error})", table, "write columns `frame,time`") from None
    column = next((name for name in ("time", "time_s", "timestamp") if name in names), None)
    if "frame" not in names or column is None:
        raise InputError("the columns `frame` and `time` are needed", f"{table}:1", "write a header `frame,time`")
    rows.fieldnames = names
    by_stem: dict[str, list[str]] = {}
    for name in pictures:
        for key in {name, name.rpartition("/")[2], name.rpartition(".")[0], Path(name).stem}:
            by_stem.setdefault(key, []).append(name)
    read: dict[str, tuple[float, bool]] = {}
    assumed = False
    try:
        for row in rows:
            line = f"{table}:{rows.line_num}"
            frame = (row["frame"] or "").strip().replace("\\", "/").removeprefix("./")
            found = by_stem.get(frame, [])
            if len(found) != 1:
                what = "may be several images" if found else "is none of the images"
                raise InputError(f"the frame {frame!r} {what}", line, "write its path below the folder of the frames")
            if found[0] in read:
                raise InputError(f"the frame {frame!r} has two times", line, "give one")
            moment, number = cell_time((row[column] or "").strip(), line)
            if moment is not None:
                assumed = assumed or moment.tzinfo is None
                moment = moment if moment.tzinfo is not None else in_zone(moment, where, line)
                number = moment.timestamp()
            read[found[0]] = (number, moment is None and number < EPOCH_FROM)
    except csv.Error as error:
        raise InputError(f"not a valid CSV ({error})", f"{table}:{rows.line_num}", "repair the row") from None
    missing = [name for name in pictures if name not in read]
    if missing:
        fix = "add them, or take these images out of the folder"
        raise InputError(f"{len(missing)} of {len(pictures)} images have no time: {missing[0]!r}", table, fix)
    kinds = {relative for _, relative in read.values()}
    if len(kinds) > 1:
        raise InputError("some times are dates and some count from 0", table, "write all in one form")
    frames = sorted((Shot(pictures[n], n, t) for n, (t, _) in read.items()), key=lambda s: (s.time_s, s.name))
    said = (zone or "UTC (assumed)") if assumed else None
    return Shots(tuple(frames), "csv", said, kinds.pop(), step_of(frames))


def cell_time(text: str, line: str) -> tuple[datetime | None, float]:
    """A cell as a date, or as a number of seconds. Raises InputError."""
    try:
        number = float(text)
        if math.isfinite(number) and abs(number) < 1e11:
            return None, number
    except ValueError:
        try:
            moment = datetime.fromisoformat(trimmed(text))
            if 1970 < moment.year < 9000:  # what any zone can be applied to
                return moment, 0.0
        except ValueError:
            pass
    raise InputError(f"{text[:60]!r} is no time", line, "write an ISO time (2026-11-30T14:46:14.25+08:00) or seconds")
