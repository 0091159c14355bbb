"""The finetune config of the GLM-4 repository (`finetune_demo/configs/lora.yaml`), in terms of our settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from deckbench.errors import InputError
from deckbench.schema import Place
from deckbench.yamlfile import Document

SECTIONS = ("data_config", "training_args", "peft_config")
SETTINGS = {
    "training_args.max_steps": "max_steps",
    "training_args.num_train_epochs": "epochs",
    "training_args.learning_rate": "lr",
    "training_args.lr_scheduler_type": "schedule",
    "training_args.warmup_ratio": "warmup",
    "training_args.weight_decay": "weight_decay",
    "training_args.max_grad_norm": "max_grad_norm",
    "training_args.per_device_train_batch_size": "batch",
    "training_args.gradient_accumulation_steps": "accumulate",
    "training_args.gradient_checkpointing": "gradient_checkpointing",
    "training_args.dataloader_num_workers": "workers",
    "training_args.save_steps": "save_every",
    "training_args.logging_steps": "log_every",
    "training_args.deepspeed": "deepspeed",
    "training_args.group_by_length": "group_by_length",
    "training_args.eval_steps": "eval_every",
    "training_args.load_best_model_at_end": "keep_best",
    "peft_config.r": "rank",
    "peft_config.lora_alpha": "alpha",
    "peft_config.lora_dropout": "dropout",
    "peft_config.target_modules": "targets",
}
EVALUATION = {"training_args.eval_steps", "training_args.load_best_model_at_end"}  # nothing, where none is made
STRATEGIES = ("training_args.eval_strategy", "training_args.evaluation_strategy")  # the second is its older name
SWITCHES: dict[str, tuple[str, dict[bool, str]]] = {
    "freezeV": ("vision", {True: "absent", False: "train"}),
    "training_args.bf16": ("precision", {True: "bf16", False: "auto"}),
}
NEVER = ("no", False)  # the older yaml reads a bare `no` as false
# What holds for every training here; another value is listed with the ignored keys.
ALWAYS = {
    "training_args.save_strategy": "steps",
    "training_args.logging_strategy": "steps",
    "training_args.remove_unused_columns": False,
    "training_args.predict_with_generate": True,
    "peft_config.peft_type": "LORA",
    "peft_config.task_type": "CAUSAL_LM",
    "peft_config.bias": "none",
}
# What the config's own tool (transformers' Trainer, PEFT, the finetune script) does where the file is silent and ours
# would do otherwise. The script freezes no tower then, but its adapters there are not what the file's author asked for.
UNSAID: dict[str, Any] = {
    "lr": 5e-5,
    "schedule": "linear",
    "warmup": 0.0,
    "save_every": 500,
    "log_every": 500,
    "gradient_checkpointing": True,
    "rank": 8,
    "alpha": 8.0,
    "vision": "absent",
}
ALL_LAYERS = "all-linear"  # PEFT's word for what is the default here
TYPO = 0.9  # above this similarity an unknown key is a misspelt one, which must not be ignored


def is_finetune(values: Mapping[str, Any]) -> bool:
    """Whether a config is of this kind: ours has none of its sections."""
    return any(section in values for section in SECTIONS)


@dataclass
class Translated:
    """A config in terms of our settings.

    settings: not checked yet, as our own are not. keys: setting -> its key in the file. ignored: keys that have no
    effect here. faults: (line, what is wrong there).
    """

    settings: dict[str, Any] = field(default_factory=lambda: dict(UNSAID))
    keys: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)


def translate(values: Mapping[str, Any], document: Document) -> Translated:
    """The values of a config file as our settings. Raises InputError, with file and line, for anything but LoRA."""
    found = Translated()

    def refuse(key: str, what: str) -> None:
        found.faults.append((document.line(*place_of(key)), what))

    given = flat(values, refuse)
    if given.get("peft_config.peft_type") != ALWAYS["peft_config.peft_type"]:
        kind = given.get("peft_config.peft_type", "missing")
        where = document.where("peft_config", "peft_type")
        raise InputError(f"peft_config.peft_type is {kind}", where, "only LORA is trained here: take lora.yaml")
    if given.get("training_args.max_steps") == -1:  # the Trainer's way to say: as long as the epochs take
        del given["training_args.max_steps"]
    evaluated = evaluates(given)
    overruled = set() if evaluated else EVALUATION
    if "training_args.max_steps" in given:
        overruled = overruled | {"training_args.num_train_epochs"}
    for key, value in given.items():
        if key in STRATEGIES and (evaluated or value in NEVER):
            if evaluated:  # every `logging_steps` where nothing is given
                every = given.get("training_args.logging_steps", UNSAID["log_every"])
                found.settings.setdefault("eval_every", every)
                found.keys.setdefault("eval_every", key)
        elif key in overruled:
            found.ignored.append(key)
        elif key in SETTINGS:
            found.settings[SETTINGS[key]] = None if value == ALL_LAYERS else value
            found.keys[SETTINGS[key]] = key
        elif key in SWITCHES:
            setting, meaning = SWITCHES[key]
            if isinstance(value, bool):
                found.settings[setting] = meaning[value]
                found.keys[setting] = key
            else:
                refuse(key, f"{key} is {value!r}, not true or false")
        elif key not in ALWAYS or value != ALWAYS[key]:
            meant = misspelt(key)
            if meant is None:
                found.ignored.append(key)
            else:
                refuse(key, f"{key}: unknown field; did you mean {meant!r}?")
    return found


def place_of(key: str) -> Place:
    """Where a dotted key stands in the file."""
    section, dot, name = key.partition(".")
    return (section, name) if dot and section in SECTIONS else (key,)


def evaluates(given: Mapping[str, Any]) -> bool:
    """Whether its own tool evaluates every so many steps: where it is to, and has a file to do it on."""
    return "data_config.val_file" in given and any(given.get(key) == "steps" for key in STRATEGIES)


def flat(values: Mapping[str, Any], refuse: Callable[[str, str], None]) -> dict[str, Any]:
    """Sections opened one level deep, `section.key` -> value, without nulls. refuse: takes a key and what is wrong."""
    given = {}
    for name, value in values.items():
        if name not in SECTIONS:
            given[name] = value
        elif isinstance(value, dict):
            given.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            refuse(name, f"{name}: a map of fields is expected")
    return {key: value for key, value in given.items() if value is not None}


def misspelt(key: str) -> str | None:
    """The name that has a meaning here and that `key` is almost."""
    section, _, name = key.rpartition(".")
    known = {*SETTINGS, *SWITCHES, *ALWAYS, *STRATEGIES, *SECTIONS} - {key}
    names = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == section]
    return next(iter(get_close_matches(name, names, 1, TYPO)), None)
