"""What options and arguments are: types for the verbs, each with its `Kind`, and the options that several share.

Every path and every text of a verb has a kind; numbers and flags need none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deckbench.artifact import MAX_SEED
from deckbench.runners.kinds import Kind

Text = Annotated[str, Kind.TEXT]
OptionalText = Annotated[str | None, Kind.TEXT]
Texts = Annotated[list[str] | None, Kind.TEXT]
InputPath = Annotated[Path, Kind.INPUT]
OptionalInput = Annotated[Path | None, Kind.INPUT]
InputPaths = Annotated[list[Path] | None, Kind.INPUT]
PoolPath = Annotated[Path, Kind.POOL]
PoolPaths = Annotated[list[Path], Kind.POOL]
OptionalPool = Annotated[Path | None, Kind.POOL]
NamedPools = Annotated[list[str] | None, Kind.NAMED_POOL]
DataPath = Annotated[Path, Kind.DATA]
OptionalData = Annotated[Path | None, Kind.DATA]
WeightedData = Annotated[list[str], Kind.WEIGHTED_DATA]
RenamedFolders = Annotated[list[str] | None, Kind.RENAMED_FOLDER]
Links = Annotated[list[str] | None, Kind.LINKS]
FileOrAddress = Annotated[str, Kind.LINKS]
FileOrName = Annotated[str | None, Kind.LINKS]
SplitRef = Annotated[str, Kind.SPLIT]
TaskRef = Annotated[str, Kind.TASK]
PredictionsFile = Annotated[Path, Kind.PREDICTIONS]
ModelRef = Annotated[str, Kind.MODEL]
OptionalModel = Annotated[str | None, Kind.MODEL]
SuiteRef = Annotated[str, Kind.SUITE]
TrainConfigPath = Annotated[Path | None, Kind.TRAIN_CONFIG]
TrainSettings = Annotated[list[str] | None, Kind.TRAIN_SETTINGS]
OutputPath = Annotated[Path, Kind.OUTPUT]
OptionalOutput = Annotated[Path | None, Kind.OUTPUT]
WorkFolder = Annotated[Path | None, Kind.WORK_FOLDER]
ExtraOutput = Annotated[Path | None, Kind.EXTRA_OUTPUT]
CachePath = Annotated[Path | None, Kind.CACHE]
Gpus = Annotated[str | None, Kind.GPUS]
HostRef = Annotated[str | None, Kind.MACHINES]

Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Random seed.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Out = Annotated[OutputPath, typer.Option("--out", help="Where the result is written; must not exist yet.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Number of processes; default: all cores.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Skip broken frames and list them in the manifest.")]
Model = Annotated[ModelRef, typer.Option("--model", help="A known name, a model folder, endpoint:NAME, or a baseline.")]
Adapter = Annotated[OptionalInput, typer.Option("--adapter", help="LoRA weights made by `deckbench train`.")]
Host = Annotated[HostRef, typer.Option(help="ssh://USER@HOST: run in a container there; inputs are uploaded.")]
Record = Annotated[bool, typer.Option("--record", help="Also write a record, from the manifests of the steps.")]
Records = Annotated[ExtraOutput, typer.Option(help="Folder of records; default: results/records.")]
Curriculum = Annotated[OptionalText, typer.Option(help="For --record: the adapter's stages, e.g. S1+S2.")]
Condition = Annotated[OptionalText, typer.Option(help="For --record: 'same distribution', shifted, or your own words.")]
Runner = Annotated[Text, typer.Option(help="local, docker (in a container), or auto: docker where it is available.")]
ImageName = Annotated[
    OptionalText, typer.Option("--image", help="Container image; default: the first one that serves the model.")
]
Limits = Annotated[
    OptionalText, typer.Option(help="Container limits, e.g. memory=16,minutes=90,pids=512; default: the image's.")
]
