"""The step itself: dataset and base model in, adapter out, whole or not at all, whatever kills it on the way."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from deckbench import artifact
from deckbench.artifact import Manifest
from deckbench.dataset import dataset_hash
from deckbench.errors import InputError
from deckbench.machine import hardware
from deckbench.progress import say
from deckbench.train import checkpoint, lora, zero
from deckbench.train.config import Source, TrainConfig, read_source, settle
from deckbench.train.curve import curve_csv
from deckbench.train.data import Item, Plan, training_items
from deckbench.train.evaluate import Exam, Tally, evaluations_csv, fit_dataset, make_exam, tally
from deckbench.train.launch import Places, launch
from deckbench.train.ranks import Ranks, joined

RUN = "run.json"
CURVE = "curve.csv"
EVALUATIONS = "evaluations.csv"
SETTINGS = "train_config.yaml"


@dataclass(frozen=True)
class Run:
    """A training that was checked and can start. source: the file that `config` comes from, without overrides.
    content: what decides the result, as plain JSON values. sharding: DeepSpeed's config. exam: what is asked while it
    learns, if anything."""

    model: Any
    source: Source
    config: TrainConfig
    items: list[Item]
    init: lora.Adapter | None
    out: Path
    seed: int
    steps: int
    content: dict[str, Any]
    ranks: Ranks
    sharding: dict[str, Any] | None
    exam: Exam | None = None

    @property
    def partial(self) -> Path:
        """Where the unfinished run lives."""
        return partial_of(self.out)

    @property
    def logs(self) -> Path:
        """TensorBoard's folder: outside the adapter, for event files hold times."""
        return logs_of(self.out)


def partial_of(out: Path) -> Path:
    """Where the unfinished run of an adapter lives, beside its place."""
    return out.with_name(f"{out.name}.partial")


def logs_of(out: Path) -> Path:
    """Where TensorBoard's files of an adapter lie."""
    return out.with_name(f"{out.name}.logs")


def check_place(out: Path, resume: bool) -> None:
    """Raises InputError where an adapter lies, or an unfinished run that is not to be gone on with."""
    if not (resume and (out / artifact.MANIFEST).exists()):
        artifact.check_free(out)
    if partial_of(out).exists() and not resume:
        raise InputError(
            "an unfinished training of this adapter lies here",
            partial_of(out),
            "go on with --resume, or remove that folder to start anew",
        )


def drop_unbegun(out: Path) -> None:
    """Remove what a run left that has no checkpoint yet: there is nothing to go on from."""
    if checkpoint.latest_good(partial_of(out)) is None:
        shutil.rmtree(partial_of(out), ignore_errors=True)
        shutil.rmtree(logs_of(out), ignore_errors=True)


def train_in_ranks(
    places: Places,
    command: Sequence[str],
    *,
    out: Path,
    config: Path | None,
    overrides: Mapping[str, Any],
    resume: bool,
) -> None:
    """`train` in several processes. command: the command line that each of them is to run, without the places.

    Raises InputError, and OutsideError which names the rank that died or hung.
    """
    settings = settle(read_source(config), overrides)
    check_place(out, resume)
    try:
        launch(command, places, out=out, timeout_s=settings.rank_timeout)
    except InputError:
        drop_unbegun(out)
        raise


def train(
    *,
    model: str,
    data: Path,
    out: Path,
    init: Path | None = None,
    config: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    seed: int = 0,
) -> Manifest:
    """LoRA fine-tune `model` on the train part of the dataset `data`; write the adapter folder `out`.

    init: adapter of the stage before, whose weights go on in the same layers. config: yaml file or name of a packaged
    one; overrides: settings on top of it. resume: go on from the last good checkpoint in `<out>.partial`, or start
    when there is none. The adapter is the same, bit for bit on a CPU, whether or not the run was killed and resumed.
    Raises InputError (nothing is written) and OutsideError (disk, another process; the last checkpoint is kept).
    """
    data, out = Path(data), Path(out)
    started = time.monotonic()
    source = read_source(config)
    settings = settle(source, overrides or {})

    def said_at(setting: str) -> str:
        return "--set" if setting in (overrides or {}) else source.place(setting)

    with joined(settings.rank_timeout) as ranks, quiet_machine(settings):
        from deckbench.train.features import check as check_features

        check_place(out, resume)
        items = training_items(data)
        settings = fit_dataset(settings, source, overrides or {}, data)
        exam = None
        if settings.eval_every is not None:
            exam = make_exam(data, limit=settings.eval_limit, seed=seed)
        adapter = None if init is None else lora.read_adapter(Path(init))
        run = replace(prepare(model, data, source, settings, items, adapter, out, seed, ranks), exam=exam)
        lora.check_targets(run.model, run.config, said_at("targets"))
        check_features(run.model, run.config, said_at("feature_cache"))
        if (out / artifact.MANIFEST).exists():
            return finished(run)
        ranks.wait()  # nobody writes before all have looked
        if ranks.first:
            take_up(run)
            greet(run)
        ranks.wait()
        try:
            last = fit(run)
        except InputError:
            if ranks.first:
                drop_unbegun(out)
            raise
        if ranks.first:
            publish(run, last, wall_s=time.monotonic() - started)
            shutil.rmtree(run.partial, ignore_errors=True)
        ranks.wait()
        return artifact.read(out, "adapter")


