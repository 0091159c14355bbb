"""Invented results, for tests and benchmarks only: nothing here was measured. The shapes are those of real files."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from deckbench import artifact
from deckbench.predictions import CONTENT_NAME, KIND, PredictionFiles
from deckbench.record.facts import SAME, bench_command, model_facts, part_of, score_command
from deckbench.record.lineage import Lineage, trace
from deckbench.record.write import write_record
from deckbench.score import score as run_score
from deckbench.task import load_task

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

PACKAGES = {"torch": "2.9.0", "transformers": "5.1.0"}
IDENTITY = {"name": "tiny-glm4v", "family": "glm4v", "hash": "1" * 64, "adapter": None}


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
    pool: str = "pool",
    synthetic: bool = True,
    split: str = "group",
    credit: dict[str, str] | None = None,
) -> Path:
    """A dataset with the files a record reads: samples.csv, test.jsonl and images/. `n` is even: twins in both orders.

    pool: a word, whose hash is that of the pool.
    """
    inputs = {"pool": sha(pool), "task": load_task(task).content_hash}
    params = {"task": task, "stage": STAGES[task], "lang": "en", "split": split, "synthetic": synthetic}
    params |= {"credit": credit} if credit else {}
    with artifact.writing(folder, "dataset", inputs=inputs, params=params, seed=seed) as draft:
        fill_dataset(draft.path, n=n, seed=seed, pictures=pictures, size=size, task=task)
    return folder


def fill_dataset(folder: Path, *, n: int, seed: int, pictures: int, size: tuple[int, int], task: str) -> None:
    """The files of a dataset."""
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
        writer = csv.DictWriter(file, columns.split(), lineterminator="\n")
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
    write_jsonl(folder)


def write_jsonl(folder: Path) -> None:
    """test.jsonl as samples.csv has it."""
    with (folder / "samples.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    names = ["id", "pair_id", "frame", "group", "task", "stage", "kind", "option_a", "option_b", "class", "step"]
    lines = []
    for row in rows:
        asked = {"role": "user", "content": row["question"], "image": row["image"]}
        messages = [asked, {"role": "assistant", "content": row["answer"]}]
        anomaly = {"true": True, "false": False}.get(row["anomaly"])
        lines.append({"messages": messages, **{name: row[name] for name in names}, "anomaly": anomaly})
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "test.jsonl").write_text(text, encoding="utf-8")


def reseal(folder: Path) -> None:
    """Make a dataset whose samples.csv was changed whole again: test.jsonl and the manifest."""
    write_jsonl(folder)
    place = folder / artifact.MANIFEST
    manifest = json.loads(place.read_text(encoding="utf-8"))
    manifest["content"]["files"] = artifact.list_files(folder)
    manifest["content_hash"] = artifact.hash_json(manifest["content"])
    place.write_text(json.dumps(manifest), encoding="utf-8")


def manifest(
    path: Path,
    data: Path,
    identity: dict[str, Any] | None = None,
    *,
    machine: dict[str, Any] | None = None,
    container: dict[str, Any] | None = None,
    **content: Any,
) -> Path:
    """FILE.manifest.json of the predictions `path`, as `infer` writes it."""
    files = {CONTENT_NAME: {"sha256": artifact.hash_file(path), "size": path.stat().st_size}}
    inputs = {"data": artifact.read(data).content_hash, "model": identity or IDENTITY}
    params = {"split": "test", "limit": None, "shard": None}
    whole = {"kind": KIND, "inputs": inputs, "params": params, "seed": None, "files": files, **content}
    observed = {"hardware": machine or MACHINE, "packages": PACKAGES, "container": container}
    value = {"schema": 1, "content_hash": artifact.hash_json(whole), "content": whole, "observed": observed}
    PredictionFiles(path).manifest.write_text(json.dumps(value), encoding="utf-8")
    return path


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
        writer = csv.DictWriter(file, columns.split(), lineterminator="\n")
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


def score(path: Path, data: Path, seed: int = 0) -> Path:
    """score.json and scored.csv of the predictions `path`, by the scorer."""
    out = path.with_suffix(".json")
    run_score(path, data=data, out=out, seed=seed)
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
    condition: str = SAME,
    skill: float = 0.8,
    seed: int = 0,
    p50: float | None = 0.05,
    emulated: bool = False,
    audit: bool | None = True,
    texts: dict[int, str] | None = None,
    n: int = 60,
    machine: dict[str, Any] | None = None,
    container: dict[str, Any] | None = None,
    keep: slice | None = None,
    content: dict[str, Any] | None = None,
    instead: dict[str, Any] | None = None,
) -> Path:
    """One invented record below `out`; `work` holds what it is made from, with all its manifests.

    keep: the rows of the predictions that are kept. content: more of the manifest of the predictions. instead: replaces
    what is written; `predictions` without a manifest get one.
    """
    instead = dict(instead or {})
    name = sha(json.dumps([model, curriculum, task, condition, board, skill, seed, weights, emulated]))[:12]
    given = instead.pop("data", data)
    data = given or work / f"data-{sha(f'{task}{condition}{board}{synthetic}')[:8]}-{seed}"
    if given is None and not data.exists():
        dataset(data, n=n, seed=seed, task=task, pool=board + condition, synthetic=synthetic)
    built = artifact.read(data)
    machine = {**(machine or MACHINE), "emulated": emulated}
    identity = {"name": model, "hash": sha(model), "family": "glm4v", "adapter": None}
    if kind == "baseline" and not model.startswith("blind"):
        identity = {"name": model}
    elif curriculum not in (None, "base") and kind == "model":
        identity["adapter"] = sha(f"{model}{curriculum}")
    if weights == "random":
        identity["weights"] = "random"
    said = instead.pop("predictions", work / f"{name}.csv")
    if said == work / f"{name}.csv" and not said.exists():
        predictions(said, data, skill=skill, seed=int(name, 16), texts=texts)
        if keep is not None:
            head, *rows = csv_rows(said)
            write_rows(said, [head, *rows[keep]])
    if said is not None and said.exists() and not PredictionFiles(said).manifest.exists():
        manifest(said, data, identity, machine=machine, container=container, **(content or {}))
    stated = curriculum if kind == "model" else None
    bench = bench_of(identity, built.content_hash, seed, machine) if said is None else None
    lineage = trace(data, predictions=said, bench=bench, curriculum=stated, condition=condition)
    facts = model_facts(lineage.identity, stated)
    pool_hash = built.content["inputs"]["pool"]
    audited: dict[str, Any] = {}
    if audit is not None:
        lineage, audited = with_audit(lineage, built.content_hash, audit)
    fields: dict[str, Any] = {
        **facts,
        "task": task,
        "stage": STAGES[task],
        "pool": {
            "name": board if condition == SAME else f"{board} {condition}",
            "board": board,
            "hash": pool_hash,
            "synthetic": bool(built.content["params"]["synthetic"]),
            "part": part_of(built.content["params"]["split"], condition),
            "condition": condition,
            "credit": built.content["params"].get("credit"),
        },
        "dataset": built.content_hash,
        "command": score_command(lineage.identity, facts["model"]["name"], seed, ontology=False)
        if bench is None
        else bench_command(bench.content, facts["model"]["name"]),
        "seed": seed,
        "inputs": [
            {
                "name": "pool",
                "kind": "pool",
                "sha256": pool_hash,
                "source": "deckbench pool synth pool --frames 400",
            },
            {
                "name": "dataset",
                "kind": "dataset",
                "sha256": built.content_hash,
                "source": f"deckbench build {task} --pool pool --out data",
            },
        ],
        "predictions": said,
        "data": data,
        "lineage": lineage,
        "latency": {} if p50 is None else {"choice": times(p50)},
        "audit": audited or None,
        "machine": lineage.answered["hardware"],
        "packages": lineage.answered["packages"],
        "container": lineage.answered["container"],
    }
    fields |= instead
    if "score" not in fields:
        fields["score"] = score(said, fields["data"], seed) if said is not None else None
    return write_record(out, **fields)


def bench_of(identity: dict[str, Any], dataset_hash: str, seed: int, machine: dict[str, Any]) -> artifact.Manifest:
    """What `bench` leaves."""
    content = {"kind": "bench", "inputs": {"model": identity, "data": dataset_hash}, "params": {}, "seed": seed}
    results = {"hardware": machine, "packages": PACKAGES, "container": None}
    return artifact.Manifest(Path("bench"), content, artifact.hash_json(content), {"results": results})


def with_audit(lineage: Lineage, dataset_hash: str, passed: bool) -> tuple[Lineage, dict[str, Any]]:
    """A lineage with the audit of its dataset, and the record's field."""
    text = json.dumps({"passed": passed})
    files = {"audit.json": {"sha256": sha(text), "size": len(text)}}
    content = {"kind": "audit", "inputs": {"dataset": dataset_hash}, "params": {}, "seed": 0, "files": files}
    value = lineage.model_dump() | {"audit": {"content": content, "text": text}}
    return Lineage.model_validate(value), {"passed": passed, "source": "deckbench audit"}


def csv_rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def write_rows(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


SKILLS = {"base": (0.52, 0.5, 0.5), "S1": (0.97, 0.55, 0.51), "S1+S2": (0.96, 0.89, 0.6), "S1+S2+S3": (0.95, 0.87, 0.8)}


def suite(out: Path, work: Path, *, models: int = 1, n: int = 200, pictures: int = 24, machines: int = 1) -> int:
    """What a suite leaves: models at four curricula and baselines, three tasks, two conditions. Returns how many."""
    count = 0
    for place, task in enumerate(STAGES):
        for condition in ("same distribution", "shifted"):
            data = dataset(
                work / f"data-{place}-{condition[:4]}", n=n, seed=place, pictures=pictures, task=task, pool=condition
            )
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
                        machine={**MACHINE, "cpu": f"Example CPU {machine}"} if machine else None,
                    )
                    count += 1
    return count
