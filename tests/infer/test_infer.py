from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deckbench import artifact
from deckbench.csvfile import csv_records
from deckbench.dataset import Sample
from deckbench.errors import InputError, OutsideError
from deckbench.infer import ask, entries, infer, predict, workers
from deckbench.journal import read_journal
from deckbench.parse import clean
from deckbench.predictions import COLUMNS, csv_bytes
from tests.train import micro_world


@pytest.fixture
def go(model: Path, data: Path, tmp_path: Path) -> Callable[..., artifact.Manifest]:
    def call(name: str = "p.csv", **given: Any) -> artifact.Manifest:
        return infer(**{"model": str(model), "data": data, "out": tmp_path / name, **given})

    return call


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process, so that tests can count and kill; tests of several ones say so."""
    monkeypatch.setattr(predict, "processes_for", lambda answerer, pictures: 0)


@pytest.fixture(scope="session")
def whole(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """Content hash and bytes of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "p.csv"
    made = infer(model=str(model), data=data, out=out)
    return made.content_hash, out.read_bytes()


def rows_of(path: Path) -> list[dict[str, str]]:
    return [record for _, record in csv_records(path)]


def test_columns_order_and_sidecars(go: Callable[..., artifact.Manifest], data: Path, tmp_path: Path) -> None:
    made = go()
    rows = rows_of(tmp_path / "p.csv")
    assert tuple(rows[0]) == COLUMNS
    assert [row["id"] for row in rows] == [json.loads(line)["id"] for line in (data / "test.jsonl").open()]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.csv", "p.manifest.json", "p.timings.csv"]
    manifest = json.loads((tmp_path / "p.manifest.json").read_text())
    assert manifest["content"]["files"]["predictions.csv"]["sha256"] == artifact.hash_file(tmp_path / "p.csv")
    assert artifact.hash_json(manifest["content"]) == manifest["content_hash"] == made.content_hash
    assert str(data) not in (tmp_path / "p.manifest.json").read_text()
    assert made.observed["hardware"]["device"] == "cpu" and "torch" in made.observed["packages"]
    times = rows_of(tmp_path / "p.timings.csv")
    assert [row["id"] for row in times] == [row["id"] for row in rows]
    assert all(float(row["vision_s"]) > 0 and row["asked_together"] == "3" for row in times)


def test_p_anomaly_is_the_option_that_means_anomaly(
    go: Callable[..., artifact.Manifest], data: Path, tmp_path: Path
) -> None:
    go()
    anomaly = {row["id"]: row.get("anomaly") for row in map(json.loads, (data / "test.jsonl").open())}
    for row in rows_of(tmp_path / "p.csv"):
        if row["kind"] != "choice":
            assert row["p_a"] == row["p_b"] == row["p_anomaly"] == ""
            continue
        gold, other = ("p_a", "p_b") if row["gold"] == "A" else ("p_b", "p_a")
        assert row["p_anomaly"] == row[gold if anomaly[row["id"]] else other]
        assert row["p_a"] != row["p_b"]
        assert len(row["p_a"].partition(".")[2]) == 8


def test_same_inputs_give_the_same_bytes(
    go: Callable[..., artifact.Manifest], whole: tuple[str, bytes], tmp_path: Path
) -> None:
    assert go("other.csv").content_hash == whole[0]
    assert (tmp_path / "other.csv").read_bytes() == whole[1]


def test_blind_differs(go: Callable[..., artifact.Manifest], model: Path, tmp_path: Path) -> None:
    go()
    go("blind.csv", model=f"blind:{model}")
    seen, blind = (rows_of(tmp_path / name) for name in ("p.csv", "blind.csv"))
    assert [row["tokens_in"] for row in seen] == [row["tokens_in"] for row in blind]
    assert len({row["p_a"] for row in blind if row["kind"] == "choice"}) == 2  # one per order of the options
    assert len({row["p_a"] for row in seen if row["kind"] == "choice"}) > 2


