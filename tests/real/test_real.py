"""The main job on real pictures: two public pools, from their folders to a page of their own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deckbench.resources import tasks_folder


@pytest.mark.slow
def test_real_pictures_from_pool_to_page(shared: Path, tmp_path: Path) -> None:
    home = tmp_path / "suite"
    home.mkdir()
    shutil.copy(Path(__file__).with_name("suite.yaml"), home)
    for name in ("deck-yolo", "ot2eye"):
        (home / name).symlink_to(shared / "data" / name)
        shutil.copy(tasks_folder() / "ontology" / f"{name}.yaml", home)
    command = [sys.executable, "-m", "deckbench", "run", str(home / "suite.yaml"), "--json"]
    done = subprocess.run([*command, "--work", str(tmp_path / "work")], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(json.loads(done.stdout)["records"]) == 7 * 6
    page = (tmp_path / "work/site/index.html").read_text(encoding="utf-8")
    assert "another lab" in page and "do not establish safety" not in page
    for file in sorted((tmp_path / "work/records").glob("*/record.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        who = f"{record['model']['name']} {record['curriculum'] or ''} on {record['task']}, {record['pool']['name']}"
        print(who, json.dumps(record["metrics"]["primary"]))
        assert record["pool"]["synthetic"] is False
        assert record["metrics"]["n"] >= 10
