"""transformers' Trainer with planned batches, checksummed checkpoints and an exact learning curve."""

from __future__ import annotations

import contextlib
import io
import json
import math
import pickle
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from deckbench.errors import OutsideError
from deckbench.progress import PLAIN_EVERY_S, say
from deckbench.train import checkpoint, lora, zero
from deckbench.train.config import TrainConfig
from deckbench.train.data import LoadFailure
from deckbench.train.evaluate import History
from deckbench.train.parallel import Helper
from deckbench.train.ranks import Ranks

STATE = "state.pt"
TRAINER_STATE = "trainer_state.json"  # the name transformers looks for in a checkpoint
IGNORE = -100


class TrainingCallback(TrainerCallback):  # type: ignore[misc]
    """Decides when a row of the learning curve is due, logs progress, feeds TensorBoard, checks gradients once.

    logs: TensorBoard's folder; None on all ranks but the main one.
    """

    def __init__(self, wrapped: Any, config: TrainConfig, logs: Path | None, ranks: Ranks) -> None:
        self.wrapped = wrapped
        self.config = config
        self.logs = logs
        self.ranks = ranks
        self.writer: Any = None
        self.checked = config.deepspeed is not None  # DeepSpeed takes the gradients away as they come
        self.last = time.monotonic()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.ranks.world > 1:  # else every rank would drop out the same numbers
            torch.manual_seed(args.seed * self.ranks.world + self.ranks.number)

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not self.checked:
            lora.check_reached(self.wrapped)
            self.checked = True

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # A row at every checkpoint empties the running sums, so a resumed run goes on with the same ones.
        step, config = state.global_step, self.config
        self.ranks.report("next step", step)
        if step % config.log_every == 0 or step % config.save_every == 0 or step >= state.max_steps:
            control.should_log = True

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        row = state.log_history[-1]
        if self.logs is None or "token_accuracy" not in row:
            return
        self.write({f"train/{name}": row[name] for name in ("loss", "token_accuracy", "lr", "grad_norm")}, row["step"])
        if time.monotonic() - self.last >= PLAIN_EVERY_S:
            say(f"training: step {row['step']}/{state.max_steps}, loss {row['loss']:.4f}")
            self.last = time.monotonic()

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.writer is not None:
            with self.disk():
                self.writer.close()

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Write values for TensorBoard, where there is a folder for them."""
        if self.logs is None:
            return
        with self.disk():
            if self.writer is None:
                from torch.utils.tensorboard import SummaryWriter

                # A resumed run hides what the broken one logged past its last checkpoint.
                self.writer = SummaryWriter(str(self.logs), purge_step=step)
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    @contextlib.contextmanager
    def disk(self) -> Iterator[None]:
        """A disk that fails for the event files is no bug, and the run can be resumed."""
        try:
            yield
        except OSError as error:
            what = f"cannot write the learning curve's events: {error.strerror}"
            fix = "free disk space or fix the permissions, then rerun with --resume"
            raise OutsideError(what, self.logs, fix) from error


class LoraTrainer(Trainer):  # type: ignore[misc]
    """Trainer whose checkpoints are checksummed folders, and whose batches come from a Plan."""

    def __init__(
        self,
        *,
        partial: Path,
        pictures: int,
        pictures_per_step: int,
        helpers: Sequence[Helper] = (),
        ranks: Ranks,
        history: History | None = None,
        **given: Any,
    ) -> None:
        super().__init__(**given)
        self.helpers = helpers
        self.ranks = ranks
        self.history = history
        self.partial = partial
        self.pictures_per_pass = pictures
        self.pictures_per_step = pictures_per_step
        self.correct = torch.zeros((), dtype=torch.int64, device=self.args.device)
        self.tokens = 0
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)

    def get_train_dataloader(self) -> Any:
        """The Plan as it is: it is this rank's share already, so nothing is left to share out among ranks."""
        return DataLoader(
            self.train_dataset,
            batch_size=1,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The batches of one optimizer step and their number of answer tokens; raises what a loader could not."""
        first = self.state.global_step * num_batches
        self.ranks.report("image loading")
        for helper in self.helpers:
            helper.start(range(first, first + num_batches))
        batches = list(islice(epoch_iterator, num_batches))
        for batch in batches:
            if isinstance(batch, LoadFailure):
                raise batch.error()
        self.ranks.report("token count")
        tokens = self._get_num_items_in_batch(batches, device)
        theirs = sum(helper.count() for helper in self.helpers)
        self.tokens += theirs
        self.left = num_batches
        return batches, tokens + theirs

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Forward and backward of one batch; after the step's last one the helpers' gradients are added."""
        self.ranks.report("forward and backward pass")
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.left -= 1
        if self.left == 0:
            for helper in self.helpers:
                result = helper.finish(int(num_items_in_batch))
                self.correct += result.correct
                loss += result.loss / int(num_items_in_batch)
        return loss

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **given: Any) -> Any:
        """The model's own loss (mean over the step's answer tokens); counts correctly predicted tokens."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **given)
        labels = inputs["labels"][:, 1:]
        wanted = labels[labels != IGNORE]
        self.correct += (outputs["logits"].detach().argmax(-1) == wanted).sum()
        self.tokens += wanted.numel()
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Keep one row of the learning curve. Raises OutsideError when the loss or its gradient is not finite."""
        if "loss" not in logs:  # the Trainer's closing summary: times, which would differ between equal runs
            return
        # A loss can still be a number where its gradient is none: the last step's would go into the adapter.
        for what, value in (("loss", logs["loss"]), ("gradient", logs["grad_norm"])):
            if not math.isfinite(value):
                raise self.diverged(what, value)
        correct, total = self.ranks.sum(int(self.correct), self.tokens)
        logs["token_accuracy"] = correct / max(1, total)
        logs["lr"] = logs.pop("learning_rate")
        self.correct.zero_()
        self.tokens = 0
        self.state.epoch = self.state.global_step * self.pictures_per_step / self.pictures_per_pass
        super().log(logs, start_time)

    def diverged(self, what: str, value: float) -> OutsideError:
        """The error of a training whose `what` is no finite number."""
        where = f"at step {self.state.global_step}"
        fix = f"lower lr or max_grad_norm and restart (delete {self.partial} first, if it exists)"
        return OutsideError(f"the training diverged: the {what} is {value} {where}", "lr", fix)

    def check_end(self) -> None:
        """The loss after the last step, of the first batch. Raises OutsideError when it is not finite: no row of the
        learning curve comes after that step, and weights of 1e30 are still numbers."""
        batch = self.data_collator([self.train_dataset[0]])
        if isinstance(batch, LoadFailure):
            raise batch.error()
        self.model.eval()
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = float(super().compute_loss(self.model_wrapped, self._prepare_inputs(batch)))
        if not math.isfinite(loss):
            raise self.diverged("loss", loss)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.ranks.report("checkpoint")
        with zero.gathered(self._trained()):
            adapter = lora.weights(self.model)
        sharded = self.is_deepspeed_enabled
        own = {"rng": rng_state(), "optimizer": zero.get_state(self.deepspeed.optimizer) if sharded else None}
        all_ranks = self.ranks.gather(own)
        if self.ranks.is_main:
            state = {
                "adapter": adapter,
                "optimizer": [one["optimizer"] for one in all_ranks] if sharded else self.optimizer.state_dict(),
                "scheduler": self.lr_scheduler.state_dict(),
                "rng": [one["rng"] for one in all_ranks],
            }
            if self.history is not None:
                state["evaluation"] = self.history.state()
            buffer = io.BytesIO()
            torch.save(state, buffer)
            trainer_state = json.dumps({**vars(self.state), "stateful_callbacks": {}}, sort_keys=True)
            files = {STATE: buffer.getvalue(), TRAINER_STATE: trainer_state.encode()}
            checkpoint.write(self.partial, self.state.global_step, files)
        self.ranks.barrier()

    def _trained(self) -> list[Any]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """As transformers does, but DeepSpeed starts from our checkpoint, not from a pickled one of its own."""
        if not self.is_deepspeed_enabled or resume_from_checkpoint is None:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        self._load_from_checkpoint(resume_from_checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        state = read_state(folder)
        lora.set_weights(self.model, state["adapter"], folder / STATE)
        if self.history is not None:
            self.history.load(state["evaluation"])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            state = read_state(Path(checkpoint))
            if self.is_deepspeed_enabled:
                zero.set_state(self.deepspeed.optimizer, state["optimizer"][self.ranks.number])
            else:
                self.optimizer.load_state_dict(state["optimizer"])
            self.lr_scheduler.load_state_dict(state["scheduler"])
            if self.is_deepspeed_enabled:  # the rate is in torch's own state of the optimizer, which is not used there
                for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
                    group["lr"] = rate

    def _load_callback_state(self) -> None:
        """Our callbacks keep no state."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            set_rng_state(read_state(Path(checkpoint))["rng"][self.ranks.number])


def rng_state() -> dict[str, Any]:
    """State of every generator a training step may draw from, in types that torch loads with weights_only."""
    name, keys, place, has_gauss, gauss = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), int(place), int(has_gauss), float(gauss)],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what `rng_state` took."""
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    version, values, gauss = state["python"]
    random.setstate((version, tuple(values), gauss))
    name, keys, place, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), place, has_gauss, cached))


