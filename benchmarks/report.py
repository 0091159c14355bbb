"""How long a site of many records takes, and how large its pages are. The records are invented.

    python benchmarks/report.py [--runs 300] [--samples 500] [--keep DIR]

Prints one JSON line: runs, samples, seconds (and CPU seconds: on a busy machine they tell more), largest page and
whole site in bytes, peak memory in MiB.
Exit 1 when it takes more than 10 s or a page is larger than 2 MB.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from deckbench.report import report

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it is run as a program

from tests.record import fake

MOST_SECONDS = 10.0
MOST_BYTES = 2_000_000


def make_records(folder: Path, runs: int, samples: int) -> None:
    """At least `runs` records of `samples` answers below `folder`/records: 24 for every model, 24 for the baselines."""
    models = max(1, round((runs - 24) / 24 + 0.49))
    fake.suite(folder / "records", folder / "work", models=models, n=samples, pictures=50)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--keep", type=Path, help="use this folder; records already there are not made again")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        if not (folder / "records").is_dir():
            make_records(folder, asked.runs, asked.samples)
        out = folder / f"site-{time.time_ns()}"
        began, worked = time.perf_counter(), time.process_time()
        result = report(folder / "records", out=out)
        seconds, work = time.perf_counter() - began, time.process_time() - worked
        largest = max(path.stat().st_size for path in out.rglob("*.html"))
        found = {
            "runs": result["records"],
            "samples": asked.samples,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(work, 2),
            "largest_page_bytes": largest,
            "site_bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
    print(json.dumps(found))
    return 0 if seconds <= MOST_SECONDS and largest <= MOST_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
