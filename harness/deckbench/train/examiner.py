"""Evaluates while the Trainer trains, keeps the best weights, and stops the run when they are no more bettered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from deckbench.progress import say
from deckbench.train import lora
from deckbench.train.config import TrainConfig
from deckbench.train.evaluate import Exam, History, Tally
from deckbench.train.parallel import Examine, Helper
from deckbench.train.trainer import Watch, rng_state, set_rng_state


class Examiner(TrainerCallback):  # type: ignore[misc]
    """Runs before the step's checkpoint is written, which therefore holds the evaluation's outcome.

    history: what the checkpoint keeps of it. examine: counts a share of the exam in this process; helpers: those that
    count the other shares.
    """

    def __init__(
        self, wrapped: Any, exam: Exam, config: TrainConfig, watch: Watch, examine: Examine, helpers: Sequence[Helper]
    ) -> None:
        self.wrapped = wrapped
        self.exam = exam
        self.config = config
        self.watch = watch
        self.examine = examine
        self.helpers = helpers
        self.history = History()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step, every = state.global_step, self.config.eval_every
        if every is None or (step % every and step < state.max_steps):
            return
        history, metric = self.history, self.exam.metric
        better = history.add(step, metric, self.count())
        if better and self.config.publishes_best:
            history.weights = {name: tensor.clone() for name, tensor in lora.weights(self.wrapped).items()}
        value = history.rows[-1][2]
        best = " (the best so far)" if better else ""
        say(f"evaluation at step {step}/{state.max_steps}: {metric} {value:.4f} of {self.exam.samples} samples{best}")
        self.watch.write({f"val/{metric}": value}, step)
        if self.config.patience is not None and history.bad >= self.config.patience and step < state.max_steps:
            say(f"stopping at step {step}: no better {metric} than {history.best:.4f} in {history.bad} evaluations")
            history.stopped = True
            control.should_training_stop = control.should_log = control.should_save = True

    def count(self) -> Tally:
        """The whole exam's counts. No generator of random numbers has moved afterwards, whatever the model draws."""
        before = rng_state()
        ranks = self.watch.ranks
        ranks.now("evaluation")
        for helper in self.helpers:
            helper.start_exam()
        # Ranks have no helpers, and helpers are of one rank.
        total = self.examine((ranks.number, len(self.helpers) + ranks.world))
        for helper in self.helpers:
            total += helper.tally()
        counted = ranks.total(*total.right, *total.asked)
        set_rng_state(before)
        return Tally((counted[0], counted[1]), (counted[2], counted[3]))
