"""Invented results, for tests and benchmarks only: nothing here was measured. The shapes are those of real files."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from deckbench.artifact import hash_folder
from deckbench.record.write import write_record
from deckbench.score import score as run_score

CLASSES = (
    "damaged_tip",
    "missing_tip",
    "spill",
    "plate_crooked",
    "labware_missing",
    "pcr_lid_open",
    "tip_rack",
    "trash_bin",
)
ANOMALOUS = CLASSES[:5]
STEPS = ("setup", "pick_up_tips", "transfer", "thermocycle", "drop_tips")
STAGES = {"ot2-concept@1": "S1", "ot2-guided@1": "S2", "ot2-scene@1": "S3"}
MACHINE = {
    "device": "cpu",
    "cpu": "Example CPU",
    "architecture": "x86_64",
    "capability": "AVX2",
    "cores": 2,
    "threads": 2,
    "memory_bytes": 8 << 30,
    "os": "Example OS 1",
    "kernel": "1.0",
    "python": "3.11.7",
    "accelerators": [],
    "emulated": False,
}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def dataset(
    folder: Path,
    *,
    n: int = 60,
    seed: int = 0,
    pictures: int = 8,
    size: tuple[int, int] = (352, 198),
    task: str = "ot2-guided@1",
) -> Path:
    """A dataset folder with the files a record reads: samples.csv and images/. `n` is even: twins in both orders."""
    rng = random.Random(seed)
    (folder / "images").mkdir(parents=True)
    for index in range(pictures):
        picture = Image.new("RGB", size, (196, 199, 196))
        draw = ImageDraw.Draw(picture)
        for slot in range(12):
            x, y = 20 + (slot % 4) * size[0] // 4, 12 + (slot // 4) * size[1] // 3
            shade = tuple(rng.randrange(40, 220) for _ in range(3))
            draw.rectangle((x, y, x + size[0] // 5, y + size[1] // 4), fill=shade)
        picture.save(folder / "images" / f"{index:03d}.jpg", quality=88)
    columns = (
        "id pair_id split stage task kind frame group image question answer option_a option_b gold "
        "anomaly class step lang box width height"
    )
    with (folder / "samples.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns.split())
        writer.writeheader()
        for index in range(n):
            twin = index // 2
            cls, step = CLASSES[twin % len(CLASSES)], STEPS[twin % len(STEPS)]
            anomaly = cls in ANOMALOUS
            options = ("yes", "no") if index % 2 == 0 else ("no", "yes")
            gold = "A" if (options[0] == "yes") == anomaly else "B"
            question = (
                f"Protocol step: {step}.\nIs there a {cls.replace('_', ' ')} in the box?\n"
                f"A. {options[0]}\nB. {options[1]}\nAnswer with A or B only."
            )
            picture = twin % pictures
            row = {
                "id": f"s{index:05d}",
                "pair_id": f"p{twin:05d}",
                "split": "test",
                "stage": STAGES[task],
                "task": task,
                "kind": "choice",
                "frame": f"frame-{picture:03d}",
                "group": f"session-{picture % 6}",
                "image": f"images/{picture:03d}.jpg",
                "question": question,
                "answer": gold,
                "option_a": options[0],
                "option_b": options[1],
                "gold": gold,
                "anomaly": str(anomaly).lower(),
                "class": cls,
                "step": step,
                "lang": "en",
                "box": "",
                "width": size[0],
                "height": size[1],
            }
            writer.writerow(row)
    return folder


def predictions(
    path: Path, data: Path, *, skill: float = 0.8, seed: int = 0, texts: dict[int, str] | None = None
) -> Path:
    """Predictions on `data` that are right with probability `skill`; `texts` replaces the answers of some rows."""
    rng = random.Random(seed)
    with (data / "samples.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = "id pair_id kind question gold prediction parsed p_a p_b p_anomaly tokens_in tokens_out"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns.split())
        writer.writeheader()
        for index, row in enumerate(rows):
            right = rng.random() < skill
            said = row["gold"] if right else {"A": "B", "B": "A"}[row["gold"]]
            sure = min(0.999, 0.5 + 0.5 * rng.random() ** 0.5)
            p_a = sure if said == "A" else 1 - sure
            means_a = (row["gold"] == "A") == (row["anomaly"] == "true")
            text = (texts or {}).get(index, said)
            writer.writerow(
                {
                    **{name: row[name] for name in ("id", "pair_id", "kind", "question", "gold")},
                    "prediction": text,
                    "parsed": text if text in ("A", "B") else "",
                    "p_a": f"{p_a:.6f}",
                    "p_b": f"{1 - p_a:.6f}",
                    "p_anomaly": f"{p_a if means_a else 1 - p_a:.6f}",
                    "tokens_in": 70,
                    "tokens_out": 2,
                }
            )
    return path


def score(path: Path, data: Path) -> Path:
    """score.json and scored.csv of the predictions `path`, by the scorer."""
    out = path.with_suffix(".json")
    run_score(path, data=data, out=out)
    return out


def times(p50: float, source: str = "bench") -> dict[str, Any]:
    """A latency of plausible shape."""
    spread = {"p50": p50, "p90": p50 * 1.3, "p99": p50 * 1.9, "n": 120}
    phases = {
        name: {**spread, "p50": p50 * part} for name, part in (("preprocess", 0.1), ("vision", 0.4), ("prefill", 0.3))
    }
    return {
        "source": source,
        "engine": "torch",
        "answer": spread,
        "first_token": {**spread, "p50": p50 * 0.8},
        "phases": phases,
        "tokens_per_s": 40.0,
        "peak_memory_bytes": 300 << 20,
        "schedule": "5d" if source == "bench" else None,
        "disturbances": [] if source == "bench" else None,
    }


def record(
    out: Path,
    work: Path,
    *,
    data: Path | None = None,
    model: str = "tiny-glm4v",
    kind: str = "model",
    weights: str = "trained",
    curriculum: str | None = "base",
    task: str = "ot2-guided@1",
    synthetic: bool = True,
    board: str = "Invented deck",
    condition: str = "same distribution",
    skill: float = 0.8,
    seed: int = 0,
    p50: float | None = 0.05,
    emulated: bool = False,
    audit: bool | None = True,
    texts: dict[int, str] | None = None,
    n: int = 60,
    instead: dict[str, Any] | None = None,
) -> Path:
    """One invented record below `out`; `work` holds what it is made from. instead: replaces what is written."""
    data = data or work / f"data-{sha(task + condition + board)[:8]}-{seed}"
    if not data.exists():
        dataset(data, n=n, seed=seed, task=task)
    name = sha(json.dumps([model, curriculum, task, condition, board, skill, seed, weights, emulated]))[:12]
    said = (instead or {}).get("predictions")
    if "predictions" not in (instead or {}):
        said = predictions(work / f"{name}.csv", data, skill=skill, seed=int(name, 16), texts=texts)
    fields: dict[str, Any] = {
        "model": {
            "name": model,
            "family": "glm4v" if kind == "model" else "baseline",
            "kind": kind,
            "weights": weights if kind == "model" else "none",
            "identity": {"weights": sha(model), "adapter": sha(f"{model}{curriculum}")},
        },
        "curriculum": curriculum if kind == "model" else None,
        "task": task,
        "stage": STAGES[task],
        "pool": {
            "name": board if condition == "same distribution" else f"{board} {condition}",
            "board": board,
            "hash": sha(board + condition),
            "synthetic": synthetic,
            "part": "shifted" if condition == "shifted" else "same distribution",
            "condition": condition,
        },
        "dataset": hash_folder(data),
        "command": f"deckbench infer --model {model} --data data/{STAGES[task]} --out predictions.csv",
        "seed": seed,
        "inputs": [
            {
                "name": "pool",
                "kind": "pool",
                "sha256": sha(board + condition),
                "source": "deckbench pool synth pool --frames 400",
            },
            {
                "name": "dataset",
                "kind": "dataset",
                "sha256": sha(task),
                "source": f"deckbench build {task} --pool pool --out data",
            },
        ],
        "predictions": said,
        "data": data,
        "latency": {} if p50 is None else {"choice": times(p50)},
        "audit": None if audit is None else {"passed": audit},
        "machine": {**MACHINE, "emulated": emulated},
        "packages": {"torch": "2.9.0", "transformers": "5.1.0"},
    }
    fields |= instead or {}
    if "score" not in fields:
        there = fields["predictions"] is not None and Path(fields["predictions"]).is_file() and fields["data"]
        fields["score"] = score(fields["predictions"], fields["data"]) if there else work / "score.json"
    return write_record(out, **fields)


SKILLS = {"base": (0.52, 0.5, 0.5), "S1": (0.97, 0.55, 0.51), "S1+S2": (0.96, 0.89, 0.6), "S1+S2+S3": (0.95, 0.87, 0.8)}


def suite(out: Path, work: Path, *, models: int = 1, n: int = 200, pictures: int = 24, machines: int = 1) -> int:
    """What a suite leaves: models at four curricula and baselines, three tasks, two conditions. Returns how many."""
    count = 0
    for place, task in enumerate(STAGES):
        for condition in ("same distribution", "shifted"):
            data = dataset(work / f"data-{place}-{condition[:4]}", n=n, seed=place, pictures=pictures, task=task)
            shift = 0.08 if condition == "shifted" else 0.0
            cases: list[tuple[str, str, str | None, float, float | None]] = []
            for index in range(models):
                name = "tiny-glm4v" if index == 0 else f"model-{index:02d}"
                for learned, skills in SKILLS.items():
                    cases.append(
                        (name, "model", learned, skills[place] - shift - 0.01 * (index % 7), 0.04 * (1 + index % 9))
                    )
            cases += [("majority", "baseline", None, 0.5, None), ("blind:tiny-glm4v", "baseline", None, 0.5, 0.04)]
            cases += [("nearest", "baseline", None, 0.62 - shift, 0.002), ("rule:gold", "baseline", None, 1.0, 0.0004)]
            for name, kind, stage, skill, p50 in cases:
                for machine in range(machines):
                    record(
                        out,
                        work,
                        data=data,
                        model=name,
                        kind=kind,
                        curriculum=stage,
                        task=task,
                        condition=condition,
                        skill=min(1.0, max(0.45, skill)),
                        p50=p50,
                        seed=machine,
                        texts=dict.fromkeys(range(n), "A") if name.startswith("blind") else None,
                        instead={"machine": {**MACHINE, "cpu": f"Example CPU {machine}"}} if machine else None,
                    )
                    count += 1
    return count
