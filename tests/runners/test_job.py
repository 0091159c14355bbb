"""What a container is asked for, without a daemon: arguments, GPUs, images, owners."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from deckbench.containers.identity import identity, is_locked
from deckbench.containers.spec import Image, load_images
from deckbench.errors import InputError, OutsideError
from deckbench.machine import jetson, process_identity
from deckbench.machine.facts import Machine
from deckbench.runners.job import (
    GIB,
    Job,
    create_arguments,
    step_groups,
    step_user,
    with_visible_gpus,
    within_memory_of,
)
from deckbench.runners.local.container import check_daemon, exit_code_of
from deckbench.runners.select_image import gpu_of, image_for, machine_of, models_of
from tests.runners.options import options

IMAGES = load_images()
NO_JETSON = jetson.Jetson()


def a_job(image: Image = IMAGES["x86-cpu"], **fields: Any) -> Job:
    made = Job(image, ("score", "--out", "/out/s.json"), (), Path("s.json"), "/out/s.json", env={"KEY": "a secret"})
    return dataclasses.replace(made, **fields)


def arguments(job: Job, orin: jetson.Jetson = NO_JETSON) -> dict[str, Any]:
    who, labels = (1000, 100), {"deckbench.job": "7"}
    return create_arguments(job, image="sha256:1", mounts=[], labels=labels, container="{}", who=who, jetson=orin)


def test_a_job_is_confined() -> None:
    given = arguments(a_job())
    assert given["network_mode"] == "none"
    assert given["user"] == "1000:100"
    assert given["read_only"] is given["init"] is True
    assert given["cap_drop"] == ["ALL"]
    assert given["security_opt"] == ["no-new-privileges:true"]
    assert given["mem_limit"] == given["memswap_limit"] == 16 * GIB
    assert given["pids_limit"] == 2048
    assert given["tmpfs"] == {"/tmp": f"size={4 * GIB},uid=1000,gid=100,mode=1777"}
    assert given["labels"] == {"deckbench": "job", "deckbench.job": "7"}
    labels, who = {"deckbench.job": "7"}, (1000, 100)
    given |= {"tmpfs": {"/tmp": f"size={4 * GIB},U,mode=1777"}}  # podman takes no ids there, and is told whose it is
    assert given == create_arguments(
        a_job(), image="sha256:1", mounts=[], labels=labels, container="{}", who=who, jetson=NO_JETSON, podman=True
    )
    assert given["environment"]["HOME"] == "/tmp"
    assert given["environment"]["PYTHONDONTWRITEBYTECODE"] == ""  # or every rank would compile torch again
    assert "entrypoint" not in given
    assert not {"privileged", "devices", "cap_add", "ipc_mode", "pid_mode"} & given.keys()


def test_limits_can_be_others() -> None:
    given = arguments(a_job(memory_gib=1.5, pids=7))
    assert (given["mem_limit"], given["pids_limit"]) == (1.5 * GIB, 7)
    assert a_job(minutes=2).seconds == 120
    assert a_job().seconds == 0


def test_no_limit_is_above_the_machine_s_memory() -> None:
    small = within_memory_of(a_job(memory_gib=64), {"MemTotal": 8 * GIB})
    assert arguments(small)["mem_limit"] == 8 * GIB
    assert within_memory_of(a_job(), {"MemTotal": 8 * GIB}).memory == 8  # the image's own limit too
    for info in ({"MemTotal": 64 * GIB}, {"MemTotal": 0}, {}):
        assert within_memory_of(a_job(), info) == a_job()


def test_a_server_is_reached_only_where_declared() -> None:
    assert arguments(a_job(network=True))["network_mode"] == "bridge"
    assert arguments(a_job(network=True, loopback=True))["network_mode"] == "host"
    assert arguments(a_job(loopback=True))["network_mode"] == "none"
    assert "a secret" not in repr(a_job())


def test_gpus_of_a_workstation() -> None:
    given = arguments(a_job(IMAGES["x86-cuda"], gpus=("0", "2")))
    asked = given["device_requests"][0]
    assert (asked["DeviceIDs"], asked["Count"], asked["Capabilities"]) == (["0", "2"], 0, [["gpu"]])
    assert {limit["Name"] for limit in given["ulimits"]} == {"memlock", "stack"}
    everything = arguments(a_job(IMAGES["x86-cuda"]))["device_requests"][0]
    assert (everything["DeviceIDs"], everything["Count"]) == ([], -1)
    assert "runtime" not in given


@pytest.mark.parametrize(
    ("variable", "given", "cards"),
    [
        ("3", (), ["3"]),
        ("GPU-1f, 2,-1,0", (), ["GPU-1f", "2"]),
        ("3", ("0",), ["0"]),
        (None, (), []),
    ],
)
def test_a_shared_server_s_cards(
    variable: str | None, given: tuple[str, ...], cards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    asked = arguments(with_visible_gpus(a_job(IMAGES["x86-cuda"], gpus=given)))["device_requests"][0]
    assert (asked["DeviceIDs"], asked["Count"]) == (cards, 0 if cards else -1)


@pytest.mark.parametrize("variable", ["", "-1"])
def test_no_card_at_all(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    made = with_visible_gpus(a_job(IMAGES["x86-cuda"]))
    assert "device_requests" not in arguments(made)
    check_daemon(made, GOOD)  # it then needs no nvidia runtime
    orin = a_job(IMAGES["l4t-jp6"])
    assert with_visible_gpus(orin) is orin


def test_the_gpu_of_a_jetson() -> None:
    given = arguments(a_job(IMAGES["l4t-jp6"]))
    assert given["runtime"] == "nvidia"
    assert given["ipc_mode"] == "host"
    assert given["shm_size"] is None
    assert {limit["Name"]: limit["Hard"] for limit in given["ulimits"]} == {"memlock": -1, "stack": 1 << 26}
    assert "device_requests" not in given


def test_a_step_may_use_the_devices_of_the_jetson_and_reads_its_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("release", "nvmap", "igpu"):
        (tmp_path / name).touch()
    os.chown(tmp_path / "nvmap", -1, os.getgid())
    monkeypatch.setattr(jetson, "FILES", (str(tmp_path / "release"), str(tmp_path / "missing")))
    monkeypatch.setattr(jetson, "DEVICES", (str(tmp_path / "nvmap"), str(tmp_path / "igpu"), str(tmp_path / "gone")))
    here = jetson.local_jetson()
    group = os.getgid()
    assert here == jetson.Jetson((str(tmp_path / "release"),), (group,) if group else ())

    orin = jetson.Jetson(("/etc/nv_tegra_release",), (44, 104))
    given = arguments(a_job(IMAGES["l4t-jp7"]), orin)
    assert given["group_add"] == ["44", "104"]
    assert [(mount["Target"], mount["ReadOnly"]) for mount in given["mounts"]] == [("/etc/nv_tegra_release", True)]
    plain = arguments(a_job(IMAGES["x86-cpu"]), orin)
    assert plain["mounts"] == [] and "group_add" not in plain


def test_a_step_has_the_caller_s_groups_too(monkeypatch: pytest.MonkeyPatch) -> None:
    who, orin = (1000, 100), jetson.Jetson((), (44, 104))
    given: dict[str, Any] = {"image": "1", "mounts": [], "labels": {}, "container": "{}", "who": who, "jetson": orin}
    both = create_arguments(a_job(IMAGES["l4t-jp7"]), **given, groups=(44, 4242))
    assert both["group_add"] == ["44", "4242", "104"]
    assert create_arguments(a_job(), **given, groups=(4242,))["group_add"] == ["4242"]
    monkeypatch.setattr("os.getgroups", lambda: [0, 27, 100, 4242])
    monkeypatch.setattr("os.getgid", lambda: 100)
    monkeypatch.setattr("os.getuid", lambda: 1000)
    assert step_groups() == (27, 4242)
    monkeypatch.setattr("os.getuid", lambda: 0)
    assert step_groups() == ()


def test_docker_takes_the_arguments() -> None:
    """The SDK itself turns them into a request: a wrong name or type is refused there."""
    from docker.models.containers import _create_container_args

    for name in ("x86-cpu", "x86-cuda", "l4t-jp6"):
        given = {**arguments(a_job(IMAGES[name])), "version": "1.41"}
        config = _create_container_args(given)["host_config"]
        assert config["ReadonlyRootfs"] is True
    assert config["Runtime"] == "nvidia"
    assert config["IpcMode"] == "host"


GOOD = {"Name": "lab", "Architecture": "x86_64", "SecurityOptions": ["name=seccomp"], "Runtimes": {"runc": {}}}


def test_what_a_daemon_cannot_do_is_said() -> None:
    check_daemon(a_job(), GOOD)
    with pytest.raises(OutsideError, match="no nvidia runtime"):
        check_daemon(a_job(IMAGES["x86-cuda"]), GOOD)
    check_daemon(a_job(IMAGES["x86-cuda"]), {**GOOD, "Runtimes": {"runc": {}, "nvidia": {}}})
    described = {**GOOD, "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}
    check_daemon(a_job(IMAGES["x86-cuda"]), described)
    with pytest.raises(OutsideError, match="no nvidia runtime"):
        check_daemon(a_job(IMAGES["l4t-jp6"]), {**described, "Architecture": "aarch64"})
    with pytest.raises(OutsideError, match="no nvidia runtime"):
        check_daemon(a_job(IMAGES["x86-cuda"]), {**GOOD, "DiscoveredDevices": [{"ID": "amd.com/gpu=0"}]})
    with pytest.raises(InputError, match="this machine is amd64"):
        check_daemon(a_job(IMAGES["arm64-cpu"]), GOOD)
    check_daemon(a_job(IMAGES["arm64-cpu"], emulate=True), GOOD)
    with pytest.raises(OutsideError, match="maps user ids"):
        check_daemon(a_job(), {**GOOD, "SecurityOptions": ["name=rootless"]})


class Silent:
    failed = None


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        ({"ExitCode": 137, "OOMKilled": True}, "", "out of memory"),
        ({"ExitCode": 3, "OOMKilled": True}, "", "out of memory"),  # a worker was killed, and the step said so
        ({"ExitCode": 137}, "", "ended from outside"),
        ({"ExitCode": 139}, "", r"the step crashed \(SIGSEGV\)"),
        ({"ExitCode": 132}, "", r"the step crashed \(SIGILL\)\n  fix: a package in the image is not built for this"),
        ({"ExitCode": 135}, "", r"the step crashed \(SIGBUS\)\n  fix: /dev/shm or the disk was full"),
        ({"ExitCode": 143}, "time", "time limit"),
        ({"ExitCode": 143}, "SIGTERM", "stopped by SIGTERM"),
        ({"ExitCode": 127}, "", "could not be started"),
    ],
)
def test_each_end_has_its_own_message(state: dict[str, Any], reason: str, words: str) -> None:
    with pytest.raises(OutsideError, match=words) as said:
        exit_code_of(a_job(minutes=1), state, reason, Silent())  # type: ignore[arg-type]
    assert said.value.exit_code == 3
    assert said.value.fix is not None


def test_the_step_s_own_exit_codes_are_its_own() -> None:
    for code in (0, 1, 2, 3, 4, 130):
        assert exit_code_of(a_job(), {"ExitCode": code}, "", Silent()) == code  # type: ignore[arg-type]


def test_the_image_for_a_machine() -> None:
    laptop, lab = Machine("a", machine="x86_64"), Machine("b", machine="x86_64", docker={"Runtimes": {"nvidia": {}}})
    orin6, orin7 = (Machine("c", machine="aarch64", kernel=kernel) for kernel in ("5.15.148-tegra", "6.8.12-tegra"))

    def chosen(model: str, machine: Machine, named: str | None = None) -> str:
        return image_for([model], machine, named).name

    assert chosen("tiny-glm4v", laptop) == chosen("majority", laptop) == chosen("endpoint:gpt", laptop) == "x86-cpu"
    assert chosen("glm-4v-9b", laptop) == "x86-cpu"  # slow, and the only one there is
    assert chosen("glm-4v-9b", lab) == chosen("blind:glm-4v-9b", lab) == "x86-cuda"
    assert chosen("tiny-glm4v", lab) == "x86-cpu"
    assert chosen("tiny-glm4v", lab, "x86-cuda") == "x86-cuda"
    assert (chosen("glm-4v-9b", orin6), chosen("glm-4v-9b", orin7)) == ("l4t-jp6", "l4t-jp7")
    assert image_for(models_of(options("run", suite="demo")), laptop, None).name == "x86-cpu"
    assert image_for([], lab, None).name == "x86-cpu"
    with pytest.raises(InputError, match="no image in"):
        chosen("tiny-glm4v", Machine("d", machine="riscv64"))
    with pytest.raises(InputError, match="unknown image"):
        chosen("tiny-glm4v", laptop, "x86")


def test_machines_by_what_their_daemon_says() -> None:
    assert gpu_of(machine_of(GOOD, local=False)) == "none"
    assert gpu_of(machine_of({**GOOD, "Runtimes": {"nvidia": {}}}, local=False)) == "devices"
    orin = {"Architecture": "aarch64", "KernelVersion": "5.15.148-tegra", "Runtimes": {"nvidia": {}}}
    assert gpu_of(machine_of(orin, local=False)) == "jetson"


def test_identity_is_what_a_step_can_see() -> None:
    config = {
        "Env": ["A=1"],
        "Entrypoint": ["deckbench"],
        "Cmd": None,
        "User": "",
        "Labels": {"deckbench.locked": "true"},
    }
    attrs: dict[str, Any] = {
        "Id": "1",
        "RepoTags": ["a:b"],
        "Created": "now",
        "Architecture": "amd64",
        "Os": "linux",
        "RootFS": {"Type": "layers", "Layers": ["sha256:1", "sha256:2"]},
        "Config": config,
    }
    known = identity(attrs)
    assert identity({**attrs, "Id": "2", "RepoTags": [], "Created": "later"}) == known
    assert identity({**attrs, "Config": {**config, "Cmd": [], "WorkingDir": "", "Labels": {}}}) == known
    assert identity({**attrs, "Architecture": "arm64"}) != known
    assert identity({**attrs, "RootFS": {"Layers": ["sha256:2", "sha256:1"]}}) != known
    assert identity({**attrs, "Config": {**config, "Env": ["A=2"]}}) != known
    assert is_locked(attrs)
    assert not is_locked({**attrs, "Config": {}})


def test_owners_that_are_gone_are_known() -> None:
    assert not process_identity.is_dead(process_identity.own_identity())
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    machine, boot, namespace = process_identity.host_identity()
    of_it = " ".join((machine, boot, namespace, str(process.pid), process_identity.start_time(process.pid) or ""))
    assert not process_identity.is_dead(of_it)
    process.kill()
    for _ in range(100):
        if process_identity.is_dead(of_it):  # a zombie is dead already
            break
        time.sleep(0.05)
    assert process_identity.is_dead(of_it)
    process.wait()
    assert process_identity.is_dead(of_it)
    parts = process_identity.own_identity().split(" ")
    assert process_identity.is_dead(" ".join([*parts[:4], "1"]))  # the number was given to another process
    assert process_identity.is_dead(
        " ".join([parts[0], "another boot", *parts[2:]]).replace("another boot", "another-boot")
    )
    assert not process_identity.is_dead(" ".join(["another-machine", *parts[1:4], "1"]))
    assert not process_identity.is_dead(
        " ".join([*parts[:2], "1", parts[3], "1"])
    )  # in another container: not seen from here
    assert not process_identity.is_dead("")


def test_an_owner_that_proc_does_not_show_is_not_dead() -> None:
    if os.getuid() != 0 or shutil.which("unshare") is None or shutil.which("setpriv") is None:
        pytest.skip("only root can mount a /proc, for another user")
    owner = process_identity.own_identity()
    printed = f"process_identity.is_dead({owner!r}), process_identity.start_time({os.getpid()})"
    code = f"from deckbench.machine import process_identity; print({printed})"
    lent = "setpriv --reuid=12345 --regid=12345 --clear-groups " + " ".join(
        f"--{kind}=-all,+dac_read_search" for kind in ("inh-caps", "ambient-caps", "bounding-set")
    )
    look = f"exec {lent} {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    script = f"mount -t proc -o hidepid=2 proc /proc && {look}"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=60)
    if "mount:" in done.stderr:
        pytest.skip(f"no /proc can be mounted: {done.stderr}")
    assert done.stdout == "False None\n", done.stderr


def test_a_step_never_runs_as_root() -> None:
    assert 0 not in step_user()
    assert step_user() == (65534, 65534) if os.getuid() == 0 else step_user() == (os.getuid(), os.getgid())
