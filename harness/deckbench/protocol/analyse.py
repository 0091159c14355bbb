"""Analysing a protocol: it is code, so that happens in another process, with opentrons in an environment of its own.

opentrons 8.8.2 is the last that analyses OT-2 protocols (9.x and 10.x refuse them), and it needs an older numpy than
DeckBench. The process has the rights of who starts it: no more than limits on memory, time and files protect from a
protocol that means harm. Run one that you do not trust in a container, and give DeckBench the JSON that comes out.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deckbench.disk import claim
from deckbench.errors import InputError, OutsideError
from deckbench.extras import is_installed
from deckbench.progress import say
from deckbench.protocol.analysis import MAX_BYTES, Analysis, check_analysis, parse, read_file, shown_line

VERSION = "8.8.2"
LAST_MAJOR = 8
LOCK = Path(__file__).with_name("opentrons.lock")
VARIABLE = "DECKBENCH_OPENTRONS"
PYTHONS = ((3, 10), (3, 11), (3, 12))  # for which the packages of the lock have wheels
CPU_S, WALL_S, INSTALL_S, MEMORY_MIB = 300, 600, 1800, 4096
MAX_PROTOCOL_BYTES = 8 << 20
TAIL = 64 << 10
LIMITED = 'ulimit -c 0; ulimit -t "$1"; ulimit -f "$2"; ulimit -v "$3" 2>/dev/null; shift 3; exec "$@"'
PROTOCOL_SCHEMA = "#/protocol/schemas/"
ELSEWHERE = f"give --python with the Python of an environment that has opentrons {VERSION}, or the analysis as JSON"


def analysis_of(source: Path, python: Path | None = None, labware: Sequence[Path] = ()) -> Analysis:
    """The analysis in a file, or of a protocol, which is analysed first. Raises as `read_analysis` and `analyse`."""
    source = Path(source)
    if source.suffix.lower() == ".py":
        return analyse(source, python=python, labware=labware)
    data = parse(read_file(source, MAX_BYTES), source)
    if str(data.get("$otSharedSchema", "")).startswith(PROTOCOL_SCHEMA):
        return analyse(source, python=python, labware=labware)
    if python is not None or labware:
        raise InputError("this is an analysis already", source, "remove --python and --labware, or give the protocol")
    return check_analysis(data, source)


def analyse(protocol: Path, *, python: Path | None = None, labware: Sequence[Path] = ()) -> Analysis:
    """Analyse a protocol in a process of its own.

    Args:
        protocol: A Python protocol, or a JSON one of the Protocol Designer.
        python: The Python of an environment that has opentrons. By default the one that the variable
            DECKBENCH_OPENTRONS names, else one that is made on first use in the user's cache folder.
        labware: Files and folders of custom labware definitions.

    Raises:
        InputError: The protocol fails, is of another robot, or does not end.
        OutsideError: opentrons cannot be installed or started.
    """
    protocol = Path(protocol)
    read_file(protocol, MAX_PROTOCOL_BYTES)
    given = python or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    chosen = environment() if given is None else given
    say(f"analysing {protocol} with opentrons {version_of(chosen)}")
    with tempfile.TemporaryDirectory(prefix="deckbench-") as folder:
        out, log = Path(folder) / "analysis.json", Path(folder) / "log.txt"
        files = [Path(os.path.abspath(one)) for one in (protocol, *labware)]  # noqa: PTH100 (links stay)
        command = [
            os.fspath(chosen),
            "-I",
            "-m",
            "opentrons.cli",
            "analyze",
            "--json-output",
            str(out),
            *map(str, files),
        ]
        code = run_limited(command, Path(folder), log, protocol)
        if not out.is_file() or not out.stat().st_size:
            raise refusal(log, code, protocol)
        return check_analysis(parse(read_file(out, MAX_BYTES), protocol), protocol)


def run_limited(command: Sequence[str], folder: Path, log: Path, protocol: Path) -> int:
    """Run a command with limits, its home in `folder`; its exit code. Raises InputError where it does not end."""
    limits = (str(CPU_S), str((2 * MAX_BYTES) // 512), str(MEMORY_MIB << 10))
    home = {"HOME": str(folder), "OT_API_CONFIG_DIR": str(folder), "TMPDIR": str(folder)}
    env = {**home, "PATH": os.defpath, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            ["/bin/sh", "-c", LIMITED, "sh", *limits, *command],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            cwd=folder,
            env=env,
            start_new_session=True,
        )
        try:
            code = process.wait(WALL_S)
        except subprocess.TimeoutExpired as error:
            what = f"the analysis did not end within {WALL_S // 60} minutes"
            raise InputError(what, protocol, "does the protocol wait for something?") from error
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code in (-signal.SIGXCPU, 128 + signal.SIGXCPU, -signal.SIGKILL, 128 + signal.SIGKILL):
        what = f"the analysis was stopped: more than {CPU_S // 60} minutes of work, or out of memory"
        raise InputError(what, protocol, "does the protocol loop for ever?")
    return code


def refusal(log: Path, code: int, protocol: Path) -> InputError | OutsideError:
    """Why there is no analysis, from what the process has printed."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    last = shown_line(lines[-1]) if lines else f"exit code {code}, no message"
    if "designed for an OT-2" in last:
        return OutsideError(f"this opentrons does not analyse OT-2 protocols any more: {last}", protocol, ELSEWHERE)
    if "No module named" in last and "opentrons" in last:
        return OutsideError(f"opentrons cannot be started: {last}", protocol, ELSEWHERE)
    return InputError(
        f"the protocol cannot be analysed: {last.removeprefix('Error: ')}", protocol, "correct the protocol"
    )


