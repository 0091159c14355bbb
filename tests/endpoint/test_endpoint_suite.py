"""A model behind a server as a row of a leaderboard: no machine and no times of ours, no path, no key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from deckbench.bench import bench
from deckbench.errors import InputError
from deckbench.pipeline.suite import run_suite
from tests.endpoint import faulty


@pytest.mark.slow
def test_a_row_of_a_suite(server: faulty.Server, settings: Callable[..., str], tmp_path: Path) -> None:
    ref = settings()
    suite = {
        "name": "served",
        "pools": {"deck": {"synth": {"frames": 60, "seed": 3, "size": [352, 198]}}},
        "data": {"S3": {"task": "ot2-scene@1", "pool": "deck", "audit": False}},
        "tests": [{"data": "S3"}],
        "models": [{"ref": ref}],
        "bench": {"data": ["S3"], "min_seconds": 0.1},
    }
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    made = run_suite(str(tmp_path / "suite.yaml"), work=tmp_path / "work")
    (place,) = made["records"]
    record = json.loads((Path(place) / "record.json").read_text())
    assert record["model"]["name"] == "endpoint:squares" and record["model"]["family"] == "endpoint"
    assert record["hardware"]["device"] == "server" and record["hardware"]["threads"] == 0
    observed = json.loads((Path(place) / "manifest.json").read_text())["observed"]
    assert not observed.get("latency")
    page = (tmp_path / "work" / "site" / "index.html").read_text()
    assert "endpoint:squares" in page and "a server" in page
    everything = b"".join(p.read_bytes() for p in (tmp_path / "work").rglob("*") if p.is_file())
    assert faulty.KEY.encode() not in everything
    asked = len(server.seen)
    run_suite(str(tmp_path / "suite.yaml"), work=tmp_path / "work")
    assert len(server.seen) == asked
    with pytest.raises(InputError, match="not those of this machine"):
        (data,) = (tmp_path / "work" / "data").iterdir()
        bench(model=ref, data=data, engine="torch", out=tmp_path / "bench")
