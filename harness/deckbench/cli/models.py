"""`deckbench models ...`: parses, calls, prints."""

from typing import Annotated

import typer

from deckbench.cli.app import models_app
from deckbench.cli.dispatch import writes_output
from deckbench.cli.options import InputPath, Json, ModelRef, OptionalInput, Out, PoolPaths, Seed
from deckbench.cli.show import show
from deckbench.errors import AnswerIsNo
from deckbench.progress import say


@models_app.command("ls", epilog="Example: deckbench models ls")
def models_ls(as_json: Json = False) -> None:
    """List the known models."""
    from deckbench.models.families import known_models

    known = known_models()
    show(known, as_json, [f"{name}: {text}" for name, text in known.items()])


@models_app.command("check", epilog="Example: deckbench models check MODEL_DIR --cases CASES_DIR")
def models_check(
    folder: Annotated[InputPath, typer.Argument(help="A checkpoint folder.")],
    cases: Annotated[InputPath, typer.Option(help="Folder with cases-*.json and reference tensors.")],
    as_json: Json = False,
) -> None:
    """Check numerical parity with the reference implementation.

    Exit 4 if the checkpoint's tensors differ from it.
    """
    from deckbench.models.check import check

    result = check(folder, cases)
    lines = [f"{key}: {value}" for key, value in result.items() if not isinstance(value, list | dict)]
    show(result, as_json, lines)
    if not result["passed"]:
        raise AnswerIsNo("the checkpoint does not reproduce the reference tensors", folder)


@models_app.command("pretrain", epilog="Example: deckbench models pretrain tiny-glm4v --pool pools/a --out models/base")
@writes_output
def models_pretrain(
    model: Annotated[ModelRef, typer.Argument(help="tiny-glm4v or tiny-phi3v.")],
    pool: Annotated[PoolPaths, typer.Option(help="A synthetic pool; repeatable.")],
    out: Out,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; default: the recipe's.")] = None,
    init: Annotated[
        OptionalInput, typer.Option(help="Model folder to initialize from; default: random weights.")
    ] = None,
    lr: Annotated[float | None, typer.Option(min=0, help="Peak learning rate; default: the recipe's.")] = None,
    seed: Seed = 0,
) -> None:
    """Pretrain the base of an embedded model.

    It learns to name what is on a deck.
    """
    from deckbench.models.pretrain import Recipe, pretrain

    given = {key: value for key, value in (("steps", steps), ("lr", lr)) if value is not None}
    pretrain(model, pool, out=out, recipe=Recipe(seed=seed, **given), init=init)  # type: ignore[arg-type]
    say(f"model: {out}")
