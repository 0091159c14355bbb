"""Locks and wheels: what was resolved is what is installed, or nothing is."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deckbench.containers.archive import Layer
from deckbench.containers.bootstrap import Rootfs, check_lock, lock_text
from deckbench.containers.install import install_packages
from deckbench.containers.lock import Wheel, best_wheel, expand, lock_image, lock_wheels, read_wheels, wheels_text
from deckbench.containers.resolve import platforms
from deckbench.containers.spec import Image, load_images
from deckbench.containers.wheels import check_wheels, fetch_wheels
from deckbench.errors import InputError

NAME = st.from_regex(r"[a-z][a-z0-9-]{0,20}[a-z0-9]", fullmatch=True)
VERSION = st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}(\+[a-z]{1,4})?", fullmatch=True)


def an_image(folder: Path, **fields: object) -> Image:
    """An image whose locks lie in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"platform": "linux/amd64", "python": "3.11", "base": "docker.io/library/none:1", "gpu": "none"}
    limits = {"serves": ["tiny-glm4v"], "memory_gib": 1, "pids": 64, "minutes": 1}
    return Image.model_validate({"name": "probe", "folder": folder, **values, **limits, **fields})


def a_wheel(folder: Path, name: str = "probe_pkg", text: str = "VALUE = 1\n") -> Wheel:
    """A wheel of one module in `folder`, and its line of a lock."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{name}-1.0-py3-none-any.whl"
    about = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr(f"{name}.py", text)
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", f"{name}.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")
    return Wheel(name.replace("_", "-"), "1.0", hashlib.sha256(place.read_bytes()).hexdigest(), place.name)


@given(st.lists(st.tuples(NAME, VERSION, st.binary(min_size=1)), max_size=8))
def test_a_lock_reads_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, bytes]]
) -> None:
    image = an_image(tmp_path_factory.mktemp("lock"))
    wheels = [
        Wheel(name, version, hashlib.sha256(data).hexdigest(), f"{name.replace('-', '_')}-{version}-py3-none-any.whl")
        for name, version, data in rows
    ]
    (image.folder / "requirements.lock").write_text(wheels_text(image, wheels), encoding="utf-8")
    assert read_wheels(image) == wheels


@pytest.mark.parametrize(
    "line",
    [
        "numpy>=1.0",
        "numpy==1.0",
        "numpy==1.0 --hash=md5:abc  # numpy.whl",
        f"numpy==1.0 --hash=sha256:{'0' * 64}  # ../numpy.whl",
        f"numpy==1.0 --hash=sha256:{'0' * 64} --index-url x  # numpy.whl",
    ],
)
def test_a_line_that_pins_no_file_is_refused_with_its_place(tmp_path: Path, line: str) -> None:
    image = an_image(tmp_path)
    (tmp_path / "requirements.lock").write_text(f"# head\n{line}\n")
    with pytest.raises(InputError, match=r"requirements\.lock:2: not a line of a lock"):
        read_wheels(image)


def test_without_a_lock_the_image_is_called_unlocked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="probe has no lock file"):
        read_wheels(an_image(tmp_path))


def test_a_wheel_with_another_hash_is_refused_and_nothing_is_installed(tmp_path: Path) -> None:
    image, shelf = an_image(tmp_path / "image"), tmp_path / "shelf"
    wheel = a_wheel(shelf)
    (image.folder / "requirements.lock").write_text(wheels_text(image, [wheel]))
    install_packages(image, tmp_path / "good", shelf)
    assert (tmp_path / "good/opt/deckbench/lib/probe_pkg.py").read_text() == "VALUE = 1\n"

    a_wheel(shelf, text="VALUE = 2\n")
    with pytest.raises(InputError, match="the wheel's hash is"):
        install_packages(image, tmp_path / "bad", shelf)
    assert not (tmp_path / "bad").exists()


def test_a_wheel_that_an_index_offers_with_another_hash_is_not_kept(tmp_path: Path) -> None:
    image, links, shelf = an_image(tmp_path / "image"), tmp_path / "links", tmp_path / "shelf"
    wheel = a_wheel(links)
    (image.folder / "requirements.lock").write_text(wheels_text(image, [wheel]))
    a_wheel(links, text="VALUE = 2\n")
    with pytest.raises(InputError, match="not the locked one"):
        fetch_wheels(image, folder=shelf, find_links=[str(links)])
    assert list(shelf.iterdir()) == []


def test_wheels_come_once_and_are_held_against_the_lock_again(tmp_path: Path) -> None:
    image, links, shelf = an_image(tmp_path / "image"), tmp_path / "links", tmp_path / "shelf"
    wheel = a_wheel(links)
    (image.folder / "requirements.lock").write_text(wheels_text(image, [wheel]))
    fetch_wheels(image, folder=shelf, find_links=[str(links)])
    (links / wheel.file).unlink()
    fetch_wheels(image, folder=shelf)  # nothing to fetch: no index is asked
    (shelf / wheel.file).write_bytes(b"something else")
    with pytest.raises(InputError, match="the wheel's hash is"):
        fetch_wheels(image, folder=shelf)


def test_the_wheel_for_the_images_own_platform_is_chosen(tmp_path: Path) -> None:
    files = [
        "numpy-2.0-cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64.whl",
        "numpy-2.0-cp311-cp311-manylinux_2_28_x86_64.whl",
        "numpy-2.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "numpy-2.0-cp312-cp312-manylinux_2_28_x86_64.whl",
        "numpy-2.0-cp311-cp311-manylinux_2_39_x86_64.whl",
        "numpy-2.0-cp311-cp311-musllinux_1_2_x86_64.whl",
    ]
    wheels = [{"url": f"https://example.org/{file}", "hashes": {"sha256": "0" * 64}} for file in files]
    package = {"name": "numpy", "version": "2.0", "wheels": wheels}
    assert best_wheel(package, an_image(tmp_path))[0].file == files[1]
    assert best_wheel(package, an_image(tmp_path, platform="linux/arm64"))[0].file == files[0]
    with pytest.raises(InputError, match="has no wheel for"):
        best_wheel({**package, "wheels": wheels[3:]}, an_image(tmp_path))


BACKEND = """
import os, time, zipfile

