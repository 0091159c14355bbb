"""Verbs that can run elsewhere: the options that say where, and the step there instead of here."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import typer

from deckbench.cli.options import Host, ImageName, Limits, Runner


def dispatchable(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options that say where it runs; in a container, it runs there instead of here."""
    signature = inspect.signature(verb, eval_str=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter("context", keyword, annotation=typer.Context),
        inspect.Parameter("runner", keyword, default="local", annotation=Runner),
        inspect.Parameter("host", keyword, default=None, annotation=Host),
        inspect.Parameter("image", keyword, default=None, annotation=ImageName),
        inspect.Parameter("limits", keyword, default=None, annotation=Limits),
    ]

    @functools.wraps(verb)
    def run_there_or_here(
        *, context: typer.Context, runner: str, host: str | None, image: str | None, limits: str | None, **given: Any
    ) -> None:
        from deckbench.runners.dispatch import Asked, check_asked, run_elsewhere

        asked = Asked(runner, host, image, limits)
        check_asked(asked)
        code = run_elsewhere(verb.__name__, options_of(context.command, given), asked)
        if code is None:
            verb(**given)
        elif code:
            raise typer.Exit(code)

    parameters = [param.replace(kind=keyword) for param in signature.parameters.values()]
    run_there_or_here.__signature__ = signature.replace(parameters=[*parameters, *added])  # type: ignore[attr-defined]
    run_there_or_here.__annotations__ = {param.name: param.annotation for param in [*parameters, *added]}
    return run_there_or_here


def options_of(command: Any, given: Mapping[str, Any]) -> list[Any]:
    """What a verb was given, with the flags it is written with."""
    from deckbench.runners.dispatch import Option

    flags = {param.name: "" if param.param_type_name == "argument" else param.opts[0] for param in command.params}
    return [Option(name, flags[name], value) for name, value in given.items()]