def greet(run: Run) -> None:
    """Say what is about to be trained."""
    if run.source.ignored:
        say(f"{run.source.file}: these keys mean nothing here and are left out: {', '.join(run.source.ignored)}")
    config, world = run.config, run.ranks.world
    together = f" x {world} ranks" if world > 1 else ""
    say(
        f"training: {run.steps} steps of {config.batch * config.accumulate * world} pictures"
        f" (batch {config.batch} x accumulate {config.accumulate}{together}), {len(run.items)} pictures in all"
    )


def prepare(
    model: str,
    data: Path,
    source: Source,
    settings: TrainConfig,
    items: list[Item],
    adapter: lora.Adapter | None,
    out: Path,
    seed: int,
    ranks: Ranks,
) -> Run:
    """Load the base and check that everything fits together. Raises InputError; writes nothing."""
    from deckbench.models.families import trainable
    from deckbench.models.load import load_trainable

    sharding = None
    if ranks.world > 1:
        settings = settings.model_copy(update={"processes": 1})  # ranks share the work already
        sharding = None if settings.deepspeed is None else zero.read_config(settings.deepspeed, source.file)
    elif settings.deepspeed is not None:
        if source.keys.get("deepspeed") is None:
            raise InputError("DeepSpeed shares a training among ranks", "deepspeed", "give --gpus or --nproc as well")
        settings = settings.model_copy(update={"deepspeed": None})  # the lab's own yaml, and one process
    ranks.now("loading of the model")
    if not trainable(model):
        raise InputError(f"{model} cannot be trained", "--model", "give a model with weights, such as tiny-glm4v")
    base = load_trainable(model)
    identity = {"name": base.name, "family": base.family, "hash": base.base_hash}
    settings = lora.fit_vision(settings, base)
    if adapter is not None:
        lora.check_base(adapter, base)
        settings = lora.fit_config(settings, adapter, base)
    device = next(base.module.parameters()).device.type
    if settings.processes > 1 and device != "cpu":
        raise InputError(
            f"processes share work on the CPU; this run is on {device}", "processes", "leave it at 1, or give --gpus"
        )
    steps = settings.steps(len(items), ranks.world)
    params: dict[str, Any] = {**settings.content(), "steps": steps}
    if ranks.world > 1:
        params["ranks"] = ranks.world
    if sharding is not None:
        params["deepspeed"] = sharding
        # Every forward pass is made by all ranks together there, and they ask different questions.
        if settings.eval_every is not None and sharding.get("zero_optimization", {}).get("stage") == 3:
            raise InputError("nothing can be evaluated under ZeRO-3", "eval_every", "leave it out, or take zero2")
    content = {
        "inputs": {
            "base": identity,
            "dataset": dataset_hash(data),
            "init": None if adapter is None else adapter.content_hash,
        },
        "params": params,
        "seed": seed,
    }
    return Run(base, source, settings, items, adapter, out, seed, steps, content, ranks, sharding)


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Names of the values in which two nested dicts differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [
            found
            for key in keys
            for found in differences(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if old == new else [name]


def refuse_other(run: Run, old: Any, where: Path) -> None:
    """Raises InputError naming what changed since the run was begun."""
    changed = differences(old, json.loads(artifact.canonical(run.content)))
    if changed:
        raise InputError(
            f"this run was begun with other inputs or settings: {', '.join(changed)}",
            where,
            "give the same ones to go on with it, or choose another --out",
        )


def finished(run: Run) -> Manifest:
    """The adapter was renamed into place before the run was killed: only the leftovers are to be removed."""
    manifest = artifact.read(run.out, "adapter", verify=True)
    refuse_other(run, {key: manifest.content[key] for key in ("inputs", "params", "seed")}, run.out)
    shutil.rmtree(run.partial, ignore_errors=True)
    return manifest


def take_up(run: Run) -> None:
    """Open the folder of the unfinished run, or begin it. Raises InputError when it is another run's."""
    place = run.partial / RUN
    if place.is_file():
        refuse_other(run, json.loads(place.read_text(encoding="utf-8")), run.partial)
    elif checkpoint.all_of(run.partial):
        raise InputError(f"checkpoints without {RUN}", run.partial, "remove that folder")
    else:
        artifact.atomic_write(place, json.dumps(run.content, indent=1, sort_keys=True) + "\n")


@contextlib.contextmanager
def quiet_machine(settings: TrainConfig) -> Iterator[None]:
    """No network, deterministic operations, the wished number of threads, numbers below 1e-38 taken as zero.

    torch's settings and generator are as before afterwards.
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
    """Train to the last step and return its checkpoint, going on from the last good one."""
    from deckbench.train.examiner import Examiner
    from deckbench.train.features import loading
    from deckbench.train.parallel import helping
    from deckbench.train.trainer import LoraTrainer, Watch, arguments

    config, model, ranks = run.config, run.model, run.ranks
    drawn = run.seed % 2**32  # numpy, which the Trainer seeds as well, takes no other number
    wrapped = lora.wrap(model, config, drawn)
    if run.init is not None:
        lora.load_weights(wrapped, run.init)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    device = next(model.module.parameters()).device.type
    if run.sharding is not None:
        zero.make_ready()
    given = arguments(config, partial=run.partial, steps=run.steps, seed=drawn, device=device, sharding=run.sharding)
    batches = run.steps * config.accumulate
    collate = loading(model, config, bf16=given.bf16)

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

    def examine(part: tuple[int, int]) -> Tally:
        return Tally() if run.exam is None else tally(model, run.exam, part)

    others = [plan(part) for part in range(1, config.processes)]
    with helping(wrapped, others, collate, bf16=given.bf16, examine=examine) as helpers:
        watch = Watch(wrapped, config, run.logs if ranks.first else None, ranks)
        examiner = None if run.exam is None else Examiner(wrapped, run.exam, config, watch, examine, helpers)
        trainer = LoraTrainer(
            partial=run.partial,
            pictures=len(run.items),
            pictures_per_step=config.batch * config.accumulate * ranks.world,
            helpers=helpers,
            ranks=ranks,
            history=None if examiner is None else examiner.history,
            model=wrapped,
            args=given,
            train_dataset=plan(ranks.number),
            data_collator=collate,
            callbacks=[watch, *([] if examiner is None else [examiner])],
        )
        return go_on(trainer, run)


def go_on(trainer: Any, run: Run) -> Path:
    """Train from the last good checkpoint to the last step; returns the last step's checkpoint.

    The last step is where the training stopped early, if it did.
    """
    last = checkpoint.latest_good(run.partial)
    if last is not None and run.ranks.first:
        say(f"going on from step {checkpoint.step_of(last)} of {run.steps}")
    run.ranks.wait()  # all look at the checkpoints before a new one is written
    if last is None or not ended(run, last):
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
        last = checkpoint.latest_good(run.partial)
    if last is None or not ended(run, last):
        raise RuntimeError("the training ended without its last checkpoint")
    return last


def ended(run: Run, last: Path) -> bool:
    """Is this the checkpoint of the last step, or of a training that stopped early?"""
    from deckbench.train.trainer import read_state

    if checkpoint.step_of(last) == run.steps:
        return True
    return run.config.patience is not None and bool(read_state(last)["evaluation"]["stopped"])


def publish(run: Run, last: Path, *, wall_s: float) -> None:
    """Make the adapter folder out of the last checkpoint, in one rename."""
    from safetensors.torch import save

    from deckbench.train.trainer import TRAINER_STATE, read_state

    state = read_state(last)
    tensors = state["evaluation"]["weights"] if run.config.publishes_best else state["adapter"]
    rows = [row for row in json.loads((last / TRAINER_STATE).read_text())["log_history"] if "token_accuracy" in row]
    with artifact.writing(
        run.out, "adapter", inputs=run.content["inputs"], params=run.content["params"], seed=run.seed
    ) as draft:
        (draft.path / lora.WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
        (draft.path / lora.CONFIG).write_text(lora.config_json(run.model, run.config))
        (draft.path / SETTINGS).write_text(yaml.safe_dump(run.config.content(), sort_keys=True), encoding="utf-8")
        (draft.path / CURVE).write_text(curve_csv(rows), encoding="utf-8")
        if run.exam is not None:
            (draft.path / EVALUATIONS).write_text(evaluations_csv(state["evaluation"]["rows"]), encoding="utf-8")
        draft.observed.update(wall_s=round(wall_s, 3), pictures=len(run.items), logs=run.logs.name)
        draft.observed["container"] = hardware.container()
        if run.source.file is not None:
            draft.observed["config"] = {"file": run.source.file.name, "ignored": list(run.source.ignored)}
