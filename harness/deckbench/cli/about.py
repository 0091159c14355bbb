"""Verbs that describe: doctor, schema."""

import sys
from typing import Annotated

import typer

from deckbench.cli.app import app
from deckbench.cli.options import HostRef, Json, OptionalModel, OptionalText
from deckbench.cli.show import show
from deckbench.errors import AnswerIsNo


@app.command(epilog="Example: deckbench doctor --host ssh://lab@orin --model glm-4v-9b")
def doctor(
    host: Annotated[HostRef, typer.Option(help="Inspect ssh://USER@HOST instead of this machine.")] = None,
    model: Annotated[
        OptionalModel, typer.Option(help="Also check whether this model fits: a known name or a folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Report what this machine can run and what is missing.

    Changes nothing. Exit 4 if nothing, or not the model, can run.
    """
    from deckbench.doctor import doctor as look
    from deckbench.doctor.show import lines, table

    report = look(host, model)
    if sys.stdout.isatty() and not as_json:
        table(report.findings)
    else:
        show(report.as_dict(), as_json, lines(report.findings))
    if report.answer:
        raise AnswerIsNo(report.answer, None, "see what is bad or absent above")


@app.command(epilog="Example: deckbench schema suite > suite.schema.json")
def schema(
    name: Annotated[
        OptionalText, typer.Argument(help="A schema, e.g. suite, task, record; default: list them.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the JSON Schema of a file format."""
    from deckbench.cli.schemas import KINDS, schema_of

    if name is None:
        about = {known: kind.about for known, kind in KINDS.items()}
        show(about, as_json, [f"{known}: {text}" for known, text in about.items()])
    else:
        show(schema_of(name), True, [])
