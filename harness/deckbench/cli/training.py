"""Verbs that make adapters and models: train, merge."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from deckbench.cli.app import app
from deckbench.cli.dispatch import dispatchable
from deckbench.cli.options import (
    CachePath,
    DataPath,
    Gpus,
    HostRef,
    InputPath,
    Model,
    OptionalInput,
    OptionalOutput,
    Out,
    Seed,
    Text,
    TrainConfigPath,
    TrainSettings,
)
from deckbench.progress import say
from deckbench.runners.kinds import Kind


def default_adapter(given: Mapping[str, Any]) -> Path:
    """Where a training writes if nothing is said: adapters/MODEL-DATASET."""
    return Path("adapters", f"{Path(given['model']).name}-{given['data'].resolve().name}")


@app.command(epilog="Example: deckbench train --model tiny-glm4v --data data/S1 --out adapters/S1 --set epochs=2")
@dispatchable(default_output=default_adapter)
def train(
    model: Model,
    data: Annotated[DataPath, typer.Option(help="Training dataset.")],
    out: Annotated[
        OptionalOutput, typer.Option("--out", help="Output adapter; default: adapters/MODEL-DATASET.")
    ] = None,
    init: Annotated[OptionalInput, typer.Option(help="Initialize from this adapter.")] = None,
    config: Annotated[
        TrainConfigPath,
        typer.Option(help="yaml, or tiny-glm4v, tiny-phi3v, glm4v-9b, phi3-vision; default: the model's."),
    ] = None,
    gpus: Annotated[Gpus, typer.Option(help="GPU indices, one rank per GPU, e.g. 0,2,3.")] = None,
    nproc: Annotated[int | None, typer.Option(min=1, help="Number of ranks on the CPU.")] = None,
    nnodes: Annotated[
        int, Kind.MACHINES, typer.Option(min=1, help="Number of machines; above 1, pass --rendezvous too.")
    ] = 1,
    rendezvous: Annotated[HostRef, typer.Option(help="HOST:PORT where several machines meet.")] = None,
    feature_cache: Annotated[
        CachePath, typer.Option(help="Folder for cached features of the frozen vision encoder.")
    ] = None,
    settings: Annotated[
        TrainSettings, typer.Option("--set", help="Override a config value, e.g. lr=1e-3; repeatable.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")] = False,
    seed: Seed = 0,
) -> None:
    """Fine-tune with LoRA; resume an interrupted run with --resume."""
    from deckbench.train import train as run_train
    from deckbench.train import train_in_ranks
    from deckbench.train.config import config_of
    from deckbench.train.launch import parse_places
    from deckbench.yamlfile import parse_settings

    settings = [*(settings or []), *([] if feature_cache is None else [f"feature_cache={feature_cache}"])]
    overrides = parse_settings(settings)
    config = config or config_of(model)
    assert out is not None  # `default_adapter` has filled it in
    ranks = parse_places(gpus=gpus, nproc=nproc, nnodes=nnodes, rendezvous=rendezvous)
    if ranks is not None:
        command = ["train", "--model", model, "--data", str(data), "--out", str(out), "--seed", str(seed)]
        command += [] if init is None else ["--init", str(init)]
        command += [] if config is None else ["--config", str(config)]
        command += [part for setting in settings for part in ("--set", setting)]
        command += ["--resume"] if resume else []
        train_in_ranks(ranks, command, out=out, config=config, overrides=overrides, resume=resume)
        return  # the first rank has said where the adapter is
    run_train(model=model, data=data, out=out, init=init, config=config, overrides=overrides, resume=resume, seed=seed)
    if os.environ.get("RANK", "0") == "0":
        say(f"adapter: {out}")


@app.command(epilog="Example: deckbench merge --model tiny-glm4v --adapter adapters/S1 --out models/tiny-S1")
@dispatchable()
def merge(
    model: Model,
    adapter: Annotated[InputPath, typer.Option(help="The adapter to merge.")],
    out: Out,
    layout: Annotated[Text, typer.Option(help="Tensor names: official (for other tools) or native.")] = "official",
) -> None:
    """Merge an adapter and its base into a loadable model folder."""
    from deckbench.train.merge import merge as run_merge

    run_merge(model=model, adapter=adapter, out=out, layout=layout)
    say(f"model: {out}")
