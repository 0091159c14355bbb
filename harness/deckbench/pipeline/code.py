"""A hash of the code that a step runs: part of its key, so that what older code has made is made again.

The same for a checkout and a wheel of one state of the source, and without importing anything of the step.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from deckbench import artifact
from deckbench.resources import PACKAGE

NAME = PACKAGE.name
# They decide what is said and when a step stops, not what it makes.
NO_CONTENT = frozenset({f"{NAME}.progress", f"{NAME}.errors", f"{NAME}.extras"})

BODIES = (ast.stmt, ast.ExceptHandler, ast.match_case)


@lru_cache
def code_hash(*modules: str) -> str:
    """sha256 of the source of some modules and of all that they import of this package, directly or not.

    Args:
        modules: names without the package's, such as `build.mix`; `models.*` is a package with everything below it.
    """
    waiting = [(name, True) for module in modules for name in _named(module)]
    seen: set[tuple[str, bool]] = set()
    while waiting:
        name, lazy = waiting.pop()
        if (name, lazy) not in seen and name in _files() and name not in NO_CONTENT:
            seen.add((name, lazy))
            waiting += [(target, True) for target in _imports(name, lazy=lazy)]
            waiting.append((name.rpartition(".")[0], False))  # importing a module runs the packages around it
    return artifact.hash_json({name: artifact.hash_file(_files()[name]) for name, _ in seen})


@lru_cache
def _files() -> dict[str, Path]:
    """Module -> source file, of the whole package."""
    files = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        files[".".join((NAME, *parts)).removesuffix(".__init__")] = file
    return files


def _named(module: str) -> list[str]:
    """The modules that one of `code_hash`'s arguments names."""
    name = f"{NAME}.{module.removesuffix('.*')}"
    return [each for each in _files() if each == name or (module.endswith(".*") and each.startswith(f"{name}."))]


@lru_cache
def _imports(name: str, *, lazy: bool) -> tuple[str, ...]:
    """What of the package a module imports; lazy: also inside its functions."""
    tree = ast.parse(_files()[name].read_text(encoding="utf-8"))
    return tuple(each for node in _nodes(tree.body, lazy) for each in _targets(node))


def _nodes(body: Iterable[ast.AST], lazy: bool) -> Iterator[ast.AST]:
    """The statements that run, without what is there for type checkers only."""
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        if lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            below = (each for each in ast.iter_child_nodes(node) if isinstance(each, BODIES))
            yield from _nodes(below, lazy)


def _targets(node: ast.AST) -> list[str]:
    """The modules that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
        below = [f"{node.module}.{alias.name}" for alias in node.names]
        return [name if name in _files() else node.module for name in below]
    return []
