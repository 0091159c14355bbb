"""How long `deckbench infer --limit 1` takes, nearly all of it imports: this checkout against another one, in turn.

    python benchmarks/start.py --old OTHER_CHECKOUT --rounds 7

Both answer one question about one frame. Prints wall and CPU seconds of each run, and the ratios of
the medians. CPU seconds hold on a busy machine as well; for wall seconds it should have nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parents[1]


def write_data(folder: Path) -> Path:
    """A JSONL file with one question about one frame."""
    Image.new("RGB", (704, 396), (90, 90, 90)).save(folder / "frame.png")
    user = {
        "role": "user",
        "content": "Is the tip straight?\nA. yes\nB. no\nAnswer with A or B only.",
        "image": "frame.png",
    }
    row = {"messages": [user, {"role": "assistant", "content": "A"}], "id": "1", "kind": "choice"}
    (folder / "test.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return folder / "test.jsonl"


def measure(checkout: Path, model: str, data: Path, out: Path) -> tuple[float, float, bytes]:
    """(wall seconds, CPU seconds, the predictions) of one run."""
    environ = {**os.environ, "PYTHONPATH": str(checkout / "harness"), "HF_HUB_OFFLINE": "1"}
    words = ["infer", "--model", model, "--data", str(data), "--limit", "1", "--out", str(out)]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-m", "deckbench", *words], check=True, capture_output=True, env=environ)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, out.read_bytes()


def main() -> None:
    """Run A B, B A, ...; print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True, help="the other checkout")
    parser.add_argument("--model", default="tiny-glm4v")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    checkouts = {"old": given.old.resolve(), "new": HERE}
    times: dict[str, list[tuple[float, float]]] = {"old": [], "new": []}
    answers: set[bytes] = set()
    with tempfile.TemporaryDirectory(prefix="deckbench-start-") as name:
        folder = Path(name)
        data = write_data(folder)
        for number in range(-1, given.rounds):  # the first round only fills the caches
            for side in ("old", "new") if number % 2 == 0 else ("new", "old"):
                wall, cpu, made = measure(checkouts[side], given.model, data, folder / f"{side}{number}.csv")
                answers.add(made)
                if number >= 0:
                    times[side].append((wall, cpu))
                    print(f"{side}: {wall:.2f} s, {cpu:.2f} s of CPU", flush=True)
    for place, what in enumerate(("wall", "CPU")):
        old, new = (statistics.median(pair[place] for pair in times[side]) for side in ("old", "new"))
        print(f"{what}: old {old:.2f} s, new {new:.2f} s, ratio {old / new:.2f}")
    print("the predictions are the same bytes" if len(answers) == 1 else "the predictions DIFFER")


if __name__ == "__main__":
    main()
