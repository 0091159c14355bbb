"""containers.toml: what is wrong is said with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deckbench.containers.identity import identity
from deckbench.containers.spec import image_named, load_images
from deckbench.errors import InputError

GOOD = """
[one]
platform = "linux/amd64"
python = "3.11"
base = "docker.io/library/none:1"
gpu = "none"
serves = []
memory_gib = 1
pids = 10
minutes = 0
"""


def test_the_images_of_the_design_are_there_with_what_they_need() -> None:
    images = load_images()
    assert {"x86-cpu", "x86-cuda", "l4t-jp6", "l4t-jp7"} <= images.keys()
    for image in images.values():
        assert (image.folder / "requirements.in").is_file() and image.dockerfile.is_file()
    assert images["l4t-jp6"].python == "3.10" and images["l4t-jp7"].python == "3.12"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('platform = "linux/amd64"', 'platform = "linux/riscv64"'), "one.platform"),
        (("pids = 10", "pids = 0"), "one.pids"),
        (("pids = 10", "pidz = 10"), "one.pids: Field required"),
        (("[one]", "[one"), "not valid TOML"),
        (("[one]", "one = 3\n[two]"), "one: not a table"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    (tmp_path / "containers.toml").write_text(GOOD.replace(*change))
    with pytest.raises(InputError) as error:
        load_images(tmp_path)
    assert said in error.value.message() and "containers.toml" in error.value.message()


def test_an_unknown_image_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"(?s)'orin'.*x86-cpu"):
        image_named("orin")


def test_identity_holds_what_runs_and_nothing_else() -> None:
    attrs: dict[str, Any] = {
        "Architecture": "amd64",
        "Os": "linux",
        "RootFS": {"Layers": ["sha256:1", "sha256:2"]},
        "Config": {"Env": ["A=1", "B=2"], "Entrypoint": ["x"], "Cmd": None, "User": "65534:65534", "WorkingDir": ""},
    }
    same = {**attrs, "Created": "now", "RepoTags": ["a:b"], "Id": "sha256:3"}
    same["Config"] = {**attrs["Config"], "Labels": {"a": "b"}, "Env": ["B=2", "A=1"], "Cmd": []}
    assert identity(same) == identity(attrs)
    for name, value in (("Architecture", "arm64"), ("RootFS", {"Layers": ["sha256:2", "sha256:1"]})):
        assert identity({**attrs, name: value}) != identity(attrs)
    for name, setting in (("Env", ["A=1"]), ("Entrypoint", ["y"]), ("User", "0"), ("WorkingDir", "/x"), ("Cmd", ["z"])):
        assert identity({**attrs, "Config": {**attrs["Config"], name: setting}}) != identity(attrs)
