"""Reading records: every way a record can be broken gives one message with the file in it."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.record.read import read_all, read_record, read_samples
from deckbench.report import report
from tests.record import fake
from tests.record.forge import forge, seal


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edit record.json and make the manifest agree, as a careless hand would not."""
    forge(folder, record=edit)


def said(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        read_record(folder)
    assert len(error.value.message().splitlines()) <= 2
    return error.value.message()


def test_broken_json(folder: Path) -> None:
    (folder / "record.json").write_text('{"schema": 1,\n "model": ')
    message = said(folder)
    assert "record.json:2" in message and "not JSON" in message


def test_bytes_that_are_no_text(folder: Path) -> None:
    (folder / "record.json").write_bytes(b"\xff\xfe\x00")
    assert "record.json" in said(folder)


def test_json_that_is_no_object(folder: Path) -> None:
    (folder / "record.json").write_text("[]")
    assert "not a JSON object" in said(folder)


def test_record_json_missing(folder: Path) -> None:
    (folder / "record.json").unlink()
    assert "no record.json" in said(folder)


@pytest.mark.parametrize("version", [1, 2, 4, 0, "1", None])
def test_unknown_schema_version(folder: Path, version: Any) -> None:
    change(folder, lambda value: value.update(schema=version))
    message = said(folder)
    assert "schema version" in message and "record.json" in message


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (lambda v: v.update(colour=1), "colour"),
        (lambda v: v["pool"].update(owner="me"), "pool.owner"),
        (lambda v: v["metrics"]["kinds"]["choice"].update(rank=1), "metrics.kinds.choice.rank"),
        (lambda v: v.pop("seed"), "seed"),
        (lambda v: v["pool"].update(synthetic="perhaps"), "pool.synthetic"),
        (lambda v: v["pool"].update(part="other"), "pool.part"),
        (lambda v: v.update(task="ot2 guided"), "task"),
        (lambda v: v["metrics"].update(n=-1), "metrics.n"),
        (lambda v: v["metrics"].update(primary="scene"), "metrics"),
        (lambda v: v["metrics"]["kinds"]["choice"]["metrics"]["accuracy"].update(value="high"), "accuracy.value"),
        (lambda v: v["hardware"].pop("cpu"), "hardware.cpu"),
    ],
)
def test_a_wrong_field_is_named(folder: Path, edit: Callable[[dict[str, Any]], Any], field: str) -> None:
    change(folder, edit)
    message = said(folder)
    assert "record.json" in message and field in message


def test_not_a_number_is_refused(folder: Path) -> None:
    text = (folder / "record.json").read_text()
    (folder / "record.json").write_text(text.replace('"seed": 0', '"seed": NaN', 1))
    seal(folder)
    assert "record.json" in said(folder)


def test_samples_missing(folder: Path) -> None:
    (folder / "samples.csv.gz").unlink()
    message = said(folder)
    assert "samples.csv.gz" in message and "missing" in message


def test_samples_changed(folder: Path) -> None:
    (folder / "samples.csv.gz").write_bytes(gzip.compress(b"id\n1\n"))
    message = said(folder)
    assert "samples.csv.gz" in message and "changed" in message


def test_record_edited_by_hand(folder: Path) -> None:
    text = (folder / "record.json").read_text()
    (folder / "record.json").write_text(text.replace("tiny-glm4v", "huge-glm4v"))
    assert "changed" in said(folder)


def test_thumbnail_missing(folder: Path) -> None:
    next((folder / "thumbs").iterdir()).unlink()
    assert "thumbs/" in said(folder)