def test_shards_are_the_whole(go: Callable[..., artifact.Manifest], whole: tuple[str, bytes], tmp_path: Path) -> None:
    parts = []
    for number in (1, 2, 3, 4):
        go(f"{number}.csv", shard=f"{number}/4")
        parts += (tmp_path / f"{number}.csv").read_bytes().decode().splitlines(keepends=True)[1:]
    go()
    assert sorted(parts) == sorted((tmp_path / "p.csv").read_text().splitlines(keepends=True)[1:])


def test_limit_and_file(go: Callable[..., artifact.Manifest], data: Path, tmp_path: Path) -> None:
    go(limit=4)
    assert len(rows_of(tmp_path / "p.csv")) == 4
    go("file.csv", data=data / "test.jsonl", limit=4)
    assert (tmp_path / "file.csv").read_bytes() == (tmp_path / "p.csv").read_bytes()


def test_an_adapter_is_used(
    go: Callable[..., artifact.Manifest], model: Path, data: Path, tmp_path: Path, whole: tuple[str, bytes]
) -> None:
    from deckbench.train import train
    from deckbench.train.merge import merge

    settings = {**micro_world.SETTINGS, "max_steps": 100, "dropout": 0.0}
    adapter = train(model=str(model), data=data, out=tmp_path / "a", overrides=settings)
    made = go("adapted.csv", adapter=adapter.path)
    assert made.content["inputs"]["model"]["adapter"] == adapter.content_hash
    rows = [row for row in rows_of(tmp_path / "adapted.csv") if row["kind"] == "choice"]
    assert all(row["parsed"] in {"A", "B"} for row in rows)
    assert {row["prediction"] for row in rows_of(tmp_path / "adapted.csv") if row["kind"] == "open"} <= {
        "a red square.",
        "a blue square.",
    }
    merged = merge(model=str(model), adapter=adapter.path, out=tmp_path / "merged")
    assert merged.content["inputs"]["adapter"] == adapter.content_hash
    go("merged.csv", model=str(merged.path))
    assert (tmp_path / "merged.csv").read_bytes() == (tmp_path / "adapted.csv").read_bytes()
    with pytest.raises(InputError, match="already holds"):
        merge(model=str(model), adapter=adapter.path, out=tmp_path / "merged")
    other = micro_world.make_model(tmp_path / "o/micro", seed=3)
    with pytest.raises(InputError, match="was trained on"):
        merge(model=str(other), adapter=adapter.path, out=tmp_path / "merged2")
    assert not (tmp_path / "merged2").exists()


# Killed and resumed


KILLS = {
    "before the first picture": (predict, "answer_picture", 1, False),
    "in the middle": (predict, "answer_picture", 4, False),
    "when all is answered": (predict, "publish", 1, False),
    "before the manifest": (artifact, "atomic_write", 3, False),
    "between manifest and csv": (artifact, "atomic_write", 3, True),
    "when the csv is there": (artifact, "atomic_write", 4, True),
}


@pytest.mark.parametrize("when", KILLS)
def test_sigkill_and_again(
    go: Callable[..., artifact.Manifest], whole: tuple[str, bytes], tmp_path: Path, when: str
) -> None:
    def work() -> None:
        micro_world.kill_at(*KILLS[when][:3], after=KILLS[when][3])
        go()

    assert micro_world.in_child(work) == -9
    assert (tmp_path / "p.csv").exists() == (when == "when the csv is there")
    asked: list[str] = []
    real = predict.answer_picture

    def counted(answerer: Any, samples: Sequence[Sample]) -> list[Any]:
        asked.append(samples[0].id)
        return real(answerer, samples)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "answer_picture", counted)
        assert go().content_hash == whole[0]
    assert len(asked) == {"before the first picture": 6, "in the middle": 3}.get(when, 0)
    assert (tmp_path / "p.csv").read_bytes() == whole[1]
    assert not (tmp_path / "p.partial").exists()


