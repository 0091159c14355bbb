"""Writing records: what is in them, what is refused, and that the same results make the same record."""

from __future__ import annotations

import csv
import gzip
import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deckbench import artifact
from deckbench.answer import Answer
from deckbench.bench.measure import Segment, Timed, summarise
from deckbench.errors import InputError
from deckbench.record.metrics_schema import Estimate
from deckbench.record.read import read_record, read_samples
from deckbench.record.samples import MAX_THUMBS, SAMPLE_COLUMNS, THUMB_WIDTH, pick_pictures, thumbnail
from deckbench.record.scores import scored_path
from deckbench.record.times import latency_from_timings, percentiles
from deckbench.record.write import slug
from tests.record import fake


def test_what_is_written_is_read_back(one: Path, folder: Path) -> None:
    run = read_record(folder)
    assert run.record.model.name == "tiny-glm4v"
    assert run.record.pool.synthetic is True
    assert run.record.hardware.capability == "AVX2"
    assert run.latency is not None and run.latency.answer.p50 == 0.05
    rows = read_samples(run)
    assert len(rows) == run.record.metrics.n == 60
    right = sum(row["right"] == "true" for row in rows)
    assert right == run.record.metrics.kinds["choice"].metrics["accuracy"].k
    assert {row["group"] for row in rows} == {f"session-{i}" for i in range(6)}
    assert all((folder / row["thumbnail"]).is_file() for row in rows)
    assert sorted(p.name for p in folder.iterdir()) == [
        *("lineage.json.gz", "manifest.json", "questions.jsonl.gz", "record.json", "samples.csv.gz"),
        *("statement.json", "thumbs"),
    ]


def test_the_same_results_make_the_same_record(tmp_path: Path) -> None:
    first = fake.record(tmp_path / "a", tmp_path / "work", p50=0.01)
    second = fake.record(tmp_path / "b", tmp_path / "work", p50=0.02)
    assert first.name == second.name
    assert artifact.read(first).content_hash == artifact.read(second).content_hash
    assert read_record(first).latency != read_record(second).latency


def test_writing_it_again_changes_nothing(tmp_path: Path) -> None:
    first = fake.record(tmp_path / "a", tmp_path / "work")
    before = (first / "manifest.json").read_bytes()
    time.sleep(1.1)
    assert fake.record(tmp_path / "a", tmp_path / "work") == first
    assert (first / "manifest.json").read_bytes() == before


def test_no_machine_path_gets_into_a_record(folder: Path, tmp_path: Path) -> None:
    for name in ("record.json", "manifest.json"):
        assert str(tmp_path) not in (folder / name).read_text()


def test_gzip_holds_no_time_and_no_name(folder: Path) -> None:
    head = (folder / "samples.csv.gz").read_bytes()[:10]
    assert head[3] == 0 and head[4:8] == b"\0\0\0\0"


def test_at_most_fifty_thumbnails_and_wrong_answers_first(tmp_path: Path) -> None:
    data = fake.dataset(tmp_path / "data", n=160, pictures=80, size=(704, 396))
    folder = fake.record(tmp_path / "records", tmp_path, data=data, skill=0.7)
    thumbs = list((folder / "thumbs").iterdir())
    assert len(thumbs) == MAX_THUMBS
    with Image.open(thumbs[0]) as picture:
        assert picture.width == THUMB_WIDTH and picture.format == "JPEG"
    rows = read_samples(read_record(folder))
    wrong = {row["frame"] for row in rows if row["right"] == "false"}
    shown = {row["frame"] for row in rows if row["thumbnail"]}
    assert wrong <= shown or shown <= wrong


def test_every_class_gets_a_turn_among_the_thumbnails() -> None:
    rows = [{"id": f"{c}{i}", "class": c, "right": "false", "image": f"{c}{i}"} for c in "ab" for i in range(9)]
    rows.append({"id": "c0", "class": "c", "right": "true", "image": "c0"})
    assert pick_pictures(pd.DataFrame(rows), most=4) == ["a0", "b0", "a1", "b1"]
    assert "c0" in pick_pictures(pd.DataFrame(rows), most=19)


def test_thumbnails_turn_by_exif_and_drop_metadata(tmp_path: Path) -> None:
    picture = Image.new("RGB", (400, 200), "red")
    exif = picture.getexif()
    exif[0x0112] = 6
    exif[0x010E] = "the lab's secret"
    picture.save(tmp_path / "x.jpg", exif=exif)
    (tmp_path / "y.jpg").write_bytes(thumbnail(tmp_path / "x.jpg"))
    with Image.open(tmp_path / "y.jpg") as small:
        assert small.size == (200, 400)
        assert not small.getexif()


