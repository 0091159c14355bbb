"""How fast is `build`, against a plain single-process Pillow loop that makes the same pictures and rows?

    python benchmarks/build.py [--pool POOL] [--frames 2000] [--workers N]

The plain loop reads and checks every frame and its labels, then opens, crops, draws and saves one picture after the
other, writes the tables and hashes what it made, as `build` does. It is given the finished plan (which crops, which
boxes, which rows), which `build` makes inside its time. `loop: frame` opens each frame once for all its pictures;
`loop: picture` opens it for each, as a first script does. The split (a search for near-duplicates) is timed apart: it
is made once for all stages, and no plain loop has anything like it. Times are wall clock; use an idle machine.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
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
from deckbench.split import split_pool
from deckbench.yolo.read import read_pool

STAGES = {"S1": "ot2-concept@1", "S2": "ot2-guided@1", "S3": "ot2-scene@1"}
NEEDED = 1.7


def timed(work: Callable[[], Any]) -> float:
    """Wall seconds. Earlier writes go to disk first: `build` forces its own files there and would wait for theirs."""
    os.sync()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def plain_check(pool: Path) -> int:
    """Read, hash and decode every picture, parse every label; returns how many numbers were read."""
    numbers = 0
    for path in sorted(pool.rglob("*.jpg")):
        data = path.read_bytes()
        hashlib.sha256(data).hexdigest()
        Image.open(io.BytesIO(data)).load()
        labels = Path(str(path.with_suffix(".txt")).replace("/images/", "/labels/"))
        if labels.is_file():
            numbers += sum(len([float(word) for word in line.split()]) for line in labels.read_text().splitlines())
    return numbers


def plain_picture(frame: Image.Image, picture: Picture) -> Image.Image:
    """What `build` makes of a frame, written down plainly."""
    if picture.crop is not None:
        return frame.crop(picture.crop)
    drawn = frame.copy()
    if picture.box is not None:
        ImageDraw.Draw(drawn).rectangle(picture.box, outline=picture.colour, width=picture.line)
    return drawn


def plain_loop(pool: Path, jobs: list[Job], samples: str, out: Path, *, once_a_frame: bool) -> None:
    """One process: check, then one picture after the other, then tables and hashes."""
    plain_check(pool)
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
    for made in sorted(out.rglob("*")):
        if made.is_file():
            hashlib.sha256(made.read_bytes()).hexdigest()


def remember_jobs() -> list[list[Job]]:
    """Collects the jobs of each build that follows."""
    seen: list[list[Job]] = []
    making = building.making

    def spy(jobs: Any, folder: Path, workers: int) -> Any:
        seen.append(list(jobs))
        return making(jobs, folder, workers)

    building.making = spy
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, help="a pool; rendered when left out")
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--split", default="group")
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
        frames: list[Any] = []
        print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        print(f"read and check the pool {timed(lambda: frames.append(read_pool(pool))):7.1f} s")
        print(f"split it ({args.split})    {timed(lambda: split_pool(frames[0], args.split, 0)):7.1f} s, once")
        jobs = remember_jobs()
        result: dict[str, Any] = {"workers": args.workers, "stages": {}}
        totals = dict.fromkeys(("build", "loop: frame", "loop: picture"), 0.0)
        for stage, task in STAGES.items():
            out = work / stage
            wish = {"pool": pool, "out": out, "workers": args.workers, "split": args.split}
            times = {"build": timed(lambda t=task, w=wish: build_dataset(t, **w))}
            samples = (out / "samples.csv").read_text(encoding="utf-8")
            for name, once in (("loop: frame", True), ("loop: picture", False)):
                plain = work / f"{stage}-{once}"
                times[name] = timed(
                    lambda j=jobs[-1], s=samples, p=plain, o=once: plain_loop(pool, j, s, p, once_a_frame=o)
                )
            for path in (out / "images").iterdir():
                assert (work / f"{stage}-True" / "images" / path.name).read_bytes() == path.read_bytes(), path.name
            pictures = sum(len(job[1]) for job in jobs[-1])
            rows = sum(1 for _ in csv.reader(io.StringIO(samples))) - 1
            print(f"{stage}: {pictures} pictures, {rows} rows")
            for name, wall in times.items():
                totals[name] += wall
                print(f"  {name:14s} {wall:7.1f} s  x{wall / times['build']:.2f}")
            result["stages"][stage] = {"pictures": pictures, "rows": rows, **times}
            for path in work.glob(f"{stage}*"):
                shutil.rmtree(path)
        print("all stages")
        for name, wall in totals.items():
            print(f"  {name:14s} {wall:7.1f} s  x{wall / totals['build']:.2f}")
        result["speedup"] = {name: totals[name] / totals["build"] for name in totals if name != "build"}
        result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        plain, careful = (result["speedup"][name] for name in ("loop: picture", "loop: frame"))
        print(f"x{plain:.2f} a plain loop ({NEEDED} needed), x{careful:.2f} a careful one; {result['peak_mb']:.0f} MB")
        if args.json:
            args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