def build_wheel(folder, settings=None, metadata=None):
    # As careless as real ones: what it writes depends on the clock and the seed, unless these are given.
    file, about = "probe_src-1.0-{tag}.whl", "probe_src-1.0.dist-info"
    stamp = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))[:6]
    with zipfile.ZipFile(os.path.join(folder, file), "w") as archive:
        def add(name, text):
            archive.writestr(zipfile.ZipInfo(name, stamp), text)
        add("probe_src.py", f"NAMES = {{[*set('abcdefgh')]}}\\n")
        add(f"{{about}}/METADATA", "Metadata-Version: 2.1\\nName: probe-src\\nVersion: 1.0\\n")
        add(f"{{about}}/WHEEL", "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: {tag}\\n")
        add(f"{{about}}/RECORD", "")
    return file
"""


def a_source(folder: Path, *, tag: str = "py3-none-any", text: str = "") -> Path:
    """A package published as source alone, with its own build code; returns the archive."""
    inside = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "probe-src"\nversion = "1.0"\n',
        "PKG-INFO": "Metadata-Version: 2.2\nName: probe-src\nVersion: 1.0\n",
        "backend.py": BACKEND.format(tag=tag) + text,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "probe_src-1.0.tar.gz", "w:gz") as tar:
        for name, content in inside.items():
            entry = tarfile.TarInfo(f"probe_src-1.0/{name}")
            entry.size = len(content.encode())
            tar.addfile(entry, io.BytesIO(content.encode()))
    return folder / "probe_src-1.0.tar.gz"


def locked_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **source: str) -> Image:
    """An image whose lock holds a wheel that was built from a source in `tmp_path`/links. No index is asked."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_OFFLINE", "1")
    a_source(tmp_path / "links", **source)
    image = an_image(tmp_path / "image", built=["probe-src"])
    (image.folder / "requirements.in").write_text("probe-src\n")
    wheels = lock_wheels(image, [str(tmp_path / "links")])
    (image.folder / "requirements.lock").write_text(wheels_text(image, wheels))
    return image


def test_what_is_published_as_source_is_built_to_the_locked_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, links = locked_source(tmp_path, monkeypatch), [str(tmp_path / "links")]
    (wheel,) = read_wheels(image)
    assert (wheel.file, wheel.source) == ("probe_src-1.0-py3-none-any.whl", "probe_src-1.0.tar.gz")
    assert wheel.source_sha256 == hashlib.sha256((tmp_path / "links" / wheel.source).read_bytes()).hexdigest()
    for folder in ("one", "two"):
        fetch_wheels(image, folder=tmp_path / folder, find_links=links)
        assert hashlib.sha256((tmp_path / folder / wheel.file).read_bytes()).hexdigest() == wheel.sha256
    install_packages(image, tmp_path / "root", tmp_path / "one")
    assert "NAMES" in (tmp_path / "root/opt/deckbench/lib/probe_src.py").read_text()

    # Who has the wheel needs no source: it is held against the lock all the same.
    shutil.move(tmp_path / "one", tmp_path / "given")
    fetch_wheels(image, folder=tmp_path / "three", find_links=[str(tmp_path / "given")])
    assert (tmp_path / "three" / wheel.file).is_file()


