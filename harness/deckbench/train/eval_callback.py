"""Evaluation during training: keeps the best weights and stops early when they no longer improve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from deckbench.progress import say
from deckbench.train import lora
from deckbench.train.config import TrainConfig
from deckbench.train.evaluate import EvalCounts, EvalSet, History
from deckbench.train.parallel import Evaluate, Helper
from deckbench.train.trainer import TrainingCallback, rng_state, set_rng_state


class EvalCallback(TrainerCallback):  # type: ignore[misc]
    """Evaluates before the step's checkpoint is written, which therefore holds the evaluation's outcome.

    history: what the checkpoint keeps of it. evaluate: answers a share of the evaluation in this process; helpers: the
    processes that answer the other shares.
    """

    def __init__(
        self,
        wrapped: Any,
        eval_set: EvalSet,
        config: TrainConfig,
        training: TrainingCallback,
        evaluate: Evaluate,
        helpers: Sequence[Helper],
    ) -> None:
        self.wrapped = wrapped
        self.eval_set = eval_set
        self.config = config
        self.training = training
        self.evaluate = evaluate
        self.helpers = helpers
        self.history = History()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step, every = state.global_step, self.config.eval_every
        if every is None or (step % every and step < state.max_steps):
            return
        history, metric = self.history, self.eval_set.metric
        better = history.add(step, metric, self.count())
        if better and self.config.publishes_best:
            history.weights = {name: tensor.clone() for name, tensor in lora.weights(self.wrapped).items()}
        value = history.rows[-1][2]
        best = " (best so far)" if better else ""
        where = f"step {step}/{state.max_steps}"
        say(f"evaluation at {where}: {metric} {value:.4f} of {self.eval_set.samples} samples{best}")
        self.training.write({f"val/{metric}": value}, step)
        if self.config.patience is not None and history.bad >= self.config.patience and step < state.max_steps:
            say(f"early stopping at {where}: no {metric} above {history.best:.4f} in {history.bad} evaluations")
            history.stopped = True
            control.should_training_stop = control.should_log = control.should_save = True

    def count(self) -> EvalCounts:
        """The counts of all shares. Every random generator is as before afterwards, whatever the model draws."""
        before = rng_state()
        ranks = self.training.ranks
        ranks.report("evaluation")
        for helper in self.helpers:
            helper.start_evaluation()
        # Ranks have no helpers, and helpers are of one rank.
        total = self.evaluate((ranks.number, len(self.helpers) + ranks.world))
        for helper in self.helpers:
            total += helper.counts()
        sums = ranks.sum(*total.correct, *total.total)
        set_rng_state(before)
        return EvalCounts((sums[0], sums[1]), (sums[2], sums[3]))
