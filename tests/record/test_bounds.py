"""Hostile records: refused in bounded time and memory, measured in a process of their own."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deckbench.errors import InputError
from deckbench.pipeline.verify import verify
from deckbench.record.samples import SAMPLE_COLUMNS
from deckbench.report import report
from tests.measure import measured
from tests.record import fake
from tests.record.forge import forge, repack, seal


def bomb(folder: Path, name: str, piece: bytes, count: int) -> None:
    """`piece`, repeated, in a small file that all hashes fit."""
    place = folder / name
    with gzip.open(place, "wb", compresslevel=6) as file:
        for _ in range(count):
            file.write(piece)
    seal(folder)


def nested(folder: Path, name: str) -> None:
    """JSON nested too deeply, in gzip, with its hash."""
    value = json.loads((folder / "record.json").read_text())
    value[name.partition(".")[0]] = repack(folder / name, b"[" * 200_000)
    (folder / "record.json").write_text(json.dumps(value))
    seal(folder)


def many_lists(folder: Path) -> None:
    """As many small lists as a lineage may hold bytes: each takes far more memory than its text."""
    value = json.loads((folder / "record.json").read_text())
    value["lineage"] = repack(folder / "lineage.json.gz", b"[" + b"[]," * 7_800_000 + b"[]]")
    (folder / "record.json").write_text(json.dumps(value))
    seal(folder)


def many_rows(folder: Path) -> None:
    """As many rows as a table of samples may hold bytes: each takes far more memory than its text."""
    cells = {"kind": "open", "right": "true", "substring": "true"}
    row = ",".join(cells.get(name, "") for name in SAMPLE_COLUMNS)
    value = json.loads((folder / "record.json").read_text())
    table = ",".join(SAMPLE_COLUMNS) + "\n" + f"{row}\n" * 1_500_000
    value["samples"] = repack(folder / "samples.csv.gz", table.encode())
    (folder / "record.json").write_text(json.dumps(value))
    seal(folder)


def text_in(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        place = folder / name
        text = place.read_text(encoding="utf-8")
        assert old in text
        place.write_text(text.replace(old, new, 1), encoding="utf-8")
        if name == "record.json" and len(new) < 4000:  # JSON with longer numbers is not even read
            seal(folder)

    return change


def in_record(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: forge(folder, record=edit)


def in_observed(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: forge(folder, observed=edit)


def with_text(name: str, data: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return change


LARGE: dict[str, Callable[[Path], None]] = {
    "samples of 600 MB": lambda folder: bomb(folder, "samples.csv.gz", b"a,b,c\n" * 1000, 100_000),
    "samples of small rows": many_rows,
    "questions of 600 MB": lambda folder: bomb(folder, "questions.jsonl.gz", b"[]\n" * 2000, 100_000),
    "a lineage of 600 MB": lambda folder: bomb(folder, "lineage.json.gz", b"[]," * 2000, 100_000),
    "a lineage of lists": many_lists,
}
SMALL: dict[str, Callable[[Path], None]] = {
    "a deep lineage": lambda folder: nested(folder, "lineage.json.gz"),
    "deep questions": lambda folder: nested(folder, "questions.jsonl.gz"),
    "a deep record": with_text("record.json", b'{"a":' * 100_000),
    "a deep statement": with_text("statement.json", b"[" * 100_000),
    "a deep signature": with_text("signature.json", b"[" * 100_000),
    "a large record": with_text("record.json", b" " * (20 << 20)),
    "10^400 as cores": in_record(lambda v: v["hardware"].update(cores=10**400)),
    "10^400 as a metric": text_in("record.json", '"confidence": 0.95', f'"confidence": {"1" + "0" * 400}'),
    "10^5000 as a seed": text_in("record.json", '"seed": 0', '"seed": 1' + "0" * 5000),
    "1e999": text_in("record.json", '"confidence": 0.95', '"confidence": 1e999'),
    "a metric above 1": in_record(lambda v: v["metrics"]["metrics"]["accuracy"].update(value=1.5)),
    "a negative count": in_record(lambda v: v["metrics"]["metrics"]["accuracy"].update(k=-1)),
    "an interval below 0": in_record(lambda v: v["metrics"]["metrics"]["accuracy"].update(wilson=[-0.1, 1.0])),
    "negative threads": in_record(lambda v: v["hardware"].update(threads=-1)),
    "negative memory": in_record(lambda v: v["hardware"].update(memory_bytes=-1)),
    "a negative time": in_observed(lambda v: v["latency"]["choice"]["answer"].update(p50=-1.0)),
    "percentiles out of order": in_observed(lambda v: v["latency"]["choice"]["answer"].update(p90=0.0)),
    "a count of 10^400": in_observed(lambda v: v["latency"]["choice"]["answer"].update(n=10**400)),
    "a date that is none": in_observed(lambda v: v.update(written="yesterday")),
    "the 31st of April": in_observed(lambda v: v.update(written="2026-04-31T00:00:00Z")),
    "half a surrogate pair": text_in("record.json", '"tiny-glm4v"', '"\\ud800"'),
    "half a surrogate pair in what was observed": text_in("manifest.json", '"torch"', '"\\ud800"'),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", LARGE)
def test_a_small_file_that_unpacks_to_a_large_one(what: str, one: Path, folder: Path, tmp_path: Path) -> None:
    """Refused within the bounds of time and memory."""
    LARGE[what](folder)
    (done,) = measured(["report", "--records", one, "--out", tmp_path / "site", "--check"])
    assert done.code == 4 and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("what", SMALL)
def test_a_hostile_record_is_listed(what: str, one: Path, folder: Path, tmp_path: Path) -> None:
    SMALL[what](folder)
    result = report(one, out=tmp_path / "site", check=True)
    assert {"records", "reproduces"} & {*result["failed"]}
    with pytest.raises(InputError) if result["broken"] else contextlib.nullcontext():
        assert not verify(folder)["reproduced"]


def test_one_bad_record_stops_nothing(one: Path, folder: Path, tmp_path: Path) -> None:
    bad = fake.record(one, tmp_path / "work", model="other")
    (bad / "record.json").write_text("[" * 100_000)
    result = report(one, out=tmp_path / "site")
    assert result["records"] == 1 and len(result["broken"]) == 1 and bad.name in result["broken"][0]
    page = (tmp_path / "site/index.html").read_text()
    assert bad.name in page and "nested too deeply" in page


def test_a_wrong_folder_is_named_itself(one: Path, folder: Path, tmp_path: Path) -> None:
    for wrong in (tmp_path / "work", folder):
        with pytest.raises(InputError) as refused:
            report(wrong, out=tmp_path / "site")
        assert refused.value.where == str(wrong)
