"""What is said about machines that are not here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deckbench.containers.spec import load_images
from deckbench.doctor import assess, fits
from deckbench.doctor.finding import Finding
from deckbench.errors import InputError
from deckbench.machine import remote
from deckbench.machine.bandwidth import bandwidth
from deckbench.machine.facts import Machine
from tests.doctor.machines import H100, INFO, ORIN, PLAIN
from tests.machine.test_facts import JSON, harmless
from tests.machine.test_remote import KEYS

IMAGES = load_images()
INFO_KEYS = ["ServerVersion", "ServerErrors", "Driver", "CgroupVersion", "DockerRootDir", "MemoryLimit", "PidsLimit"]
INFO_KEYS += ["Runtimes", "SecurityOptions", "OSType", "DiscoveredDevices"]


def named(findings: list[Finding] | tuple[Finding, ...], name: str) -> Finding:
    return next(one for one in findings if one.name == name)


def at(release: str) -> Machine:
    return replace(ORIN, tegra=f"# {release}, GCID: 1, BOARD: generic")


@pytest.mark.torch
@pytest.mark.parametrize(
    ("release", "state", "word", "image"),
    [
        ("R36 (release), REVISION: 4.3", "good", "R36.4.3, JetPack 6", "l4t-jp6"),
        ("R36 (release), REVISION: 3.0", "bad", "JetPack 6.0", "l4t-jp6"),
        ("R39 (release), REVISION: 2.0", "good", "JetPack 7.2", "l4t-jp7"),
        ("R38 (release), REVISION: 2.1", "bad", "Jetson Thor alone", None),
        ("R35 (release), REVISION: 5.0", "bad", "R35.5.0 is older", None),
        ("R41 (release), REVISION: 1.0", "bad", "R41.1.0 is not known", None),
        ("R36 (custom)", "bad", "does not say", None),
    ],
)
def test_releases_of_l4t(release: str, state: str, word: str, image: str | None) -> None:
    machine = at(release)
    found = named(assess.machine_findings(machine), "L4T")
    assert found.state == state and word in found.found
    assert (state == "good") == (found.fix == "")
    verdict = fits.assess_model("glm-4v-9b", machine, IMAGES)
    assert verdict.facts["image"] == image
    assert verdict.fits == (image is not None)


@pytest.mark.torch
def test_glm4v_on_an_orin() -> None:
    verdict = fits.assess_model("glm-4v-9b", ORIN, IMAGES)
    assert verdict.fits and verdict.facts["device"] == "cuda"
    assert verdict.facts["weights"] == 13_906_320_896
    assert verdict.facts["stored_bytes"] == 2 * 13_906_320_896
    # 40 layers, the last norm and the output layer, of which every token reads all; of the table of words one row
    assert verdict.facts["read_per_token_bytes"] == 2 * 8_779_194_368
    assert verdict.facts["decode_tokens_per_s_at_most"] == pytest.approx(204.8e9 / 17_558_388_736, abs=0.01)
    assert "an estimate, not measured" in named(verdict.findings, "decode speed").found
    assert verdict.facts["disk_needed_bytes"] == 2 * 13_906_320_896 + fits.IMAGE


@pytest.mark.torch
@pytest.mark.parametrize(
    ("change", "line", "word"),
    [
        ({"free_memory": 30 << 30}, "memory for it", "does not fit"),
        ({"docker_free": 30 * 10**9}, "disk for it", "43.8 GB needed"),
        ({"docker": {**INFO, "Runtimes": {}}}, "image for glm-4v-9b", "no nvidia runtime"),
        ({"docker": None}, "image for glm-4v-9b", "no docker daemon"),
    ],
)
def test_what_keeps_glm4v_off_an_orin(change: dict[str, object], line: str, word: str) -> None:
    verdict = fits.assess_model("glm-4v-9b", replace(ORIN, **change), IMAGES)  # type: ignore[arg-type]
    assert not verdict.fits
    assert named(verdict.findings, line).state == "bad" and word in named(verdict.findings, line).found


@pytest.mark.torch
def test_a_container_may_take_less_than_is_free() -> None:
    verdict = fits.assess_model("glm-4v-9b", replace(ORIN, free_memory=63 << 30), IMAGES)
    assert verdict.facts["free_bytes"] == 56 << 30
    assert "allowed by l4t-jp6" in named(verdict.findings, "memory for it").found


@pytest.mark.torch
def test_glm4v_on_an_h100_and_on_a_cpu() -> None:
    big = fits.assess_model("glm-4v-9b", H100, IMAGES)
    assert (big.fits, big.facts["image"], big.facts["free_bytes"]) == (True, "x86-cuda", 79 << 30)
    far_cpu = fits.assess_model("glm-4v-9b", replace(PLAIN, where="ssh://h"), IMAGES)
    assert not far_cpu.fits and far_cpu.findings[0].state == "bad"
    here = fits.assess_model("glm-4v-9b", replace(PLAIN, free_memory=100 << 30), IMAGES, torch_loads=True)
    assert here.facts["held_bytes"] == 4 * 13_906_320_896  # float32
    assert here.facts["decode_tokens_per_s_at_most"] is None


def test_models_without_weights_need_no_room() -> None:
    for ref in ("majority", "rule:gold", "endpoint:some-model"):
        verdict = fits.assess_model(ref, PLAIN, IMAGES)
        assert verdict.fits and verdict.facts["image"] == "x86-cpu"


def test_no_bound_where_weights_may_stay_in_a_cache() -> None:
    verdict = fits.assess_model("blind:tiny-glm4v", H100, IMAGES)
    assert verdict.fits and verdict.facts["decode_tokens_per_s_at_most"] is None
    assert "cache" in named(verdict.findings, "decode speed").found


def test_what_is_no_model() -> None:
    with pytest.raises(InputError, match="no such model"):
        fits.assess_model("no-such-model", PLAIN, IMAGES)


def test_bandwidth_is_of_the_very_card() -> None:
    assert bandwidth(ORIN) == 204.8e9
    assert bandwidth(H100) == 3352e9
    assert bandwidth(replace(H100, gpus=(replace(H100.gpus[0], name="NVIDIA H100 80GB HBM9"),))) is None
    assert bandwidth(replace(ORIN, board="NVIDIA Jetson Orin Nano Developer Kit")) is None
    assert bandwidth(PLAIN) is None


@pytest.mark.torch
def test_sizes_from_files_are_those_of_the_network(tmp_path: Path) -> None:
    """A folder with the published config and an official name for every tensor is counted as the name is."""
    import shutil

    from deckbench.models.families import published
    from deckbench.models.phi3v.weights import official_name
    from deckbench.models.random_weights import skeleton

    folder = tmp_path / "phi"
    shutil.copytree(published()["phi-3-vision"], folder)
    header, end = {}, 0
    for name, tensor in skeleton("phi-3-vision").module.named_parameters():
        first, end = end, end + 2 * tensor.numel()
        header[official_name(name)] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [first, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)  # a hole: it takes no disk
    assert fits.sizes(str(folder)) == fits.sizes("phi-3-vision")


def test_what_a_token_reads() -> None:
    vision = {"model.vision_tower.a": 7, "model.multi_modal_projector.a": 5}
    own = {"model.language_model.layers.0.a": 100, "model.language_model.embed_tokens.weight": 50}
    assert fits.read_of({**vision, **own, "lm_head.weight": 50}) == 150
    assert fits.read_of({**vision, **own}) == 150  # the table is the output layer
    assert fits.read_of({**vision, **own, "model.language_model.layers.0.mlp.experts.1.w": 9}) is None
    assert fits.read_of(own) is None
    assert fits.read_of({}) is None


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    place = tmp_path / "model.safetensors"
    whole = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    good = len(whole).to_bytes(8, "little") + whole + bytes(8)
    place.write_bytes(good)
    assert fits.headers(tmp_path) == {"a": (2, 8)}
    for bad in (good[:-1], good[:20], b"", b"\xff" * 40, (4).to_bytes(8, "little") + b"[[]]"):
        place.write_bytes(bad)
        with pytest.raises(InputError, match=r"model\.safetensors"):
            fits.headers(tmp_path)


def inspected(architecture: str, *, locked: bool) -> dict[str, object]:
    labels = {"deckbench.locked": "true"} if locked else {}
    return {"Architecture": architecture, "Os": "linux", "Config": {"Labels": labels}, "RootFS": {"Layers": []}}


def test_images_built_and_not() -> None:
    built: dict[str, dict[str, Any]] = {
        IMAGES["x86-cpu"].tag: inspected("amd64", locked=True),
        IMAGES["x86-cuda"].tag: inspected("amd64", locked=False),
        IMAGES["arm64-cpu"].tag: inspected("amd64", locked=True),
        IMAGES["l4t-jp7"].tag: {"Architecture": "arm64"},  # and nothing else: what a host sends that lies
    }
    found = {one.name: one for one in assess.image_findings(replace(PLAIN, images=built), IMAGES, {"arm64"})}
    assert found["image x86-cpu"].state == "good" and "locked; runs here" in found["image x86-cpu"].found
    assert found["image x86-cuda"].state == "bad" and "unlocked" in found["image x86-cuda"].found
    assert "is amd64, not arm64" in found["image arm64-cpu"].found
    assert found["image l4t-jp7"].state == "absent"
    assert found["image l4t-jp6"].state == "absent" and "under emulation" in found["image l4t-jp6"].found


def test_daemons() -> None:
    assert assess.can_run(ORIN, IMAGES) and assess.can_run(PLAIN, IMAGES)
    assert not assess.can_run(replace(ORIN, docker=None), IMAGES)
    assert not assess.can_run(replace(ORIN, machine="riscv64"), IMAGES)
    rootless = replace(PLAIN, docker={**INFO, "SecurityOptions": ["name=rootless"], "MemoryLimit": False}, left_over=2)
    found = assess.daemon_findings(rootless)
    assert "rootless" in named(found, "docker daemon").found
    assert named(found, "container limits").state == "bad"
    assert named(found, "left behind").fix == "deckbench containers prune"
    found = assess.daemon_findings(replace(PLAIN, waiting=2))
    assert named(found, "waiting to be fetched").state == "good"
    assert "left behind" not in {one.name for one in found}
    cdi = {**INFO, "Runtimes": {}, "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}]}
    assert assess.has_nvidia(replace(H100, docker=cdi))


@given(
    st.dictionaries(st.sampled_from(KEYS), st.text() | JSON.map(json.dumps)),
    st.dictionaries(st.sampled_from(INFO_KEYS), JSON),
)
def test_whatever_a_host_says_the_report_is_made(values: dict[str, str], info: dict[str, object]) -> None:
    machine = remote.machine("ssh://host", {"docker": json.dumps(info), **values, "machine": "aarch64"})
    findings = [*assess.machine_findings(machine), *assess.daemon_findings(machine)]
    findings += assess.image_findings(machine, IMAGES, set())
    findings += fits.assess_model("tiny-glm4v", machine, IMAGES).findings
    assert all(harmless(one.found) and harmless(one.name) and harmless(one.fix) for one in findings)
    assert assess.can_run(machine, IMAGES) in (True, False)
