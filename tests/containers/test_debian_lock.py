"""A lock of Debian packages that has aged: Debian has replaced some since, and keeps the old ones in its archive."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deckbench.containers.bootstrap import ARCHIVE_VARIABLE, LOCK, changes, locked_base
from deckbench.containers.lock import lock_image
from deckbench.containers.spec import Image
from deckbench.errors import InputError
from tests.containers.test_lock import an_image

# mmdebstrap as far as it matters here: a root file system whose packages depend on the sources that it is given. The
# mirror has a newer apt; the archive has the old one from a day after the lock on, as it lags behind the mirror.
MMDEBSTRAP = """#!/usr/bin/env python3
import io, sys, tarfile
place, sources = next((arg, sys.argv[n + 1:]) for n, arg in enumerate(sys.argv) if arg.endswith(".tar"))
old = any("/archive/debian/20240103T000000Z " in line for line in sources)
packages = {"apt": "2.6.1" if old else "2.6.2", "libc6": "2.36"} | ({"gone": "1"} if old else {"new": "1"})
status = "".join(f"Package: {name}\\nStatus: ok\\nVersion: {version}\\n\\n" for name, version in packages.items())
with tarfile.open(place, "w") as tar:
    entry = tarfile.TarInfo("var/lib/dpkg/status")
    entry.size = len(status)
    tar.addfile(entry, io.BytesIO(status.encode()))
"""


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Image:
    """An image with a lock of 2 January 2024."""
    program = tmp_path / "bin" / "mmdebstrap"
    program.parent.mkdir()
    program.write_text(MMDEBSTRAP)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return an_image(tmp_path / "image", debian={"release": "bookworm", "packages": ["python3"]})


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Debian's dated archive on loopback; yields the paths that it is asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    monkeypatch.setenv(ARCHIVE_VARIABLE, f"http://127.0.0.1:{server.server_address[1]}/")
    yield asked
    server.shutdown()
    server.server_close()


def lock_of(image: Image, *, old: bool, stamp: str | None = "20240102T000000Z") -> str:
    """The lock of the base that the archive has, or of the one that the mirror has."""
    import tempfile

    from deckbench.containers.bootstrap import bootstrap, lock_text

    with tempfile.TemporaryDirectory() as folder:
        text = lock_text(image, bootstrap(image, Path(folder), "20240103T000000Z" if old else None))
    head, digest, *packages = text.splitlines()
    return "\n".join([head, digest, *([f"snapshot {stamp}"] if stamp else []), *packages, ""])


def test_an_aged_lock_is_built_from_the_dated_archive(
    image: Image, archive: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (image.folder / LOCK).write_text(lock_of(image, old=True))
    assert locked_base(image, tmp_path).packages == ("apt=2.6.1", "gone=1", "libc6=2.36")
    assert archive == ["/archive/debian/20240102T000000Z/", "/archive/debian/20240103T000000Z/"]
    assert "base from its archive of 20240103T000000Z" in capsys.readouterr().err


def test_a_lock_of_today_asks_no_archive(image: Image, archive: list[str], tmp_path: Path) -> None:
    (image.folder / LOCK).write_text(lock_of(image, old=False))
    assert locked_base(image, tmp_path).packages == ("apt=2.6.2", "libc6=2.36", "new=1")
    (image.folder / LOCK).unlink()
    assert len(locked_base(image, tmp_path).packages) == 3 and archive == []


@pytest.mark.parametrize("stamp", ["20240102T000000Z", "20249999T000000Z", None])
def test_one_command_makes_a_new_lock_and_says_what_changed(
    image: Image, stamp: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ARCHIVE_VARIABLE, "http://127.0.0.1:9")
    (image.folder / LOCK).write_text(lock_of(image, old=True, stamp=stamp))
    with pytest.raises(InputError, match=r"3 packages changed: apt 2\.6\.1 -> 2\.6\.2, \+ new=1, - gone=1") as caught:
        locked_base(image, tmp_path)
    assert "containers lock probe --only base --base bootstrap" in (caught.value.fix or "")
    assert ("http://127.0.0.1:9 does not answer" in str(caught.value)) == (stamp == "20240102T000000Z")
    said = lock_image(image, "base", base="bootstrap", find_links=[])
    assert said == "base locked, 3 Debian packages; 3 changed: apt 2.6.1 -> 2.6.2, + new=1, - gone=1"
    assert (image.folder / LOCK).read_text().splitlines()[2].startswith("snapshot 20")
    assert locked_base(image, tmp_path).packages == ("apt=2.6.2", "libc6=2.36", "new=1")
    kept = (image.folder / LOCK).read_bytes()
    assert lock_image(image, "base", base="bootstrap", find_links=[]) == "base as locked, 3 Debian packages"
    assert (image.folder / LOCK).read_bytes() == kept


def test_a_line_that_is_none_is_no_change(image: Image, archive: list[str], tmp_path: Path) -> None:
    (image.folder / LOCK).write_text(lock_of(image, old=True) + "nonsense\n")
    with pytest.raises(InputError, match=r"debian\.lock:7: not a line of a lock"):
        locked_base(image, tmp_path)
    assert archive == []


def test_changes_are_listed_by_name() -> None:
    assert changes(["a=1", "b=2"], ["b=3", "c=1:2=3"]) == ["b 2 -> 3", "+ c=1:2=3", "- a=1"]
