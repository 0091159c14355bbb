"""The finetune config of the GLM-4 repository (`finetune_demo/configs/lora.yaml`), said in our settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from deckbench.errors import InputError

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
# What is so in every training here; another value is listed with the keys that mean nothing.
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
TYPO = 0.9  # so alike, a key nobody knows is a misspelt one, which must not be passed over


def is_finetune(values: Mapping[str, Any]) -> bool:
    """Whether a config is of this kind: ours has none of its sections."""
    return any(section in values for section in SECTIONS)


def in_our_words(
    values: Mapping[str, Any], file: Path, lines: Mapping[str, int]
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """(our settings, setting -> its key in the file, keys that mean nothing here).

    lines: dotted key -> line. Values are checked later, as our own are. Raises InputError with file and line for a
    section that is none, a misspelt key, and anything but LoRA.
    """

    def place(key: str) -> str:
        return f"{file}:{lines[key]}" if key in lines else str(file)

    said = flat(values, place)
    if said.get("peft_config.peft_type") != ALWAYS["peft_config.peft_type"]:
        where = place("peft_config.peft_type" if "peft_config.peft_type" in lines else "peft_config")
        kind = said.get("peft_config.peft_type", "missing")
        raise InputError(f"peft_config.peft_type is {kind}", where, "only LORA is trained here: take lora.yaml")
    if said.get("training_args.max_steps") == -1:  # the Trainer's way to say: as long as the epochs take
        del said["training_args.max_steps"]
    ours: dict[str, Any] = dict(UNSAID)
    keys: dict[str, str] = {}
    ignored: list[str] = []
    evaluated = evaluates(said)
    overruled = set() if evaluated else EVALUATION
    if "training_args.max_steps" in said:
        overruled = overruled | {"training_args.num_train_epochs"}
    for key, value in said.items():
        if key in STRATEGIES and (evaluated or value in NEVER):
            if evaluated:  # every `logging_steps` where nothing is said
                ours.setdefault("eval_every", said.get("training_args.logging_steps", UNSAID["log_every"]))
                keys.setdefault("eval_every", key)
        elif key in overruled:
            ignored.append(key)
        elif key in SETTINGS:
            ours[SETTINGS[key]] = None if value == ALL_LAYERS else value
            keys[SETTINGS[key]] = key
        elif key in SWITCHES:
            setting, meaning = SWITCHES[key]
            if not isinstance(value, bool):
                raise InputError(f"{key} is {value!r}", place(key), "write true or false")
            ours[setting] = meaning[value]
            keys[setting] = key
        elif key not in ALWAYS or value != ALWAYS[key]:
            refuse_misspelt(key, place(key))
            ignored.append(key)
    return ours, keys, ignored


def evaluates(said: Mapping[str, Any]) -> bool:
    """Whether its own tool evaluates every so many steps: where it is to, and has a file to do it on."""
    return "data_config.val_file" in said and any(said.get(key) == "steps" for key in STRATEGIES)


def flat(values: Mapping[str, Any], place: Callable[[str], str]) -> dict[str, Any]:
    """Sections opened one level deep, `section.key` -> value; what is null was not said."""
    said = {}
    for name, value in values.items():
        if name in SECTIONS:
            if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
                raise InputError(f"{name} is no map of keys to values", place(name), "write indented lines below it")
            said.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            said[name] = value
    return {key: value for key, value in said.items() if value is not None}


def refuse_misspelt(key: str, where: str) -> None:
    """Raises InputError when `key` is almost one that has a meaning here."""
    section, _, name = key.rpartition(".")
    known = {*SETTINGS, *SWITCHES, *ALWAYS, *STRATEGIES, *SECTIONS} - {key}
    names = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == section]
    close = get_close_matches(name, names, 1, TYPO)
    if close:
        raise InputError(f"unknown key {key!r}", where, f"did you mean {close[0]}?")
