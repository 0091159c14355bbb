"""Invented results, for tests and benchmarks only: nothing here was measured. The shapes are those of real files."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from deckbench.record.write import write_record

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


def wilson(good: float, n: int) -> list[float] | None:
    if n == 0:
        return None
    z = 1.96
    p = good / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return [max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))]


def share(hits: list[bool]) -> dict[str, Any]:
    n, k = len(hits), sum(hits)
    inner = wilson(k, n)
    wide = None if inner is None else [max(0.0, inner[0] - 0.01), min(1.0, inner[1] + 0.01)]
    return {"value": k / n if n else None, "n": n, "k": k, "wilson": inner, "cluster": wide}


def dataset(folder: Path, *, n: int = 60, seed: int = 0, pictures: int = 8, size: tuple[int, int] = (352, 198)) -> Path:
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
                "stage": "S2",
                "task": "ot2-guided@1",
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


def score(path: Path, data: Path) -> dict[str, Any]:
    """A score.json of the right shape for the predictions `path`. The intervals are only near the true ones."""
    with (data / "samples.csv").open(encoding="utf-8", newline="") as file:
        known = {row["id"]: row for row in csv.DictReader(file)}
    with path.open(encoding="utf-8", newline="") as file:
        rows = [{**known[row["id"]], **row} for row in csv.DictReader(file)]
    right = [row["parsed"] == row["gold"] for row in rows]
    truth = [row["anomaly"] == "true" for row in rows]
    unparsed = [not row["parsed"] for row in rows]
    missed = [not r for r, t in zip(right, truth, strict=True) if t]
    stopped = [not r for r, t in zip(right, truth, strict=True) if not t]

    def slices(column: str, only: bool | None = None) -> dict[str, Any]:
        result = {}
        for value in sorted({row[column] for row in rows}):
            at = [i for i, row in enumerate(rows) if row[column] == value and (only is None or truth[i] is only)]
            if not at:
                continue
            metrics = {"accuracy": share([right[i] for i in at])} if only is None else {}
            if any(truth[i] for i in at):
                metrics["miss_rate"] = share([not right[i] for i in at if truth[i]])
            result[value] = {"n": len(at), "unparsed": sum(unparsed[i] for i in at), "metrics": metrics}
        return result

    ranked = sorted(zip((float(row["p_anomaly"]) for row in rows), truth, strict=True), reverse=True)
    curve, hits, stops = [[0.0, 0.0]], 0, 0
    for _, anomaly in ranked:
        hits, stops = hits + anomaly, stops + (not anomaly)
        curve.append([stops / max(1, len(stopped)), hits / max(1, len(missed))])
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(curve))
    bars = []
    for index in range(10):
        inside = [(p, t) for p, t in ranked if index <= p * 10 < index + 1]
        count = len(inside)
        bars.append(
            {
                "low": index / 10,
                "high": (index + 1) / 10,
                "n": count,
                "stated": sum(p for p, _ in inside) / count if count else None,
                "true": sum(t for _, t in inside) / count if count else None,
            }
        )
    accuracy = share(right)
    loose = {"value": accuracy["value"], "n": len(rows), "k": None, "wilson": None, "cluster": accuracy["cluster"]}
    block = {
        "n": len(rows),
        "unparsed": sum(unparsed),
        "metrics": {
            "accuracy": accuracy,
            "unparsed_rate": share(unparsed),
            "balanced_accuracy": loose,
            "miss_rate": share(missed),
            "false_stop_rate": share(stopped),
            "auroc": {**loose, "value": area, "cluster": [max(0.0, area - 0.04), min(1.0, area + 0.04)]},
            "order_consistency": share([a == b for a, b in zip(right[::2], right[1::2], strict=False)]),
        },
        "by_class": slices("class"),
        "by_anomaly": slices("class", True),
        "by_step": slices("step"),
        "by_stage": {},
        "by_lang": {},
        "by_question": {},
        "confusion": {
            "anomaly_as_anomaly": sum(r and t for r, t in zip(right, truth, strict=True)),
            "anomaly_as_normal": sum(not r and t and not u for r, t, u in zip(right, truth, unparsed, strict=True)),
            "anomaly_unparsed": sum(t and u for t, u in zip(truth, unparsed, strict=True)),
            "normal_as_normal": sum(r and not t for r, t in zip(right, truth, strict=True)),
            "normal_as_anomaly": sum(not r and not t and not u for r, t, u in zip(right, truth, unparsed, strict=True)),
            "normal_unparsed": sum(not t and u for t, u in zip(truth, unparsed, strict=True)),
        },
        "roc": curve[:: max(1, len(curve) // 200)],
        "operating": {"allowed_false_stop_rate": 0.05, "threshold": 0.8, "false_stop_rate": 0.04, "miss_rate": 0.3},
        "reliability": bars,
    }
    hashes = {"predictions_sha256": sha(path.name), "predictions_content": None, "data_content": None, "ontology": None}
    return {
        "schema_version": 1,
        "inputs": hashes,
        "seed": 0,
        "resamples": 1000,
        "confidence": 0.95,
        "n": len(rows),
        "unparsed": sum(unparsed),
        "groups": 6,
        "group_by": "group",
        "primary": "choice",
        "metrics": {"accuracy": accuracy, "unparsed_rate": share(unparsed)},
        "kinds": {"choice": block},
        "notes": ["invented for a test"],
    }


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
        dataset(data, n=n, seed=seed)
    name = sha(json.dumps([model, curriculum, task, condition, board, skill, seed, weights, emulated]))[:12]
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
        "dataset": sha(task + condition + board),
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
        "score": score(said, data),
        "predictions": said,
        "data": data,
        "latency": {} if p50 is None else {"choice": times(p50)},
        "audit": None if audit is None else {"passed": audit},
        "machine": {**MACHINE, "emulated": emulated},
        "packages": {"torch": "2.9.0", "transformers": "5.1.0"},
    }
    return write_record(out, **{**fields, **(instead or {})})


SKILLS = {"base": (0.52, 0.5, 0.5), "S1": (0.97, 0.55, 0.51), "S1+S2": (0.96, 0.89, 0.6), "S1+S2+S3": (0.95, 0.87, 0.8)}


def suite(out: Path, work: Path, *, models: int = 1, n: int = 200, pictures: int = 24, machines: int = 1) -> int:
    """What a suite leaves: models at four curricula and baselines, three tasks, two conditions. Returns how many."""
    count = 0
    for place, task in enumerate(STAGES):
        for condition in ("same distribution", "shifted"):
            data = dataset(work / f"data-{place}-{condition[:4]}", n=n, seed=place, pictures=pictures)
            shift = 0.08 if condition == "shifted" else 0.0
            cases: list[tuple[str, str, str | None, float, float | None]] = []
            for index in range(models):
                name = "tiny-glm4v" if index == 0 else f"model-{index:02d}"
                for stage, skills in SKILLS.items():
                    cases.append(
                        (name, "model", stage, skills[place] - shift - 0.01 * (index % 7), 0.04 * (1 + index % 9))
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
                        instead={"machine": {**MACHINE, "cpu": f"Example CPU {machine}"}} if machine else None,
                    )
                    count += 1
    return count
