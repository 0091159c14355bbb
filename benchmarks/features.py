"""What keeping the features of frozen vision saves: seconds an epoch without a cache, while filling it, and from it.

    python benchmarks/features.py [--model tiny-glm4v] [--frames 48] [--questions 8] [--rounds 3] [--processes 1]

The model trains with `vision: absent` on synthetic frames with so many questions each, two epochs a training. A round
is three trainings after one another: without a cache, with an empty one, and with the one that was just filled; the
best of all rounds counts. Times are of the wall and, in brackets, of this process on the processor, which a busy
machine disturbs less. Loading the model and writing the adapter are not counted. Without a cache the pictures of the
second epoch are already decoded, in memory (`cache_mb`): its ratio is what is left over many epochs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any

from deckbench.build.dataset import build_dataset
from deckbench.pool.synth import synth_pool
from deckbench.train import train

KINDS = ("without a cache", "filling it", "from the cache")
BATCH, EPOCHS = 8, 2
Seconds = list[tuple[float, float]]  # wall, processor: of each epoch


def make_dataset(folder: Path, frames: int, questions: int) -> Path:
    """Synthetic frames with so many of ot2-concept's questions each, which are not about them: only times matter."""
    synth_pool(folder / "pool", frames=frames, size=(704, 396), seed=0)
    build_dataset("ot2-concept@1", pool=folder / "pool", out=folder / "S1")
    lines = (folder / "S1/train.jsonl").read_text(encoding="utf-8").splitlines()
    asked = cycle([json.loads(line)["messages"] for line in lines])
    found = sorted(path for path in (folder / "pool").rglob("*") if path.suffix in {".jpg", ".png"})[:frames]
    (folder / "data/images").mkdir(parents=True)
    rows = []
    for path in found:
        shutil.copy(path, folder / "data/images" / path.name)
        for user, answer in islice(asked, questions):
            rows.append({"messages": [{**user, "image": f"images/{path.name}"}, answer]})
    (folder / "data/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "data"


def epochs_of(model: str, data: Path, out: Path, frames: int, settings: dict[str, Any]) -> tuple[Seconds, str]:
    """Seconds of each epoch of one training, and its adapter's content hash."""
    from deckbench.train.trainer import TrainingCallback

    times: list[tuple[float, float]] = []
    step_end, train_begin = TrainingCallback.on_step_end, TrainingCallback.on_train_begin

    def clocked(self: TrainingCallback, args: Any, state: Any, control: Any, **given: Any) -> None:
        times.append((time.perf_counter(), time.process_time()))
        if state.global_step:
            step_end(self, args, state, control, **given)

    TrainingCallback.on_step_end = TrainingCallback.on_train_begin = clocked
    try:
        made = train(model=model, data=data, out=out, overrides=settings)
    finally:
        TrainingCallback.on_step_end, TrainingCallback.on_train_begin = step_end, train_begin
    edges = times[:: frames // BATCH]
    return [(end[0] - start[0], end[1] - start[1]) for start, end in pairwise(edges)], made.content_hash


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-glm4v")
    parser.add_argument("--frames", type=int, default=48, help=f"a multiple of {BATCH}")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    settings = {"vision": "absent", "batch": BATCH, "epochs": EPOCHS, "processes": given.processes, "threads": 1}
    print(f"{given.model}, {given.frames} frames of 704x396, {given.questions} questions each, {settings}")
    best: dict[str, Seconds] = {}
    hashes = set()
    with tempfile.TemporaryDirectory() as place:
        data = make_dataset(Path(place), given.frames, given.questions)
        for number in range(given.rounds):
            for kind in KINDS:
                cache = {} if kind == KINDS[0] else {"feature_cache": Path(place) / f"cache{number}"}
                out = Path(place) / f"{number} {kind}"
                seconds, content = epochs_of(given.model, data, out, given.frames, {**settings, **cache})
                hashes.add(content)
                known = best.get(kind, seconds)
                best[kind] = [(min(a[0], b[0]), min(a[1], b[1])) for a, b in zip(seconds, known, strict=True)]
        kept = [path.stat().st_size for path in (Path(place) / "cache0").rglob("*.safetensors")]
    print(f"load {os.getloadavg()[0]:.1f}; a frame's features take {sum(kept) / len(kept) / 1024:.0f} KiB")
    print(f"{'seconds an epoch':20}{'first':>16}{'second':>16}")
    for kind, seconds in best.items():
        print(f"{kind:20}" + "".join(f"{wall:8.2f} ({cpu:5.2f})" for wall, cpu in seconds))
    ratios = [(a[0] / b[0], a[1] / b[1]) for a, b in zip(best[KINDS[0]], best[KINDS[2]], strict=True)]
    print(f"{'ratio':20}" + "".join(f"{wall:8.2f} ({cpu:5.2f})" for wall, cpu in ratios))
    print(f"same adapter content every time: {len(hashes) == 1}")


if __name__ == "__main__":
    main()
