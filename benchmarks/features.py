"""What keeping the features of frozen vision saves: seconds per epoch without a cache, while filling it, from it.

    python benchmarks/features.py [--model tiny-glm4v] [--frames 48] [--questions 8] [--rounds 3] [--processes 1]
        [--set KEY=VALUE]

The model trains with `vision: absent` on synthetic frames with so many questions each, two epochs a training. A round
is three trainings side by side: without a cache, with an empty one, and with the one that was just filled; the best
time of all rounds counts. Loading the model and writing the adapter are not counted. Without a cache the pictures of
the second epoch are already decoded, in memory (`cache_mb`): its ratio is the one that is left over ten epochs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from deckbench.pool.synth import synth_pool
from deckbench.train import train

KINDS = ("without a cache", "filling it", "from the cache")
BATCH, EPOCHS = 8, 2
THINGS = ("tip rack", "white plate", "reservoir", "thermocycler", "trash bin", "tube rack", "empty slot", "lid")


def make_dataset(folder: Path, frames: int, questions: int) -> Path:
    """Synthetic frames, so many two-way questions about each; the answers have the right form and mean nothing."""
    synth_pool(folder / "pool", frames=frames, size=(704, 396), seed=0)
    found = sorted(path for path in (folder / "pool").rglob("*") if path.suffix in {".jpg", ".png"})[:frames]
    (folder / "data/images").mkdir(parents=True)
    rows = []
    for number, path in enumerate(found):
        shutil.copy(path, folder / "data/images" / path.name)
        for place in range(questions):
            a, b = THINGS[(number + place) % 8], THINGS[(number + 3 * place + 1) % 8]
            text = f"What is in slot {place + 1}?\nA. {a}\nB. {b}\nAnswer with A or B only."
            user = {"role": "user", "content": text, "image": f"images/{path.name}"}
            rows.append({"messages": [user, {"role": "assistant", "content": "AB"[(number + place) % 2]}]})
    (folder / "data/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "data"


def epochs_of(model: str, data: Path, out: Path, frames: int, settings: dict[str, Any]) -> tuple[list[float], str]:
    """Seconds of each epoch of one training, and its adapter's content hash."""
    from deckbench.train.trainer import Watch

    times: list[float] = []
    step_end, train_begin = Watch.on_step_end, Watch.on_train_begin

    def clocked(self: Watch, args: Any, state: Any, control: Any, **given: Any) -> None:
        times.append(time.perf_counter())
        if state.global_step:
            step_end(self, args, state, control, **given)

    Watch.on_step_end = Watch.on_train_begin = clocked
    try:
        made = train(model=model, data=data, out=out, overrides=settings)
    finally:
        Watch.on_step_end, Watch.on_train_begin = step_end, train_begin
    return [end - start for start, end in pairwise(times[:: frames // BATCH])], made.content_hash


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-glm4v")
    parser.add_argument("--frames", type=int, default=48, help=f"a multiple of {BATCH}")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="training settings on top")
    given = parser.parse_args()
    settings = {"vision": "absent", "batch": BATCH, "epochs": EPOCHS, "processes": given.processes, "threads": 1}
    settings |= {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in given.set)}
    print(f"{given.model}, {given.frames} frames of 704x396, {given.questions} questions each, {settings}")
    best: dict[str, list[float]] = {}
    hashes = set()
    with tempfile.TemporaryDirectory() as place:
        data = make_dataset(Path(place), given.frames, given.questions)
        for number in range(given.rounds):
            for kind in KINDS:
                cache = {} if kind == KINDS[0] else {"feature_cache": Path(place) / f"cache{number}"}
                out = Path(place) / f"{number} {kind}"
                seconds, content = epochs_of(given.model, data, out, given.frames, {**settings, **cache})
                hashes.add(content)
                best[kind] = [min(both) for both in zip(seconds, best.get(kind, seconds), strict=True)]
        kept = [path.stat().st_size for path in (Path(place) / "cache0").rglob("*.safetensors")]
    print(f"load {os.getloadavg()[0]:.1f}; a frame's features take {sum(kept) / len(kept) / 1024:.0f} KiB")
    print(f"{'seconds an epoch':20}{'first':>8}{'second':>8}")
    for kind, seconds in best.items():
        print(f"{kind:20}" + "".join(f"{value:8.2f}" for value in seconds))
    plain, _, warm = best.values()
    print("ratio of the first to the last line: " + ", ".join(f"{a / b:.2f}" for a, b in zip(plain, warm, strict=True)))
    print(f"same adapter content every time: {len(hashes) == 1}")


if __name__ == "__main__":
    main()
