"""Every option that is a path, or a text that could be one, says what it is; dispatch has a rule for each kind."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from deckbench.cli.app import app
from deckbench.cli.dispatch import Verb, dispatchable, kinds_of
from deckbench.cli.options import InputPath, OutputPath
from deckbench.containers.spec import load_images
from deckbench.errors import InputError
from deckbench.runners.dispatch import Mounts, value_inside
from deckbench.runners.kinds import Kind, Option

PLAIN = {int, float, bool, type(None), typer.Context}
WRITTEN = {Kind.OUTPUT, Kind.WORK_FOLDER}


def verbs(group: typer.Typer, name: str = "deckbench") -> Iterator[tuple[str, Verb]]:
    """All verbs below a group, with their whole names."""
    for command in group.registered_commands:
        assert command.callback is not None
        yield f"{name} {command.name or command.callback.__name__}", command.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from verbs(inner.typer_instance, f"{name} {inner.name}")


def types_of(annotation: Any) -> Iterator[Any]:
    """The types that an annotation is made of: `Annotated[list[Path] | None, ...]` -> Path, NoneType."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        yield from types_of(annotation.__origin__)
    elif origin in {typing.Union, types.UnionType, list, tuple}:
        for part in typing.get_args(annotation):
            yield from types_of(part)
    else:
        yield annotation


def undeclared(name: str, verb: Verb) -> list[str]:
    """Parameters of a verb that hold a path or a text and have no kind."""
    kinds = kinds_of(verb)
    parameters = inspect.signature(verb, eval_str=True).parameters.values()
    return [
        f"{name}: {param.name}"
        for param in parameters
        if kinds[param.name] is None and not set(types_of(param.annotation)) <= PLAIN
    ]


def test_every_path_and_text_of_every_verb_has_a_kind() -> None:
    found = dict(verbs(app))
    assert {"deckbench build", "deckbench pool check", "deckbench containers wheels", "deckbench bench-orin"} <= set(
        found
    )
    assert [missing for name, verb in found.items() for missing in undeclared(name, verb)] == []


def test_a_path_is_never_declared_as_text() -> None:
    for name, verb in verbs(app):
        for param in inspect.signature(verb, eval_str=True).parameters.values():
            if Path in set(types_of(param.annotation)):
                assert kinds_of(verb)[param.name] is not Kind.TEXT, f"{name}: {param.name}"


# Texts that are never opened as a path. A new one needs a look: what may be a file or a folder has a kind of its own.
TEXTS = {
    "annotate": {"lang", "shard"},
    "build": {"lang", "settings", "export"},
    "import": {"maps", "split", "columns"},  # maps: names of folders inside OLD
    "infer": {"split", "shard"},
    "bench": {"engine", "weights"},
    "merge": {"layout"},
    "ask": {"questions"},
    "containers lock": {"names", "base", "only"},
    "containers build": {"names", "base"},
    "containers verify": {"names", "base"},
    "containers wheels": {"names"},
    "score": {"columns"},
    "run": {"only"},
    "verify": {"since"},
    "schema": {"name"},
    "steps": {"lang"},
    "pool synth": {"size", "emphasis"},
    "pool group": {"by"},
    "pool import": {"name"},
    "pool split": {"split"},
    "pool from-run": {"times", "zone", "checks"},
}
SHARED_TEXTS = {"runner", "image", "limits", "curriculum", "condition"}


def test_every_text_has_been_reviewed() -> None:
    found = {
        name.removeprefix("deckbench "): {param for param, kind in kinds_of(verb).items() if kind is Kind.TEXT}
        - SHARED_TEXTS
        for name, verb in verbs(app)
    }
    assert {name: texts for name, texts in found.items() if texts} == TEXTS


def test_a_verb_that_can_run_in_a_container_writes_one_output() -> None:
    for name, verb in verbs(app):
        kinds = list(kinds_of(verb).values())
        if "limits" in kinds_of(verb) and name != "deckbench bench-orin":
            assert len([kind for kind in kinds if kind in WRITTEN]) == 1, name


