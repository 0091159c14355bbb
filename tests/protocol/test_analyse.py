"""A protocol is analysed in another process: what goes wrong there is one message. opentrons is played by a script."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from deckbench.errors import DeckBenchError, InputError, OutsideError
from deckbench.protocol import analyse as module
from deckbench.protocol.analyse import VARIABLE, analyse, environment
from deckbench.protocol.make import make_steps
from tests.protocol.builder import Builder
from tests.protocol.test_protocols import SHIPPED

PLAYED = """#!{python}
import json, os, pathlib, sys, time
words = sys.argv[1:]
if "-c" in words:
    print("{version}")
    sys.exit()
out, *files = words[words.index("--json-output") + 1 :]
here = pathlib.Path(files[0])
facts = dict(home=os.environ["HOME"], cwd=os.getcwd(), names=sorted(os.environ), files=files, isolated="-I" in words)
(here.parent / "seen.json").write_text(json.dumps(facts))
{then}
"""
WRITES = "pathlib.Path(out).write_bytes((here.parent / 'analysis.json').read_bytes())"
PROTOCOL = "raise SystemExit('a protocol must never run in the process of deckbench')\n"


def played(folder: Path, then: str = WRITES, version: str = "8.8.2") -> Path:
    """A Python of an environment with opentrons, as it looks from outside."""
    path = folder / "python"
    path.write_text(PLAYED.format(python=sys.executable, version=version, then=then), encoding="utf-8")
    path.chmod(0o755)
    made = Builder()
    made.rack("4")
    made.write(folder / "analysis.json")
    (folder / "protocol.py").write_text(PROTOCOL, encoding="utf-8")
    return path


def test_it_runs_apart_with_a_home_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    labware = tmp_path / "labware"
    labware.mkdir()
    found = analyse(tmp_path / "protocol.py", python=played(tmp_path), labware=(labware,))
    assert found.name == "a test" and len(found.commands) == 1
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["home"] == seen["cwd"] != os.environ.get("HOME") and not Path(seen["home"]).exists()
    assert "HF_TOKEN" not in seen["names"] and seen["isolated"]
    assert seen["files"] == [str(tmp_path / "protocol.py"), str(labware)]


def test_steps_of_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(played(tmp_path)))
    make_steps(tmp_path / "protocol.py", out=tmp_path / "one.json")
    make_steps(tmp_path / "analysis.json", out=tmp_path / "other.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "other.json").read_bytes()
    designed = tmp_path / "designed.json"
    designed.write_text(json.dumps({"$otSharedSchema": "#/protocol/schemas/8", "commands": []}))
    make_steps(designed, out=tmp_path / "third.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "third.json").read_bytes()


SAYS = "print('Error: {}', file=sys.stderr); sys.exit(1)"
GOES_WRONG: dict[str, tuple[str, type[DeckBenchError], str]] = {
    "a fault of syntax": (SAYS.format("invalid syntax (x.py, line 1)"), InputError, "analysed: invalid syntax"),
    "nothing said": ("sys.exit(7)", InputError, "exit code 7, no message"),
    "an empty file": ("pathlib.Path(out).touch()", InputError, "exit code 0, no message"),
    "not JSON": ("pathlib.Path(out).write_text('{')", InputError, "not valid JSON"),
    "another robot": (
        "pathlib.Path(out).write_text('{\"robotType\": \"OT-3 Standard\", \"commands\": []}')", InputError, "Flex"
    ),
    "no longer for the OT-2": (SAYS.format("This protocol is designed for an OT-2 robot."), OutsideError, "any more"),
    "not installed": ("sys.exit('python: No module named opentrons')", OutsideError, "cannot be started"),
    "a reader of our memory": ("x = bytearray(1 << 34)", InputError, "MemoryError"),
    "a writer of endless files": (
        "open(out + 'x', 'wb').write(bytes(1 << 27))", InputError, "protocol cannot be analysed|stopped"
    ),
    "a killer of itself": ("os.kill(os.getpid(), 9)", InputError, "stopped"),
}  # fmt: skip


@pytest.mark.parametrize("case", GOES_WRONG)
def test_what_goes_wrong(case: str, tmp_path: Path) -> None:
    then, kind, message = GOES_WRONG[case]
    with pytest.raises(kind, match=message) as caught:
        analyse(tmp_path / "protocol.py", python=played(tmp_path, then))
    assert caught.value.fix and len(caught.value.message()) < 700


def test_one_that_never_ends_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WALL_S", 3)
    fork = "pid = os.fork()\nif pid: (here.parent / 'pid').write_text(str(pid))\ntime.sleep(60)"
    with pytest.raises(InputError, match="did not end within"):
        analyse(tmp_path / "protocol.py", python=played(tmp_path, fork))
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):  # a killed process is there until it is scheduled once more
        if not (runs := is_running(pid)):
            break
        time.sleep(0.1)
    assert not runs


def is_running(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("version", "message"), [("9.1.2", "8.8.2 is the last"), ("10.1.0", "does not"), ("x", "does not")]
)
def test_a_later_version_is_refused_before_anything_runs(version: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        analyse(tmp_path / "protocol.py", python=played(tmp_path, version=version))
    assert not (tmp_path / "seen.json").exists()


def test_a_python_without_opentrons_and_a_protocol_that_is_not_there(tmp_path: Path) -> None:
    played(tmp_path)
    for python in (tmp_path / "nobody", tmp_path, tmp_path / "protocol.py"):
        with pytest.raises(InputError, match="no Python of an environment"):
            analyse(tmp_path / "protocol.py", python=python)
    with pytest.raises(InputError, match="cannot be read"):
        analyse(tmp_path / "gone.py", python=tmp_path / "python")


# The environment


def test_it_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls: list[str] = []

    def install(base: str, folder: Path) -> None:
        calls.append(base)
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").touch()

    monkeypatch.setattr(module, "install", install)
    monkeypatch.setattr(module, "base_python", lambda: "python")
    assert environment() == environment() and calls == ["python"]
    assert [path.name for path in (tmp_path / "cache" / "deckbench").iterdir()] == [environment().parents[1].name]


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(module, "base_python", lambda: "/bin/false")
    (tmp_path / "protocol.py").write_text(PROTOCOL)
    with pytest.raises(OutsideError, match="cannot be installed") as caught:
        make_steps(tmp_path / "protocol.py", out=tmp_path / "steps.json")
    assert caught.value.exit_code == 3 and "--python" in str(caught.value.fix)
    assert not (tmp_path / "steps.json").exists() and not list(tmp_path.glob("cache/deckbench/*"))


def test_no_python_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PYTHONS", ((2, 7),))
    with pytest.raises(OutsideError, match=r"needs Python 3\.10 to 3\.12") as caught:
        module.base_python()
    assert "install one of them" in str(caught.value.fix)


@pytest.mark.slow
def test_two_real_analyses_of_the_shipped_protocol_give_its_steps(tmp_path: Path) -> None:
    """Installs opentrons where it is not yet; needs a package index then."""
    wanted = tmp_path / "wanted.json"
    make_steps(SHIPPED / "pcr-setup.analysis.json", out=wanted)
    for number in range(2):
        try:
            make_steps(SHIPPED / "pcr-setup.py", out=tmp_path / f"{number}.json")
        except OutsideError as error:
            pytest.skip(str(error))
        assert (tmp_path / f"{number}.json").read_bytes() == wanted.read_bytes()
    broken = tmp_path / "broken.py"
    broken.write_text((SHIPPED / "pcr-setup.py").read_text().replace('"A12"', '"Z99"'))
    with pytest.raises(InputError, match="the protocol fails: KeyError"):
        make_steps(broken, out=tmp_path / "broken.json")
