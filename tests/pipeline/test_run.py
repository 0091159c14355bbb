"""The smoke suite for real: the same bytes twice, and killed ten times on the way."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deckbench import artifact

RUN = [sys.executable, "-m", "deckbench", "run", "smoke", "--json", "--work"]


def contents(work: Path) -> dict[str, str]:
    """Identity of everything a run made: artifacts by content hash, predictions and scores by their bytes."""
    found = {}
    for manifest in sorted(work.glob("*/*/manifest.json")):
        if manifest.parent.parent.name not in {"current", "bench"}:
            found[manifest.parent.relative_to(work).as_posix()] = json.loads(manifest.read_text())["content_hash"]
    for place in ("answers/*/predictions.csv", "answers/*/score.json", "calibrations/*/calibration.json"):
        for file in sorted(work.glob(place)):
            found[file.relative_to(work).as_posix()] = artifact.hash_file(file)
    return found


def run(work: Path) -> dict[str, object]:
    done = subprocess.run([*RUN, str(work)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, object] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("smoke") / "work"
    run(work)
    return work


@pytest.mark.slow
def test_twice_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    run(tmp_path / "again")
    first, second = contents(finished), contents(tmp_path / "again")
    assert len(first) > 20
    assert first == second


@pytest.mark.slow
def test_a_finished_suite_does_nothing_again(finished: Path) -> None:
    before = contents(finished)
    assert run(finished)["made"] == []
    assert contents(finished) == before


@pytest.mark.slow
def test_killed_ten_times_it_ends_the_same(finished: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    rng = random.Random(7)
    kills = 0
    while kills < 10:
        process = subprocess.Popen(
            [*RUN, str(work)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(timeout=rng.uniform(4, 10))
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            time.sleep(0.2)
    assert kills >= 3
    run(work)
    assert contents(work) == contents(finished)
    assert not list(work.glob("*/.*.draft"))


@pytest.mark.slow
def test_verify_says_the_same_bytes_and_notices_a_change(finished: Path, tmp_path: Path) -> None:
    record = next(path for path in sorted((finished / "records").iterdir()) if "s1-s2" in path.name)
    verify = [sys.executable, "-m", "deckbench", "verify", "--json"]
    for since in ("score", "infer", "train"):
        words = [*verify, str(record), "--from", since, "--work", str(finished)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["verdict"] == "same bytes"
    forged = tmp_path / record.name
    shutil.copytree(record, forged)
    data = json.loads((forged / "record.json").read_text())
    data["seed"] = 99
    (forged / "record.json").write_text(json.dumps(data))
    done = subprocess.run([*verify, str(forged)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "changed" in done.stderr


@pytest.mark.slow
def test_a_wheel_in_an_empty_place_runs_the_smoke_suite(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    words = ["pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path / "dist"), str(root)]
    subprocess.run([sys.executable, "-m", *words], check=True, timeout=600)
    wheel = next((tmp_path / "dist").glob("*.whl"))
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(tmp_path / "site")], check=True, timeout=60)
    away = tmp_path / "elsewhere"
    away.mkdir()
    code = "import sys, deckbench, deckbench.cli as c; print(deckbench.__file__, file=sys.stderr); c.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "smoke"],
        cwd=away,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert str(tmp_path / "site") in done.stderr
    assert (away / "work" / "smoke" / "site" / "index.html").is_file()
