"""The verb: estimates, exit codes, Ctrl-C, and prompts that never change under their version."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deckbench.annotate.run import PROMPTS
from deckbench.endpoint.structured.prompt import load_prompt
from tests.endpoint.writing_server import Server, paid_twice

Model = Callable[..., str]
# A published prompt never changes: make a new version, and add its hash.
PUBLISHED = {
    "blind@1": "ac93568c5d623d83",
    "check@1": "baafd99b2b1bd4da",
    "concept@1": "76f121b2d9a80db9",
    "guided@1": "eb65d10de8c40b8d",
    "scene@1": "e883da3c2f633c94",
}


def deckbench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "deckbench", *words], capture_output=True, text=True)


def test_published_prompts_never_change() -> None:
    found = {prompt.ref: prompt.sha256[:16] for path in sorted(PROMPTS.glob("*.yaml")) if (prompt := load_prompt(path))}
    assert found == PUBLISHED


def test_an_estimate_needs_no_key(pool: Path, model: Model, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SQUARES_KEY")
    words = ("annotate", "ot2-scene@1", "--pool", str(pool), "--model", model(price_in=1, price_out=2))
    done = deckbench(*words, "--out", "nowhere", "--dry-run", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["requests"] == 60 and found["cost"] > 0 and not server.seen
    done = deckbench(*words, "--out", "nowhere")
    assert done.returncode == 2 and "SQUARES_KEY is not set" in done.stderr


def test_a_limit_on_the_cost_ends_with_3(pool: Path, model: Model, server: Server, tmp_path: Path) -> None:
    words = ["annotate", "ot2-scene@1", "--pool", str(pool), "--model", model(price_in=10, price_out=10)]
    words += ["--out", str(tmp_path / "qa"), "--with-image"]
    done = deckbench(*words, "--max-cost", "0.03")
    assert done.returncode == 3 and "rerun to resume" in done.stderr and "Traceback" not in done.stderr
    assert 1 <= sum(server.answered.values()) <= 25 and not (tmp_path / "qa").exists()
    done = deckbench(*words, "--max-cost", "10", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["answered"] == 60 and not paid_twice(server)
    done = deckbench("audit", str(tmp_path / "qa"), "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["scenes"]["frames"] == 60


@pytest.mark.slow
def test_ctrl_c_ends_at_once_and_resumes(pool: Path, model: Model, server: Server, tmp_path: Path) -> None:
    words = ["annotate", "ot2-scene@1", "--pool", str(pool), "--model", model(concurrency=2), "--with-image"]
    command = [sys.executable, "-m", "deckbench", *words, "--out", str(tmp_path / "qa")]
    server.slow_s = 0.05

    def heard() -> None:  # tests that run in the background inherit it ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    while sum(server.answered.values()) < 10:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    server.slow_s = 0.0
    assert process.returncode == 130 and "run the same command again" in said
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert len(paid_twice(server)) <= 2 and len(server.answered) == 60


def test_a_shard_is_merged_not_built(pool: Path, model: Model, tmp_path: Path) -> None:
    words = ("annotate", "ot2-scene@1", "--pool", str(pool), "--model", model(), "--limit", "2")
    done = deckbench(*words, "--out", str(tmp_path / "p1"), "--shard", "1/1")
    assert f"--merge {tmp_path / 'p1'}" in done.stderr and "build with" not in done.stderr


def test_what_is_missing_is_said() -> None:
    done = deckbench("annotate", "--out", "qa")
    assert done.returncode == 2 and "TASK, --pool and --model" in done.stderr
    done = deckbench("annotate", "--merge", "nothing", "--out", "qa")
    assert done.returncode == 2 and "annotation shard" in done.stderr


def test_a_bank_that_leaks_ends_with_4(tmp_path: Path) -> None:
    (tmp_path / "trash_bin.txt").write_text("Q: Which bin takes the tips?\nA: this bin\n")
    done = deckbench("audit", str(tmp_path))
    assert done.returncode == 4 and f"{tmp_path / 'trash_bin.txt'}:1: Which bin" in done.stdout
