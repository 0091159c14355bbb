"""`deckbench infer`: one row of FILE.csv per sample; an interrupted run resumes by itself, to the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.answer import MAX_NEW_TOKENS, Answer, Unanswered
from deckbench.artifact import Manifest
from deckbench.dataset import Sample, dataset_hash, read_file, read_samples
from deckbench.errors import InputError, OutsideError
from deckbench.infer.entries import entry_of, joined, open_ids, sums_of, transcript_of
from deckbench.infer.workers import answer_all, answer_in_threads, one_thread, processes_for
from deckbench.journal import Journal, open_journal
from deckbench.machine import hardware
from deckbench.models.interface import Model
from deckbench.parse import clean
from deckbench.picture import open_picture
from deckbench.predictions import (
    COLUMNS,
    KIND,
    TIMING_COLUMNS,
    UNANSWERED_COLUMNS,
    PredictionFiles,
    csv_bytes,
)
from deckbench.progress import say, track

RUN = "run.json"
ANSWERS = "answers.jsonl"


def infer(
    *,
    model: str,
    adapter: Path | None = None,
    data: Path,
    out: Path,
    split: str = "test",
    shard: str | None = None,
    limit: int | None = None,
) -> Manifest:
    """Answer the samples of a dataset folder's `split`, or of one JSONL or CSV file; write `out` (FILE.csv).

    shard: "i/N", the i-th of N parts (1 to N) of the pictures. limit: only the first so many samples. All samples about
    one picture are asked together, always the same ones, so an answer never depends on what was done before a restart.
    An interrupted run of the same inputs is resumed; a finished one is left as it is.

    A server (`endpoint:...`) may leave a question without an answer. That is no wrong answer: the run ends with
    OutsideError and the list in FILE.partial/, or, where the endpoint's settings say so, these questions have no row
    in FILE.csv and are listed in FILE.unanswered.csv.

    Raises InputError for broken inputs, and when FILE.csv or FILE.partial is of other inputs; OutsideError when the
    disk or a server fails (what was answered is kept).
    """
    from deckbench.models.load import load_model

    data, files = Path(data), PredictionFiles(Path(out))
    check_out(files)
    inputs = {"data": dataset_hash(data)}
    samples = read_samples(data, split) if data.is_dir() else read_file(data, split)
    if data.is_file():
        inputs["pictures"] = pictures_hash(data.parent, samples)
    pictures = choose(samples, shard, limit)
    if not pictures:
        raise InputError("there is no sample to answer", data, "choose another split, shard or limit")
    answerer = load_model(model, adapter=None if adapter is None else Path(adapter))
    content = {
        "kind": KIND,
        "inputs": {**inputs, "model": answerer.identity},
        "params": {"split": split, "shard": shard, "limit": limit, "max_new_tokens": MAX_NEW_TOKENS},
        "seed": None,
    }
    content = json.loads(artifact.canonical(content))
    if files.csv.exists():
        return finished(files, content)
    started = time.monotonic()
    with unfinished_run(files, content) as answers:
        kept = {entry["picture"]: entry for entry in answers.entries}  # the last of a picture counts
        done = {number: entry for number, entry in kept.items() if not open_ids(answerer, entry)}
        if kept:
            say(f"resuming: {len(done)} of {len(pictures)} images are answered")
        if any(entry["rows"] for entry in kept.values()):
            answerer.resume()
        incomplete: list[dict[str, Any]] = []
        try:
            answer_rest(answerer, pictures, done, answers, incomplete, {n: kept[n] for n in kept.keys() - done.keys()})
        finally:
            if answerer.concurrency:
                say(sums_of([*done.values(), *incomplete]))
        check_complete(files, [pair for entry in incomplete for pair in entry["unanswered"]])
    entries = [done[number] for number in range(len(pictures))]
    observed = {"wall_s": round(time.monotonic() - started, 3), **answered_by(answerer)}
    if adapter is not None:
        observed["trained_on"] = artifact.read(Path(adapter), "adapter").content["inputs"].get("dataset")
    return publish(files, content, entries, answerer, observed=observed)


# What is asked


def pictures_hash(folder: Path, samples: Sequence[Sample]) -> str:
    """Hash of the pictures that a single file names: they are not part of the file's own hash."""
    root = folder.resolve()
    paths = sorted({sample.image for sample in samples})
    return artifact.hash_json({path.relative_to(root).as_posix(): artifact.hash_file(path) for path in paths})


