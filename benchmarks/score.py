"""How fast are `score` and `compare`, and how much memory do they take, against those of another commit?

    python benchmarks/score.py [--answers 1000000] [--groups 2000] [--against REF] [--verbs score compare]
        [--bare] [--seed 0] [--work DIR]

Makes a dataset's `samples.csv` and two prediction files of it from the seed: of eight questions about a frame six are
choices (three pairs in both orders), one asks for a scene, one is open. Then each verb runs with the package of REF
(default: the commit of this working tree) and with this one, in turn, each in a process of its own. Prints seconds, CPU
seconds, peak memory, their ratio, and whether both wrote the same bytes (exit code 4 if not).

--bare: predictions alone, no dataset: each pair is then its own group. --repeat: the least time of so many runs counts.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CHOICES, FRAME = 6, 8  # questions of a frame: choices, all
STEPS = ("pick_up_tips", "transfer", "mix", "drop_tips", "close_lid", "open_lid")
CLASSES = ("tip_damaged", "spill", "tip_missing", "plate_shifted", "lid_open", "tube_open", "bubble", "wrong_slot")
THINGS = ("tip rack", "plate", "trash bin", "thermocycler", "reservoir", "deck slot", "pipette", "tube rack")
STATES = ("open", "closed", "seated", "full", "half used", "empty", "clear", "wet", "shifted", "damaged")


@dataclass(frozen=True)
class Ended:
    """A command that ended. peak: bytes resident at most, of the process."""

    seconds: float
    cpu: float
    peak: int
    out: bytes


def main() -> int:
    """Measure and print; 4 when the bytes differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=1_000_000)
    parser.add_argument("--groups", type=int, default=2000)
    parser.add_argument("--against", default="HEAD", metavar="REF")
    parser.add_argument("--verbs", nargs="+", default=["score", "compare"], choices=["score", "compare"])
    parser.add_argument("--bare", action="store_true")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="keep the files here")
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make:
        make(given.work, given.answers, given.groups, given.seed)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        work = given.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        # In a process of its own: what this one holds would count as the children's peak.
        subprocess.run([sys.executable, __file__, "--make", "--work", work, *sys.argv[1:]], check=True)
        builds = {"old": checkout(given.against, Path(folder) / "old"), "new": ROOT}
        same = [measure(verb, builds, work, bare=given.bare, repeat=given.repeat) for verb in given.verbs]
    return 0 if all(same) else 4


