"""What options and arguments refer to: declared beside each of them, read by `dispatch` for a step in a container."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class Kind(Enum):
    """What the value of an option or argument is.

    A verb declares one for every value that is a path or a text, as `Annotated[Path, Kind.INPUT, ...]`. A step in a
    container mounts, rewrites and opens the network by it.
    """

    TEXT = "text that names no file"
    INPUT = "an existing file or folder"
    POOL = "a pool: its folder or its yaml, with all that the yaml names"
    NAMED_POOL = "POOL, or NAME=POOL"
    DATA = "a dataset or a data file, with the images that the file names"
    WEIGHTED_DATA = "DATASET or DATASET:WEIGHT"
    RENAMED_FOLDER = "OLD=NEW, where NEW is an existing folder"
    LINKS = "a file, a folder, or an address"
    SPLIT = "how to split a pool, or the folder of a split that was made"
    PREDICTIONS = "a prediction file, with its siblings"
    TASK = "a task: a name, or the folder of one of one's own"
    MODEL = "a model reference: a name, a folder, a baseline (with its dataset or labels), a server"
    SUITE = "a suite: a name, or a yaml with all that it names"
    TRAIN_CONFIG = "a training config: a name, or a yaml with the DeepSpeed file that it names"
    TRAIN_SETTINGS = "overrides of a training config, some of which hold paths"
    OUTPUT = "what the step writes, whole or not at all"
    WORK_FOLDER = "a folder that the step writes in place and resumes in"
    EXTRA_OUTPUT = "a second folder that the step writes"
    CACHE = "a folder kept between runs, written besides the output"
    GPUS = "GPU indices of this machine"
    MACHINES = "other machines that the step talks to"


@dataclass(frozen=True)
class Option:
    """One option or argument as given. flag: `--data`, empty for an argument. kind: None for numbers and flags."""

    name: str
    flag: str
    value: Any
    kind: Kind | None