def read_state(folder: Path) -> dict[str, Any]:
    """The tensors of a checkpoint, never unpickling anything but tensors and plain values."""
    try:
        state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        what = f"the checkpoint cannot be read ({type(error).__name__})"
        raise OutsideError(what, folder, "delete it and rerun with --resume") from error
    return state


def arguments(
    config: TrainConfig, *, partial: Path, steps: int, seed: int, device: str, sharding: dict[str, Any] | None = None
) -> TrainingArguments:
    """Our settings as TrainingArguments. The whole run is one Trainer epoch over the Plan, a batch an item.

    sharding: DeepSpeed's config.
    """
    bf16 = config.precision == "bf16" or (
        config.precision == "auto" and device == "cuda" and torch.cuda.is_bf16_supported()
    )
    given = TrainingArguments(
        output_dir=str(partial),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=config.accumulate,
        max_steps=steps,
        learning_rate=config.lr,
        lr_scheduler_type=config.schedule,
        warmup_steps=math.ceil(config.warmup * steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=bf16,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.save_every,
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        use_cpu=device == "cpu",
        dataloader_num_workers=config.workers,
        dataloader_pin_memory=device == "cuda",
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        label_names=["labels"],
        log_level="error",
        ddp_find_unused_parameters=False,
        deepspeed=sharding,
    )
    # With several GPUs in the machine the Trainer would take that many batches at a time and share them out by itself.
    given._n_gpu = min(given.n_gpu, 1)
    return given
