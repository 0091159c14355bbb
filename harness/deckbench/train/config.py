"""Settings of a training run: one flat schema, every value overridable."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from deckbench.errors import InputError
from deckbench.schema import Fault, FieldFaults, Place, Strict, faults_of, refusal, with_name
from deckbench.train import finetune_yaml
from deckbench.yamlfile import Document, kind_of, read_document

CONFIGS = Path(__file__).parent / "configs"
# How a run is executed, not what it computes: never part of the adapter's identity.
EXECUTION = frozenset({"workers", "threads", "cache_mb", "feature_cache", "rank_timeout"})
# Taken from `init`; where the config sets them too, both must agree.
ADAPTER_SHAPE = ("rank", "alpha", "dropout", "vision", "targets")
# In an adapter's identity only where they are set: earlier adapters were made without them.
UNLESS_SET: dict[str, Any] = {
    "targets": None,
    "deepspeed": None,
    "group_by_length": False,
    "eval_every": None,
    "eval_limit": None,
    "patience": None,
    "keep_best": False,
}


class TrainConfig(Strict):
    """Settings of one LoRA training. An image with all its questions is one item; `batch` counts images.

    The run is `max_steps` optimizer steps long, or as many as `epochs` passes over the images need. One step takes
    `batch` x `accumulate` images of each rank; the loss is the mean over all their answer tokens.
    """

    rank: int = Field(default=16, ge=1, le=1024)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    vision: Literal["train", "absent"] = Field(
        default="train", description="LoRA on the vision tower: trained, or absent"
    )
    targets: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="names of the layers that get adapters; null: all linear layers"
    )
    epochs: float = Field(default=3.0, gt=0, le=10_000)
    max_steps: int | None = Field(default=None, ge=1)
    batch: int = Field(default=8, ge=1, description="images per forward pass of each rank")
    accumulate: int = Field(default=1, ge=1, description="forward passes per optimizer step")
    questions: int | None = Field(default=None, ge=1, description="maximum questions per image and epoch")
    group_by_length: bool = Field(default=False, description="batches of images with about equally long texts")
    lr: float = Field(default=1e-3, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: float = Field(default=0.05, ge=0, lt=1, description="fraction of all steps")
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    save_every: int = Field(default=100, ge=1, description="steps between checkpoints; the last two are kept")
    log_every: int = Field(default=10, ge=1, description="steps between rows of the learning curve")
    eval_every: int | None = Field(default=None, ge=1, description="steps between evaluations on val; null: none")
    eval_limit: int | None = Field(default=None, ge=1, description="maximum samples of an evaluation; null: all of val")
    patience: int | None = Field(
        default=None, ge=1, description="early stopping after so many evaluations without improvement; null: never"
    )
    keep_best: bool = Field(
        default=False, description="publish the weights of the best evaluation; implied by patience"
    )
    precision: Literal["auto", "bf16", "float32"] = Field(
        default="auto", description="auto: bf16 on a GPU that supports it"
    )
    gradient_checkpointing: bool = False
    processes: int = Field(default=1, ge=1, le=64, description="CPU processes that share every batch")
    deepspeed: str | None = Field(default=None, description="zero2, zero3, or a DeepSpeed json file; needs ranks")
    workers: int = Field(default=0, ge=0, le=256, description="processes that load images")
    threads: int | None = Field(default=None, ge=1, le=1024, description="torch threads; null: torch's own choice")
    cache_mb: int = Field(
        default=512, ge=0, description="memory for decoded images or cached features, in MiB per loading process"
    )
    feature_cache: Path | None = Field(
        default=None, description="folder that caches the features of frozen vision; null: no cache"
    )
    rank_timeout: float = Field(
        default=600.0, gt=0, description="seconds without a heartbeat after which the job is ended"
    )

    @field_validator("targets")
    @classmethod
    def _in_one_order(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if names is None else tuple(sorted(set(names)))

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        faults: list[tuple[Place, str]] = []
        if self.max_steps is not None and "epochs" in self.model_fields_set:
            faults.append((("epochs",), "give epochs or max_steps, not both"))
        if self.processes > self.batch:
            what = f"processes is {self.processes}, but a batch of {self.batch} images cannot be split among as many"
            faults.append((("processes",), what))
        if self.processes > 1 and (self.threads or 1) > 1:
            faults.append((("threads",), "give processes or threads above 1, not both"))
        for name in ("patience", "eval_limit", "keep_best"):
            if self.eval_every is None and getattr(self, name) != UNLESS_SET[name]:
                faults.append(((name,), f"{name} needs eval_every: without it nothing is evaluated"))
        if faults:
            raise FieldFaults(faults)
        return self

    @property
    def publishes_best(self) -> bool:
        """Whether the adapter is that of the best evaluation, not of the last step."""
        return self.keep_best or self.patience is not None

    def content(self) -> dict[str, Any]:
        """The settings that decide the result, as JSON values."""
        values = self.model_dump(mode="json", exclude=set(EXECUTION))
        if self.max_steps is not None:
            del values["epochs"]
        return {name: value for name, value in values.items() if UNLESS_SET.get(name, ...) != value}

    def steps(self, images: int, ranks: int = 1) -> int:
        """Optimizer steps of a run over so many images."""
        if self.max_steps is not None:
            return self.max_steps
        per_step = self.batch * self.accumulate * ranks
        return max(1, int(-(-self.epochs * images // per_step)))


@dataclass(frozen=True)
class Source:
    """A config file in terms of our settings.

    keys: setting -> what the file calls it (dotted, where it stands in a section). ignored: keys of the file that have
    no effect here. faults: what is wrong with the file so far, as (line, what); `settle` raises them with its own.
    """

    document: Document | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    faults: tuple[tuple[int, str], ...] = ()

    @property
    def file(self) -> Path | None:
        """The config file; None where there is none."""
        return None if self.document is None else Path(self.document.source)

    def place(self, setting: str) -> str:
        """Where a setting was given: `file:line`, or the setting's name when no file gave it."""
        return f"{self.file}:{self.line(setting)}" if setting in self.values else setting

    def line(self, setting: str) -> int:
        """The line of a setting in the file."""
        place = finetune_yaml.place_of(self.keys.get(setting, setting))
        return 1 if self.document is None else self.document.line(*place)


