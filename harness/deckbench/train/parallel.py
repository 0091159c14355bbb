"""Several processes on one machine that share the work of each batch, without a network.

Gradients of a LoRA are a few MB, so they go through shared memory; `torch.distributed` would need sockets, which a
machine without a network (or a container with none) does not have. The helpers are forked after the model is loaded
and see its trained tensors in shared memory: the first process alone runs the Trainer and its optimizer.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from deckbench.errors import DeckBenchError, OutsideError
from deckbench.train.data import Collate, LoadFailure, Plan
from deckbench.train.evaluate import EvalCounts

IGNORE = -100
EVALUATE = "evaluate"
Evaluate = Callable[[tuple[int, int]], EvalCounts]  # the i-th of n shares (from 0) of an evaluation


@dataclass(frozen=True)
class StepResult:
    """A helper's part of one step. loss: sum over its answer tokens; correct: how many of them it predicted."""

    loss: float
    correct: int


class Helper:
    """One process that computes the gradients of its part of every batch."""

    def __init__(
        self, number: int, wrapped: Any, plan: Plan, collate: Collate, *, bf16: bool, evaluate: Evaluate
    ) -> None:
        self.trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
        self.sums = torch.zeros(sum(parameter.numel() for parameter in self.trained)).share_memory_()
        context = multiprocessing.get_context("fork")
        self.line, other = context.Pipe()

        def work() -> None:
            self.line.close()  # else a helper would never see that the first process is gone
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            key = (plan.seed, number)
            serve(other, wrapped, self.trained, self.sums, plan, collate, key=key, bf16=bf16, evaluate=evaluate)

        self.process = context.Process(target=work, daemon=True, name=f"helper {number}")
        self.process.start()
        other.close()

    def start(self, batches: Sequence[int]) -> None:
        """Begin a step: the batches to sum the gradients of."""
        self._send(list(batches))

    def count(self) -> int:
        """Answer tokens in its part of the step. Raises InputError for a broken image."""
        return int(self._receive())

    def start_evaluation(self) -> None:
        """Start answering its share of an evaluation."""
        self._send(EVALUATE)

    def counts(self) -> EvalCounts:
        """Wait for its share of an evaluation. Raises InputError for a broken image."""
        return self._receive()  # type: ignore[no-any-return]

    def finish(self, tokens: int) -> StepResult:
        """Wait for its gradients and add them, divided by `tokens`, to those of the first process.

        Raises OutsideError for what its disk failed with.
        """
        done: StepResult = self._receive()
        start = 0
        for parameter in self.trained:
            part = self.sums[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
            if parameter.grad is None:
                parameter.grad = part / tokens
            else:
                parameter.grad.add_(part, alpha=1.0 / tokens)
        return done

    def stop(self) -> None:
        self.line.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()

    def _send(self, message: Any) -> None:
        try:
            self.line.send(message)
        except OSError as error:
            raise self._died() from error

    def _receive(self) -> Any:
        try:
            answer = self.line.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if isinstance(answer, LoadFailure):
            raise answer.error()
        return answer

    def _died(self) -> OutsideError:
        return OutsideError(f"a training process died ({self.process.name})", None, "rerun with --resume")


@contextmanager
def start_helpers(
    wrapped: Any, plans: Sequence[Plan], collate: Collate, *, bf16: bool, evaluate: Evaluate
) -> Iterator[list[Helper]]:
    """One helper per plan, stopped on the way out. The trained tensors move to shared memory before the fork."""
    if plans:
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.share_memory_()
    helpers: list[Helper] = []
    try:
        for number, plan in enumerate(plans, 1):
            helpers.append(Helper(number, wrapped, plan, collate, bf16=bf16, evaluate=evaluate))
        yield helpers
    finally:
        # All lines first: a helper holds copies of the earlier ones', which end when the last copy is closed.
        for helper in helpers:
            helper.line.close()
        for helper in helpers:
            helper.stop()


def serve(
    line: Connection,
    wrapped: Any,
    trained: Sequence[Tensor],
    sums: Tensor,
    plan: Plan,
    collate: Collate,
    *,
    key: tuple[int, int],
    bf16: bool,
    evaluate: Evaluate,
) -> None:
    """The main loop of a helper: receives a step's batches, sends its token count, leaves its gradients in `sums`.

    While the first process steps the optimizer, the next batch is loaded. Ends with the first process.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as in the first process; the setting belongs to a thread
    wrapped.train()
    ready: dict[int, Any] = {}
    while True:
        try:
            indices = line.recv()
            if indices == EVALUATE:
                line.send(evaluate_part(evaluate, plan.part))
                continue
            made = [ready.pop(index) if index in ready else collate([plan[index]]) for index in indices]
            broken = [batch for batch in made if isinstance(batch, LoadFailure)]
            batches: list[dict[str, Any]] = [batch for batch in made if not isinstance(batch, LoadFailure)]
            if broken:
                line.send(broken[0])
                continue
            line.send(sum(int((batch["labels"][:, 1:] != IGNORE).sum()) for batch in batches))
            try:
                line.send(sum_gradients(batches, indices, wrapped, trained, sums, key=key, bf16=bf16))
            except DeckBenchError as error:
                line.send(LoadFailure.of(error))
                continue
            following = indices[-1] + 1
            ready = {following: collate([plan[following]])} if following < len(plan) else {}
        except (EOFError, OSError):
            os._exit(0)


def evaluate_part(evaluate: Evaluate, part: tuple[int, int]) -> EvalCounts | LoadFailure:
    """A share of an evaluation."""
    try:
        return evaluate(part)
    except DeckBenchError as error:
        return LoadFailure(error.what, error.where, error.fix)


def sum_gradients(
    batches: Sequence[dict[str, Any]],
    indices: Sequence[int],
    wrapped: Any,
    trained: Sequence[Tensor],
    sums: Tensor,
    *,
    key: tuple[int, int],
    bf16: bool,
) -> StepResult:
    """Gradients of the summed loss of some batches, into `sums`. Random numbers depend on the batch's place alone."""
    loss, correct = 0.0, 0
    for parameter in trained:
        parameter.grad = None
    for index, batch in zip(indices, batches, strict=True):
        digest = hashlib.blake2b(f"{key}/{index}".encode(), digest_size=7).digest()
        torch.manual_seed(int.from_bytes(digest, "big"))
        with torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext():
            output = wrapped(**batch, num_items_in_batch=1)
        output.loss.backward()
        labels = batch["labels"][:, 1:]
        loss += float(output.loss.detach())
        correct += int((output.logits.detach().argmax(-1) == labels[labels != IGNORE]).sum())
    torch.cat([parameter.grad.flatten() for parameter in trained if parameter.grad is not None], out=sums)
    return StepResult(loss, correct)
