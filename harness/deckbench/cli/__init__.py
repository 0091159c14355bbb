"""The command line: parses, calls one step, prints. Heavy libraries are imported by the verb that needs them."""

from __future__ import annotations

# Each module adds its verbs to the application, in the order in which `--help` lists them.
from deckbench.cli import pool, protocol, data, annotation, training, inference, results, models, containers, about  # noqa: F401  # isort: skip
from deckbench.cli.app import main

__all__ = ["main"]