def named_configs() -> list[str]:
    """Names of the packaged configs."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def config_of(model: str) -> Path | None:
    """The packaged config for a model: of its name, or of its family at full size; None for any other.

    Also None for what is no model at all: loading it raises the error.
    """
    from deckbench.models.families import resolve

    try:
        found = resolve(model)
    except InputError:
        return None
    if found.name in named_configs():
        return Path(found.name)
    if found.folder is None or not found.family.train_configs:
        return None
    width = json.loads((found.folder / "config.json").read_text(encoding="utf-8-sig")).get("hidden_size")
    name = found.family.train_configs.get(width)
    return None if name is None else Path(name)


def read_source(path: Path | None) -> Source:
    """Read a yaml config.

    Args:
        path: a file of our settings or the GLM-4 repository's `lora.yaml`, or the name of a packaged config.

    Returns:
        Its settings, not checked yet: `settle` raises the faults of the fields.

    Raises:
        InputError: it cannot be read at all, with file and line.
    """
    if path is None:
        return Source()
    packaged = CONFIGS / f"{path}.yaml"
    if kind_of(path) != "file" and len(path.parts) == 1 and kind_of(packaged) == "file":
        path = packaged
    if kind_of(path) != "file":
        raise InputError("no such config", path, f"give a yaml file, or one of: {', '.join(named_configs())}")
    document = read_document(path)
    values = document.root.plain()
    if values is None and not document.broken:
        values = {}
    if not isinstance(values, dict):
        document.mapping("write lines like `rank: 16`")
    if not finetune_yaml.is_finetune(values):
        return Source(document, values, faults=document.broken)
    found = finetune_yaml.translate(values, document)
    return Source(document, found.settings, found.keys, tuple(found.ignored), (*document.broken, *found.faults))


def settle(source: Source, overrides: Mapping[str, Any]) -> TrainConfig:
    """The settings of a run.

    Args:
        source: the config file.
        overrides: settings that replace the file's; null restores the default.

    Returns:
        The checked settings.

    Raises:
        InputError: unknown settings, wrong types, values out of range: all of them, each with file and line.
    """
    merged = {**source.values, **overrides}
    if overrides.get("max_steps") is not None and "epochs" not in overrides:
        merged.pop("epochs", None)  # the later word on the length of the run wins
    if overrides.get("epochs") is not None and "max_steps" not in overrides:
        merged.pop("max_steps", None)
    for key in [key for key, value in overrides.items() if value is None]:
        del merged[key]
    faults = [(line, Fault(f"{source.file}:{line}", what)) for line, what in source.faults]
    config = None
    try:
        config = TrainConfig.model_validate(merged)
    except ValidationError as error:
        for place, what in faults_of(error, TrainConfig, merged):
            name, inner = str(place[0]), place[1:]
            if name in source.values and name not in overrides:
                fault = Fault(source.place(name), with_name((source.keys.get(name, name), *inner), what))
                faults.append((source.line(name), fault))
            else:
                faults.append((sys.maxsize, Fault("--set", with_name((name, *inner), what))))
    if config is None or faults:
        ordered = sorted(faults, key=lambda fault: fault[0])
        raise refusal([fault for _, fault in ordered], "settings are listed in docs/training.md")
    return config
