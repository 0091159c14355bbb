"""Verbs that can run in a container: the options that say where, and the step there in place of here."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import typer

from deckbench.cli.options import Host, ImageName, Limits, Runner
from deckbench.runners.kinds import Kind, Option

Verb = Callable[..., None]
# What is done on this machine before and after a step: the step itself, wherever it runs, does not get these options.
RECORD_OPTIONS = frozenset({"record", "records", "curriculum", "condition"})
JUDGE_OPTIONS = frozenset({"judge", "judge_repeats", "judge_swap", "judge_calibration", "max_cost"})


def dispatchable(
    default_output: Callable[[Mapping[str, Any]], Path] | None = None,
    before: Callable[..., None] | None = None,
    then: Callable[..., None] | None = None,
) -> Callable[[Verb], Verb]:
    """Give a verb the options that say where it runs; in a container, its step runs there in place of here.

    Args:
        default_output: Where the verb writes if its options do not say it, from all of its options.
        before: What is checked on this machine first; called with all options, as `then` is.
        then: What is done on this machine once the step is done, wherever that ran. The RECORD_OPTIONS are its own, the
            JUDGE_OPTIONS those of `before`: a step elsewhere does not get them.
    """

    def decorate(verb: Verb) -> Verb:
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
        def run(
            *,
            context: typer.Context,
            runner: str,
            host: str | None,
            image: str | None,
            limits: str | None,
            **given: Any,
        ) -> None:
            from deckbench.runners.dispatch import Target, check_target, dispatch

            target = Target(runner, host, image, limits)
            check_target(target)
            output = next(name for name, kind in kinds_of(verb).items() if kind in {Kind.OUTPUT, Kind.WORK_FOLDER})
            if given[output] is None and default_output is not None:
                given[output] = default_output(given)
            with claim_output(given[output], machines=given.get("nnodes", 1)):
                if before is not None:
                    before(**given)
                own = {
                    name: value
                    for name, value in given.items()
                    if then is None or name not in RECORD_OPTIONS | JUDGE_OPTIONS
                }
                code = dispatch(verb.__name__, options_of(context.command, verb, own), target)
                if code is None:
                    verb(**given)
                elif code:
                    raise typer.Exit(code)
                if then is not None:
                    then(**given)

        parameters = [param.replace(kind=keyword) for param in signature.parameters.values()]
        run.__signature__ = signature.replace(parameters=[*parameters, *added])  # type: ignore[attr-defined]
        run.__annotations__ = {param.name: param.annotation for param in [*parameters, *added]}
        return run

    return decorate


def writes_output(verb: Verb) -> Verb:
    """For a verb that runs here: refuse it where another process writes its output."""

    @functools.wraps(verb)
    def run(**given: Any) -> None:
        with claim_output(given["out"]):
            verb(**given)

    return run


def claim_output(out: Path, machines: int = 1) -> AbstractContextManager[None]:
    """Be the only process that writes `out`. A training on several machines has a launcher on each, and its ranks write
    under the claim of their launcher."""
    from deckbench.disk import claim

    return nullcontext() if machines > 1 or "RANK" in os.environ else claim(out)


def options_of(command: Any, verb: Verb, given: Mapping[str, Any]) -> list[Option]:
    """What a verb was given, each value with its flag and its kind. command: the verb's, as typer made it."""
    kinds = kinds_of(verb)
    flags = {param.name: "" if param.param_type_name == "argument" else param.opts[0] for param in command.params}
    return [Option(name, flags[name], value, kinds[name]) for name, value in given.items()]


def kinds_of(verb: Verb) -> dict[str, Kind | None]:
    """Parameter of a verb -> its declared kind; None where none is declared."""
    parameters = inspect.signature(verb, eval_str=True).parameters.values()
    return {
        param.name: next((one for one in getattr(param.annotation, "__metadata__", ()) if isinstance(one, Kind)), None)
        for param in parameters
    }