def version_of(python: Path) -> str:
    """The version of opentrons in an environment. Raises InputError where it has none that analyses OT-2 protocols."""
    code = "import importlib.metadata as found; print(found.version('opentrons'))"
    version = output_of([os.fspath(python), "-I", "-c", code])
    if version is None:
        raise InputError(
            "this is no Python of an environment that has opentrons", python, f"pip install opentrons=={VERSION}"
        )
    major = re.match(r"\d+", version)
    if major is None or int(major[0]) > LAST_MAJOR:
        what = f"opentrons {shown_line(version)} does not analyse OT-2 protocols; {VERSION} is the last that does"
        raise InputError(what, python, ELSEWHERE)
    return version


def run_quietly(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """A command with nothing to read, its output kept. Raises OSError and TimeoutExpired."""
    return subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL
    )


def output_of(command: Sequence[str]) -> str | None:
    """What a short command prints; None where it fails."""
    try:
        done = run_quietly(command, 120)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else None


# The environment that is made on first use


def environment() -> Path:
    """The Python of the environment in the user's cache folder, which is made if it is not there yet.

    Raises OutsideError where it cannot be made.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deckbench"
    lock = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:8]
    place = cache / f"opentrons-{VERSION}-{lock}"
    python = place / "bin" / "python"
    if python.exists():
        return python
    with claim(place):
        if python.exists():
            return python
        base = base_python()
        say(f"opentrons {VERSION} is installed once, in an environment of its own (150 MB): {place}")
        draft = place.with_name(f".{place.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            install(base, draft)
            draft.rename(place)
        except OSError as error:
            fix = "free disk space or fix the permissions, then rerun"
            raise OutsideError(f"opentrons cannot be installed: {error.strerror}", place, fix) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return python


def base_python() -> str:
    """A Python that the packages of the lock have wheels for: ours, or another one on the path. Raises OutsideError."""
    if sys.version_info[:2] in PYTHONS:
        return sys.executable
    for major, minor in reversed(PYTHONS):
        found = shutil.which(f"python{major}.{minor}")
        if found and output_of([found, "-c", "import sys; print(*sys.version_info[:2])"]) == f"{major} {minor}":
            return found
    what = f"opentrons {VERSION} needs Python 3.10 to 3.12, and there is none on the path"
    raise OutsideError(what, None, f"install one of them, or {ELSEWHERE}")


def install(base: str, folder: Path) -> None:
    """Make an environment with exactly the files of the lock, by their hashes. Raises OutsideError."""
    locked = ["--require-hashes", "-r", str(LOCK)]
    if is_installed("uv"):
        from uv import find_uv_bin

        uv = find_uv_bin()
        run_install([uv, "venv", "--quiet", "--python", base, str(folder)])
        python = str(folder / "bin" / "python")
        run_install([uv, "pip", "install", "--quiet", "--python", python, "--no-build", *locked])
    else:
        run_install([base, "-m", "venv", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        run_install([*pip, "--only-binary", ":all:", *locked])


def run_install(command: Sequence[str]) -> None:
    """One command of the installation. Raises OutsideError with the end of what it printed."""
    try:
        done = run_quietly(command, INSTALL_S)
        failed, output = done.returncode != 0, done.stderr or done.stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        failed, output = True, str(error)
    if failed:
        raise OutsideError(f"opentrons {VERSION} cannot be installed: {shown_line(output[-300:])}", None, ELSEWHERE)
