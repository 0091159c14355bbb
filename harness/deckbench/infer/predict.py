"""`deckbench infer`: one row of FILE.csv per sample; killed and run again it goes on by itself, with the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from deckbench import artifact
from deckbench.artifact import Manifest
from deckbench.dataset import Sample, dataset_hash, read_file, read_samples
from deckbench.errors import InputError, OutsideError
from deckbench.grade import options_of, parse_choice, parse_scene
from deckbench.infer.workers import answer_all, answer_in_threads, ending, one_thread, processes_for
from deckbench.machine import hardware
from deckbench.models.interface import MAX_NEW_TOKENS, Answer, Question, Unanswered
from deckbench.picture import open_picture
from deckbench.predictions import COLUMNS
from deckbench.progress import say, track

KIND = "predictions"
STAGES = ("preprocess", "vision", "prefill", "decode", "first_token")
TIMINGS = ("id", "kind", "picture", "asked_together", *(f"{stage}_s" for stage in STAGES))
RUN = "run.json"
ANSWERS = "answers.jsonl"
UNANSWERED = ("id", "reason")
FSYNC_EVERY_S = 1.0
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class Place:
    """The files around one FILE.csv."""

    csv: Path

    @property
    def manifest(self) -> Path:
        return self.csv.with_name(f"{self.csv.stem}.manifest.json")

    @property
    def timings(self) -> Path:
        return self.csv.with_name(f"{self.csv.stem}.timings.csv")

    @property
    def unanswered(self) -> Path:
        return self.csv.with_name(f"{self.csv.stem}.unanswered.csv")

    @property
    def partial(self) -> Path:
        return self.csv.with_name(f"{self.csv.stem}.partial")


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
    An unfinished run of the same inputs is taken up; a finished one is left as it is.

    A server (`endpoint:...`) may leave a question without an answer. That is no wrong answer: the run ends with
    OutsideError and the list in FILE.partial/, or, where the endpoint's settings say so, these questions have no row
    in FILE.csv and are listed in FILE.unanswered.csv.

    Raises InputError for broken inputs, and when FILE.csv or FILE.partial is of other inputs; OutsideError when the
    disk or a server fails (what was answered is kept).
    """
    from deckbench.models.load import load_model

    data, place = Path(data), Place(Path(out))
    check_out(place)
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
    if place.csv.exists():
        return finished(place, content)
    started = time.monotonic()
    with journal(place, content) as (file, done):
        if done:
            say(f"going on: {len(done)} of {len(pictures)} pictures are answered")
        check_complete(place, answer_rest(answerer, pictures, done, file))
    entries = [done[number] for number in range(len(pictures))]
    observed = {"wall_s": round(time.monotonic() - started, 3), **answered_by(answerer)}
    return publish(place, content, entries, answerer, observed=observed)


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
    answerer: Any, pictures: Sequence[list[Sample]], done: dict[int, Any], file: IO[bytes]
) -> list[tuple[str, str]]:
    """Answer the pictures that are not in `done`, keep each in the journal as soon as it is there.

    Returns (id, reason) of the questions without an answer that may not be left out. Their pictures are in neither.
    """
    left = [number for number in range(len(pictures)) if number not in done]
    processes, threads = processes_for(answerer, len(left)), getattr(answerer, "concurrency", 0)
    stays_out = threads and answerer.spec.unanswered == "leave-out"
    missing: list[tuple[str, str]] = []
    synced = time.monotonic()
    if threads:
        # Answers of a server may cost money, and a broken picture gives up what is answered: find it before.
        for number in left:
            open_picture(pictures[number][0].image)

    def answer(number: int) -> list[Answer | Unanswered]:
        return answer_picture(answerer, pictures[number])

    answering = answer_in_threads(answer, left, threads) if threads else answer_all(answer, left, processes)
    with ending(answerer), one_thread(answerer), closing(answering) as answered:
        for number, answers in track(answered, "answering", total=len(left)):
            entry = entry_of(number, pictures[number], answers)
            if entry.get("unanswered"):  # never in the journal: the next run asks again
                if stays_out:
                    done[number] = entry
                else:
                    missing += entry["unanswered"]
                continue
            file.write(artifact.canonical(entry) + b"\n")
            file.flush()
            if time.monotonic() - synced >= FSYNC_EVERY_S:
                os.fsync(file.fileno())
                synced = time.monotonic()
            done[number] = entry
    return missing


def answer_picture(answerer: Any, samples: Sequence[Sample]) -> list[Answer | Unanswered]:
    """All questions about one picture at once; baselines that look at samples, not pictures, get those."""
    if hasattr(answerer, "answer_samples"):
        return list(answerer.answer_samples(samples))
    questions = [Question(sample.question, sample.kind, MAX_NEW_TOKENS[sample.kind]) for sample in samples]
    ask_all = answerer.answer_each if hasattr(answerer, "answer_each") else answerer.answer
    return list(ask_all(open_picture(samples[0].image), questions))


