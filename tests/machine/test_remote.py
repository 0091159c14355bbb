"""The probe of a machine behind ssh: whatever it prints is parsed or refused."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deckbench.errors import InputError, OutsideError
from deckbench.machine import remote
from deckbench.machine.facts import Machine
from deckbench.machine.jetson import DEVICES, FILES
from deckbench.machine.ssh import ssh_command
from tests.machine.test_facts import harmless

KEYS = re.findall(r"^ *(?:\[.*\] && )?put ([a-z_]+) ", remote.SCRIPT.read_text(), re.MULTILINE)


@given(st.binary() | st.text().map(str.encode))
def test_any_answer_is_parsed_or_refused(output: bytes) -> None:
    wrapped = b"motd\ndeckbench-probe=1\n" + output + b"\ndeckbench-probe=end\n"
    for answer in (output, wrapped):
        found = remote.parse(answer)
        assert all(harmless(value) for value in found.values())
        try:
            machine = remote.machine("ssh://host", found)
        except OutsideError:
            continue
        assert machine.machine


def test_a_cut_off_answer_is_no_answer() -> None:
    said = b"deckbench-probe=1\nmachine=aarch64\nkernel=5\n"
    assert remote.parse(said) == {}
    assert remote.parse(said + b"machine=other\ndeckbench-probe=end\n") == {"machine": "aarch64", "kernel": "5"}


def test_images_of_a_remote_daemon() -> None:
    attrs: dict[str, object] = {"RepoTags": ["deckbench/l4t-jp6:0.1.0", "x y"], "Architecture": "arm64", "Os": "linux"}
    attrs |= {"Config": {"Env": ["COLOURS=a;b"], "Labels": {"deckbench.locked": "true"}}, "RootFS": {"Layers": []}}
    text = '{"RepoTags": [1]};{};' + json.dumps(attrs) + ';{"RepoTags": ["b:1"], "Architecture": "arm64"};{"broken'
    half = {"RepoTags": ["b:1"], "Architecture": "arm64"}
    assert remote.images(text) == {"deckbench/l4t-jp6:0.1.0": attrs, "b:1": half}


@pytest.mark.parametrize(
    "host", ["orin", "ssh://", "ssh://a b", "ssh://-oProxyCommand=x", "ssh://u@h:99999999", "ssh://h;id", "tcp://h"]
)
def test_a_host_that_cannot_be_read(host: str) -> None:
    with pytest.raises(InputError, match="--host"):
        ssh_command(host, "true")


def test_a_host_is_never_an_option() -> None:
    command = ssh_command("ssh://-v@-oh:2222", "true")
    assert command[-3:] == ["--", "-oh", "true"] and command[command.index("-l") + 1] == "-v"


def test_the_script_says_every_fact_there_is() -> None:
    # gpu_low and gpu_high are one, as jetson_files and gpu_groups; docker gives two; where and emulated are not asked
    assert len(fields(Machine)) == len(KEYS) + 1


def test_the_script_asks_for_what_a_jetson_has() -> None:
    text = remote.SCRIPT.read_text()
    assert all(name in text for name in (*FILES, *DEVICES))


def test_the_script_runs_here() -> None:
    """Both ways of asking, with this machine's own sh."""

    def run(*arguments: str) -> Machine:
        command = ["sh", "-s", "--", *arguments]
        done = subprocess.run(command, input=remote.SCRIPT.read_bytes(), capture_output=True, timeout=120, check=False)
        return remote.machine("ssh://here", remote.parse(done.stdout))

    everything, resources = run("all"), run("resources", "/")
    assert everything.machine == resources.machine and everything.memory == resources.memory
    assert everything.kernel and everything.cores and not resources.kernel
    assert resources.docker_free and resources.free_memory


def test_the_own_files_of_a_jetson() -> None:
    values = {"machine": "aarch64", "jetson_files": "/etc/nv_tegra_release;/etc/passwd", "gpu_groups": "44;0;x;104;44"}
    found = remote.machine("ssh://orin", values).jetson
    assert (found.files, found.groups) == (("/etc/nv_tegra_release",), (44, 104))