def test_a_toy_verb_with_an_undeclared_path_is_found() -> None:
    toy = typer.Typer()

    @toy.command()
    @dispatchable()
    def draw(
        frame: Annotated[Path, typer.Option()],
        masks: Annotated[list[Path] | None, typer.Option()],
        style: Annotated[str, typer.Option()],
        labels: Annotated[InputPath, typer.Option()],
        out: Annotated[OutputPath, typer.Option()],
        width: int = 3,
        bold: bool = False,
        scale: float | None = None,
    ) -> None: ...

    ((name, verb),) = verbs(toy)
    assert undeclared(name, verb) == [f"deckbench draw: {param}" for param in ("frame", "masks", "style")]


EXAMPLES: dict[Kind | None, tuple[Any, Any]] = {
    None: (3, 3),
    Kind.TEXT: ("here", "here"),
    Kind.INPUT: (Path("here"), "here"),
    Kind.POOL: ([Path("here"), Path("gone")], ["here", "gone"]),
    Kind.DATA: (Path("here"), "here"),
    Kind.WEIGHTED_DATA: (["here:0.3", "here", "gone:2"], ["here:0.3", "here", "gone:2"]),
    Kind.RENAMED_FOLDER: (["/old=here"], ["/old=here"]),
    Kind.NAMED_POOL: (["lab=here", "here", "lab=gone"], ["lab=here", "here", "lab=gone"]),
    Kind.LINKS: (["here", "https://example.org/wheels"], ["here", "https://example.org/wheels"]),
    Kind.SPLIT: ("here", "here"),
    Kind.TASK: ("here", "here"),
    Kind.PREDICTIONS: (Path("here"), "here"),
    Kind.MODEL: ("blind:here", "blind:here"),
    Kind.SUITE: ("demo", "demo"),
    Kind.TRAIN_CONFIG: (Path("tiny-glm4v"), "tiny-glm4v"),
    Kind.TRAIN_SETTINGS: (["lr=1e-3"], ["lr=1e-3"]),
    Kind.OUTPUT: (Path("x/made"), "/out/made"),
    Kind.WORK_FOLDER: (Path("x/made"), "/out/made"),
    Kind.EXTRA_OUTPUT: (Path("more"), "/out/.name"),
    Kind.CACHE: (Path("here"), InputError),
    Kind.GPUS: ("2,3", "0,1"),
    Kind.MACHINES: (2, InputError),
}
SEEN = {Kind.INPUT, Kind.TASK, Kind.POOL, Kind.DATA, Kind.WEIGHTED_DATA, Kind.RENAMED_FOLDER, Kind.LINKS, Kind.SPLIT,
        Kind.PREDICTIONS, Kind.MODEL, Kind.NAMED_POOL}  # fmt: skip


@pytest.mark.parametrize("kind", [None, *Kind])
def test_dispatch_has_a_rule_for_every_kind(kind: Kind | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    Path("here/task.yaml").touch()
    mounts = Mounts(load_images()["x86-cuda"], output="/out/made")
    value, expected = EXAMPLES[kind]
    option = Option("name", "--name", value, kind)
    if expected is InputError:
        with pytest.raises(InputError):
            value_inside(option, mounts)
        return
    assert value_inside(option, mounts) == expected
    assert dict(mounts.inputs.mounts()) == ({f"/in{tmp_path}/here": Path("here")} if kind in SEEN else {})
    assert mounts.extra == ([("/out/.name", Path("more"))] if kind is Kind.EXTRA_OUTPUT else [])


def test_settings_that_hold_paths_are_the_ones_that_dispatch_looks_at() -> None:
    """A training config's own fields: a path among them would not be mounted by declaration."""
    from deckbench.train.config import TrainConfig

    texts = {
        name
        for name, field in TrainConfig.model_fields.items()
        if {Path, str} & {kind for kind in types_of(field.annotation) if isinstance(kind, type)}
    }
    assert texts == {"feature_cache", "deepspeed", "targets"}  # targets: names of layers
