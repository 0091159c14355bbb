"""500 frames against a server that fails in every way, killed on the way: all answered, none paid for twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from deckbench.infer import infer
from tests.endpoint import deciding, faulty
from tests.endpoint.test_decisions import APIS, STRANGE, WHOLE
from tests.endpoint.test_endpoint_infer import rows_of
from tests.train import micro_world

pytestmark = pytest.mark.slow
FRAMES, OPEN = 500, 4
QUICK = [name for name in WHOLE if name not in {"hang", "drip"}]
Settings = Callable[..., str]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames that all differ, with four choice questions each; every fiftieth question is one that is declined."""
    folder = tmp_path_factory.mktemp("frames")
    (folder / "images").mkdir()
    rows = []
    for number in range(FRAMES):
        picture = Image.new("RGB", (64, 36), "white")
        ImageDraw.Draw(picture).rectangle((8, 12, 40, 30), fill="red" if number % 2 == 0 else "blue")
        picture.putpixel((number % 64, number // 64), (0, 0, 0))
        picture.save(folder / f"images/{number}.png")
        for place in range(4):
            row = micro_world.rows_of(number)[place % 2]
            word = "secret" if (4 * number + place) % 50 == 7 else str(place)
            row["messages"][0]["content"] = f"({word}) {row['messages'][0]['content']}"
            rows.append({**row, "id": f"{number}-{place}", "pair_id": None})
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "test.jsonl"


@pytest.fixture
def server() -> Iterator[deciding.Server]:
    with deciding.serving() as found:
        found.declined = "secret"
        yield found


def plan(key: str, attempt: int, body: dict[str, Any]) -> faulty.Fault:
    """Up to two tries of a request fail: with an error, a broken or endless reply, or one of another form."""
    number = faulty.number(key)
    if attempt > number % 3:
        return None
    faults = [*QUICK, *STRANGE]
    name = faults[(number + attempt) % len(faults)]
    return name if name in QUICK else {"alter": STRANGE[name]}


def check(out: Path, server: deciding.Server, twice: int) -> None:
    rows = rows_of(out)
    assert len(rows) == 4 * FRAMES - 40 and all(row["prediction"] == row["gold"] for row in rows)
    assert len(rows_of(out.with_name("p.unanswered.csv"))) == 40
    again = {key: number for key, number in server.decided.items() if number > 1 and "secret" not in key}
    assert len(again) <= twice, Counter(again.values())


@pytest.mark.parametrize("api", APIS)
def test_every_frame_is_answered_once(
    api: str, server: deciding.Server, settings: Settings, frames: Path, tmp_path: Path
) -> None:
    server.plan = plan
    out = tmp_path / "p.csv"
    infer(model=settings(api=api, unanswered="leave-out", concurrency=8), data=frames, out=out)
    check(out, server, 0)


@pytest.mark.parametrize("api", APIS)
def test_killed_twice_and_resumed(
    api: str, server: deciding.Server, settings: Settings, frames: Path, tmp_path: Path
) -> None:
    """Only what was on its way when the process died is asked again; the answers are those of a run of one piece."""
    out, whole = tmp_path / "p.csv", tmp_path / "whole" / "p.csv"
    ref = settings(api=api, unanswered="leave-out", concurrency=OPEN)
    infer(model=ref, data=frames, out=whole)
    server.clear()
    server.plan, server.slow_s = plan, 0.02
    command = [sys.executable, "-m", "deckbench", "infer", "--model", ref, "--data", str(frames), "--out", str(out)]
    for least in (400, 1200):
        run = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while sum(server.decided.values()) < least and run.poll() is None:
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        run.wait()
        assert not out.exists() and (tmp_path / "p.partial").is_dir()
    infer(model=ref, data=frames, out=out)
    check(out, server, 2 * OPEN * 4)
    kept = [{name: row[name] for name in row if name != "tokens_in"} for row in rows_of(out)]
    # a question that was answered in another request than its frame's others has another share of tokens
    assert kept == [{name: row[name] for name in row if name != "tokens_in"} for row in rows_of(whole)]
