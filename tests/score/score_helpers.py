"""Small datasets and prediction files made by hand, so that each number can be worked out."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from deckbench import artifact

COLUMNS = [
    *("id", "pair_id", "kind", "question", "gold", "prediction", "parsed"),
    *("p_a", "p_b", "p_anomaly", "tokens_in", "tokens_out"),
]
FIELDS = [
    *("id", "pair_id", "split", "stage", "task", "kind", "frame", "group", "image", "question", "answer"),
    *("option_a", "option_b", "gold", "anomaly", "class", "step", "lang", "box", "width", "height", "question_type"),
]


def write_csv(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def prompt(ask: str, a: str, b: str) -> str:
    return f"{ask}\nA. {a}\nB. {b}\nAnswer with A or B only."


def choice(number: int, *, anomaly: bool, swap: bool = False, **more: Any) -> dict[str, Any]:
    """One verdict sample; its twin has the same number and `swap`."""
    options = ("normal", "anomaly") if not swap else ("anomaly", "normal")
    gold = "AB"[options.index("anomaly" if anomaly else "normal")]
    return {
        "id": f"q{number}{'-swapped' if swap else ''}",
        "pair_id": f"q{number}",
        "split": "test",
        "stage": "S2",
        "task": "ot2-guided@1",
        "kind": "choice",
        "frame": f"f{number}",
        "group": f"g{number % 5}",
        "image": f"images/f{number}.png",
        "question": prompt("Is it normal?", *options),
        "answer": gold,
        "option_a": options[0],
        "option_b": options[1],
        "gold": gold,
        "anomaly": "true" if anomaly else "false",
        "class": "damaged_tip" if anomaly else "single_channel_tip",
        "step": "transfer",
        "lang": "en",
        **more,
    }


def scene(number: int, *, anomaly: bool, text: str | None = None, **more: Any) -> dict[str, Any]:
    text = text or (
        "tip: bent. Wrong: damaged tip. Verdict: anomaly." if anomaly else "tip: straight. Verdict: normal."
    )
    base = choice(number, anomaly=anomaly)
    return base | {
        "id": f"s{number}",
        "pair_id": f"s{number}",
        "kind": "scene",
        "stage": "S3",
        "question": "Describe the deck, then judge it.",
        "answer": text,
        "gold": text,
        "option_a": "",
        "option_b": "",
        **more,
    }


def open_question(number: int, gold: str, **more: Any) -> dict[str, Any]:
    return choice(number, anomaly=False) | {
        "id": f"o{number}",
        "pair_id": f"o{number}",
        "kind": "open",
        "stage": "S1",
        "question": "What is shown?",
        "answer": gold,
        "gold": gold,
        "option_a": "",
        "option_b": "",
        "anomaly": "",
        **more,
    }


def answered(sample: dict[str, Any], prediction: str | None = None, p_anomaly: float | None = None) -> dict[str, Any]:
    """A prediction row; gold by default. p_a and p_b follow from p_anomaly and the options' order."""
    said = sample["gold"] if prediction is None else prediction
    row = {name: sample.get(name, "") for name in ("id", "pair_id", "kind", "question", "gold")}
    row |= {"prediction": said, "parsed": "", "p_a": "", "p_b": "", "p_anomaly": "", "tokens_in": 7, "tokens_out": 1}
    if p_anomaly is not None:
        a = p_anomaly if sample["option_a"] == "anomaly" else 1 - p_anomaly
        row |= {"p_a": repr(a), "p_b": repr(1 - a), "p_anomaly": repr(a if sample["option_a"] == "anomaly" else 1 - a)}
    return row


def make_data(folder: Path, samples: list[dict[str, Any]]) -> Path:
    """A dataset folder with samples.csv and a manifest, as `build` leaves it (pictures and JSONL are not scored)."""
    with artifact.writing(folder, "dataset", inputs={}, params={"n": len(samples)}, seed=0) as draft:
        write_csv(draft.path / "samples.csv", FIELDS, samples)
    return folder


def make_predictions(path: Path, rows: list[dict[str, Any]], data: Path | None = None) -> Path:
    """FILE.csv and, with a dataset, FILE.manifest.json as `infer` leaves them."""
    write_csv(path, COLUMNS, rows)
    if data is not None:
        content = {
            "kind": "predictions",
            "inputs": {"data": artifact.read(data).content_hash},
            "files": {path.name: {"sha256": artifact.hash_file(path), "size": path.stat().st_size}},
        }
        manifest = {"content": content, "content_hash": artifact.hash_json(content), "observed": {}}
        path.with_name(f"{path.stem}.manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return path
