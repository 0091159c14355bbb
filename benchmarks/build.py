"""How fast is `build`, against a plain single-process Pillow loop that makes the same pictures and rows?

    python benchmarks/build.py [--pool POOL] [--frames 2000] [--workers N]

The plain loop is given the finished plan (which crops, which boxes, which rows) and opens, crops, draws and saves one
picture after the other. It does not read or check the pool, split it, plan, hash or sync anything; `build` does all of
that inside its time. `loop: frame` opens each frame once for all its pictures, `loop: picture` opens it anew for each,
as a first script would. Speedups are by wall clock; CPU seconds are shown because wall clock lies on a busy machine.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from deckbench.build import build_dataset
from deckbench.build import dataset as building
from deckbench.build.pictures import JPEG_QUALITY, Job, Picture

STAGES = {"S1": "ot2-concept@1", "S2": "ot2-guided@1", "S3": "ot2-scene@1"}
NEEDED = 1.7


def cpu_seconds() -> float:
    """User and system time of this process and its finished children."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """(wall seconds, CPU seconds)."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    work()
    return time.perf_counter() - wall, cpu_seconds() - cpu


def plain_picture(frame: Image.Image, picture: Picture) -> Image.Image:
    """What `build` makes of a frame, written down plainly."""
    if picture.crop is not None:
        return frame.crop(picture.crop)
    drawn = frame.copy()
    if picture.box is not None:
        ImageDraw.Draw(drawn).rectangle(picture.box, outline=picture.colour, width=picture.line)
    return drawn


def plain_loop(jobs: list[Job], samples: str, out: Path, *, once_a_frame: bool) -> None:
    """One process, one picture after the other, then the tables."""
    (out / "images").mkdir(parents=True)
    for path, pictures in jobs:
        frame = None
        for picture in pictures:
            if picture.crop is None and picture.box is None:
                shutil.copyfile(path, out / "images" / picture.name)
                continue
            if frame is None or not once_a_frame:
                frame = Image.open(path).convert("RGB")
            plain_picture(frame, picture).save(out / "images" / picture.name, "JPEG", quality=JPEG_QUALITY)
    rows = list(csv.DictReader(io.StringIO(samples)))
    (out / "samples.csv").write_text(samples, encoding="utf-8")
    for split in ("train", "val", "test"):
        with (out / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for row in rows:
                if row["split"] == split:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")


def remember_jobs() -> list[list[Job]]:
    """Collects the jobs of each build that follows."""
    seen: list[list[Job]] = []
    make_all = building.make_all

    def spy(jobs: Any, folder: Path, workers: int) -> Any:
        seen.append(list(jobs))
        return make_all(jobs, folder, workers)

    building.make_all = spy
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, help="a pool; rendered when left out")
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write the numbers here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pool = args.pool
        if pool is None:
            from deckbench.pool.synth import synth_pool

            pool = work / "pool"
            synth_pool(pool, frames=args.frames, seed=7)
        jobs = remember_jobs()
        result: dict[str, Any] = {"workers": args.workers, "stages": {}}
        totals = {"build": [0.0, 0.0], "loop: frame": [0.0, 0.0], "loop: picture": [0.0, 0.0]}
        for stage, task in STAGES.items():
            out = work / stage
            times = {"build": timed(lambda t=task, o=out: build_dataset(t, pool=pool, out=o, workers=args.workers))}
            samples = (out / "samples.csv").read_text(encoding="utf-8")
            for name, once in (("loop: frame", True), ("loop: picture", False)):
                plain = work / f"{stage}-{once}"
                times[name] = timed(lambda j=jobs[-1], s=samples, p=plain, o=once: plain_loop(j, s, p, once_a_frame=o))
            for path in (out / "images").iterdir():
                assert (work / f"{stage}-True" / "images" / path.name).read_bytes() == path.read_bytes(), path.name
            pictures = sum(len(job[1]) for job in jobs[-1])
            rows = samples.count("\ns") or None
            print(f"{stage}: {pictures} pictures")
            for name, (wall, cpu) in times.items():
                totals[name][0] += wall
                totals[name][1] += cpu
                print(f"  {name:14s} {wall:7.1f} s wall  {cpu:7.1f} s CPU")
            result["stages"][stage] = {"pictures": pictures, "rows": rows, **{k: list(v) for k, v in times.items()}}
            for path in work.glob(f"{stage}*"):
                shutil.rmtree(path)
        print("all stages")
        for name, (wall, cpu) in totals.items():
            print(
                f"  {name:14s} {wall:7.1f} s wall  {cpu:7.1f} s CPU   x{wall / totals['build'][0]:.2f} of build's time"
            )
        result["speedup"] = {name: totals[name][0] / totals["build"][0] for name in totals if name != "build"}
        result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"speedup {result['speedup']['loop: frame']:.2f} (needed {NEEDED}); peak {result['peak_mb']:.0f} MB")
        if args.json:
            args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
