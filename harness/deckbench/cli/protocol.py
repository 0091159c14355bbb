"""The verb about protocols: steps."""

from typing import Annotated

import typer

from deckbench.cli.app import app
from deckbench.cli.dispatch import writes_output
from deckbench.cli.options import ExtraOutput, InputPath, InputPaths, Json, OptionalInput, OutputPath, Text
from deckbench.cli.show import show
from deckbench.progress import say


@app.command(epilog="Example: deckbench steps analysis.json --out steps.json --sheet steps.png")
@writes_output
def steps(
    source: Annotated[
        InputPath, typer.Argument(help="A protocol analysis (JSON), or a protocol (.py), which is analysed first.")
    ],
    out: Annotated[OutputPath, typer.Option("--out", help="Output JSON; an older steps file is replaced.")],
    sheet: Annotated[
        ExtraOutput, typer.Option(help="Also draw the deck: a .png with all changes, or a folder, a PNG a step.")
    ] = None,
    lang: Annotated[Text, typer.Option(help="en, zh or both.")] = "both",
    texts: Annotated[OptionalInput, typer.Option(help="Custom templates of the texts (yaml).")] = None,
    python: Annotated[OptionalInput, typer.Option(help="Python of an environment that has opentrons 8.")] = None,
    labware: Annotated[InputPaths, typer.Option(help="Custom labware: file or folder; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Expected deck states of a protocol, and what to check.

    A protocol analysis is folded into the state after each of its commands, with check texts and pictures of the deck.
    A .py is analysed in a process of its own, with opentrons 8.8.2 in an environment that is made on first use.
    """
    from deckbench.protocol.make import make_steps

    summary = make_steps(
        source, out=out, sheet=sheet, lang=lang, texts=texts, python=python, labware=tuple(labware or ())
    )
    show(summary, as_json, summary["notes"])
    say(f"steps: {out}")