@pytest.mark.parametrize("tail", [b'{"picture": 3, "rows": [["x"', b"\0" * 40, b'{"picture": 3}\n', b"[1]\n"])
def test_a_torn_line_is_dropped(
    go: Callable[..., artifact.Manifest], whole: tuple[str, bytes], tmp_path: Path, tail: bytes
) -> None:
    def work() -> None:
        micro_world.kill_at(predict, "answer_picture", 4)
        go()

    assert micro_world.in_child(work) == -9
    with (tmp_path / "p.partial" / predict.ANSWERS).open("ab") as file:
        file.write(tail)
    assert go().content_hash == whole[0]
    assert (tmp_path / "p.csv").read_bytes() == whole[1]


def test_a_partial_of_other_inputs_is_refused(go: Callable[..., artifact.Manifest], tmp_path: Path) -> None:
    def work() -> None:
        micro_world.kill_at(predict, "answer_picture", 4)
        go()

    assert micro_world.in_child(work) == -9
    other = micro_world.make_model(tmp_path / "m/micro", seed=4)
    with pytest.raises(InputError, match="made with another model"):
        go(model=str(other))
    with pytest.raises(InputError, match="made with another limit"):
        go(limit=5)
    assert (tmp_path / "p.partial").is_dir()


def test_done_is_done(go: Callable[..., artifact.Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = go()
    monkeypatch.setattr(predict, "answer_picture", None)
    assert go().content_hash == made.content_hash
    with pytest.raises(InputError, match="made with another limit"):
        go(limit=2)
    (tmp_path / "p.csv").write_text("mine")
    with pytest.raises(InputError, match="no finished prediction"):
        go()
    assert (tmp_path / "p.csv").read_text() == "mine"


def test_full_disk_keeps_the_answers(
    go: Callable[..., artifact.Manifest], whole: tuple[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = predict.answer_picture, [3]

    def failing(answerer: Any, samples: Sequence[Sample]) -> list[Any]:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(answerer, samples)

    with monkeypatch.context() as patch:
        patch.setattr(predict, "answer_picture", failing)
        with pytest.raises(OutsideError, match="No space left") as caught:
            go()
    assert caught.value.exit_code == 3
    assert len(read_journal(tmp_path / "p.partial" / predict.ANSWERS)[0]) == 3
    assert go().content_hash == whole[0]


# Several processes


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_change_nothing(
    go: Callable[..., artifact.Manifest],
    whole: tuple[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
) -> None:
    monkeypatch.setattr(predict, "processes_for", lambda answerer, pictures: processes)
    assert go().content_hash == whole[0]
    assert (tmp_path / "p.csv").read_bytes() == whole[1]


def test_only_networks_on_the_cpu_get_processes(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deckbench.models.load import load_model

    monkeypatch.setattr(workers, "usable_cores", lambda: 4)
    assert workers.processes_for(load_model(str(model)), 100) == 4
    assert workers.processes_for(load_model(f"blind:{model}"), 3) == 3
    assert workers.processes_for(load_model(str(model)), 1) == 0
    assert workers.processes_for(load_model("majority"), 100) == 0


def test_a_dead_process_can_be_gone_on_from(
    go: Callable[..., artifact.Manifest], whole: tuple[str, bytes], tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "processes_for", lambda answerer, pictures: 2)
        real = predict.answer_picture
        patch.setattr(predict, "answer_picture", lambda a, s: os._exit(9) if s[0].id[0] == "4" else real(a, s))
        with pytest.raises(OutsideError, match="an answering process died"):
            go()
    assert (tmp_path / "p.partial").is_dir()
    assert go().content_hash == whole[0]


def test_errors_of_processes_come_home(
    go: Callable[..., artifact.Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "processes_for", lambda answerer, pictures: 2)
    with pytest.raises(InputError, match=r"2\.png"):
        go(data=broken_picture(tmp_path))
    assert not (tmp_path / "p.partial").exists()
    monkeypatch.setattr(predict, "answer_picture", lambda answerer, samples: 1 / 0)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        go()


def test_processes_end_with_the_first_one(go: Callable[..., artifact.Manifest], tmp_path: Path) -> None:
    """SIGKILL of the first process leaves no orphan that goes on computing."""

    def work() -> None:
        predict.processes_for = lambda answerer, pictures: 3  # type: ignore[assignment]
        real = predict.answer_picture

        def noted(answerer: Any, samples: Sequence[Sample]) -> list[Any]:
            (tmp_path / f"pid-{os.getpid()}").touch()
            time.sleep(0.2)
            return real(answerer, samples)

        predict.answer_picture = noted
        micro_world.kill_at(entries, "row_of", 1)
        go()

    assert micro_world.in_child(work) == -9
    pids = [int(path.name.partition("-")[2]) for path in tmp_path.glob("pid-*")]
    assert pids
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and any(running(pid) for pid in pids):
        time.sleep(0.1)
    assert not any(running(pid) for pid in pids)


def running(pid: int) -> bool:
    """Is there such a process that is no zombie?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# Broken inputs


def broken_picture(tmp_path: Path) -> Path:
    place = micro_world.make_dataset(tmp_path / "d", 3)
    (place / "images/2.png").write_bytes(b"no picture")
    return place


def edited(tmp_path: Path) -> Path:
    with artifact.writing(tmp_path / "d", "dataset") as draft:
        shutil.copytree(micro_world.make_dataset(tmp_path / "raw", 2), draft.path, dirs_exist_ok=True)
    (tmp_path / "d/images/0.png").write_bytes((tmp_path / "d/images/1.png").read_bytes())
    return tmp_path / "d"


BROKEN: list[tuple[Callable[[Path], dict[str, Any]], str]] = [
    (lambda tmp: {"data": tmp / "nowhere"}, "not found"),
    (lambda tmp: {"data": broken_picture(tmp)}, "2.png"),
    (lambda tmp: {"data": edited(tmp)}, "was changed since"),
    (lambda tmp: {"data": micro_world.make_dataset(tmp / "d", 2, ("train",))}, "no test part"),
    (lambda tmp: {"split": "tset"}, "no tset part"),
    (lambda tmp: {"model": "no-such-model"}, "no such model"),
    (lambda tmp: {"adapter": tmp / "nowhere"}, "not found"),
    (lambda tmp: {"out": tmp / "p.json"}, "not a .csv file"),
    (lambda tmp: {"limit": 0}, "the limit is 0"),
    *[(lambda tmp, shard=shard: {"shard": shard}, "is not i/N") for shard in ("0/2", "3/2", "x", "1/", "-1/2", "1/0")],
    (lambda tmp: {"shard": "7/7"}, "no sample to answer"),
]


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_broken_input(go: Callable[..., artifact.Manifest], tmp_path: Path, number: int) -> None:
    make, message = BROKEN[number]
    given = make(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError) as caught:
        go(**given)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2
    assert sorted(tmp_path.iterdir()) == before


# Asking, and the table


def test_ask(model: Path, data: Path) -> None:
    question = micro_world.PROMPT.format(a="red", b="blue")
    answers = ask(model=str(model), frame=data / "images/0.png", questions=[question, "Describe."])
    assert answers[0].p_a is not None
    assert answers[1].p_a is None
    with pytest.raises(InputError, match="the question is empty"):
        ask(model=str(model), frame=data / "images/0.png", questions=[" "])
    with pytest.raises(InputError, match=r"train\.jsonl"):
        ask(model=str(model), frame=data / "train.jsonl", questions=["Describe."])
    with pytest.raises(InputError, match="samples of a dataset only"):
        ask(model="majority", frame=data / "images/0.png", questions=["Describe."])


@given(st.lists(st.lists(st.text(), min_size=3, max_size=3), max_size=5))
def test_any_text_survives_the_table(rows: list[list[str]]) -> None:
    cleaned = [[clean(value) for value in row] for row in rows]
    text = csv_bytes(("a", "b", "c"), cleaned).decode()
    import io

    assert list(csv.reader(io.StringIO(text, newline=""), strict=True))[1:] == cleaned


def test_control_characters_are_marked() -> None:
    assert clean("a\0b\rc\r\nd\te") == "a\ufffdb\nc\nd\te"
