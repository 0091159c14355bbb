"""What makes a step's output stale, and what a suite's records say, wherever it was called from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.pipeline import code
from deckbench.pipeline.code import code_hash
from deckbench.pipeline.suite import run_suite
from deckbench.pipeline.verify import verify
from deckbench.resources import PACKAGE, data_folder
from tests.pipeline.suite_helpers import SMALL, small_suite, write_suite


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small suite that was run once by its absolute path, into `work`."""
    folder = tmp_path_factory.mktemp("lab")
    run_suite(str(small_suite(folder).resolve()), work=folder / "work")
    return folder


@pytest.fixture
def work(small: Path, tmp_path: Path) -> Path:
    """A copy of that run's work folder."""
    return Path(shutil.copytree(small / "work", tmp_path / "work"))


@pytest.mark.slow
def test_a_suite_by_its_absolute_path_gives_the_same_records(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(path.name for path in (small / "work" / "records").iterdir())
    for place, ref in ((small, "small.yaml"), (small.parent, f"{small.name}/small.yaml")):
        monkeypatch.chdir(place)
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
        result = run_suite(ref, work=tmp_path / "work")
        assert sorted(Path(path).name for path in result["records"]) == names


def test_no_absolute_path_is_published(small: Path, tmp_path: Path) -> None:
    """Also where the suite itself names its pool by one."""
    suite = {**SMALL, "pools": {"deck": {"path": str(small / "pool")}}}
    run_suite(str(write_suite(tmp_path / "own" / "small.yaml", suite)), work=tmp_path / "work")
    for work in (small / "work", tmp_path / "work"):
        files = [path for room in ("records", "site") for path in (work / room).rglob("*") if path.is_file()]
        texts = [path for path in files if path.suffix in {".json", ".html", ".js", ".txt", ".csv"}]
        assert len(texts) > 3
        assert not [path for path in texts if str(tmp_path.parent) in path.read_text(encoding="utf-8")]


def test_a_record_of_a_suite_elsewhere_is_done_again(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record does not say where the suite lies; the work folder does."""
    record = next((small / "work" / "records").iterdir())
    monkeypatch.chdir(tmp_path)
    assert verify(record, since="infer", work=small / "work")["verdict"] == "same bytes"
    assert verify(record, since="infer", work=tmp_path)["verdict"] == "not runnable here"


def test_an_edited_or_torn_score_is_made_again(small: Path, work: Path) -> None:
    [score] = sorted((work / "answers").glob("*/score.json"))
    good = score.read_bytes()
    forged = json.loads(good)
    forged["metrics"]["accuracy"]["value"] = 1.0
    for text in (json.dumps(forged).encode(), good[: len(good) // 2], b"", good.replace(b'"seed": 0', b'"seed": 1')):
        score.write_bytes(text)
        run_suite(str(small / "small.yaml"), work=work)
        assert score.read_bytes() == good
    score.with_name("scored.csv").write_text("id\n")
    run_suite(str(small / "small.yaml"), work=work)
    assert len(score.with_name("scored.csv").read_text().splitlines()) > 10


def test_edited_outputs_of_steps_are_refused(small: Path, work: Path) -> None:
    for file in ("audits/*/audit.json", "data/*/samples.csv"):
        [path] = work.glob(file)
        good = path.read_bytes()
        path.write_bytes(good + b" ")
        with pytest.raises(InputError, match=r"changed since(.|\n)*remove .* and run again"):
            run_suite(str(small / "small.yaml"), work=work)
        path.write_bytes(good)
    [manifest] = work.glob("answers/*/predictions.manifest.json")
    manifest.unlink()
    with pytest.raises(InputError, match="no manifest says what made"):
        run_suite(str(small / "small.yaml"), work=work)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package's source in another place, as a wheel has it."""
    place = tmp_path / "site-packages" / PACKAGE.name
    shutil.copytree(PACKAGE, place, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", place)
    forget()
    yield place
    forget()


def forget() -> None:
    for kept in (code.code_hash, code._files, code._imports):
        kept.cache_clear()


def test_a_step_is_stale_when_its_own_code_changed(package: Path) -> None:
    steps = (("build.dataset",), ("build.audit",), ("score",), ("train", "models.load", "models.glm4v.*"))
    before = [code_hash(*step) for step in steps]
    for file, stale in (
        ("build/boxes.py", [0]),
        ("stats.py", [1, 2]),
        ("models/glm4v/vision.py", [3]),
        ("models/phi3v/vision.py", []),
        ("progress.py", []),
        ("report/site.py", []),
        ("models/load.py", [3]),  # imported inside functions only
        ("artifact.py", [0, 1, 2, 3]),
    ):
        good = (package / file).read_bytes()
        (package / file).write_bytes(good + b"\n# changed\n")
        forget()
        after = [code_hash(*step) for step in steps]
        assert [number for number, pair in enumerate(zip(before, after, strict=True)) if len({*pair}) > 1] == stale
        (package / file).write_bytes(good)
    forget()
    assert [code_hash(*step) for step in steps] == before


def test_a_wheel_and_a_checkout_have_the_same_keys(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = code_hash("infer", "models.load", "models.baselines.*")
    monkeypatch.setattr(code, "PACKAGE", PACKAGE)
    forget()
    assert code_hash("infer", "models.load", "models.baselines.*") == moved


def test_new_code_makes_old_scores_stale(small: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a `git pull` that leaves the version alone."""
    from deckbench.pipeline import state, steps

    real = steps.code_hash
    assert run_suite(str(small / "small.yaml"), work=work)["made"] == []
    monkeypatch.setattr(state, "code_hash", lambda *names: artifact.hash_json([names, "new"]))
    made = run_suite(str(small / "small.yaml"), work=work)["made"]
    assert {name.partition("/")[0] for name in made} == {"splits", "data", "audits", "overlaps", "answers"}
    monkeypatch.setattr(state, "code_hash", real)
    old = [path.stat().st_mtime_ns for path in work.glob("answers/*/score.json")]
    monkeypatch.setattr(steps, "code_hash", lambda *names: "other" if names == ("score",) else real(*names))
    assert run_suite(str(small / "small.yaml"), work=work)["made"] == []
    assert sorted(path.stat().st_mtime_ns for path in work.glob("answers/*/score.json")) != sorted(old)


def test_a_pool_that_is_an_argument_stands_in_no_record(small: Path, tmp_path: Path) -> None:
    """Its place is noted in the work folder, where `verify` finds it."""
    suite = {**SMALL, "pools": {"deck": {}}, "thumbnails": 1}
    file = str(write_suite(tmp_path / "given.yaml", suite))
    with pytest.raises(InputError, match="takes the pool 'deck' as an argument"):
        run_suite(file, work=tmp_path / "work")
    assert not (tmp_path / "work").exists()
    result = run_suite(file, work=tmp_path / "work", pools=[str(small / "pool")])
    record = Path(result["records"][0])
    value = json.loads((record / "record.json").read_text())
    assert value["command"] == "deckbench run given.yaml --pool deck=pools/deck --only majority:baseline:S3"
    assert len(list((record / "thumbs").iterdir())) == 1
    assert str(tmp_path.parent) not in (record / "record.json").read_text()
    assert verify(record, since="infer", work=tmp_path / "work")["reproduced"]
    (tmp_path / "work" / "pool.paths").unlink()
    again = verify(record, since="infer", work=tmp_path / "work")
    assert again["verdict"] == "not runnable here"
    assert "takes the pool 'deck'" in again["why"]


@pytest.mark.slow
def test_a_suite_renders_the_runs_of_a_protocol_beside_it(tmp_path: Path) -> None:
    """Its checks become data that pass their audits, none without its twin; without the analysis nothing is done."""
    tasks = {"S2": "ot2-check-box@1", "S3": "ot2-check@1"}
    synth = {"frames": 96, "size": [320, 180], "protocol": "mine.json", "seed": 3}
    suite = {
        "name": "runs",
        "pools": {"deck": {"synth": synth}},
        "data": {stage: {"task": task, "pool": "deck"} for stage, task in tasks.items()},
        "tests": [{"data": stage} for stage in tasks],
        "baselines": ["majority"],
    }
    file = write_suite(tmp_path / "runs.yaml", suite)
    with pytest.raises(InputError, match="cannot be read"):
        run_suite(str(file), work=tmp_path / "work")
    shutil.copy(data_folder("tasks") / "protocols/pcr-setup.analysis.json", tmp_path / "mine.json")
    result = run_suite(str(file), work=tmp_path / "work")
    for path in result["records"]:
        value = json.loads((Path(path) / "record.json").read_text())
        assert value["pool"]["synthetic"]
        sources = {one["name"]: one["source"] for one in value["inputs"]}
        assert sources["pool"] == (
            "deckbench pool synth pools/deck --frames 96 --size 320x180 --seed 3 --protocol mine.json"
        )
    left = [path.read_text() for path in (tmp_path / "work/data").glob("*/left_out.csv")]
    assert all("without a counterpart" not in text and "only " not in text for text in left)
    assert run_suite(str(file), work=tmp_path / "work")["made"] == []
