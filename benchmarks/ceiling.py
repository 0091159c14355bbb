"""How well does a small supervised CNN judge, on the very split and questions of a dataset?

    python benchmarks/ceiling.py DATASET [--epochs 12] [--whole]

It is given what a vision-language model has to find out: the inside of the drawn box (or, with --whole or where no box
is drawn, the whole frame), and the question's words and the protocol step as a vector of 0 and 1. It says whether the
answer is an anomaly. What it cannot learn from the same frames, a model of three million weights will hardly learn.
Only choice questions about normal or anomaly are taken. One figure per class, accuracy on the test part.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

CROP, FRAME = (96, 96), (352, 198)
Rows = list[dict[str, str]]


def read_rows(dataset: Path, split: str) -> Rows:
    """Choice rows that ask for a verdict, one per picture and question (the swapped twin of a pair adds nothing)."""
    with (dataset / "samples.csv").open(encoding="utf-8", newline="") as table:
        found = {
            row["pair_id"]: row
            for row in csv.DictReader(table)
            if row["split"] == split and row["kind"] == "choice" and row["anomaly"] in {"true", "false"}
        }
    return list(found.values())


def words(row: dict[str, str]) -> set[str]:
    """The question's words without its options; the protocol step is among them."""
    return {*row["question"].split("\nA. ")[0].split(), row["step"]}


def picture(dataset: Path, row: dict[str, str], whole: bool) -> Any:
    """(3, height, width) uint8: the inside of the box, or the frame."""
    image = Image.open(dataset / row["image"]).convert("RGB")
    if whole or not row["box"]:
        image = image.resize(FRAME, Image.Resampling.BOX)
    else:
        image = image.crop(tuple(int(edge) for edge in row["box"].split())).resize(CROP, Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1).copy()


class Judge(nn.Module):  # type: ignore[misc]
    """Six convolutions, the mean and the maximum over places, and the question: one logit."""

    def __init__(self, questions: int) -> None:
        super().__init__()
        widths = (3, 32, 48, 64, 96, 128)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        self.look = nn.Sequential(*layers, nn.Conv2d(128, 128, 3, padding=1), nn.ReLU())
        self.ask = nn.Linear(questions, 128)
        self.say = nn.Sequential(nn.Linear(384, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 1))

    def forward(self, pixels: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        seen = self.look(pixels)
        asked = self.ask(question)
        return self.say(torch.cat((seen.mean((2, 3)), seen.amax((2, 3)), asked), 1))[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    began = time.monotonic()
    parts = {split: read_rows(args.dataset, split) for split in ("train", "test")}
    known = {word: number for number, word in enumerate(sorted(set().union(*map(words, parts["train"]))))}
    data = {}
    for split, rows in parts.items():
        asked = torch.zeros(len(rows), len(known))
        for place, row in enumerate(rows):
            asked[place, [known[word] for word in words(row) if word in known]] = 1
        pixels = torch.from_numpy(np.stack([picture(args.dataset, row, args.whole) for row in rows]))
        truth = torch.tensor([float(row["anomaly"] == "true") for row in rows])
        data[split] = (pixels, asked, truth)
    model = Judge(len(known))
    pixels, asked, truth = data["train"]
    steps = args.epochs * (len(truth) // 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for epoch in range(args.epochs):
        order, total = torch.randperm(len(truth)), 0.0
        for at in range(0, len(truth) - 31, 32):
            some = order[at : at + 32]
            light = 1 + 0.3 * (torch.rand(32, 3, 1, 1) - 0.5)
            loss = F.binary_cross_entropy_with_logits(
                model((pixels[some] / 127.5 - 1) * light, asked[some]), truth[some]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(
            f"epoch {epoch + 1}/{args.epochs}: loss {total / (len(truth) // 32):.3f}, {time.monotonic() - began:.0f} s"
        )
    model.eval()
    pixels, asked, truth = data["test"]
    with torch.inference_mode():
        said = torch.cat([model(pixels[i : i + 64] / 127.5 - 1, asked[i : i + 64]) for i in range(0, len(truth), 64)])
    right = (said > 0) == (truth > 0.5)
    classes = defaultdict(list)
    for row, good in zip(parts["test"], right.tolist(), strict=True):
        classes[f"{row['class'] or '-'} {'anomaly' if row['anomaly'] == 'true' else 'normal'}"].append(good)
    for name, goods in sorted(classes.items()):
        print(f"  {name:40s} {sum(goods) / len(goods):.2f} of {len(goods)}")
    print(f"accuracy {float(right.float().mean()):.3f} of {len(right)} (trained on {len(data['train'][2])})")


if __name__ == "__main__":
    main()
