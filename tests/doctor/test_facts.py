"""What other machines and programs say is read strictly, whatever it is."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deckbench.containers.spec import load_images
from deckbench.doctor import far, fits, here, judge, probe
from deckbench.doctor.facts import Machine, amount, plain, smi_gpus, tegra_release
from deckbench.errors import InputError, OutsideError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=8,
)
KEYS = re.findall(r"^ *(?:\[.*\] && )?put ([a-z_]+) ", far.SCRIPT.read_text(), re.MULTILINE)
INFO_KEYS = ["ServerVersion", "ServerErrors", "Driver", "CgroupVersion", "DockerRootDir", "MemoryLimit", "PidsLimit"]
INFO_KEYS += ["Runtimes", "SecurityOptions", "OSType", "DiscoveredDevices"]
TITLES = "R36 (release), REVISION: 4.3"


def harmless(text: str) -> bool:
    return not any(unicodedata.category(char) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp") for char in text)


@pytest.mark.parametrize(
    ("text", "release"),
    [
        (f"# {TITLES}, GCID: 38968081, BOARD: generic, EABI: aarch64", (36, "4.3")),
        ("# R39 (release), REVISION: 2.0", (39, "2.0")),
        ("# R35 (release), REVISION: 5.0, GCID: 1", (35, "5.0")),
        (TITLES, None),
        ("# R36 (release), REVISION: 4.3.x", None),
        ("# R36 (release), REVISION: 4.3rm -rf", None),
        ("# R٣٦ (release), REVISION: 4.3", None),
        ("", None),
    ],
)
def test_tegra_release(text: str, release: tuple[int, str] | None) -> None:
    assert tegra_release(text) == release


@given(st.text() | st.builds(lambda tail: f"# {TITLES}{tail}", st.text()))
def test_a_release_is_a_number_and_dots(text: str) -> None:
    found = tegra_release(text)
    assert found is None or (0 <= found[0] < 1000 and found[1].replace(".", "").isascii())


@given(st.text() | st.integers() | st.floats() | JSON)
@example("\x1b]0;title\x07\x1b[2J")
@example("a\u202egnp.exe")
def test_plain_text_is_one_harmless_line(value: object) -> None:
    line = plain(value)
    assert len(line) <= 200 and harmless(line) and "\n" not in line


@given(st.text())
def test_gpus_of_any_text(text: str) -> None:
    assert all(harmless(gpu.name) and harmless(gpu.driver) for gpu in smi_gpus(text))


def test_gpus_as_nvidia_smi_lists_them() -> None:
    first, second = smi_gpus("NVIDIA L4, 23034, 22000, 550.54\nOrin (nvgpu), [N/A], [N/A], 540.4.0\nnonsense\n")
    assert (first.name, first.memory, first.free, first.driver) == ("NVIDIA L4", 23034 << 20, 22000 << 20, "550.54")
    assert (second.memory, second.free) == (None, None)


@given(st.binary() | st.text().map(str.encode))
def test_any_answer_is_parsed_or_refused(said: bytes) -> None:
    wrapped = b"motd\ndeckbench-doctor=1\n" + said + b"\ndeckbench-doctor=end\n"
    for answer in (said, wrapped):
        found = far.parse(answer)
        assert all(harmless(value) for value in found.values())
        try:
            machine = far.machine("ssh://host", found)
        except OutsideError:
            continue
        assert machine.machine


@given(
    st.dictionaries(st.sampled_from(KEYS), st.text() | JSON.map(json.dumps)),
    st.dictionaries(st.sampled_from(INFO_KEYS), JSON),
)
def test_whatever_a_host_says_the_report_is_made(said: dict[str, str], info: dict[str, object]) -> None:
    images = load_images()
    machine = far.machine("ssh://host", {"docker": json.dumps(info), **said, "machine": "aarch64"})
    findings = [*judge.machine_findings(machine), *judge.daemon_findings(machine)]
    findings += judge.image_findings(machine, images, set())
    findings += fits.judge("tiny-glm4v", machine, images).findings
    assert all(harmless(one.found) and harmless(one.name) and harmless(one.fix) for one in findings)
    assert judge.can_run(machine, images) in (True, False)


def test_a_cut_off_answer_is_no_answer() -> None:
    said = b"deckbench-doctor=1\nmachine=aarch64\nkernel=5\n"
    assert far.parse(said) == {}
    assert far.parse(said + b"machine=other\ndeckbench-doctor=end\n") == {"machine": "aarch64", "kernel": "5"}


def test_images_of_a_far_daemon() -> None:
    attrs = {"RepoTags": ["deckbench/l4t-jp6:0.1.0", "x y"], "Architecture": "arm64", "Os": "linux"}
    attrs |= {"Config": {"Env": ["COLOURS=a;b"], "Labels": {"deckbench.locked": "true"}}, "RootFS": {"Layers": []}}
    said = '{"RepoTags": [1]};{};' + json.dumps(attrs) + ';{"RepoTags": ["b:1"], "Architecture": "arm64"};{"broken'
    (tag, one), *rest = far.images(said).items()
    assert (tag, one.locked, one.architecture, rest) == ("deckbench/l4t-jp6:0.1.0", True, "arm64", [])
    assert len(one.identity) == 64


@pytest.mark.parametrize(
    "host", ["orin", "ssh://", "ssh://a b", "ssh://-oProxyCommand=x", "ssh://u@h:99999999", "ssh://h;id", "tcp://h"]
)
def test_a_host_that_cannot_be_read(host: str) -> None:
    with pytest.raises(InputError, match="--host"):
        far.ssh_command(host, "true")


def test_a_host_is_never_an_option() -> None:
    command = far.ssh_command("ssh://-v@-oh:2222", "true")
    assert command[-3:] == ["--", "-oh", "true"] and command[command.index("-l") + 1] == "-v"


HANDLER = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\nmagic {magic}\n"
ARM64 = "7f454c460201010000000000000000000200b700"


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (HANDLER.format(magic=ARM64), True),
        (HANDLER.format(magic=ARM64).replace("POCF", "POC"), False),
        (HANDLER.format(magic=ARM64).replace("enabled", "disabled"), False),
        (HANDLER.format(magic=ARM64.replace("b700", "3e00")), False),
        ("", False),
    ],
)
def test_emulation_of_arm64(tmp_path: Path, text: str, good: bool) -> None:
    (tmp_path / "qemu-any").write_text(text)
    (tmp_path / "register").write_text("")
    assert here.emulates(tmp_path) == ({"arm64"} if good else set())
    assert here.emulates(tmp_path / "nowhere") == set()


def test_amounts() -> None:
    assert [amount(x) for x in (None, 5_646_100, 27.8e9)] == ["unknown", "5.6 MB", "27.8 GB"]


def test_the_script_says_every_fact_there_is() -> None:
    assert len(fields(Machine)) == len(KEYS) + 2  # gpu_low and gpu_high are one, docker gives two; where, emulated


LOADED = b'{"part": "torch", "version": "2.9", "cuda": "13.0", "capability": "AVX2", "threads": 4}\n'


@pytest.mark.parametrize(
    ("said", "code", "states"),
    [
        (LOADED + b'{"part": "torchvision", "absent": true, "fault": "x"}', 0, ["good", "absent", "absent"]),
        (LOADED + b'{"part": "torchvision", "absent": false, "fault": "nms"}', 0, ["good", "absent", "bad"]),
        (b"noise\n" + LOADED, -11, ["good", "bad", "bad"]),
        (b'{"part": "torch", "fault": "OSError: libcudart"}\n', 0, ["bad"]),
        (b"", -4, ["bad"]),
        (b"", None, ["bad"]),
        (
            LOADED
            + b'{"part": "gpu", "name": "G", "memory": 9, "free": 5, "fault": ""}\n'
            + b'{"part": "gpu", "name": "H", "memory": null, "free": null, "fault": "no kernel image"}\n'
            + b'{"part": "torchvision", "version": "0.25"}',
            0,
            ["good", "good", "bad", "good"],
        ),
    ],
)
def test_what_is_said_of_torch(said: bytes, code: int | None, states: list[str]) -> None:
    asked = probe.Probe(probe.parse(said), code)
    assert [one.state for one in probe.findings(asked)] == states
    assert asked.loads == (b"version" in said and b"2.9" in said)
    assert asked.gpu_free == (5 if b'"free": 5' in said else None)


def test_torch_is_asked_in_a_process_that_may_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("import os; os.kill(os.getpid(), 11)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    asked = probe.collect(probe.start())
    assert probe.findings(asked)[0].found == "does not load: the process was ended by SIGSEGV"


def test_torch_here() -> None:
    asked = probe.collect(probe.start())
    assert asked.loads and asked.code == 0
    assert probe.findings(asked)[0].state == "good"
