"""The application: its groups of verbs, and the exit code of the process."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from deckbench import __version__
from deckbench.errors import DeckBenchError

app = typer.Typer(
    name="deckbench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help='Which vision-language model can be trusted to watch an Opentrons OT-2 and say "stop"?',
    epilog="Examples: deckbench run demo --work work/demo; deckbench run demo --runner docker",
)
pool_app = typer.Typer(no_args_is_help=True, help="Pools of frames with YOLO labels: render, check, group, split.")
models_app = typer.Typer(no_args_is_help=True, help="Known models: list, check against reference tensors, pretrain.")
containers_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Container images: list, lock, fetch wheels, build, verify, clean up.",
    epilog="Example: deckbench containers wheels x86-cpu && deckbench containers build x86-cpu",
)
app.add_typer(pool_app, name="pool")
app.add_typer(models_app, name="models")
app.add_typer(containers_app, name="containers")


def version(value: bool) -> None:
    """Print the version and leave."""
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Options that stand before the verb."""


def left_to_launcher(error: DeckBenchError) -> bool:
    """In a rank of `train`: leave the error to the launcher, which says it once."""
    from deckbench.train.launch import leave_word

    return leave_word(error)


def main() -> None:
    """Exit codes: 0 done, 2 wrong input, 3 outside failure, 4 the answer is no, 1 a bug, 130 interrupted."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    try:
        app(standalone_mode=True)
    except DeckBenchError as error:
        if not ("RANK" in os.environ and left_to_launcher(error)):
            print(f"deckbench: {error.message()}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("deckbench: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
