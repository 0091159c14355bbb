"""`bench-orin`: which machine, which image, what is said where there is no Orin; and the real thing at a stand-in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from deckbench.containers.spec import image_named
from deckbench.errors import InputError
from deckbench.machine import ssh
from deckbench.machine.daemon import LABEL, REMOTE_JOB
from deckbench.machine.facts import Machine
from deckbench.pipeline import bench_orin
from tests.docker_daemon import cannot
from tests.runners.remote import orin_namespace

DROP_S = 20


def tegra(release: str) -> str:
    number, _, revision = release.partition(".")
    return f"# {number} (release), REVISION: {revision}, GCID: 1, BOARD: generic, EABI: aarch64"


@pytest.mark.parametrize(("release", "image"), [("R36.4.3", "l4t-jp6"), ("R36.5.0", "l4t-jp6"), ("R39.0.0", "l4t-jp7")])
def test_the_release_chooses_the_image(monkeypatch: pytest.MonkeyPatch, release: str, image: str) -> None:
    monkeypatch.setattr(
        bench_orin, "probe_machine", lambda host: Machine(host, tegra=tegra(release), machine="aarch64")
    )
    place = bench_orin.find("ssh://lab@orin", emulate=False, image=None)
    assert (place.image.name, place.host, place.emulate) == (image, "ssh://lab@orin", False)


@pytest.mark.parametrize(
    ("release", "said"),
    [
        ("R35.4.1", "R35.4.1 is older"),
        ("R32.7.4", "R32.7.4 is older"),
        ("R38.2.0", "Thor"),
        ("R36.3.0", "JetPack 6.0"),
        ("R40.1.0", "R40.1.0 is not known"),
    ],
)
def test_other_releases_are_named(monkeypatch: pytest.MonkeyPatch, release: str, said: str) -> None:
    monkeypatch.setattr(
        bench_orin, "probe_machine", lambda host: Machine(host, tegra=tegra(release), machine="aarch64")
    )
    with pytest.raises(InputError, match=said):
        bench_orin.find("ssh://lab@orin", emulate=False, image=None)


def test_on_the_orin_itself_no_host_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        bench_orin, "local_machine", lambda: Machine("this machine", tegra=tegra("R36.4.3"), machine="aarch64")
    )
    assert bench_orin.find(None, emulate=False, image=None) == bench_orin.Place(image_named("l4t-jp6"))


def test_a_machine_that_is_no_jetson_is_only_taken_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_orin, "probe_machine", lambda host: Machine(host, machine="x86_64", cpu="a processor"))
    with pytest.raises(InputError, match="this is not a Jetson"):
        bench_orin.find("ssh://lab@other", emulate=False, image=None)
    assert bench_orin.find("ssh://lab@other", emulate=False, image="x86-cpu").image.name == "x86-cpu"
    assert "not a Jetson: the figures will be those of a processor" in capsys.readouterr().err


def test_what_is_not_for_arm64_is_not_emulated() -> None:
    assert bench_orin.find(None, emulate=True, image=None).image.architecture == "arm64"
    with pytest.raises(InputError, match="x86-cpu is for amd64: nothing would be emulated"):
        bench_orin.find(None, emulate=True, image="x86-cpu")


def deckbench(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deckbench", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **more})


def test_without_an_orin_it_says_what_it_needs(tmp_path: Path) -> None:
    if Path("/etc/nv_tegra_release").exists():
        pytest.skip("this is a Jetson")
    for words in ([], ["--model", "glm-4v-9b", "--data", "data/S3", "--out", str(tmp_path / "a")]):
        done = deckbench("bench-orin", *words, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
        assert done.returncode == 2
        assert "there is no Orin" in done.stderr and "--host ssh://lab@orin" in done.stderr
        assert "--emulate" in done.stderr and "Traceback" not in done.stderr
    done = deckbench("bench-orin", "--emulate", "--model", "tiny-glm4v", "--out", str(tmp_path / "a"))
    assert done.returncode == 2 and "--data" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of a small synthetic pool. Others may read it: a step in a container is nobody."""
    folder = tmp_path_factory.mktemp("orin")
    for place in (folder, folder.parent):
        place.chmod(0o755)
    made = deckbench("pool", "synth", str(folder / "pool"), "--frames", "60", "--seed", "3")
    assert made.returncode == 0, made.stderr
    made = deckbench("build", "ot2-scene@1", "--pool", str(folder / "pool"), "--out", str(folder / "S3"))
    assert made.returncode == 0, made.stderr
    return folder / "S3"


BENCH = ("--model", "tiny-glm4v", "--min-seconds", "25", "--max-queries", "400")


@pytest.mark.docker
@pytest.mark.slow
def test_a_bench_at_the_stand_in_with_packets_dropped_in_the_middle(
    x86_cpu: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bench-orin --host`: the connection is lost for twenty seconds while it runs; the artifact is downloaded whole.
    And the same predictions, byte for byte, there as in a container here."""
    if reason := orin_namespace.missing():
        cannot(reason)
    image = image_named("x86-cpu")
    with orin_namespace.stand_in() as place:  # the image travels too
        monkeypatch.setenv(ssh.CONFIG_VARIABLE, str(place.ssh_config))
        out = tmp_path / "bench" / "orin"

        def cut() -> None:
            while not place.docker("ps", "-q", "--filter", f"label={LABEL}={REMOTE_JOB}").strip():
                time.sleep(0.2)
            time.sleep(15)
            place.drop()
            time.sleep(DROP_S)
            place.drop(False)

        thread = threading.Thread(target=cut)
        thread.start()
        words = ["--host", place.host, "--image", image.name, "--data", str(dataset), "--out", str(out), *BENCH]
        done = deckbench("bench-orin", *words)
        thread.join()
        assert done.returncode == 0, done.stderr
        assert "lost the connection to" in done.stderr and "reconnected to" in done.stderr
        ends = [line.split(":")[0] for line in done.stderr.splitlines() if " queries, " in line]
        # no line twice; on a busy machine it is measured again
        assert ends == ["bench tiny-glm4v choice", "bench tiny-glm4v scene"]
        manifest = json.loads((out / "manifest.json").read_text())
        results = manifest["observed"]["results"]
        assert set(results["kinds"]) == {"choice", "scene"}
        assert results["hardware"]["device"] == "cpu" and not results["hardware"]["emulated"]
        container = results.get("container") or manifest["observed"].get("container")
        assert container["name"] == "x86-cpu" and len(container["identity"]) == 64
        answered(["--host", place.host], dataset, tmp_path / "far")
        answered(["--runner", "docker", "--image", "x86-cpu"], dataset, tmp_path / "near")
        assert (tmp_path / "far/a.csv").read_bytes() == (tmp_path / "near/a.csv").read_bytes()
        volumes = place.docker("volume", "ls", "-q").split()
        assert (place.docker("ps", "-aq").strip(), volumes) == ("", ["deckbench-store"])
        assert deckbench("containers", "prune", "--store", "--host", place.host).returncode == 0
        assert place.docker("volume", "ls", "-q").strip() == ""


def answered(where: Sequence[str], dataset: Path, folder: Path) -> None:
    words = ["--model", "tiny-glm4v", "--data", str(dataset), "--out", str(folder / "a.csv"), "--limit", "20"]
    done = deckbench("infer", *words, *where)
    assert done.returncode == 0, done.stderr
