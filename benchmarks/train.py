"""How fast does `train` learn, against a plain script around transformers' Trainer?

    python benchmarks/train.py [--data DATASET] [--task ot2-concept@1] [--frames 60] [--model tiny-glm4v]

Both sides start from the same LoRA weights and take the same steps: the same questions about the same pictures, the
same optimizer, schedule, seed, number type, threads and loading processes. The plain script is what one writes by
hand: a Dataset that opens the picture of each question, a collator that pads one question a row, `Trainer(...)`.
Each side runs in a fresh process, in turn. The first steps warm up and are left out of the time. Prints both learning
curves and the ratio of questions per second; exit code 1 when it is below 1 or the curves part. Use an idle machine.
"""

from __future__ import annotations

import argparse
import csv
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

NEEDED, AGREE = 1.0, 1e-3


@dataclass(frozen=True)
class Wish:
    """What both sides are asked for. model: a GLM-4V; batch: pictures a step, each with all its questions."""

    model: str
    data: Path
    steps: int = 24
    batch: int = 8
    rank: int = 16
    alpha: float = 32.0
    lr: float = 2e-4
    warmup: float = 0.1
    precision: str = "float32"
    threads: int = 2
    workers: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Measured:
    """loss, wall and cpu: one value a step; the clocks are read at its end. cpu: without loading processes."""

    loss: list[float]
    wall: list[float]
    cpu: list[float]


class Clock:
    """Reads the clocks at the end of each step."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def read(self) -> None:
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())


def deckbench_side(wish: Wish) -> Measured:
    """`train` as it is, a row of the curve at every step."""
    from deckbench.train import train, trainer

    clock = Clock()
    real = trainer.TrainingCallback.on_step_end

    def spy(self: Any, *given: Any, **named: Any) -> None:
        clock.read()
        real(self, *given, **named)

    settings = asdict(wish)
    model, data, seed, steps = (settings.pop(name) for name in ("model", "data", "seed", "steps"))
    settings |= {"max_steps": steps, "log_every": 1, "save_every": steps, "schedule": "cosine", "dropout": 0.0}
    trainer.TrainingCallback.on_step_end = spy
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = train(model=model, data=data, out=Path(folder) / "adapter", overrides=settings, seed=seed)
            with (made.path / "curve.csv").open(newline="") as table:
                loss = [float(row["loss"]) for row in csv.DictReader(table)]
    finally:
        trainer.TrainingCallback.on_step_end = real
    return Measured(loss, clock.wall, clock.cpu)


class Questions(Dataset):  # type: ignore[misc]
    """A question a row, its picture opened and prepared each time."""

    def __init__(self, prepare: Any, rows: Sequence[tuple[Path, str, str]]) -> None:
        self.prepare = prepare
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        from PIL import Image

        path, question, answer = self.rows[index]
        with Image.open(path) as picture:
            return self.prepare([(picture.convert("RGB"), [(question, answer)])])  # type: ignore[no-any-return]


def pad(rows: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Rows of one question each, padded on the right to the longest."""
    lengths = [row["input_ids"].shape[1] for row in rows]
    most = max(lengths)
    batch = {"pixel_values": torch.cat([row["pixel_values"] for row in rows])}
    for name, value in (("input_ids", 0), ("position_ids", 0), ("labels", -100)):
        batch[name] = torch.cat([F.pad(row[name], (0, most - row[name].shape[1]), value=value) for row in rows])
    mask = torch.eye(most, dtype=torch.bool).repeat(len(rows), 1, 1, 1)  # padding sees itself: softmax needs a place
    for row, length, into in zip(rows, lengths, mask, strict=True):
        into[:, :length, :length] = row["attention_mask"][0]
    return {**batch, "attention_mask": mask}


def planned(wish: Wish) -> list[list[tuple[Path, str, str]]]:
    """The questions of each step, as `train` takes them."""
    from deckbench.train.data import Plan, training_items

    plan = Plan(training_items(wish.data), batch=wish.batch, batches=wish.steps, seed=wish.seed, questions=None)
    return [[(item.image, *pair) for item in plan[step] for pair in item.pairs] for step in range(wish.steps)]


