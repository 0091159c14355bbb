"""Verbs that make adapters and models: train, merge."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from deckbench.cli.app import app
from deckbench.cli.dispatch import dispatchable
from deckbench.cli.options import Model, Out, Seed
from deckbench.cli.parse import parse_settings
from deckbench.progress import say


@app.command(epilog="Example: deckbench train --model tiny-glm4v --data data/S1 --out adapters/S1 --set epochs=2")
@dispatchable
def train(
    model: Model,
    data: Annotated[Path, typer.Option(help="The dataset to train on.")],
    out: Annotated[Path | None, typer.Option("--out", help="The adapter; default: adapters/MODEL-DATASET.")] = None,
    init: Annotated[Path | None, typer.Option(help="Go on from this adapter.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="yaml, or tiny-glm4v, tiny-phi3v, glm4v-9b, phi3-vision; default: the model's.")
    ] = None,
    gpus: Annotated[str | None, typer.Option(help="GPUs to train on, a rank each: 0,2,3.")] = None,
    nproc: Annotated[int | None, typer.Option(min=1, help="Ranks on this machine's CPU.")] = None,
    nnodes: Annotated[int, typer.Option(min=1, help="Machines that train together; give --rendezvous too.")] = 1,
    rendezvous: Annotated[str | None, typer.Option(help="HOST:PORT where several machines find each other.")] = None,
    feature_cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps the features of frozen vision between epochs and runs.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, goes over the yaml.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a broken training stopped.")] = False,
    seed: Seed = 0,
) -> None:
    """Fine-tune with LoRA; broken runs go on with --resume."""
    from deckbench.train import train as run_train
    from deckbench.train import train_in_ranks
    from deckbench.train.config import config_of
    from deckbench.train.launch import asked_places

    settings = [*(settings or []), *([] if feature_cache is None else [f"feature_cache={feature_cache}"])]
    overrides = parse_settings(settings)
    config = config or config_of(model)
    out = out or Path("adapters", f"{Path(model).name}-{data.resolve().name}")
    ranks = asked_places(gpus=gpus, nproc=nproc, nnodes=nnodes, rendezvous=rendezvous)
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
@dispatchable
def merge(
    model: Model,
    adapter: Annotated[Path, typer.Option(help="The adapter to merge.")],
    out: Out,
    layout: Annotated[
        str, typer.Option(help="Names of the weights: official, for other tools, or native.")
    ] = "official",
) -> None:
    """Write a complete, loadable model folder: base plus adapter."""
    from deckbench.train.merge import merge as run_merge

    run_merge(model=model, adapter=adapter, out=out, layout=layout)
    say(f"model: {out}")