# ---- what is refused, with nothing written


def refused(tmp_path: Path, changes: dict[str, Any]) -> str:
    out = tmp_path / "records"
    with pytest.raises(InputError) as error:
        fake.record(out, tmp_path / "work", instead=changes)
    assert not out.exists() or not list(out.iterdir())
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"command": ""}, "command"),
        ({"curriculum": "../S1"}, "curriculum"),
        ({"dataset": "not a hash"}, "dataset"),
        ({"pool": {"name": "x", "hash": "0" * 64}}, "pool.synthetic"),
        ({"pool": {"name": "x", "hash": "0" * 64, "synthetic": True, "colour": 1}}, "pool.colour"),
        ({"model": {"name": "", "family": "x"}}, "model.name"),
        ({"latency": {"choice": {"source": "bench"}}}, "engine"),
        ({"latency": {}, "bench": None, "predictions": None, "score": Path("x.json")}, "or neither"),
        ({"latency": None, "bench": {"engine": "torch"}}, "bench"),
        ({"inputs": [{"name": "a", "kind": "b", "sha256": "c", "source": "d"}]}, "inputs.0.sha256"),
        ({"score": None}, "or neither"),
        ({"data": Path("nowhere"), "score": Path("score.json")}, "nowhere: not found"),
        ({"predictions": Path("nowhere.csv")}, "nowhere.manifest.json"),
        ({"container": {"name": "x86-cpu", "identity": "latest"}}, "container.identity"),
    ],
)
def test_wrong_fields_are_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    assert said in refused(tmp_path, changes)


def test_predictions_on_another_dataset(tmp_path: Path) -> None:
    data = fake.dataset(tmp_path / "data", n=20)
    other = fake.dataset(tmp_path / "other", n=40)
    said = fake.predictions(tmp_path / "p.csv", other)
    fake.manifest(said, other)
    assert "made on another dataset" in refused(tmp_path, {"data": data, "predictions": said})


def test_an_id_that_occurs_twice(tmp_path: Path) -> None:
    data = fake.dataset(tmp_path / "data", n=4)
    said = fake.predictions(tmp_path / "p.csv", data)
    said.write_text(doubled(said))
    assert "occurs twice" in refused(tmp_path, {"data": data, "predictions": said})


def doubled(path: Path) -> str:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [",".join(rows[0])]
    for row in [*rows, rows[0]]:
        lines.append(",".join('"' + value.replace('"', '""') + '"' for value in row.values()))
    return "\n".join(lines) + "\n"


def test_a_picture_that_is_gone_or_outside(tmp_path: Path) -> None:
    data = fake.dataset(tmp_path / "data", n=4, pictures=2)
    changes = {"data": data, "predictions": fake.predictions(tmp_path / "p.csv", data)}
    (data / "images/000.jpg").write_bytes(b"no picture")
    assert "was changed since" in refused(tmp_path, changes)
    fake.reseal(data)
    (tmp_path / "p.manifest.json").unlink()
    assert "image cannot be read" in refused(tmp_path, changes)
    table = data / "samples.csv"
    table.write_text(table.read_text().replace("images/000.jpg", "../../secret.jpg"))
    fake.reseal(data)
    (tmp_path / "p.manifest.json").unlink()
    assert "leaves the folder" in refused(tmp_path, changes)


def test_missing_column_in_predictions(tmp_path: Path) -> None:
    data = fake.dataset(tmp_path / "data", n=4)
    said = tmp_path / "p.csv"
    said.write_text("id,prediction\ns00000,A\n")
    with pytest.raises(InputError, match="column 'pair_id' is missing"):
        fake.record(tmp_path / "records", tmp_path, instead={"data": data, "predictions": said})


# ---- agreement with the scorer


def test_metrics_are_the_content_of_score_json(one: Path, folder: Path, tmp_path: Path) -> None:
    score = next((tmp_path / "work").glob("*.json"))
    assert json.loads((folder / "record.json").read_text())["metrics"] == json.loads(score.read_text())


@pytest.mark.parametrize("block", ["judge", "events"])
def test_a_block_that_nobody_knows_is_refused_by_name(tmp_path: Path, block: str) -> None:
    data = fake.dataset(tmp_path / "data")
    predictions = fake.predictions(tmp_path / "p.csv", data)
    score = fake.score(predictions, data)
    value = json.loads(score.read_text())
    value["kinds"]["choice"][block] = {"agreement": 1.0}
    score.write_text(json.dumps(value))
    found = refused(tmp_path, {"data": data, "predictions": predictions, "score": score})
    assert f"unknown field kinds.choice.{block}" in found