def plain_side(wish: Wish) -> Measured:
    """The script by hand."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from peft import LoraConfig, get_peft_model
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    from deckbench.models.load import load_model

    torch.set_num_threads(wish.threads)
    chat = load_model(wish.model, dtype="float32")
    torch.manual_seed(wish.seed)
    lora = LoraConfig(
        r=wish.rank, lora_alpha=wish.alpha, lora_dropout=0.0, target_modules=chat.lora_targets(True), bias="none"
    )
    wrapped = get_peft_model(chat.module, lora)
    steps = planned(wish)
    rows = [row for step in steps for row in step]
    numbers = iter(range(len(rows)))
    batches = [[next(numbers) for _ in step] for step in steps]

    class PlannedTrainer(Trainer):  # type: ignore[misc]
        """Batches of as many questions as the step's pictures have."""

        def get_train_dataloader(self) -> Any:
            return DataLoader(
                self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator, num_workers=wish.workers
            )

    clock = Clock()

    class Read(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *given: Any, **named: Any) -> None:
            clock.read()

    with tempfile.TemporaryDirectory() as folder:
        given = TrainingArguments(
            output_dir=folder,
            max_steps=wish.steps,
            learning_rate=wish.lr,
            lr_scheduler_type="cosine",
            warmup_steps=math.ceil(wish.warmup * wish.steps),
            weight_decay=0.0,
            max_grad_norm=1.0,
            bf16=wish.precision == "bf16",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=wish.seed,
            use_cpu=chat.device.type == "cpu",
            remove_unused_columns=False,
            label_names=["labels"],
        )
        trainer = PlannedTrainer(
            model=wrapped,
            args=given,
            train_dataset=Questions(chat.collate, rows),
            data_collator=pad,
            callbacks=[Read()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    loss = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return Measured(loss, clock.wall, clock.cpu)


SIDES = {"deckbench": deckbench_side, "plain": plain_side}


def in_a_fresh_process(side: str, wish: Wish) -> Measured:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(SIDES[side], wish).result()


def apart(one: Measured, other: Measured) -> float:
    """The largest difference of two learning curves."""
    return max(abs(a - b) for a, b in zip(one.loss, other.loss, strict=True))


def make_data(work: Path, task: str, frames: int, seed: int) -> Path:
    """A synthetic dataset of its own."""
    from deckbench.build import build_dataset
    from deckbench.pool.synth import synth_pool

    synth_pool(work / "pool", frames=frames, seed=seed)
    build_dataset(task, pool=work / "pool", out=work / "data")
    return work / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a dataset; made when left out")
    parser.add_argument("--task", default="ot2-concept@1", help="of the dataset that is made")
    parser.add_argument("--frames", type=int, default=60, help="of the pool that is rendered")
    parser.add_argument("--model", default="tiny-glm4v")
    parser.add_argument("--rounds", type=int, default=2, help="how often each side runs")
    parser.add_argument("--skip", type=int, default=4, help="steps at the start that are not timed")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    for name in ("steps", "batch", "rank", "threads", "workers", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Wish, name))
    parser.add_argument("--lr", type=float, default=Wish.lr)
    args = parser.parse_args()
    if not 0 < args.skip < args.steps:
        parser.error("--skip must be above 0 and below --steps")
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or make_data(Path(folder), args.task, args.frames, args.seed)
        names = ("model", "precision", "steps", "batch", "rank", "lr", "threads", "workers", "seed")
        wish = Wish(data=data, **{name: getattr(args, name) for name in names})
        asked = [len(step) for step in planned(wish)]
        print(
            f"{wish.model}, {wish.steps} steps of {wish.batch} images ({sum(asked) / wish.steps:.0f} questions), "
            f"{wish.precision}, {wish.threads} threads, {wish.workers} loading processes; "
            f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        )
        runs: dict[str, list[Measured]] = {side: [] for side in SIDES}
        spent = {side: (0.0, 0.0) for side in SIDES}
        timed = sum(asked[args.skip :])
        for number in range(args.rounds):
            for side in SIDES:
                run = in_a_fresh_process(side, wish)
                wall, cpu = (clock[-1] - clock[args.skip - 1] for clock in (run.wall, run.cpu))
                print(f"round {number + 1}, {side:9s} {timed / wall:7.1f} questions/s, CPU {cpu:6.1f} s", flush=True)
                runs[side].append(run)
                spent[side] = (spent[side][0] + wall, spent[side][1] + cpu)
    ours, plain = runs["deckbench"][0], runs["plain"][0]
    print("step  deckbench      plain  difference")
    for step, (a, b) in enumerate(zip(ours.loss, plain.loss, strict=True), 1):
        print(f"{step:4d}  {a:9.6f}  {b:9.6f}  {abs(a - b):10.1e}")
    difference = apart(ours, plain)
    ratio, cpu_ratio = (spent["plain"][clock] / spent["deckbench"][clock] for clock in (0, 1))
    print(f"largest difference of the curves {difference:.1e} (at most {AGREE:.0e})")
    print(f"x{ratio:.2f} the questions per second of the plain script ({NEEDED} needed); x{cpu_ratio:.2f} by CPU time")
    if ratio < NEEDED or not difference <= AGREE:
        sys.exit(1)


if __name__ == "__main__":
    main()