def entry_of(number: int, samples: Sequence[Sample], answers: Sequence[Answer | Unanswered]) -> dict[str, Any]:
    """A picture's line in the journal: rows and times of what is answered, facts of a server's answers, the rest."""
    pairs = list(zip(samples, answers, strict=True))
    given = [(sample, answer) for sample, answer in pairs if isinstance(answer, Answer)]
    entry: dict[str, Any] = {
        "picture": number,
        "rows": [row_of(sample, answer) for sample, answer in given],
        "times": [times_of(sample, answer, number, len(pairs)) for sample, answer in given],
    }
    if facts := [answer.facts() for _, answer in given if hasattr(answer, "facts")]:
        entry["facts"] = facts
    if left := [(sample.id, answer.reason) for sample, answer in pairs if isinstance(answer, Unanswered)]:
        entry["unanswered"] = left
    return entry


def share(value: float | None) -> str:
    """A probability in fixed format, so that equal numbers are equal bytes."""
    return "" if value is None else f"{value:.8f}"


def parsed(sample: Sample, text: str) -> str:
    """A or B, anomaly or normal, or nothing where the answer is not clear."""
    if sample.kind == "choice":
        options = (sample.option_a, sample.option_b)
        if options[0] is None or options[1] is None:
            options = options_of(sample.question) or ("A", "B")
        return parse_choice(text, str(options[0]), str(options[1])) or ""
    verdict = parse_scene(text) if sample.kind == "scene" else None
    return "" if verdict is None else "anomaly" if verdict else "normal"


def readable(text: str) -> str:
    """An answer without control characters, which CSV readers stumble over; line breaks and tabs stay."""
    return CONTROL.sub("\ufffd", text)


def row_of(sample: Sample, answer: Answer) -> list[str]:
    """One row of FILE.csv. p_anomaly is the probability of the option that means anomaly, as it is in the softmax."""
    p_anomaly = None
    if sample.kind == "choice" and sample.anomaly is not None and sample.gold in {"A", "B"}:
        p_anomaly = answer.p_a if (sample.gold == "A") == sample.anomaly else answer.p_b
    return [
        sample.id,
        sample.pair_id,
        sample.kind,
        sample.question,
        sample.gold,
        readable(answer.text),
        parsed(sample, answer.text),
        share(answer.p_a),
        share(answer.p_b),
        share(p_anomaly),
        *(str(count) if getattr(answer, "counted", True) else "" for count in (answer.tokens_in, answer.tokens_out)),
    ]


def times_of(sample: Sample, answer: Answer, picture: int, together: int) -> list[str]:
    """One row of FILE.timings.csv. Questions asked together share the picture's stages."""
    stages = [f"{answer.seconds[stage]:.6f}" if stage in answer.seconds else "" for stage in STAGES]
    return [sample.id, sample.kind, str(picture), str(together), *stages]


# Files


def check_out(place: Place) -> None:
    """Raises InputError unless the output is a FILE.csv that can be written."""
    if place.csv.suffix != ".csv":
        raise InputError("the output is not a .csv file", place.csv, "write --out FILE.csv")
    if place.csv.is_dir():
        raise InputError("the output is a folder", place.csv, "write --out FILE.csv")


def same(old: dict[str, Any], new: dict[str, Any], where: Path) -> None:
    """Raises InputError naming what differs between two runs' inputs and parameters."""
    parts = [(part, key) for part in ("inputs", "params") for key in sorted({*old.get(part, {}), *new[part]})]
    changed = [key for part, key in parts if old.get(part, {}).get(key) != new[part].get(key)]
    if changed:
        raise InputError(
            f"this was made with another {', '.join(changed)}",
            where,
            "choose another --out, or remove it to start anew",
        )


def finished(place: Place, content: dict[str, Any]) -> Manifest:
    """FILE.csv is there: done, if it is of these inputs and unchanged. Raises InputError otherwise."""
    try:
        data = json.loads(place.manifest.read_text(encoding="utf-8"))
        old = data["content"]
        whole = artifact.hash_json(old) == data["content_hash"]
        whole = whole and old["files"]["predictions.csv"]["sha256"] == artifact.hash_file(place.csv)
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise InputError("a file is here that is no finished prediction", place.csv, "choose another --out")
    same(old, content, place.csv)
    shutil.rmtree(place.partial, ignore_errors=True)
    say(f"already done: {place.csv}")
    return Manifest(place.manifest, old, data["content_hash"], data["observed"])