def test_a_score_of_other_predictions(tmp_path: Path) -> None:
    data = fake.dataset(tmp_path / "data")
    predictions, other = (fake.predictions(tmp_path / f"{i}.csv", data, seed=i) for i in (1, 2))
    changes = {"data": data, "predictions": predictions, "score": fake.score(other, data)}
    assert "would not follow" in refused(tmp_path, changes)


def test_graded_answers_that_were_edited(tmp_path: Path) -> None:
    data = fake.dataset(tmp_path / "data")
    predictions = fake.predictions(tmp_path / "p.csv", data, skill=0.5)
    score = fake.score(predictions, data)
    scored = scored_path(score)
    scored.write_text(scored.read_text().replace(",false,false,,wrong", ",true,true,,", 1))
    changes = {"data": data, "predictions": predictions, "score": score}
    assert "not those of the score" in refused(tmp_path, changes)
    scored.unlink()
    assert scored.name in refused(tmp_path, changes)


# ---- times


def test_percentiles_are_nearest_rank_and_need_enough_values() -> None:
    assert percentiles(range(1, 301)) == {"p50": 150, "p90": 270, "p99": 297, "n": 300}
    assert percentiles(range(298)) == {"p50": 148, "p90": 268, "p99": None, "n": 298}
    assert percentiles([1.0] * 28) == {"p50": 1.0, "p90": None, "p99": None, "n": 28}
    assert percentiles([1.0] * 4) == {"p50": None, "p90": None, "p99": None, "n": 4}


def test_times_of_questions_asked_together_count_once(tmp_path: Path) -> None:
    path = tmp_path / "p.timings.csv"
    lines = ["id,kind,picture,asked_together,preprocess_s,vision_s,prefill_s,decode_s,first_token_s"]
    lines += [f"a{i},choice,{i // 2},2,0.001,0.01,0.02,0.003,0.031" for i in range(12)]
    lines += [f"s{i},scene,{i},1,0.001,0.01,0.02,{i},0.031" for i in range(5)]
    path.write_text("\n".join([*lines, "o,open,x,1,9,9,9,9,9"]) + "\n")
    found = latency_from_timings(path)
    assert set(found) == {"choice", "scene"}  # one open answer is not enough for a median
    assert found["choice"]["answer"]["n"] == 6
    assert found["choice"]["answer"]["p50"] == pytest.approx(0.034)
    assert found["choice"]["first_token"]["p50"] == pytest.approx(0.031)
    assert set(found["choice"]["phases"]) == {"preprocess", "vision", "prefill", "decode"}
    assert found["scene"]["phases"]["decode"]["p50"] == 2


def test_times_beside_the_predictions_are_taken(tmp_path: Path) -> None:
    data = fake.dataset(tmp_path / "data", n=40)
    said = fake.predictions(tmp_path / "p.csv", data)
    rows = "".join(f"s{i:05d},choice,{i},0.25\n" for i in range(9))
    (tmp_path / "p.timings.csv").write_text(f"id,kind,picture,vision_s\n{rows}")
    folder = fake.record(tmp_path / "r", tmp_path / "w", data=data, instead={"predictions": said, "latency": None})
    latency = read_record(folder).latency
    assert latency is not None and (latency.source, latency.answer.p50) == ("timings", 0.25)


def test_a_benchs_times_come_before_those_of_the_inference(tmp_path: Path) -> None:
    data = fake.dataset(tmp_path / "data", n=40)
    said = fake.predictions(tmp_path / "p.csv", data)
    rows = "".join(f"s{i:05d},{kind},{i},0.25\n" for kind in ("choice", "open") for i in range(9))
    (tmp_path / "p.timings.csv").write_text(f"id,kind,picture,vision_s\n{rows}")
    timed = [Timed(0.1 + i / 1e4, {"read": 0.01, "vision": 0.05}, 0.09, answer()) for i in range(40)]
    results = {
        "engine": "torch",
        "memory": {"before_bytes": 1, "peak_bytes": 5 << 20, "peak_is_own": True, "device_peak_bytes": None},
        "kinds": {"choice": summarise([Segment(timed[:2], timed, QUIET)], 40)},
        "schedule": {"id": "5d", "rounds": 2, "jobs": 3, "repeated": False},
    }
    changes = {"predictions": said, "latency": None, "bench": results}
    run = read_record(fake.record(tmp_path / "r", tmp_path / "w", data=data, instead=changes))
    assert {kind: value.source for kind, value in run.observed.latency.items()} == {
        "choice": "bench",
        "open": "timings",
    }
    assert run.latency is not None and run.latency.peak_memory_bytes == 5 << 20
    assert run.latency.answer.p90 is not None and run.latency.answer.p99 is None
    assert run.latency.schedule == "5d" and run.latency.disturbances == ()
    assert run.observed.bench == results


