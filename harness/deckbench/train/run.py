"""One training run: what it is made of, whether it can start, its folder, and the adapter that it publishes."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
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
from deckbench.train.config import Source, TrainConfig
from deckbench.train.curve import curve_csv
from deckbench.train.data import Item
from deckbench.train.evaluate import EvalSet, evaluations_csv
from deckbench.train.ranks import Ranks

RUN = "run.json"
CURVE = "curve.csv"
EVALUATIONS = "evaluations.csv"
SETTINGS = "train_config.yaml"


@dataclass(frozen=True)
class Run:
    """A training run that was checked and can start.

    source: the file that `config` comes from, without overrides. steps: optimizer steps. content: everything that
    decides the result, as plain JSON values. sharding: DeepSpeed's config. eval_set: samples of the evaluations during
    training, if there are any.
    """

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
    eval_set: EvalSet | None = None

    @property
    def partial(self) -> Path:
        """The folder of the unfinished run."""
        return partial_of(self.out)

    @property
    def logs(self) -> Path:
        """TensorBoard's folder: outside the adapter, for event files hold times."""
        return logs_of(self.out)


def partial_of(out: Path) -> Path:
    """The folder of an adapter's unfinished run, beside the adapter."""
    return out.with_name(f"{out.name}.partial")


def logs_of(out: Path) -> Path:
    """The folder of an adapter's TensorBoard files."""
    return out.with_name(f"{out.name}.logs")


def check_place(out: Path, resume: bool) -> None:
    """Raises InputError where an adapter exists, or an interrupted run that is not to be resumed."""
    if not (resume and (out / artifact.MANIFEST).exists()):
        artifact.check_free(out)
    if partial_of(out).exists() and not resume:
        fix = "pass --resume to continue, or delete the folder to restart"
        raise InputError("an interrupted run exists", partial_of(out), fix)


def remove_unstarted(out: Path) -> None:
    """Remove the folders of a run that has no checkpoint yet: there is nothing to resume."""
    if checkpoint.latest_good(partial_of(out)) is None:
        shutil.rmtree(partial_of(out), ignore_errors=True)
        shutil.rmtree(logs_of(out), ignore_errors=True)


def log_plan(run: Run) -> None:
    """Log steps and batch size, and the keys of the config file that have no effect."""
    if run.source.ignored:
        say(f"{run.source.file}: ignored, for these keys have no effect here: {', '.join(run.source.ignored)}")
    config, world = run.config, run.ranks.world
    together = f" x {world} ranks" if world > 1 else ""
    say(
        f"training: {run.steps} steps of {config.batch * config.accumulate * world} images"
        f" (batch {config.batch} x accumulate {config.accumulate}{together}), {len(run.items)} images in total"
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
    ranks.report("model loading")
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
            raise InputError("nothing can be evaluated under ZeRO-3", "eval_every", "remove it, or use zero2")
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


def check_same_run(run: Run, old: Any, where: Path) -> None:
    """Raises InputError naming what changed since the run was started."""
    changed = differences(old, json.loads(artifact.canonical(run.content)))
    if changed:
        raise InputError(
            f"this run was started with other inputs or settings: {', '.join(changed)}",
            where,
            "give the same ones to resume it, or choose another --out",
        )


def finish_published(run: Run) -> Manifest:
    """The adapter of a run that was killed after the rename into place: only its leftovers are removed."""
    manifest = artifact.read(run.out, "adapter", verify=True)
    check_same_run(run, {key: manifest.content[key] for key in ("inputs", "params", "seed")}, run.out)
    shutil.rmtree(run.partial, ignore_errors=True)
    return manifest


def open_run(run: Run) -> None:
    """Open the folder of the unfinished run, or create it. Raises InputError when it is another run's."""
    place = run.partial / RUN
    if place.is_file():
        check_same_run(run, json.loads(place.read_text(encoding="utf-8")), run.partial)
    elif checkpoint.all_of(run.partial):
        raise InputError(f"checkpoints without {RUN}", run.partial, "delete that folder")
    else:
        artifact.atomic_write(place, json.dumps(run.content, indent=1, sort_keys=True) + "\n")


def publish(run: Run, last: Path, *, wall_s: float) -> None:
    """Write the adapter folder from the last checkpoint, in one rename. wall_s: seconds of this process, observed."""
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
        if run.eval_set is not None:
            (draft.path / EVALUATIONS).write_text(evaluations_csv(state["evaluation"]["rows"]), encoding="utf-8")
        draft.observed.update(wall_s=round(wall_s, 3), pictures=len(run.items), logs=run.logs.name)
        draft.observed["container"] = hardware.container()
        if run.source.file is not None:
            draft.observed["config"] = {"file": run.source.file.name, "ignored": list(run.source.ignored)}
