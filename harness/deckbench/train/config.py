"""What a training run may be told: one flat schema, every value overridable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from deckbench.errors import InputError
from deckbench.train import finetune_yaml

CONFIGS = Path(__file__).parent / "configs"
# How a run is carried out, not what it computes: never part of the adapter's identity.
EXECUTION = frozenset({"workers", "threads", "cache_mb", "feature_cache", "rank_timeout"})
# Family -> packaged config and language width of the published model.
TRUE_SIZE = {"glm4v": ("glm4v-9b", 4096), "phi3v": ("phi3-vision", 3072)}
# What `init` decides unless the config says it, in which case both must agree.
ADAPTER_SHAPE = ("rank", "alpha", "dropout", "vision", "targets")
# What runs without them never had: said in an adapter's identity only where it is not so.
UNLESS_SET: dict[str, Any] = {
    "targets": None,
    "deepspeed": None,
    "group_by_length": False,
    "eval_every": None,
    "eval_limit": None,
    "patience": None,
    "keep_best": False,
}


class TrainConfig(BaseModel):
    """Settings of one LoRA training. A picture with all its questions is one item; `batch` counts pictures.

    The run is `max_steps` optimizer steps long, or as many as `epochs` passes over the pictures need. One step takes
    `batch` x `accumulate` pictures of each rank; the loss is the mean over all their answer tokens.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rank: int = Field(default=16, ge=1, le=1024)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    vision: Literal["train", "absent"] = Field(
        default="train", description="LoRA on the vision tower: trained, or not there"
    )
    targets: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="names of the layers that get adapters; null: all linear layers"
    )
    epochs: float = Field(default=3.0, gt=0, le=10_000)
    max_steps: int | None = Field(default=None, ge=1)
    batch: int = Field(default=8, ge=1, description="pictures per forward pass of each rank")
    accumulate: int = Field(default=1, ge=1, description="forward passes per optimizer step")
    questions: int | None = Field(default=None, ge=1, description="most questions per picture and pass")
    group_by_length: bool = Field(default=False, description="pictures with as much text come into the same batch")
    lr: float = Field(default=1e-3, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: float = Field(default=0.05, ge=0, lt=1, description="part of all steps")
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    save_every: int = Field(default=100, ge=1, description="steps between checkpoints; the last two are kept")
    log_every: int = Field(default=10, ge=1, description="steps between rows of the learning curve")
    eval_every: int | None = Field(default=None, ge=1, description="steps between evaluations on val; null: none")
    eval_limit: int | None = Field(default=None, ge=1, description="most samples of an evaluation; null: all of val")
    patience: int | None = Field(
        default=None, ge=1, description="evaluations without a better one before the run stops; null: never"
    )
    keep_best: bool = Field(default=False, description="publish the best evaluated weights; so it is with patience")
    precision: Literal["auto", "bf16", "float32"] = Field(default="auto", description="auto: bf16 on a GPU that has it")
    gradient_checkpointing: bool = False
    processes: int = Field(default=1, ge=1, le=64, description="processes on one CPU that share every batch")
    deepspeed: str | None = Field(default=None, description="zero2, zero3, or a DeepSpeed json file; needs ranks")
    workers: int = Field(default=0, ge=0, le=256, description="processes that open pictures")
    threads: int | None = Field(default=None, ge=1, le=1024, description="torch threads; null: torch's own choice")
    cache_mb: int = Field(
        default=512, ge=0, description="memory for decoded pictures or kept features, per loading process"
    )
    feature_cache: Path | None = Field(
        default=None, description="folder that keeps the features of frozen vision; null: they are made anew each time"
    )
    rank_timeout: float = Field(default=600.0, gt=0, description="seconds after which a silent rank ends the job")

    @field_validator("targets")
    @classmethod
    def _in_one_order(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if names is None else tuple(sorted(set(names)))

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.max_steps is not None and "epochs" in self.model_fields_set:
            raise ValueError("give epochs or max_steps, not both")
        if self.processes > self.batch:
            raise ValueError(f"processes is {self.processes}, yet a batch has {self.batch} pictures to share out")
        if self.processes > 1 and (self.threads or 1) > 1:
            raise ValueError("give processes or threads above 1, not both")
        for name in ("patience", "eval_limit", "keep_best"):
            if self.eval_every is None and getattr(self, name) != UNLESS_SET[name]:
                raise ValueError(f"{name} needs eval_every: without it nothing is evaluated")
        return self

    @property
    def publishes_best(self) -> bool:
        """Whether the adapter is that of the best evaluation, not of the last step."""
        return self.keep_best or self.patience is not None

    def content(self) -> dict[str, Any]:
        """The settings that decide the result, as plain JSON values."""
        values = self.model_dump(mode="json", exclude=set(EXECUTION))
        if self.max_steps is not None:
            del values["epochs"]
        return {name: value for name, value in values.items() if UNLESS_SET.get(name, ...) != value}

    def steps(self, pictures: int, ranks: int = 1) -> int:
        """Optimizer steps of a run over so many pictures."""
        if self.max_steps is not None:
            return self.max_steps
        per_step = self.batch * self.accumulate * ranks
        return max(1, int(-(-self.epochs * pictures // per_step)))


@dataclass(frozen=True)
class Source:
    """A config file, said in our settings.

    keys: setting -> what the file calls it. lines: key of the file (dotted, where it stands in a section) -> line.
    ignored: keys of the file that mean nothing here.
    """

    file: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def place(self, setting: str) -> str:
        """Where a setting was said: `file:line`, the file, or the setting's name when it was not said in a file."""
        if self.file is None or setting not in self.values:
            return setting
        line = self.lines.get(self.keys.get(setting, setting))
        return f"{self.file}:{line}" if line else str(self.file)


def named_configs() -> list[str]:
    """Names of the configs that come with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def config_of(model: str) -> Path | None:
    """The packaged config for a model that was given none: of its own name, or of its family at true size.

    None for any other, and for what is no model at all: loading it says so.
    """
    from deckbench.models.load import family_of, split_ref

    try:
        folder, name, _ = split_ref(model)
    except InputError:
        return None
    if name in named_configs():
        return Path(name)
    large = TRUE_SIZE.get(family_of(folder))
    width = json.loads((folder / "config.json").read_text(encoding="utf-8-sig")).get("hidden_size")
    return Path(large[0]) if large is not None and width == large[1] else None


def read_source(path: Path | None) -> Source:
    """Read a yaml config: a file of our settings or of the GLM-4 repository's, or the name of a packaged one.

    Raises InputError with file and line when it cannot be read; values are not looked at yet.
    """
    if path is None:
        return Source()
    packaged = CONFIGS / f"{path}.yaml"
    if not path.is_file() and len(path.parts) == 1 and packaged.is_file():
        path = packaged
    values, lines = _read_yaml(path)
    if not finetune_yaml.is_finetune(values):
        return Source(path, values, {}, lines)
    ours, keys, ignored = finetune_yaml.in_our_words(values, path, lines)
    return Source(path, ours, keys, lines, tuple(ignored))


def settle(source: Source, overrides: Mapping[str, Any]) -> TrainConfig:
    """The file's settings with `overrides` on top; an override of null gives the default again.

    Raises InputError with file and line for unknown keys, wrong types and values out of range.
    """
    merged = {**source.values, **overrides}
    if overrides.get("max_steps") is not None and "epochs" not in overrides:
        merged.pop("epochs", None)  # the later word on the length of the run wins
    if overrides.get("epochs") is not None and "max_steps" not in overrides:
        merged.pop("max_steps", None)
    for key in [key for key, value in overrides.items() if value is None]:
        del merged[key]
    try:
        return TrainConfig.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        where: str | Path | None = "--set"
        if key in source.values and key not in overrides:
            where, key = source.place(key), source.keys.get(key, key)
        elif not key:
            where = "--set" if overrides else source.file
        if first["type"] == "extra_forbidden":
            what, fix = f"unknown setting {key!r}", f"settings are: {', '.join(TrainConfig.model_fields)}"
        else:
            what = f"{key + ': ' if key else ''}{first['msg'].removeprefix('Value error, ')}"
            fix = "fix the value"
        raise InputError(what, where, fix) from error


def _lines(node: Any, above: str = "") -> dict[str, int]:
    """Dotted key -> line, of a yaml node and what stands in it."""
    found: dict[str, int] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode):
            found[above + key.value] = key.start_mark.line + 1
            found |= _lines(value, f"{above}{key.value}.")
    return found


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    if not path.is_file():
        raise InputError("no such config", path, f"give a yaml file, or one of: {', '.join(named_configs())}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        values, lines = yaml.safe_load(text), _lines(yaml.compose(text, yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise InputError("this is not yaml", where, "fix the file") from error
    if values is None:
        values = {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError("a config is a map of settings to values", path, "write lines like `rank: 16`")
    return values, lines
