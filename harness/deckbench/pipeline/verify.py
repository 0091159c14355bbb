"""Does a record reproduce? Its step is done again from its inputs, and the answers are laid side by side."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.errors import DeckBenchError, InputError, OutsideError

SINCE = ("score", "infer", "train")
# verdicts, the best first; those before "different" count as reproduced
SAME_BYTES, SAME_ANSWERS, WITHIN, DIFFERENT, NOT_HERE = (
    "same bytes",
    "same answers",
    "within the interval",
    "different",
    "not runnable here",
)
OUTCOME = ("model", "task", "dataset", "samples", "metrics", "seed")  # of a record: what came out, of what
ENDS_WITHIN_S = 60.0  # a step in a container that was asked to end: it may save, then its container is removed
REUSED = {"infer": ("pools", "data", "audits", "adapters"), "train": ("pools", "data", "audits")}


def verify(record: Path, *, since: str = "score", work: Path | None = None) -> dict[str, Any]:
    """Do a record's step again.

    since: `score` (from its own predictions), `infer` (from the suite's adapters) or `train` (from its datasets).
    work: where the suite's artifacts lie; what is missing there is made. Returns {record, from, verdict, reproduced,
    why}. Raises InputError when the record is damaged or `since` is unknown.
    """
    from deckbench.record.read import read_record
    from deckbench.record.recompute import differences

    if since not in SINCE:
        raise InputError(f"{since!r} cannot be done again", "--from", f"one of: {', '.join(SINCE)}")
    run = read_record(Path(record))
    if run.record.samples is None or run.record.metrics is None:
        verdict, why = NOT_HERE, "the record holds times only; they never reproduce"
    elif found := differences(run):
        verdict, why = DIFFERENT, f"it does not follow from its own samples: {found[0]}"
    elif since == "score":
        verdict, why = SAME_BYTES, "every answer was graded again, every metric and interval came out the same"
    else:
        verdict, why = run_again(Path(record), run.record, since, work)
    good = verdict in (SAME_BYTES, SAME_ANSWERS, WITHIN)
    return {"record": Path(record).name, "from": since, "verdict": verdict, "reproduced": good, "why": why}


def run_again(record: Path, known: Any, since: str, work: Path | None) -> tuple[str, str]:
    """Make the record again in a folder of its own, with what `since` leaves standing from `work`; (verdict, why)."""
    from deckbench.pipeline.suite import find_suite, run_suite, work_folder

    source = next((entry for entry in known.inputs if entry.kind == "suite"), None)
    try:
        words = shlex.split(known.command)
    except ValueError:  # a quote that is not closed: no suite wrote it
        words = []
    if source is None or "--only" not in words[:-1]:
        return NOT_HERE, "the record does not come from a suite"
    try:
        old = work_folder(Path(known.pool.board).name, work)
        _, file = find_suite(source.source, source.sha256, old)
    except InputError as error:
        return NOT_HERE, error.what
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "work"
        for room in REUSED[since]:
            if (old / room).is_dir():
                # links would do, but an artifact must not change under us while it is read
                shutil.copytree(old / room, place / room, ignore=shutil.ignore_patterns(".*", "*.partial"))
        label = words[words.index("--only") + 1]
        if known.container is None:
            made, note = Path(run_suite(str(file), work=place, only=label)["records"][0]), ""
        else:
            try:
                note = recreated(known.container.name, known.container.identity)
            except DeckBenchError as error:
                return NOT_HERE, f"it ran in the image {known.container.name}: {error.what}"
            run_contained(str(file), place, label, known.container.name)
            made = next((place / "records").iterdir())
        verdict, why = compare(record, made, known)
        return verdict, why + note


def recreated(name: str, identity: str) -> str:
    """Have the image a record names in the daemon, built anew where it is not; returns what is to be said of it.

    Raises DeckBenchError where there is no daemon, or the image can neither be found nor built.
    """
    from deckbench.containers.build import recreate
    from deckbench.containers.spec import image_named
    from deckbench.machine.daemon import connect

    there = recreate(connect(), image_named(name), identity)
    return "" if there == identity else f"; the image is {there[:12]}, the record's was {identity[:12]}"


def run_contained(ref: str, work: Path, label: str, image: str) -> None:
    """One row of a suite in a container. Raises OutsideError, or InputError, as the step said on stderr.

    KeyboardInterrupt on Ctrl-C, OutsideError on SIGTERM: both when the step has ended and its container is removed.
    """
    from deckbench.runners.local.container import AGAIN, signals

    command = [sys.executable, "-m", "deckbench", "run", ref, "--work", str(work), "--only", label]
    command += ["--runner", "docker", "--image", image]
    with signals() as asked:
        # What it prints are places in a folder that goes again; what it says of itself is on stderr.
        code = attended(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL), asked)
    if asked and asked[0] == signal.SIGINT:
        raise KeyboardInterrupt
    if asked:
        raise OutsideError(f"stopped by {signal.Signals(asked[0]).name}", label, AGAIN)
    if code != 0:
        kind = InputError if code == InputError.exit_code else OutsideError
        raise kind(f"the row did not run in the image {image} (see above)", label)


def attended(process: subprocess.Popen[bytes], asked: list[int]) -> int:
    """Wait for a process that has its own container to remove; its exit code.

    asked: signals that this process got. The terminal sends Ctrl-C to both; any other is passed on. It is killed where
    it does not end within ENDS_WITHIN_S of the first, and where this is left otherwise.
    """
    told, kill_at = 0, float("inf")
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(0.1)
            for number in asked[told:]:
                if number != signal.SIGINT:
                    process.send_signal(number)
            if asked and not told:
                kill_at = time.monotonic() + ENDS_WITHIN_S
            told = len(asked)
            if time.monotonic() > kill_at:
                process.kill()
    finally:
        process.kill()
        process.wait()


def compare(old: Path, new: Path, known: Any) -> tuple[str, str]:
    """(verdict, why) for a record and its second making."""
    from deckbench.record.read import read_record, read_samples

    if artifact.hash_file(old / "record.json") == artifact.hash_file(new / "record.json"):
        return SAME_BYTES, "record.json and all answers are the same bytes"
    told, again = (json.loads((place / "record.json").read_text(encoding="utf-8")) for place in (old, new))
    if all(told[part] == again[part] for part in OUTCOME):
        other = sorted(part for part in told if told[part] != again[part])
        return SAME_BYTES, f"all answers and metrics are the same bytes; of the record differ: {', '.join(other)}"
    before, after = ({row["id"]: row for row in read_samples(read_record(place))} for place in (old, new))
    if before.keys() != after.keys():
        return DIFFERENT, "other samples were asked: the pool or the dataset came out otherwise"
    if any(row[name] != after[key][name] for key, row in before.items() for name in ("question", "gold", "anomaly")):
        return DIFFERENT, "the samples have other questions or gold answers: the pool or the dataset has changed"
    other = [key for key, row in before.items() if row["prediction"] != after[key]["prediction"]]
    if not other:
        return SAME_ANSWERS, "all answers are the same; probabilities or identities differ in their last digits"
    headline = known.metrics.kinds[known.metrics.primary].metrics["accuracy"]
    choices = [row for row in after.values() if row["kind"] == known.metrics.primary]
    rate = sum(row["right"] == "true" for row in choices) / max(1, len(choices))
    low, high = headline.interval or (0.0, 1.0)
    text = (
        f"{len(other)} of {len(before)} answers differ; accuracy {rate:.4f}, recorded interval {low:.4f} to {high:.4f}"
    )
    return (WITHIN if low <= rate <= high else DIFFERENT), text
