from __future__ import annotations

import errno
from pathlib import Path

import pytest

from deckbench.errors import OutsideError
from deckbench.train import checkpoint
from tests.train import micro_world


def files(step: int) -> dict[str, bytes]:
    return {"state.pt": b"weights of " + str(step).encode() * 100, "more.json": b"{}"}


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        checkpoint.write(tmp_path, step, files(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-100"]
    found = checkpoint.latest_good(tmp_path)
    assert found is not None
    assert checkpoint.step_of(found) == 100


@pytest.mark.parametrize("damage", ["cut", "flip", "no seal", "torn seal", "missing", "stranger", "other step"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    checkpoint.write(tmp_path, 5, files(5))
    newest = checkpoint.write(tmp_path, 10, files(10))
    state, seal = newest / "state.pt", newest / checkpoint.SEAL
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:-7])
    elif damage == "flip":
        state.write_bytes(b"W" + state.read_bytes()[1:])
    elif damage == "no seal":
        seal.unlink()
    elif damage == "torn seal":
        seal.write_bytes(seal.read_bytes()[:20])
    elif damage == "missing":
        state.unlink()
    elif damage == "stranger":
        (newest / "evil.pkl").write_bytes(b"x")
    else:
        newest.rename(tmp_path / "checkpoint-11")
    found = checkpoint.latest_good(tmp_path)
    assert found == tmp_path / "checkpoint-5"
    assert checkpoint.all_of(tmp_path) == [found]
    checkpoint.write(tmp_path, 10, files(10))
    assert checkpoint.latest_good(tmp_path) == newest


@pytest.mark.parametrize("call", range(1, 8))
def test_killed_anywhere_inside_a_write(tmp_path: Path, call: int) -> None:
    """SIGKILL around every fsync of the write: the old checkpoint or the new one is there, never half a one."""
    checkpoint.write(tmp_path, 5, files(5))

    def work() -> None:
        micro_world.kill_at(checkpoint.disk, "fsync_path", call)
        checkpoint.write(tmp_path, 10, files(10))

    code = micro_world.in_child(work)
    assert code in {0, -9}
    found = checkpoint.latest_good(tmp_path)
    assert found is not None
    assert checkpoint.step_of(found) == (10 if call >= 5 else 5)
    assert not list(tmp_path.glob(".checkpoint*"))


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.write(tmp_path, 5, files(5))

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutsideError, match="No space left") as caught:
            checkpoint.write(tmp_path, 10, files(10))
    assert caught.value.exit_code == 3
    assert "--resume" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]
    assert checkpoint.is_good(tmp_path / "checkpoint-5")


def test_nothing_there(tmp_path: Path) -> None:
    assert checkpoint.latest_good(tmp_path / "nowhere") is None
