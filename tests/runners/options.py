"""Options of a verb as its command line hands them to dispatch: its real flags, defaults and declared kinds."""

from __future__ import annotations

from typing import Any
from unittest import mock

import typer

from deckbench.cli.app import app
from deckbench.runners.dispatch import argv
from deckbench.runners.kinds import Option


def options(verb: str, **given: Any) -> list[Option]:
    """What `deckbench VERB` gets for these parameters, through its real parser."""
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    words: list[str] = []
    for param in command.params:
        if param.name in given:
            words += argv("" if param.param_type_name == "argument" else param.opts[0], given[param.name])
    with mock.patch("deckbench.runners.dispatch.dispatch", return_value=0) as dispatch:
        command.main([*words, "--runner=docker"], standalone_mode=False)
    name, found, _ = dispatch.call_args.args
    assert name == verb
    return list(found)
