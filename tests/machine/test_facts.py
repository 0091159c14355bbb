"""What other machines and programs print is parsed strictly, whatever it is."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deckbench.machine.facts import daemon_machine, parse_gpus, printable
from deckbench.machine.jetson import l4t_release

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=8,
)
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
def test_l4t_release(text: str, release: tuple[int, str] | None) -> None:
    assert l4t_release(text) == release


@given(st.text() | st.builds(lambda tail: f"# {TITLES}{tail}", st.text()))
def test_a_release_is_a_number_and_dots(text: str) -> None:
    found = l4t_release(text)
    assert found is None or (0 <= found[0] < 1000 and found[1].replace(".", "").isascii())


@given(st.text() | st.integers() | st.floats() | JSON)
@example("\x1b]0;title\x07\x1b[2J")
@example("a\u202egnp.exe")
def test_plain_text_is_one_harmless_line(value: object) -> None:
    line = printable(value)
    assert len(line) <= 200 and harmless(line) and "\n" not in line


@given(st.text())
def test_gpus_of_any_text(text: str) -> None:
    assert all(harmless(gpu.name) and harmless(gpu.driver) for gpu in parse_gpus(text))


def test_gpus_as_nvidia_smi_lists_them() -> None:
    first, second = parse_gpus("NVIDIA L4, 23034, 22000, 550.54\nOrin (nvgpu), [N/A], [N/A], 540.4.0\nnonsense\n")
    assert (first.name, first.memory, first.free, first.driver) == ("NVIDIA L4", 23034 << 20, 22000 << 20, "550.54")
    assert (second.memory, second.free) == (None, None)


@given(
    st.dictionaries(st.text(max_size=20), JSON) | st.fixed_dictionaries({"Runtimes": JSON, "DiscoveredDevices": JSON})
)
def test_a_daemon_may_describe_itself_in_any_way(info: dict[str, object]) -> None:
    machine = daemon_machine(info)
    assert machine.has_nvidia_runtime in (True, False) and machine.has_nvidia_devices in (True, False)


def test_a_machine_as_its_daemon_describes_it() -> None:
    orin = {"Architecture": "aarch64", "KernelVersion": "5.15.148-tegra", "Runtimes": {"nvidia": {}}, "MemTotal": 7}
    machine = daemon_machine(orin)
    assert (machine.architecture, machine.is_jetson, machine.l4t, machine.l4t_number) == ("arm64", True, None, 36)
    assert machine.has_nvidia_runtime and machine.memory == 7
    assert daemon_machine({**orin, "KernelVersion": "6.8.12-tegra"}).l4t_number == 39
    assert daemon_machine({**orin, "KernelVersion": "6.8.0-45-generic"}).l4t_number is None
    devices = {"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}]}
    assert daemon_machine(devices).has_nvidia_devices and not daemon_machine(devices).has_nvidia_runtime