@contextmanager
def journal(place: Place, content: dict[str, Any]) -> Iterator[tuple[IO[bytes], dict[int, Any]]]:
    """The open journal of the unfinished run, and what it holds: picture number -> entry.

    A last line that was torn by a crash is cut off. Broken inputs leave nothing behind; a full disk leaves all.
    """
    run, answers = place.partial / RUN, place.partial / ANSWERS
    if run.is_file():
        same(read_json(run), content, place.partial)
    else:
        artifact.atomic_write(run, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    try:
        done, length = read_answers(answers)
        with answers.open("ab") as file:
            file.truncate(length)
            yield file, done
            file.flush()
            os.fsync(file.fileno())
    except InputError:
        shutil.rmtree(place.partial, ignore_errors=True)
        raise
    except OSError as error:
        raise OutsideError(
            f"cannot write the answers: {error.strerror}", place.partial, "fix the disk, then run again to go on"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError("the unfinished run cannot be read", path, "remove this folder and start anew")
    return found


def read_answers(path: Path) -> tuple[dict[int, Any], int]:
    """Entries of a journal up to its first torn line, and the length in bytes of that good part."""
    done: dict[int, Any] = {}
    length = 0
    if path.is_file():
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                entry = json.loads(line)
                if not line.endswith(b"\n") or len(entry["rows"]) != len(entry["times"]):
                    break
                done[int(entry["picture"])] = entry
            except (ValueError, KeyError, TypeError):
                break
            length += len(line)
    return done, length


def cell(value: str) -> str:
    """A CSV cell, quoted where needed. Python's own writer leaves a bare carriage return unquoted before 3.13."""
    quoted = value.replace('"', '""')
    return f'"{quoted}"' if any(mark in value for mark in ',"\r\n') else value


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    """CSV bytes: UTF-8, line feeds, quoted where needed."""
    return "".join(",".join(map(cell, row)) + "\n" for row in (columns, *rows)).encode()


def answered_by(answerer: Any) -> dict[str, Any]:
    """The machine (a server's is not known: none), the packages and the container that gave the answers."""
    if hasattr(answerer, "account"):
        return {"packages": hardware.packages(), "container": hardware.container()}
    device = str(getattr(getattr(answerer, "model", answerer), "device", "cpu"))  # `blind:M` wraps M
    here = {"hardware": hardware.describe(device=device), "packages": hardware.packages()}
    return {**here, "container": hardware.container()}


def check_complete(place: Place, missing: Sequence[tuple[str, str]]) -> None:
    """Raises OutsideError when there are questions without an answer; FILE.partial/ then lists them."""
    listed = place.partial / place.unanswered.name
    if not missing:
        listed.unlink(missing_ok=True)
        return
    artifact.atomic_write(listed, table(UNANSWERED, [(key, readable(reason)) for key, reason in missing]))
    key, reason = missing[0]
    raise OutsideError(
        f"{len(missing)} questions got no answer; the first, {key}: {reason}",
        listed,
        "run again to ask only about these pictures, or set `unanswered: leave-out` in the endpoint's file",
    )


def publish(
    place: Place,
    content: dict[str, Any],
    entries: Sequence[dict[str, Any]],
    answerer: Any,
    *,
    observed: dict[str, Any],
) -> Manifest:
    """Timings and manifest first, then FILE.csv, whose presence means done; then the journal goes."""
    rows = [row for entry in entries for row in entry["rows"]]
    times = [row for entry in entries for row in entry["times"]]
    missing = [(key, readable(reason)) for entry in entries for key, reason in entry.get("unanswered", [])]
    if not rows:
        what = f"no question got an answer; the first, {missing[0][0]}: {missing[0][1]}"
        raise OutsideError(what, place.partial, "fix it at the server, then run again")
    predictions = table(COLUMNS, rows)
    entry = {"sha256": hashlib.sha256(predictions).hexdigest(), "size": len(predictions)}
    content = {**content, "files": {"predictions.csv": entry}}
    observed = {**observed, "samples": len(rows)}
    if hasattr(answerer, "account"):
        facts = [fact for entry in entries for fact in entry.get("facts", [])]
        at_in, at_out = COLUMNS.index("tokens_in"), COLUMNS.index("tokens_out")
        tokens = [(int(row[at_in]), int(row[at_out])) for row in rows if row[at_in] and row[at_out]]
        served, observed["endpoint"] = answerer.account(facts, tokens)
        content["endpoint"] = {**served, "unanswered": [key for key, _ in missing]}
    digest = artifact.hash_json(content)
    manifest = {"schema": artifact.SCHEMA, "content_hash": digest, "content": content, "observed": observed}
    if missing:
        artifact.atomic_write(place.unanswered, table(UNANSWERED, missing))
        say(f"left out: {len(missing)} questions without an answer, listed in {place.unanswered}")
    else:
        place.unanswered.unlink(missing_ok=True)
    artifact.atomic_write(place.timings, table(TIMINGS, times))
    artifact.atomic_write(place.manifest, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    artifact.atomic_write(place.csv, predictions)
    shutil.rmtree(place.partial, ignore_errors=True)
    return Manifest(place.manifest, content, digest, observed)