def choose(samples: Sequence[Sample], shard: str | None, limit: int | None) -> list[list[Sample]]:
    """The samples to answer, one list a picture, in file order. Raises InputError for a broken shard or limit."""
    if limit is not None and limit < 1:
        raise InputError(f"the limit is {limit}", "--limit", "ask for at least one sample")
    groups: dict[Path, list[Sample]] = {}
    for sample in samples[:limit]:
        groups.setdefault(sample.image, []).append(sample)
    pictures = list(groups.values())
    if shard is None:
        return pictures
    part, slash, whole = shard.partition("/")
    if not (slash and part.isdecimal() and whole.isdecimal() and 1 <= int(part) <= int(whole)):
        raise InputError(f"the shard {shard!r} is not i/N with i from 1 to N", "--shard", "write --shard 1/4")
    return pictures[int(part) - 1 :: int(whole)]


# Answering


def answer_rest(
    answerer: Model,
    pictures: Sequence[list[Sample]],
    done: dict[int, Any],
    kept: Journal,
    incomplete: list[dict[str, Any]],
    begun: Mapping[int, dict[str, Any]],
) -> None:
    """Answer the pictures that are not in `done`, keep each in the journal as soon as it is there.

    incomplete: gets the entries with questions without an answer that may not be left out. begun: entries of pictures
    of which some questions are answered; the others alone are asked.
    """
    left = [number for number in range(len(pictures)) if number not in done]
    processes, threads = processes_for(answerer, len(left)), answerer.concurrency
    if threads:
        # Answers of a server may cost money, and a broken picture gives up what is answered: find it before.
        for number in left:
            open_picture(pictures[number][0].image)

    def samples_of(number: int) -> list[Sample]:
        if number not in begun:
            return pictures[number]
        wanted = open_ids(answerer, begun[number])
        return [sample for sample in pictures[number] if sample.id in wanted]

    def answer(number: int) -> list[Answer | Unanswered]:
        return answer_picture(answerer, samples_of(number))

    answering = answer_in_threads(answer, left, threads) if threads else answer_all(answer, left, processes)
    with closing(answerer), one_thread(answerer), closing(answering) as answered:
        for number, answers in track(answered, "answering", total=len(left)):
            entry = entry_of(number, samples_of(number), answers)
            if number in begun:
                entry = joined(begun[number], entry, pictures[number])
            kept.append(entry)  # what is answered is paid for; what is not, the next run asks again
            if entry.get("unanswered") and not answerer.omits_unanswered:
                incomplete.append(entry)
            else:
                done[number] = entry


def answer_picture(answerer: Model, samples: Sequence[Sample]) -> list[Answer | Unanswered]:
    """All questions about one picture at once."""
    return answerer.answer_samples(samples)


# Files


def check_out(files: PredictionFiles) -> None:
    """Raises InputError unless the output is a FILE.csv that can be written."""
    if files.csv.suffix != ".csv":
        raise InputError("the output is not a .csv file", files.csv, "write --out FILE.csv")
    if files.csv.is_dir():
        raise InputError("the output is a folder", files.csv, "write --out FILE.csv")


def check_same(old: dict[str, Any], new: dict[str, Any], where: Path) -> None:
    """Raises InputError naming what differs between two runs' inputs and parameters."""
    parts = [(part, key) for part in ("inputs", "params") for key in sorted({*old.get(part, {}), *new[part]})]
    changed = [key for part, key in parts if old.get(part, {}).get(key) != new[part].get(key)]
    if changed:
        raise InputError(
            f"this was made with another {', '.join(changed)}",
            where,
            "choose another --out, or remove it to start over",
        )


def finished(files: PredictionFiles, content: dict[str, Any]) -> Manifest:
    """FILE.csv is there: done, if it is of these inputs and unchanged. Raises InputError otherwise."""
    try:
        data = json.loads(files.manifest.read_text(encoding="utf-8"))
        old = data["content"]
        whole = artifact.hash_json(old) == data["content_hash"]
        whole = whole and old["files"]["predictions.csv"]["sha256"] == artifact.hash_file(files.csv)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise InputError("a file is here that is no finished prediction", files.csv, "choose another --out")
    check_same(old, content, files.csv)
    shutil.rmtree(files.partial, ignore_errors=True)
    say(f"already done: {files.csv}")
    return Manifest(files.manifest, old, data["content_hash"], data["observed"])