def test_manifest_missing(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    assert "manifest.json" in said(folder)


def test_times_edited_by_hand(folder: Path) -> None:
    place = folder / "manifest.json"
    place.write_text(place.read_text().replace('"p50": 0.05', '"p50": 0.01', 1))
    message = said(folder)
    assert "manifest.json" in message and "edited" in message


def test_inputs_that_differ(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["content"]["inputs"].popitem()
    manifest["content_hash"] = artifact.hash_json(manifest["content"])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "inputs" in said(folder)


def samples_replaced(folder: Path, data: bytes) -> str:
    """What is said about samples whose hashes all fit."""
    (folder / "samples.csv.gz").write_bytes(data)
    change(folder, lambda value: value.update(samples=hashlib.sha256(unzipped(data)).hexdigest()))
    with pytest.raises(InputError) as error:
        read_samples(read_record(folder))
    assert "samples.csv.gz" in error.value.message()
    return error.value.message()


def unzipped(data: bytes) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError):
        return b""


def test_samples_that_are_no_gzip(folder: Path) -> None:
    assert "damaged" in samples_replaced(folder, b"plain text")


def test_samples_cut_short(folder: Path) -> None:
    assert "damaged" in samples_replaced(folder, (folder / "samples.csv.gz").read_bytes()[:-40])


def test_samples_with_other_columns(folder: Path) -> None:
    assert "columns" in samples_replaced(folder, gzip.compress(b"id,gold\n1,A\n"))


def row_changed(folder: Path, old: str, new: str) -> str:
    text = gzip.decompress((folder / "samples.csv.gz").read_bytes()).decode()
    assert old in text
    return samples_replaced(folder, gzip.compress(text.replace(old, new, 1).encode()))


def test_samples_with_a_short_row(folder: Path) -> None:
    assert "do not fit" in row_changed(folder, ",thumbs/00.jpg\n", "\n")


def test_samples_with_a_doubtful_verdict(folder: Path) -> None:
    assert "right is 'maybe'" in row_changed(folder, ",true,true,", ",maybe,true,")


def test_samples_with_an_impossible_probability(folder: Path) -> None:
    assert "not a probability" in row_changed(folder, ",true,,,0.", ",true,,,7.")


def test_samples_that_are_not_those_of_the_record(folder: Path) -> None:
    change(folder, lambda value: value.update(samples="0" * 64))
    with pytest.raises(InputError, match="not the one the record names"):
        read_samples(read_record(folder))


def test_samples_that_unpack_without_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deckbench.record.read.MAX_SAMPLE_BYTES", 1000)
    assert "unpacks to more than" in samples_replaced(folder, gzip.compress(bytes(100_000)))


# ---- what would crash, hang or fill the memory

NESTED = "[" * 100_000


@pytest.mark.parametrize("name", ["record.json", "manifest.json"])
def test_json_nested_without_end(folder: Path, name: str) -> None:
    (folder / name).write_text(NESTED)
    message = said(folder)
    assert name in message and "nested too deeply" in message


@pytest.mark.parametrize(
    "edit",
    [
        lambda v: v["content"].pop("files"),
        lambda v: v["content"].pop("inputs"),
        lambda v: v["content"].pop("kind"),
        lambda v: v["content"].update(kind=""),
        lambda v: v["content"].update(files=[]),
        lambda v: v["content"]["files"].update({"record.json": 7}),
        lambda v: v["content"]["files"]["record.json"].pop("sha256"),
        lambda v: v.update(content=[]),
        lambda v: v.update(observed=[]),
    ],
)
def test_a_manifest_of_another_shape(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(manifest)
    manifest["content_hash"] = artifact.hash_json(manifest["content"])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "manifest.json" in said(folder)


@pytest.mark.parametrize(("field", "value"), [("seed", -1), ("seed", 2**32), ("resamples", 10**10)])
def test_metrics_that_take_no_end_of_memory(folder: Path, field: str, value: int) -> None:
    change(folder, lambda record: record["metrics"].update({field: value}))
    assert f"metrics.{field}" in said(folder)


# ---- a record's folder is closed


@pytest.mark.parametrize(
    "make",
    [
        Path.mkdir,
        os.mkfifo,
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to("../record.json"),
        lambda path: path.symlink_to("."),
    ],
)
def test_a_picture_that_is_no_plain_file(folder: Path, make: Callable[[Path], Any]) -> None:
    picture = folder / "thumbs" / "00.jpg"
    picture.unlink()
    make(picture)
    assert "thumbs/00.jpg" in said(folder)


def test_a_file_that_the_manifest_does_not_list(folder: Path) -> None:
    (folder / "thumbs" / "more.jpg").write_bytes(b"x")
    message = said(folder)
    assert "thumbs/more.jpg" in message and "manifest" in message


@pytest.mark.parametrize("name", ["notes.txt", "more/x.jpg", "thumbs/more.jpg", ".hidden", "signature.json.bak"])
def test_what_does_not_belong_into_a_record(folder: Path, name: str) -> None:
    """Not even where the manifest lists it."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    seal(folder)
    assert name.partition("/")[0] in said(folder)


def test_a_link_to_a_record_is_none(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "records/link").symlink_to(folder)
    assert "is a link" in said(tmp_path / "records/link")


def test_a_manifest_that_lists_nothing(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["content"]["files"] = {}
    manifest["content_hash"] = artifact.hash_json(manifest["content"])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "not in the record's manifest" in said(folder)


# ---- the folder of records


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
def test_no_records(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    make(tmp_path / "records")
    with pytest.raises(InputError, match="records"):
        report(tmp_path / "records", out=tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_foreign_folder_among_the_records(one: Path, tmp_path: Path) -> None:
    (one / "holiday").mkdir()
    result = report(one, out=tmp_path / "site")
    assert result["records"] == 1 and "holiday" in result["broken"][0]
    assert "holiday" in (tmp_path / "site/index.html").read_text()


def test_a_dataset_among_the_records(one: Path, tmp_path: Path) -> None:
    with artifact.writing(one / "data", "dataset") as draft:
        shutil.copy(next(one.glob("invented*")) / "record.json", draft.path)
        shutil.copytree(next(one.glob("invented*")), draft.path, dirs_exist_ok=True)
        (draft.path / "manifest.json").unlink()
    with pytest.raises(InputError, match="not a record"):
        read_record(one / "data")
    assert report(one, out=tmp_path / "site")["records"] == 1


def test_all_broken_records_are_found(one: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        (fake.record(one, tmp_path / "work", seed=seed) / "record.json").write_text("{")
    runs, broken = read_all(one)
    assert len(runs) == 1 and len(broken) == 2


def test_a_record_can_be_moved(one: Path, tmp_path: Path) -> None:
    before = [run.hash for run in read_all(one)[0]]
    shutil.move(one, tmp_path / "elsewhere")
    assert [run.hash for run in read_all(tmp_path / "elsewhere")[0]] == before
