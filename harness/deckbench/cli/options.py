"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Seed = Annotated[int, typer.Option(help="Everything random is drawn from this number.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Out = Annotated[Path, typer.Option("--out", help="Where the result goes; must not exist yet.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes; default: all cores.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave broken frames out and list them in the manifest.")]
Model = Annotated[str, typer.Option("--model", help="A known name, a model folder, endpoint:NAME, a baseline.")]
Adapter = Annotated[Path | None, typer.Option("--adapter", help="LoRA weights made by `deckbench train`.")]
Runner = Annotated[str, typer.Option(help="local, docker (in a container), or auto: docker where it is ready.")]
Host = Annotated[str | None, typer.Option(help="ssh://USER@MACHINE: in a container there, data copied in and out.")]
ImageName = Annotated[str | None, typer.Option("--image", help="Default: the first that serves the model.")]
Limits = Annotated[str | None, typer.Option(help="Of a container: memory=GIB,minutes=N,pids=N; default: the image's.")]