def test_another_source_than_the_locked_one_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = locked_source(tmp_path, monkeypatch)
    a_source(tmp_path / "links", text=f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(InputError, match="not the locked one"):
        fetch_wheels(image, folder=tmp_path / "shelf", find_links=[str(tmp_path / "links")])
    assert list((tmp_path / "shelf").iterdir()) == [] and not (tmp_path / "ran").exists()


def test_another_wheel_than_the_locked_one_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = locked_source(tmp_path, monkeypatch)
    (wheel,) = read_wheels(image)
    (image.folder / "requirements.lock").write_text(wheels_text(image, [replace(wheel, sha256="0" * 64)]))
    with pytest.raises(InputError, match="the wheel built here has the hash"):
        fetch_wheels(image, folder=tmp_path / "shelf", find_links=[str(tmp_path / "links")])
    assert list((tmp_path / "shelf").iterdir()) == []


def test_a_source_is_only_built_where_the_image_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked_source(tmp_path, monkeypatch)
    plain = an_image(tmp_path / "image")
    with pytest.raises(InputError, match=r"requirements cannot be met.*(\n|.)*`built` in containers\.toml"):
        lock_wheels(plain, [str(tmp_path / "links")])


def test_a_source_that_makes_a_wheel_for_this_machine_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="has no wheel for linux/amd64"):
        locked_source(tmp_path, monkeypatch, tag="cp39-cp39-macosx_11_0_arm64")


def test_an_image_holds_what_deckbench_depends_on(tmp_path: Path) -> None:
    image = an_image(tmp_path)
    (tmp_path / "requirements.in").write_text("deckbench[endpoint]  # the package\ntorch==2.13.0+cpu\n\n")
    wanted = expand(image)
    assert "torch==2.13.0+cpu" in wanted
    assert any(line.startswith("openai") for line in wanted)
    assert not any(line.startswith(("docker", "deepspeed", "deckbench")) for line in wanted)


def test_an_extra_may_name_other_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = [
        "numpy>=1",
        "deckbench[models]; extra == 'train'",
        "accelerate; extra == 'train'",
        "torch>=2.4; extra == 'models'",
        "openai; extra == 'endpoint'",
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: needs)
    (tmp_path / "requirements.in").write_text("deckbench[train]\n")
    assert sorted(expand(an_image(tmp_path))) == ["accelerate", "numpy>=1", "torch>=2.4"]


def test_every_image_names_the_extras_that_bring_its_models() -> None:
    """The locks are made from these: without them an image would have no torch of DeckBench's choice."""
    for image in load_images().values():
        first = (image.folder / "requirements.in").read_text().splitlines()[0]
        assert "train" in first.partition("[")[2].partition("]")[0].split(","), image.name


@pytest.mark.parametrize("name", ["x86-cpu", "arm64-cpu", "x86-cuda", "l4t-jp7"])
def test_the_locks_that_travel_with_the_package_fit_their_platform(name: str) -> None:
    image = load_images()[name]
    able = set(platforms(image)) | {"any"}
    wheels = read_wheels(image)
    assert {"torch", "transformers", "numpy", "peft"} <= {wheel.name for wheel in wheels}
    for wheel in wheels:
        assert able & set(wheel.file.removesuffix(".whl").rpartition("-")[2].split(".")), wheel.file


def test_what_is_no_requirement_is_named_with_its_line(tmp_path: Path) -> None:
    image = an_image(tmp_path)
    (tmp_path / "requirements.in").write_text("numpy\nthis is : bad\n")
    with pytest.raises(InputError, match=r"requirements\.in:2: not a requirement"):
        expand(image)


def test_wheels_are_not_kept_in_a_file(tmp_path: Path) -> None:
    image = an_image(tmp_path / "image")
    (image.folder / "requirements.lock").write_text(wheels_text(image, [a_wheel(tmp_path / "links")]))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write the wheel cache"):
        fetch_wheels(image, folder=tmp_path / "file")


def test_a_debian_lock_is_read_line_by_line(tmp_path: Path) -> None:
    image = an_image(tmp_path, debian={"release": "bookworm", "packages": ["python3"]})
    rootfs = Rootfs(Layer(tmp_path / "x.tar", "0" * 64), ("libc6=2.36-9+deb12u10", "python3=3.11.2-1+b1"))
    (tmp_path / "debian.lock").write_text(lock_text(image, rootfs))
    check_lock(image, rootfs)
    (tmp_path / "debian.lock").write_text(lock_text(image, rootfs) + "nonsense\n")
    with pytest.raises(InputError, match=r"debian\.lock:5: not a line of a lock"):
        check_lock(image, rootfs)


def test_a_kind_of_base_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'foo' is not a kind of base"):
        lock_image(an_image(tmp_path), "base", base="foo", find_links=[])


def test_a_missing_wheel_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a locked wheel is missing"):
        check_wheels([Wheel("a", "1", "0" * 64, "a-1-py3-none-any.whl")], tmp_path)