QUIET = {
    "seconds": 10.0,
    "cores": 2,
    "others_s": 0.1,
    "steal_s": 0.0,
    "clock_mhz": None,
    "hottest_c": None,
    "throttle_events": None,
}


def test_a_bench_that_comes_later_gets_into_the_record(tmp_path: Path) -> None:
    """`run --only ROW` measures no latency; the whole suite does, and its answers make the same record."""
    timed = [Timed(0.1, {"vision": 0.05}, 0.09, answer()) for _ in range(9)]
    results = {
        "engine": "torch",
        "memory": {"before_bytes": 1, "peak_bytes": 5, "peak_is_own": True, "device_peak_bytes": None},
        "kinds": {"choice": summarise([Segment(timed[:2], timed, QUIET)], 9)},
        "schedule": {"id": "5d", "rounds": 2, "jobs": 3, "repeated": False},
    }
    first = fake.record(tmp_path / "r", tmp_path / "w", p50=None)
    before = artifact.read(first).content_hash
    with_bench = {"latency": None, "bench": results}
    assert fake.record(tmp_path / "r", tmp_path / "w", instead=with_bench) == first
    latency = read_record(first).latency
    assert latency is not None and latency.source == "bench" and artifact.read(first).content_hash == before
    assert fake.record(tmp_path / "r", tmp_path / "w", p50=None) == first
    assert read_record(first).latency == latency
    assert [path.name for path in (tmp_path / "r").iterdir()] == [first.name]


def test_what_disturbed_a_bench_gets_into_the_record(tmp_path: Path) -> None:
    timed = [Timed(0.1, {"vision": 0.05}, 0.09, answer()) for _ in range(9)]
    results = {
        "engine": "torch",
        "memory": {"before_bytes": 1, "peak_bytes": 5, "peak_is_own": True, "device_peak_bytes": None},
        "kinds": {"choice": summarise([Segment([], timed, {**QUIET, "others_s": 9.0})], 9)},
        "schedule": {"id": "5d", "rounds": 1, "jobs": 1, "repeated": True},
    }
    run = read_record(fake.record(tmp_path / "r", tmp_path / "w", instead={"latency": None, "bench": results}))
    assert run.latency is not None and run.latency.disturbances == ("other processes used 45% of the processor",)


def answer() -> Answer:
    return Answer("A", 0.9, 0.1, 60, 2, {"vision": 0.05})


def test_times_that_are_no_numbers(tmp_path: Path) -> None:
    (tmp_path / "p.timings.csv").write_text("id,kind,picture,vision_s\ns00000,choice,x,soon\n")
    with pytest.raises(InputError, match="not a number"):
        latency_from_timings(tmp_path / "p.timings.csv")


def test_a_record_of_times_only(tmp_path: Path) -> None:
    nothing = {"score": None, "predictions": None}
    folder = fake.record(tmp_path / "r", tmp_path / "w", instead={**nothing, "latency": {"choice": fake.times(0.2)}})
    run = read_record(folder)
    assert run.record.metrics is None and read_samples(run) == ()


# ---- small parts


@given(st.text(max_size=60))
def test_a_slug_is_a_safe_folder_name(text: str) -> None:
    found = slug(text)
    assert found and not found.startswith((".", "-")) and set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")


def test_samples_have_the_documented_columns(folder: Path) -> None:
    text = gzip.decompress((folder / "samples.csv.gz").read_bytes()).decode()
    assert tuple(text.splitlines()[0].split(",")) == SAMPLE_COLUMNS
    assert json.loads((folder / "record.json").read_text())["schema"] == 3


@pytest.mark.parametrize(
    ("wilson", "cluster", "shown"),
    [
        ((0.96, 1.0), (1.0, 1.0), (0.96, 1.0)),  # all groups agree: the bootstrap alone would claim certainty
        ((0.45, 0.55), (0.4, 0.5), (0.4, 0.55)),
        (None, (0.4, 0.5), (0.4, 0.5)),
        ((0.4, 0.5), None, (0.4, 0.5)),
        (None, None, None),
    ],
)
def test_the_interval_shown_is_the_span_of_both(wilson: Any, cluster: Any, shown: Any) -> None:
    assert Estimate(value=0.5, n=10, wilson=wilson, cluster=cluster).interval == shown
