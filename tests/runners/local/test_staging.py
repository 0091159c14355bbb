"""The folder that a containerised step writes to, without a container: what goes in, what comes out, who may."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from deckbench.errors import OutsideError
from deckbench.runners.local.cleanup import recover
from deckbench.runners.local.permissions import change_owner, restore_owners, snapshot
from deckbench.runners.local.staging import COPIED, Staging, locked_staging, move_in, move_out


def fill(folder: Path, *names: str) -> None:
    for name in names:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(name)


def below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_unfinished_work_of_folders_and_tables(tmp_path: Path) -> None:
    fill(tmp_path, "S1.partial/run.json", "S1.logs/events", "a.partial/answers.jsonl", "b.partial/x", "S1-more/x")
    for output, expected in (("S1", ["S1.logs/events", "S1.partial/run.json"]), ("a.csv", ["a.partial/answers.jsonl"])):
        staging = Staging(tmp_path / output)
        with locked_staging(staging) as left:
            assert not left
            assert move_in(staging) == []
            assert below(staging.folder) == expected
            move_out(staging)
    assert below(tmp_path) == [
        "S1-more/x",
        "S1.logs/events",
        "S1.partial/run.json",
        "a.partial/answers.jsonl",
        "b.partial/x",
    ]
    assert not list(tmp_path.glob(".*"))


def test_what_is_there_is_shown_to_the_step(tmp_path: Path) -> None:
    fill(tmp_path, "a.csv", "a.manifest.json", "a.timings.csv", "s.json", "D/manifest.json")
    (tmp_path / "empty").mkdir()
    for output, expected in (("a.csv", ["a.csv", "a.manifest.json", "a.timings.csv"]), ("s.json", ["s.json"])):
        staging = Staging(tmp_path / output)
        with locked_staging(staging):
            move_in(staging)
            assert below(staging.folder) == [COPIED, *expected]
            move_out(staging)
    for output, mounted in (("D", ["D"]), ("empty", [])):
        staging = Staging(tmp_path / output)
        with locked_staging(staging):
            assert move_in(staging) == mounted
            move_out(staging)
    assert below(tmp_path) == ["D/manifest.json", "a.csv", "a.manifest.json", "a.timings.csv", "s.json"]
    assert (tmp_path / "empty").is_dir()


def test_a_stale_copy_replaces_nothing(tmp_path: Path) -> None:
    """A killed start has copied a table in; before the next one, its user makes a newer one."""
    fill(tmp_path, "a.csv", "a.manifest.json", "a.timings.csv")
    staging = Staging(tmp_path / "a.csv")
    with locked_staging(staging):
        move_in(staging)
        (staging.folder / "a.timings.csv").write_text("the step's")
    (tmp_path / "a.csv").write_text("newer")
    (tmp_path / "a.manifest.json").unlink()
    with locked_staging(staging) as left:
        assert left
        move_out(staging)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.csv": "newer", "a.timings.csv": "the step's",
    }  # fmt: skip


def test_half_a_copy_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(source: Path, target: Path) -> None:
        target.write_text("hal")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fill(tmp_path, "a.csv")
    staging = Staging(tmp_path / "a.csv")
    monkeypatch.setattr("shutil.copy2", half)
    with locked_staging(staging):
        with pytest.raises(OSError, match="No space left"):
            move_in(staging)
        move_out(staging)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.csv": "a.csv"}


def test_a_table_is_renamed_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = Staging(tmp_path / "a.csv")
    order = []
    monkeypatch.setattr(
        "deckbench.runners.local.staging.move_into_place", lambda source, target, *, merge: order.append(target.name)
    )
    with locked_staging(staging):
        fill(staging.folder, "a.csv", "a.manifest.json", "a.partial/answers.jsonl", "a.timings.csv", ".a.csv.12.tmp")
        move_out(staging)
    assert order == ["a.partial", "a.timings.csv", "a.manifest.json", "a.csv"]


def test_plots_go_where_they_were_asked_for(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "s.json", ((".plots", tmp_path / "pictures" / "new"),))
    fill(tmp_path, "pictures/new/mine.svg")
    with locked_staging(staging):
        fill(staging.folder, "s.json", ".plots/a.svg", ".plots/b.svg")
        move_out(staging)
    assert below(tmp_path) == ["pictures/new/a.svg", "pictures/new/b.svg", "pictures/new/mine.svg", "s.json"]


def test_the_graded_answers_come_with_their_score(tmp_path: Path) -> None:
    for output, scored in (("score.json", "scored.csv"), ("S2.json", "S2.scored.csv")):
        staging = Staging(tmp_path / output)
        for _ in range(2):  # the second score replaces the first
            with locked_staging(staging):
                move_in(staging)
                fill(staging.folder, output, scored)
                move_out(staging)
    assert below(tmp_path) == ["S2.json", "S2.scored.csv", "score.json", "scored.csv"]


def test_a_step_replaces_nothing_beside_its_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, "noxfile.py", "b.csv", "y.partial/step")
    for output, own in (("x", ["x.logs/events", "x.partial/step"]), ("a.csv", ["a.manifest.json", "a.csv"])):
        staging = Staging(tmp_path / output)
        with locked_staging(staging):
            fill(staging.folder, *own)
            for name in ("noxfile.py", "b.csv", "y.partial/step"):
                (staging.folder / name).parent.mkdir(exist_ok=True)
                (staging.folder / name).write_text("bad")
            move_out(staging)
        assert "removed 'noxfile.py', which the step wrote next to its output" in capsys.readouterr().err
    assert {(tmp_path / name).read_text() for name in ("noxfile.py", "b.csv", "y.partial/step")} == {
        "noxfile.py", "b.csv", "y.partial/step",
    }  # fmt: skip
    assert below(tmp_path) == [
        "a.csv", "a.manifest.json", "b.csv", "noxfile.py", "x.logs/events", "x.partial/step", "y.partial/step",
    ]  # fmt: skip


def test_two_starts_at_once(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "deep" / "x")
    with locked_staging(staging):
        with pytest.raises(OutsideError, match="another run is writing this output"), locked_staging(staging):
            pass
        with pytest.raises(OutsideError, match="another run is writing this output"):
            recover(staging.output)
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_no_folder_can_be_made_is_said() -> None:
    with pytest.raises(OutsideError, match="cannot make the folder"), locked_staging(Staging(Path("/proc/a.csv"))):
        pass


def test_two_results_are_never_mixed(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "x")
    with locked_staging(staging):
        fill(staging.folder, "x/theirs")
        fill(tmp_path, "x/ours")
        with pytest.raises(OutsideError, match="was created here while a container was writing it too"):
            move_out(staging)
    assert below(tmp_path) == [".x.job/x/theirs", "x/ours"]


def test_each_file_is_given_back_to_its_owner(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root's steps run as another user")
    step, alice, bob = (65534, 65534), (12345, 12345), (12346, 12346)
    work = tmp_path / "work"
    fill(work, "hers", "his")
    for path, who in ((work, alice), (work / "hers", alice), (work / "his", bob)):
        os.chown(path, *who)
    before = snapshot(work)
    change_owner(work, step)
    assert {path.stat().st_uid for path in (work, *work.iterdir())} == {step[0]}
    fill(work, "made", "deep/made", "root's")
    for path in (work / "made", work / "deep", work / "deep" / "made"):
        os.chown(path, *step)
    restore_owners(work, before, step)
    owners = {path.relative_to(tmp_path).as_posix(): path.stat().st_uid for path in (work, *work.rglob("*"))}
    assert owners == {
        "work": 12345, "work/hers": 12345, "work/his": 12346, "work/made": 12345, "work/deep": 12345,
        "work/deep/made": 12345, "work/root's": 0,
    }  # fmt: skip


def test_what_comes_out_has_the_rights_that_the_umask_leaves(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "x")
    with locked_staging(staging):
        fill(staging.folder, "x/sub/a")
        (tmp_path / "outside").touch()
        (tmp_path / "outside").chmod(0o666)
        (staging.folder / "x" / "program").write_text("")
        (staging.folder / "x" / "program").chmod(0o755)
        (staging.folder / "x" / "link").symlink_to(tmp_path / "outside")
        before = os.umask(0o027)
        try:
            move_out(staging)
        finally:
            assert os.umask(before) == 0o027
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "x").rglob("*") if path.name != "link"}
    assert modes == {"sub": 0o750, "a": 0o640, "program": 0o750}
    assert (tmp_path / "outside").stat().st_mode & 0o777 == 0o666


def test_a_disk_without_owners_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    fill(tmp_path, "a")
    monkeypatch.setattr("os.chown", refused)
    monkeypatch.setattr("os.getuid", lambda: 0)
    with pytest.raises(OutsideError, match="this file system keeps no owners"):
        change_owner(tmp_path, (65534, 65534))


def test_a_start_without_a_container_takes_up_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, ".x.job/x.partial/step", ".x.job/.x.7-ab.draft/half")
    if os.getuid() == 0:
        os.chown(tmp_path / ".x.job/x.partial", 65534, 65534)
    recover(Path("x"))
    assert below(tmp_path) == ["x.partial/step"]
    assert (tmp_path / "x.partial").stat().st_uid == os.getuid()
    recover(Path("x"))
