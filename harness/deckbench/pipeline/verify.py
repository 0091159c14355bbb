"""Does a record reproduce? Its step is done again from its inputs, and the answers are laid side by side."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.errors import AnswerIsNo, DeckBenchError, InputError, OutsideError

SINCE = ("score", "infer", "train")
# verdicts, the best first; those before "different" count as reproduced
SAME_BYTES, SAME_ANSWERS, WITHIN, DIFFERENT, NOT_HERE = (
    "same bytes",
    "same answers",
    "within the interval",
    "different",
    "not runnable here",
)
# Fields of a record that a second making has to give again, wherever it is made.
SAME_EVERYWHERE = ("curriculum", "task", "stage", "pool", "dataset", "questions", "audit", "seed", "command")
OUTCOME = ("samples", "metrics", "ontology", "calibration", "judged")  # what came out
HARDWARE_CLASS = ("device", "architecture", "capability", "threads", "emulated")  # what decides the last digits
ENDS_WITHIN_S = 60.0  # a step in a container that was asked to end: it may save, then its container is removed
REUSED = {"infer": ("pools", "data", "audits", "adapters"), "train": ("pools", "data", "audits")}


def verify(
    record: Path,
    *,
    since: str = "score",
    work: Path | None = None,
    signature: bool = False,
    key: Path | None = None,
) -> dict[str, Any]:
    """Do a record's step again.

    Args:
        record: its folder.
        since: `score` (from its own predictions), `infer` (from the suite's adapters) or `train` (from its datasets).
        work: where the suite's artifacts lie; what is missing there is made.
        signature: it has to be signed. key: by this public key.

    Returns:
        {"record", "from", "verdict", "reproduced", "why", "signature"}.

    Raises:
        InputError: the record is damaged or wrongly signed, or `since` is unknown.
        AnswerIsNo: a signature is asked for, and there is none.
    """
    from deckbench.extras import require
    from deckbench.record.read import read_record
    from deckbench.record.recompute import differences
    from deckbench.record.signature import PACKAGES, check_signature

    if since not in SINCE:
        raise InputError(f"{since!r} cannot be done again", "--from", f"one of: {', '.join(SINCE)}")
    if signature:
        for package in PACKAGES:
            require(package, "a signature")
    run = read_record(Path(record))
    if signature and run.signature.key is None:
        raise AnswerIsNo("the record is unsigned", record, "ask its maker for a signed one: `deckbench sign`")
    signed = check_signature(Path(record), key) if key is not None else run.signature
    if found := differences(run):
        verdict, why = DIFFERENT, f"it does not follow from what is in it: {found[0]}"
    elif run.record.samples is None or run.record.metrics is None:
        verdict, why = NOT_HERE, "the record holds times only; they never reproduce"
    elif since == "score":
        verdict, why = SAME_BYTES, "every answer was graded again, every metric and interval came out the same"
    else:
        verdict, why = run_again(Path(record), run.record, since, work)
    good = verdict in (SAME_BYTES, SAME_ANSWERS, WITHIN)
    return {
        "record": Path(record).name,
        "from": since,
        "verdict": verdict,
        "reproduced": good,
        "why": why,
        "signature": signed.words,
    }


def run_again(record: Path, known: Any, since: str, work: Path | None) -> tuple[str, str]:
    """Make the record again in a folder of its own, with what `since` leaves standing from `work`; (verdict, why)."""
    from deckbench.pipeline.suite import find_suite, noted_pools, run_suite, work_folder
    from deckbench.suite import given_pools

    source = next((entry for entry in known.inputs if entry.kind == "suite"), None)
    try:
        words = shlex.split(known.command)
    except ValueError:  # a quote that is not closed: no suite wrote it
        words = []
    if source is None or "--only" not in words[:-1]:
        return NOT_HERE, "the record does not come from a suite"
    try:
        old = work_folder(Path(known.pool.board).name, work)
        suite, file = find_suite(source.source, source.sha256, old)
        pools = [f"{name}={path}" for name, path in given_pools(suite, noted_pools(old)).items()]
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
            made, note = Path(run_suite(str(file), work=place, only=label, pools=pools)["records"][0]), ""
        else:
            try:
                note = recreated(known.container.name, known.container.identity)
            except DeckBenchError as error:
                return NOT_HERE, f"it ran in the image {known.container.name}: {error.what}"
            run_contained(str(file), place, label, known.container.name, pools)
            made = next((place / "records").iterdir())
        verdict, why = compare(record, made)
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


def run_contained(ref: str, work: Path, label: str, image: str, pools: Sequence[str] = ()) -> None:
    """One row of a suite in a container. Raises OutsideError, or InputError, as the step said on stderr.

    KeyboardInterrupt on Ctrl-C, OutsideError on SIGTERM: both when the step has ended and its container is removed.
    """
    from deckbench.runners.local.container import AGAIN, signals

    command = [sys.executable, "-m", "deckbench", "run", ref, "--work", str(work), "--only", label]
    command += ["--runner", "docker", "--image", image, *(word for pool in pools for word in ("--pool", pool))]
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


def compare(old: Path, new: Path) -> tuple[str, str]:
    """(verdict, why) for a record and its second making: first what it says of itself, then the answers."""
    from deckbench.record.read import read_record, read_samples

    runs = read_record(old), read_record(new)
    if artifact.hash_file(old / "record.json") != artifact.hash_file(new / "record.json"):
        told, again = (run.record.model_dump(mode="json", by_alias=True) for run in runs)
        if other := changed_facts(told, again):
            return DIFFERENT, other
    if other := changed_pictures(*runs):
        return DIFFERENT, other
    if artifact.hash_file(old / "record.json") == artifact.hash_file(new / "record.json"):
        return SAME_BYTES, "record.json and all answers are the same bytes"
    elsewhere = hardware_note(told["hardware"], again["hardware"])
    if all(told.get(part) == again.get(part) for part in OUTCOME):
        parts = sorted(part for part in told if told[part] != again.get(part))
        return SAME_BYTES, f"all answers and metrics are the same bytes; of the record differ: {', '.join(parts)}"
    before, after = ({row["id"]: row for row in read_samples(run)} for run in runs)
    if before.keys() != after.keys():
        return DIFFERENT, "other samples were answered"
    different = [key for key, row in before.items() if row["prediction"] != after[key]["prediction"]]
    if not different:
        return SAME_ANSWERS, f"all answers are the same; probabilities differ in their last digits{elsewhere}"
    metrics = runs[0].record.metrics
    assert metrics is not None  # only records of answers are made again
    headline = metrics.kinds[metrics.primary].metrics["accuracy"]
    choices = [row for row in after.values() if row["kind"] == metrics.primary]
    rate = sum(row["right"] == "true" for row in choices) / max(1, len(choices))
    low, high = headline.interval or (0.0, 1.0)
    text = f"{len(different)} of {len(before)} answers differ{elsewhere}; "
    text += f"accuracy {rate:.4f}, recorded interval {low:.4f} to {high:.4f}"
    return (WITHIN if low <= rate <= high else DIFFERENT), text


def changed_facts(told: dict[str, Any], again: dict[str, Any]) -> str:
    """The first thing that a record says of model, data or inputs and its second making does not; empty: none.

    An adapter may come out otherwise on another class of hardware, or with other packages; nothing else may.
    """
    trained_alike = hardware_class(told) == hardware_class(again) and told["packages"] == again["packages"]
    pairs = [(part, told[part], again[part]) for part in SAME_EVERYWHERE]
    models = [{**value["model"], "identity": dict(value["model"]["identity"])} for value in (told, again)]
    inputs = [{entry["name"]: entry["sha256"] for entry in value["inputs"]} for value in (told, again)]
    if not trained_alike:
        for value in (*(model["identity"] for model in models), *inputs):
            value.update({"adapter": ""} if "adapter" in value else {})
    pairs += [(f"model {key}", models[0][key], models[1][key]) for key in models[0]]
    pairs.append(("inputs", inputs[0], inputs[1]))
    return next((f"its {name} is {old}, made again it is {new}" for name, old, new in pairs if old != new), "")


def changed_pictures(old: Any, new: Any) -> str:
    """Whether the thumbnails of two records differ: in what they show, or in their bytes where one Pillow made both."""
    from deckbench.record.read import read_thumbnails

    same_maker = hardware_class(old.record.model_dump()) == hardware_class(new.record.model_dump())
    same_maker = same_maker and old.record.packages.get("pillow") == new.record.packages.get("pillow")
    if old.record.samples != new.record.samples:
        return ""  # other answers were wrong, so other frames are shown
    shown = [read_thumbnails(run) for run in (old, new)]
    if shown[0] != shown[1]:
        return "its thumbnails show other frames"
    bytes_differ = any((old.folder / name).read_bytes() != (new.folder / name).read_bytes() for name in shown[0])
    return "its thumbnails are other pictures" if same_maker and bytes_differ else ""


def hardware_class(record: dict[str, Any]) -> tuple[Any, ...]:
    """What of a machine decides whether two of them give the same bytes."""
    return tuple(record["hardware"][name] for name in HARDWARE_CLASS)


def hardware_note(told: dict[str, Any], again: dict[str, Any]) -> str:
    """What is to be said of a second making on another class of hardware; empty on the same."""
    parts = [f"{name} {told[name]} -> {again[name]}" for name in HARDWARE_CLASS if told[name] != again[name]]
    return f" (another class of hardware: {', '.join(parts)})" if parts else ""