@contextmanager
def unfinished_run(files: PredictionFiles, content: dict[str, Any]) -> Iterator[Journal]:
    """The journal of this run's answers, new or resumed. Broken inputs leave nothing behind; a full disk leaves all."""
    run = files.partial / RUN
    if run.is_file():
        check_same(read_json(run), content, files.partial)
    else:
        artifact.atomic_write(run, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    try:
        with open_journal(files.partial / ANSWERS, is_whole) as answers:
            yield answers
    except InputError:
        shutil.rmtree(files.partial, ignore_errors=True)
        raise
    except OSError as error:
        raise OutsideError(
            f"cannot write the answers: {error.strerror}", files.partial, "fix the disk, then rerun to resume"
        ) from error


def is_whole(entry: Any) -> bool:
    """Whether a picture's entry in the journal has all it needs."""
    return isinstance(entry["picture"], int) and len(entry["rows"]) == len(entry["times"])


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError("the unfinished run cannot be read", path, "remove this folder and start over")
    return found


def answered_by(answerer: Model) -> dict[str, Any]:
    """The machine (a server's is not known: none), the packages and the container that gave the answers."""
    if answerer.concurrency:
        return {"packages": hardware.packages(), "container": hardware.container()}
    here = {"hardware": hardware.describe(device=str(answerer.device or "cpu")), "packages": hardware.packages()}
    return {**here, "container": hardware.container()}


def check_complete(files: PredictionFiles, missing: Sequence[tuple[str, str]]) -> None:
    """Raises OutsideError when there are questions without an answer; FILE.partial/ then lists them."""
    listed = files.partial / files.unanswered.name
    if not missing:
        listed.unlink(missing_ok=True)
        return
    artifact.atomic_write(listed, csv_bytes(UNANSWERED_COLUMNS, [(key, clean(reason)) for key, reason in missing]))
    key, reason = missing[0]
    raise OutsideError(
        f"{len(missing)} questions got no answer; the first, {key}: {reason}",
        listed,
        "run again to ask only about these images, or set `unanswered: leave-out` in the endpoint's file",
    )


def publish(
    files: PredictionFiles,
    content: dict[str, Any],
    entries: Sequence[dict[str, Any]],
    answerer: Model,
    *,
    observed: dict[str, Any],
) -> Manifest:
    """Timings and manifest first, then FILE.csv, whose presence means done; then the journal goes."""
    rows = [row for entry in entries for row in entry["rows"]]
    times = [row for entry in entries for row in entry["times"]]
    missing = [(key, clean(reason)) for entry in entries for key, reason in entry.get("unanswered", [])]
    if not rows:
        what = f"no question got an answer; the first, {missing[0][0]}: {missing[0][1]}"
        raise OutsideError(what, files.partial, "fix it at the server, then run again")
    predictions = csv_bytes(COLUMNS, rows)
    entry = {"sha256": hashlib.sha256(predictions).hexdigest(), "size": len(predictions)}
    content = {**content, "files": {"predictions.csv": entry}}
    observed = {**observed, "samples": len(rows)}
    facts = [fact for entry in entries for fact in entry.get("facts", [])]
    at_in, at_out = COLUMNS.index("tokens_in"), COLUMNS.index("tokens_out")
    tokens = [(int(row[at_in]), int(row[at_out])) for row in rows if row[at_in] and row[at_out]]
    if (account := answerer.account(facts, tokens)) is not None:
        served, observed["endpoint"] = account
        content["endpoint"] = {**served, "unanswered": [key for key, _ in missing]}
        if refused := [key for entry in entries for key in entry.get("refused", ())]:
            content["endpoint"]["refused"] = refused
    digest = artifact.hash_json(content)
    manifest = {"schema": artifact.SCHEMA, "content_hash": digest, "content": content, "observed": observed}
    if missing:
        artifact.atomic_write(files.unanswered, csv_bytes(UNANSWERED_COLUMNS, missing))
        say(f"left out: {len(missing)} questions without an answer, listed in {files.unanswered}")
    else:
        files.unanswered.unlink(missing_ok=True)
    if facts:
        artifact.atomic_write(files.transcript, transcript_of(entries))
    artifact.atomic_write(files.timings, csv_bytes(TIMING_COLUMNS, times))
    artifact.atomic_write(files.manifest, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    artifact.atomic_write(files.csv, predictions)
    shutil.rmtree(files.partial, ignore_errors=True)
    return Manifest(files.manifest, content, digest, observed)
