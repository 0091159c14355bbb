"""`deckbench doctor` as a person meets it: here, and at a machine behind ssh."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from deckbench.containers.spec import load_images
from tests.doctor.simulated_orin import TEGRA, SimulatedOrin


def doctor(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deckbench", "doctor", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, timeout=300, check=False)


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    assert done.stderr == "" or "Traceback" not in done.stderr
    return {one["name"]: one for one in json.loads(done.stdout)["findings"]}


@pytest.mark.torch
def test_this_machine() -> None:
    done = doctor("--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["where"], report["can_run"], report["model"]) == ("this machine", True, None)
    found = findings(done)
    for name in ("DeckBench", "Python", "torch", "embedded models", "embedded files", "system", "memory"):
        assert found[name]["state"] == "good", found[name]
    assert {one["state"] for one in report["findings"]} <= {"good", "bad", "absent"}
    assert {"CUDA", "torchvision", "docker daemon", "openai", "deepspeed", "NVIDIA driver"} <= {
        name.partition(" 0")[0] for name in found
    }


@pytest.mark.torch
def test_lines_for_people() -> None:
    done = doctor("--model", "tiny-glm4v")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("good    weights of tiny-glm4v") for line in lines)
    assert all(line.startswith(("good  ", "bad   ", "absent", "      ")) for line in lines)


@pytest.mark.torch
def test_no_daemon_is_no_crash(tmp_path: Path) -> None:
    done = doctor("--json", DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert done.returncode == 0, done.stderr
    found = findings(done)["docker daemon"]
    assert found["state"] == "absent" and "no docker daemon answers" in found["found"]


def test_a_model_too_large_is_exit_4(tmp_path: Path) -> None:
    """A checkpoint of a pretended 8 TiB: its header alone is written, the rest is a hole in the file."""
    size = 1 << 43
    header = json.dumps(
        {"language_model.a": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    ).encode()
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        try:
            file.truncate(8 + len(header) + size)
        except OSError:
            pytest.skip("this file system has no file of 8 TiB")
    done = doctor("--json", "--model", str(tmp_path))
    assert done.returncode == 4 and "cannot run on this machine" in done.stderr
    assert findings(done)["memory for it"]["state"] == "bad"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--model", "no-such-model"], 2, "no such model"),
        (["--host", "orin"], 2, "cannot read the host 'orin'"),
        (["--host", "ssh://127.0.0.1:1"], 3, "cannot be reached"),
        (["--host", "ssh://no-such-machine.invalid"], 3, "cannot be reached"),
    ],
)
def test_one_message_and_nothing_else(words: list[str], code: int, message: str) -> None:
    done = doctor(*words)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert message in done.stderr and "fix: " in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 3


def test_ssh_is_not_installed(tmp_path: Path) -> None:
    done = doctor("--host", "ssh://orin", PATH=str(tmp_path))
    assert done.returncode == 3 and "the ssh client is not installed" in done.stderr


@pytest.mark.slow
@pytest.mark.docker
def test_an_orin(orin: SimulatedOrin) -> None:
    done = doctor("--host", orin.host, "--model", "glm-4v-9b", "--json", DECKBENCH_SSH_CONFIG=str(orin.ssh_config))
    assert done.returncode == 0, done.stderr
    found, model = findings(done), json.loads(done.stdout)["model"]
    assert found["L4T"]["found"] == "R36.4.3, JetPack 6"
    assert found["board"]["found"] == "NVIDIA Jetson AGX Orin Developer Kit"
    assert found["power mode"]["found"] == "MAXN"
    assert found["GPU clock"]["fix"].endswith("`sudo jetson_clocks`")
    assert found["memory"]["found"] == "61.6 GB of 65.9 GB free"
    assert found["nvidia runtime"]["state"] == "good"
    assert found["image l4t-jp6"]["found"].endswith("runs here")
    assert (model["image"], model["fits"]) == ("l4t-jp6", True)
    assert 11 < model["decode_tokens_per_s_at_most"] < 12


def packed(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def saved_image(tag: str, labels: dict[str, str]) -> bytes:
    """An image of arm64 with one empty file, as `docker save` would write it."""
    layer = packed({"empty": b""})
    config = {
        "architecture": "arm64",
        "os": "linux",
        "config": {"Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]
    texts = {"config.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}
    return packed({**texts, "layer.tar": layer})


@pytest.mark.slow
@pytest.mark.docker
def test_what_the_daemon_of_an_orin_holds(orin: SimulatedOrin) -> None:
    """An image of ours for arm64, locked, and a container that was never removed."""
    tag = load_images()["l4t-jp6"].tag

    def docker(*words: str, stdin: bytes = b"") -> None:
        command = ["docker", "-H", orin.docker_host, *words]
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr

    docker("load", stdin=saved_image(tag, {"deckbench": "image", "deckbench.locked": "true"}))
    docker("create", "--name", "left", "--label", "deckbench=step", tag, "/empty")
    docker("create", "--name", "waits", "--label", "deckbench=far-job", tag, "/empty")
    docker("create", "--name", "helps", "--label", "deckbench=store", tag, "/empty")
    try:
        done = doctor("--host", orin.host, "--json", DECKBENCH_SSH_CONFIG=str(orin.ssh_config))
    finally:
        docker("rm", "left", "waits", "helps")
        docker("rmi", tag)
    found = findings(done)
    assert found["image l4t-jp6"]["state"] == "good", found
    assert found["image l4t-jp6"]["found"].endswith(", locked; runs here")
    assert found["left behind"]["found"].startswith("1 containers")
    assert found["left behind"]["fix"] == "deckbench containers prune"
    assert found["waiting to be fetched"]["found"].startswith("1 steps")


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.parametrize(("release", "word"), [("R35", "older"), ("R38", "Thor")])
def test_an_orin_with_another_release(orin: SimulatedOrin, release: str, word: str) -> None:
    place = orin.etc / "nv_tegra_release"
    place.write_text(TEGRA.replace("R36", release))
    try:
        done = doctor(
            "--host", orin.host, "--model", "phi-3-vision", "--json", DECKBENCH_SSH_CONFIG=str(orin.ssh_config)
        )
    finally:
        place.write_text(TEGRA)
    assert done.returncode == 4, done.stderr
    l4t = findings(done)["L4T"]
    assert l4t["state"] == "bad" and word in l4t["found"] and "JetPack 6.x" in l4t["fix"]


@pytest.mark.slow
@pytest.mark.docker
def test_a_host_that_lies(orin: SimulatedOrin) -> None:
    """Escapes and nonsense from the far machine reach neither the terminal nor a number."""
    honest = (orin.bin / "uname").read_text()
    (orin.bin / "uname").write_text("#!/bin/sh\nprintf 'aarch64\\033]0;owned\\007\\n'\n")
    (orin.bin / "nproc").write_text("#!/bin/sh\nprintf '12\\ndeckbench-probe=end'\n")
    try:
        done = doctor("--host", orin.host, DECKBENCH_SSH_CONFIG=str(orin.ssh_config))
    finally:
        (orin.bin / "uname").write_text(honest)
        (orin.bin / "nproc").write_text("#!/bin/sh\necho 12\n")
    assert "\x1b" not in done.stdout + done.stderr and "\x07" not in done.stdout
    assert done.returncode in (0, 4) and "owned" in done.stdout


@pytest.mark.slow
@pytest.mark.docker
def test_a_key_that_is_not_taken(orin: SimulatedOrin, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(orin.ssh_config.read_text().replace("/user\n", "/host\n"))
    done = doctor("--host", orin.host, DECKBENCH_SSH_CONFIG=str(config))
    assert done.returncode == 3 and "Permission denied" in done.stderr
