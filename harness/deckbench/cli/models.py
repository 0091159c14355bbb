"""`deckbench models ...`: parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deckbench.cli.app import models_app
from deckbench.cli.options import Json, Out, Seed
from deckbench.cli.show import show
from deckbench.errors import AnswerIsNo
from deckbench.progress import say


@models_app.command("ls", epilog="Example: deckbench models ls")
def models_ls(as_json: Json = False) -> None:
    """List the known models."""
    from deckbench.models.load import known_models

    known = known_models()
    show(known, as_json, [f"{name}: {text}" for name, text in known.items()])


@models_app.command("check", epilog="Example: deckbench models check MODEL_DIR --cases CASES_DIR")
def models_check(
    folder: Annotated[Path, typer.Argument(help="A checkpoint folder.")],
    cases: Annotated[Path, typer.Option(help="Folder with cases-*.json and reference tensors.")],
    as_json: Json = False,
) -> None:
    """Does this checkpoint reproduce the original code's tensors here? Exit 4 when not."""
    from deckbench.models.check import check

    result = check(folder, cases)
    lines = [f"{key}: {value}" for key, value in result.items() if not isinstance(value, list | dict)]
    show(result, as_json, lines)
    if not result["passed"]:
        raise AnswerIsNo("the checkpoint does not reproduce the reference tensors", folder)


@models_app.command("pretrain", epilog="Example: deckbench models pretrain tiny-glm4v --pool pools/a --out models/base")
def models_pretrain(
    model: Annotated[str, typer.Argument(help="tiny-glm4v or tiny-phi3v")],
    pool: Annotated[list[Path], typer.Option(help="Synthetic pools; give it several times.")],
    out: Out,
    steps: Annotated[int | None, typer.Option(min=1, help="Default: the recipe's.")] = None,
    init: Annotated[Path | None, typer.Option(help="A base to go on from, instead of a fresh one.")] = None,
    lr: Annotated[float | None, typer.Option(min=0, help="Peak learning rate; default: the recipe's.")] = None,
    seed: Seed = 0,
) -> None:
    """Make the base of an embedded model again: it learns to name what stands on a deck."""
    from deckbench.models.pretrain import Recipe, pretrain

    given = {key: value for key, value in (("steps", steps), ("lr", lr)) if value is not None}
    pretrain(model, pool, out=out, recipe=Recipe(seed=seed, **given), init=init)  # type: ignore[arg-type]
    say(f"model: {out}")
