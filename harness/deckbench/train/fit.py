"""The optimization of one run: from its last good checkpoint to its last step."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deckbench.progress import say
from deckbench.train import checkpoint, lora, zero
from deckbench.train.config import TrainConfig
from deckbench.train.data import Plan
from deckbench.train.evaluate import EvalCounts, count_answers
from deckbench.train.run import Run


@contextlib.contextmanager
def deterministic(settings: TrainConfig) -> Iterator[None]:
    """Within: no network, deterministic operations, the configured number of threads, denormals flushed to zero.

    torch's settings and its generator's state are restored afterwards.
    """
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    from torch.utils import deterministic

    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn, fill = torch.is_deterministic_algorithms_warn_only_enabled(), deterministic.fill_uninitialized_memory
    generators = torch.get_rng_state()
    if settings.threads is not None or settings.processes > 1:
        torch.set_num_threads(settings.threads or 1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = False
    # Sharp attention leaves numbers so small that the processor takes a slow path for each: a third of a step's time.
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict, warn_only=warn)
        deterministic.fill_uninitialized_memory = fill
        torch.set_rng_state(generators)


def fit(run: Run) -> Path:
    """Train to the last step, from the last good checkpoint if there is one; returns the last step's checkpoint."""
    from deckbench.train.eval_callback import EvalCallback
    from deckbench.train.features import make_collate
    from deckbench.train.parallel import start_helpers
    from deckbench.train.trainer import LoraTrainer, TrainingCallback, arguments

    config, model, ranks = run.config, run.model, run.ranks
    seed = run.seed % 2**32  # numpy, which the Trainer seeds as well, takes no other number
    wrapped = lora.wrap(model, config, seed)
    if run.init is not None:
        lora.load_weights(wrapped, run.init)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    device = next(model.module.parameters()).device.type
    if run.sharding is not None:
        zero.configure_deepspeed()
    args = arguments(config, partial=run.partial, steps=run.steps, seed=seed, device=device, sharding=run.sharding)
    batches = run.steps * config.accumulate
    collate = make_collate(model, config, bf16=args.bf16)

    shares = ranks.world * config.processes  # one of the two is 1

    def plan(part: int) -> Plan:
        return Plan(
            run.items,
            batch=config.batch * ranks.world,
            batches=batches,
            seed=run.seed,
            questions=config.questions,
            part=(part, shares),
            group_by_length=config.group_by_length,
        )

    def evaluate(part: tuple[int, int]) -> EvalCounts:
        return EvalCounts() if run.eval_set is None else count_answers(model, run.eval_set, part)

    others = [plan(part) for part in range(1, config.processes)]
    with start_helpers(wrapped, others, collate, bf16=args.bf16, evaluate=evaluate) as helpers:
        training = TrainingCallback(wrapped, config, run.logs if ranks.is_main else None, ranks)
        evaluation = (
            None if run.eval_set is None else EvalCallback(wrapped, run.eval_set, config, training, evaluate, helpers)
        )
        trainer = LoraTrainer(
            partial=run.partial,
            pictures=len(run.items),
            pictures_per_step=config.batch * config.accumulate * ranks.world,
            helpers=helpers,
            ranks=ranks,
            history=None if evaluation is None else evaluation.history,
            model=wrapped,
            args=args,
            train_dataset=plan(ranks.number),
            data_collator=collate,
            callbacks=[training, *([] if evaluation is None else [evaluation])],
        )
        return resume(trainer, run)


def resume(trainer: Any, run: Run) -> Path:
    """Train from the last good checkpoint to the last step, or to where it stops early; returns that checkpoint."""
    last = checkpoint.latest_good(run.partial)
    if last is not None and run.ranks.is_main:
        say(f"resuming from step {checkpoint.step_of(last)} of {run.steps}")
    run.ranks.barrier()  # all look at the checkpoints before a new one is written
    if last is None or not is_complete(run, last):
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
        last = checkpoint.latest_good(run.partial)
    else:
        trainer._load_from_checkpoint(str(last))
    if last is None or not is_complete(run, last):
        raise RuntimeError("the training ended without its last checkpoint")
    trainer.check_end()
    return last


def is_complete(run: Run, last: Path) -> bool:
    """Whether this is the checkpoint of the last step, or of a training that stopped early."""
    from deckbench.train.trainer import read_state

    if checkpoint.step_of(last) == run.steps:
        return True
    return run.config.patience is not None and bool(read_state(last)["evaluation"]["stopped"])