def checkout(ref: str, folder: Path) -> Path:
    """The files of a commit."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", ref], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    return folder


def measure(verb: str, builds: dict[str, Path], work: Path, *, bare: bool, repeat: int) -> bool:
    """One verb with both builds, in turn. Returns whether they made the same bytes."""
    data = [] if bare else ["--data", str(work / "data")]
    best: dict[str, Ended] = {}
    made: dict[str, list[bytes]] = {}
    for _ in range(repeat):
        for name, build in builds.items():
            out = work / f"{name}.json"
            words = {
                "score": ["score", str(work / "a.csv"), *data, "--out", str(out)],
                "compare": ["compare", str(work / "a.csv"), str(work / "b.csv"), *data, "--json"],
            }[verb]
            ended = run(words, build)
            if name not in best or ended.seconds < best[name].seconds:
                best[name] = ended
            files = [out, out.with_name(f"{name}.scored.csv")] if verb == "score" else []
            made[name] = [path.read_bytes() for path in files] or [ended.out]
    for name, ended in best.items():
        print(f"{verb:8} {name:4} {ended.seconds:8.1f} s  {ended.cpu:8.1f} CPU s  {ended.peak / 2**30:6.2f} GiB")
    old, new = best["old"], best["new"]
    same = made["old"] == made["new"]
    print(
        f"{verb:8} {old.seconds / new.seconds:.1f} times as fast, {old.cpu / new.cpu:.1f} times by CPU seconds, "
        f"{old.peak / new.peak:.1f} times less memory; bytes: {'the same' if same else 'DIFFERENT'}",
        flush=True,
    )
    return same


def run(words: list[str], build: Path) -> Ended:
    """One command of a build, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(build / "harness")}
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen([sys.executable, "-m", "deckbench", *words], env=environment, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        out.seek(0)
        printed = out.read()
    if process.returncode:
        raise SystemExit(f"{build}: ended with {process.returncode}")
    return Ended(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, printed)


def make(work: Path, answers: int, groups: int, seed: int) -> None:
    """`data/samples.csv` and two prediction files of it."""
    rng = random.Random(seed)
    frames = max(1, answers // FRAME)
    # Whole sessions are easy or hard: answers of one succeed and fail together.
    ease = [rng.betavariate(4, 1) for _ in range(groups)]
    (work / "data").mkdir(parents=True, exist_ok=True)
    names = ("id", "pair_id", "kind", "question", "gold", "prediction", "parsed", "p_a", "p_b", "p_anomaly")
    fields = ("id", "pair_id", "split", "stage", "task", "kind", "frame", "group", "image", "question", "answer")
    more = ("option_a", "option_b", "gold", "anomaly", "class", "step", "lang", "box", "width", "height")
    with (
        (work / "data" / "samples.csv").open("w", encoding="utf-8", newline="") as data,
        (work / "a.csv").open("w", encoding="utf-8", newline="") as a,
        (work / "b.csv").open("w", encoding="utf-8", newline="") as b,
    ):
        samples = csv.writer(data, lineterminator="\n")
        samples.writerow((*fields, *more, "question_type", "twin"))
        files = [csv.writer(file, lineterminator="\n") for file in (a, b)]
        for file in files:
            file.writerow((*names, "tokens_in", "tokens_out"))
        for number in range(frames):
            group = rng.randrange(groups)
            for sample in questions(rng, number, group):
                samples.writerow([sample.get(name, "") for name in (*fields, *more)] + [sample["kind"], ""])
                for better, file in enumerate(files):
                    right = rng.random() < ease[group] * (0.8 + 0.1 * better)
                    said = answer(rng, sample, right=right)
                    file.writerow([{**sample, **said}.get(name, "") for name in names] + [700, 1])


def questions(rng: random.Random, number: int, group: int) -> list[dict[str, Any]]:
    """The eight questions about one frame."""
    bad = rng.random() < 0.4
    cls = rng.choice(CLASSES)
    common = {
        **{"split": "test", "stage": "S2", "task": "ot2-scene@1", "frame": f"images/s{group:05d}_f{number:07d}"},
        **{"group": f"s{group:05d}", "image": f"images/f{number:07d}.jpg", "width": 704, "height": 396},
        **{"step": rng.choice(STEPS), "lang": "en", "class": cls if bad else ""},
        "anomaly": "true" if bad else "false",
    }
    found = []
    for at in range(CHOICES // 2):
        thing = rng.choice(THINGS)
        for swap in (False, True):
            options = ("anomaly", "normal") if swap else ("normal", "anomaly")
            gold = "AB"[options.index("anomaly" if bad else "normal")]
            text = f"Is the {thing} as it should be?\nA. {options[0]}\nB. {options[1]}\nAnswer with A or B only."
            one = {"id": f"s2-f{number:07d}-{at}{'-ba' if swap else ''}", "pair_id": f"s2-f{number:07d}-{at}"}
            two = {"kind": "choice", "question": text, "answer": gold, "gold": gold}
            found.append({**common, **one, **two, "option_a": options[0], "option_b": options[1]})
    told = scene(rng, cls if bad else None)
    key = f"s3-f{number:07d}"
    text = "Describe the deck, then judge it."
    found.append({**common, "id": key, "pair_id": key, "kind": "scene", "question": text, "answer": told, "gold": told})
    gold = rng.choice(THINGS)
    key = f"s1-f{number:07d}"
    one = {"id": key, "pair_id": key, "kind": "open", "question": "What is shown?", "answer": gold, "gold": gold}
    found.append({**common, **one, "anomaly": ""})
    return found


def scene(rng: random.Random, wrong: str | None) -> str:
    """A scene text: three statements and a verdict."""
    parts = [f"{rng.choice(THINGS)}: {rng.choice(STATES)}" for _ in range(3)]
    if wrong:
        parts.append(f"Wrong: {wrong.replace('_', ' ')}")
    return ". ".join([*parts, f"Verdict: {'anomaly' if wrong else 'normal'}."])


def answer(rng: random.Random, sample: dict[str, Any], *, right: bool) -> dict[str, Any]:
    """An answer, and its probabilities for a choice."""
    if sample["kind"] == "open":
        return {"prediction": sample["gold"] if right else rng.choice(THINGS)}
    bad = sample["anomaly"] == "true"
    if sample["kind"] == "scene":
        said = bad if right else not bad
        return {"prediction": scene(rng, rng.choice(CLASSES) if said else None)}
    gold = sample["gold"]
    letter = gold if right else "AB"[gold == "A"]
    p = rng.betavariate(5, 1.5)
    p_a = p if letter == "A" else 1 - p
    p_anomaly = p_a if sample["option_a"] == "anomaly" else 1 - p_a
    style = rng.random()
    text = letter if style < 0.9 else f"{letter}. {sample['option_' + letter.lower()]}" if style < 0.97 else "I see."
    numbers = {"p_a": repr(round(p_a, 9)), "p_b": repr(round(1 - p_a, 9)), "p_anomaly": repr(round(p_anomaly, 9))}
    return {"prediction": text, **numbers}


if __name__ == "__main__":
    raise SystemExit(main())
