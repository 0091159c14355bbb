"""500 checks annotated by servers that fail in every way: all answered or listed, nothing paid twice, none lost."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from deckbench import artifact
from deckbench.annotate import annotate, merge
from deckbench.build import build_dataset
from deckbench.errors import OutsideError
from tests.annotate import writer
from tests.build.build_helpers import picture
from tests.endpoint import faulty
from tests.endpoint.writing_server import Server, paid_twice, writing

pytestmark = pytest.mark.slow
COUNT = 500
KINDS = ("wrong_labware", "tip_missing")
# What passes when it is asked again, by the number of the check; what the model says is the same each time.
PASSING = ("429", "500", "503", "reset", "malformed", "cut", "cut chunks", "cut text", "html", "error in 200")


SOON = {"429", "500", "503"}


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of 25 frames with 20 checks each, half of them anomalies."""
    root = tmp_path_factory.mktemp("pool")
    rows = []
    for number in range(COUNT):
        frame = f"images/f{number // 20:02d}"
        if number % 20 == 0:
            picture(root / f"{frame}.jpg", number)
        wrong = number // 20 % 2
        rows.append(
            {
                "frame": frame,
                "step": f"transfer {number % 20 // 2}",
                "phase": "pre" if number % 4 < 2 else "post",
                "check": f"slot {number % 10}" if number % 20 < 10 else f"column {number % 10}",
                "expected": "a plate",
                "verdict": "anomaly" if wrong else "normal",
                "anomaly": KINDS[number // 40 % 2] if wrong else "",
                "caption": f"object number {number} in its place",
            }
        )
    with (root / "checks.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    (root / "dataset.yaml").write_text("path: .\ntrain: images\nnames: [plate]\n")
    return root


def number_of(body: dict[str, Any]) -> int:
    found = re.search(r"object number (\d+)", writer.prompt_of(body))
    assert found is not None
    return int(found[1])


def write(body: dict[str, Any]) -> Any:
    """One in 25 is refused, one in 25 never passes, others need two or three tries."""
    number, turn = number_of(body), len(body["messages"]) // 2
    made = writer.scene(writer.prompt_of(body))
    made["description_en"] = f"The object number {number} is in view."
    good = json.dumps(made)
    kind = number % 25
    if kind == 3:
        return {"message": {"role": "assistant", "content": None, "refusal": "I would rather not"}}
    if kind == 5 or (kind == 7 and turn < 3):
        return json.dumps({**made, "verdict": "normal" if made["verdict"] == "anomaly" else "anomaly"})
    if kind == 9 and turn == 1:
        return {"message": {"role": "assistant", "content": good[:40]}, "finish_reason": "length"}
    if kind == 11 and turn == 1:
        return json.dumps({"text": "outside the schema"})
    if kind == 13:
        return f"<think>{good}</think>```json\n{good}\n```"
    return good


def plan(key: str, attempt: int, body: dict[str, Any]) -> faulty.Fault:
    number = number_of(body)
    if number % 3 == 0 and attempt <= 2:
        return PASSING[(number + attempt) % len(PASSING)]
    return None


@pytest.fixture(scope="module")
def reference(checks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a server that never fails gives."""
    folder = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch, writing(write) as server:
        patch.setenv("SQUARES_KEY", faulty.KEY)
        annotate("ot2-check@1", pool=checks, out=folder / "qa", model=settings(server, folder))
        assert not paid_twice(server)
    return folder / "qa"


def settings(server: Server, folder: Path, **given: Any) -> str:
    path = folder / f"{server.server_address[1]}.yaml"
    known = {"model": "writer", "base_url": server.address, "key_env": "SQUARES_KEY", "timeout_s": 60, "concurrency": 8}
    path.write_text(json.dumps({**known, **given}))
    return f"endpoint:{path}"


def same(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir() if path.name != "manifest.json")
    return names == sorted(path.name for path in other.iterdir() if path.name != "manifest.json") and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def test_all_are_answered_or_listed(reference: Path, checks: Path, tmp_path: Path) -> None:
    with writing(write) as server:
        server.plan = plan
        made = annotate("ot2-check@1", pool=checks, out=tmp_path / "qa", model=settings(server, tmp_path))
        assert not paid_twice(server)
    counts = made.content["params"]["counts"]
    listed = Counter(str(json.loads(line)["reasons"]) for line in (tmp_path / "qa" / "listed.jsonl").open())
    assert len(listed) < 8, listed.most_common(8)
    assert counts == {"answered": 460, "rejected": 20, "refused": 20, "skipped": 0}
    assert len((tmp_path / "qa" / "scenes.jsonl").read_text().splitlines()) == 460
    assert len((tmp_path / "qa" / "listed.jsonl").read_text().splitlines()) == 40
    assert made.content_hash == artifact.read(reference).content_hash and same(reference, tmp_path / "qa")
    build_dataset("ot2-check@1", pool=checks, out=tmp_path / "data", split="test-only", qa=tmp_path / "qa", workers=1)
    with (tmp_path / "data" / "samples.csv").open(newline="") as file:
        told = [row for row in csv.DictReader(file) if row["kind"] == "scene"]
    assert len(told) > 300 and all("The object number" in row["answer"] for row in told)
    assert all(row["answer"].endswith(f" Verdict: {row['gold']}.") for row in told)


def dying(server: Server) -> faulty.Plan:
    """Resets every connection once it has answered 150 times."""
    return lambda key, attempt, body: "reset" if sum(server.answered.values()) > 150 else None


def test_a_server_that_dies_and_comes_back(reference: Path, checks: Path, tmp_path: Path) -> None:
    paid: Counter[str] = Counter()
    for last in (False, False, True):
        with writing(write) as server:
            if not last:
                server.plan = dying(server)
            if last:
                annotate("ot2-check@1", pool=checks, out=tmp_path / "qa", model=settings(server, tmp_path))
            else:
                with pytest.raises(OutsideError):
                    annotate("ot2-check@1", pool=checks, out=tmp_path / "qa", model=settings(server, tmp_path))
            paid.update(server.answered)
    assert set(paid.values()) == {1}  # by all servers together
    assert same(reference, tmp_path / "qa")


def test_killed_and_resumed(reference: Path, checks: Path, tmp_path: Path) -> None:
    with writing(write) as server:
        # Those that say when to come back: a process of its own waits a second for the others.
        server.plan = lambda key, attempt, body: fault if (fault := plan(key, attempt, body)) in SOON else None
        model = settings(server, tmp_path)
        out = tmp_path / "qa"
        command = [
            sys.executable,
            "-m",
            "deckbench",
            "annotate",
            "ot2-check@1",
            "--pool",
            str(checks),
            "--model",
            model,
        ]
        for stop in (100, 300, None):
            process = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.DEVNULL)
            while process.poll() is None and (stop is None or sum(server.answered.values()) < stop):
                time.sleep(0.01)
            if stop is not None:
                process.send_signal(signal.SIGKILL)
            process.wait()
        assert process.returncode == 0
        again = dict(paid_twice(server))
        assert len(again) <= 2 * 8 and set(again.values()) <= {2}  # only what was open when it was killed
    assert same(reference, out)


def test_two_shards(reference: Path, checks: Path, tmp_path: Path) -> None:
    with writing(write) as server:
        server.plan = plan
        model = settings(server, tmp_path)
        for number in (1, 2):
            annotate("ot2-check@1", pool=checks, out=tmp_path / f"s{number}", model=model, shard=f"{number}/2")
        assert not paid_twice(server)
    merged = merge([tmp_path / "s1", tmp_path / "s2"], out=tmp_path / "merged")
    assert merged.content_hash == artifact.read(reference).content_hash and same(reference, tmp_path / "merged")
