"""The table of faults names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def rows() -> list[tuple[str, str]]:
    """(the fault, the cell of its tests) of every row."""
    lines = (HERE / "README.md").read_text(encoding="utf-8").splitlines()
    cells = [line.strip("| ").rpartition(" | ") for line in lines if line.startswith("| ")]
    return [(fault.strip("| "), tests) for fault, _, tests in cells if fault not in {"fault", "---"}]


def names_of(path: Path) -> set[str]:
    """The names of the test functions of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize(("file", "test"), sorted({pair for _, cell in rows() for pair in NAMED.findall(cell)}))
def test_the_test_of_a_fault_exists(file: str, test: str) -> None:
    assert test in names_of(TESTS / file), f"tests/{file} has no {test}: change the table in tests/faults/README.md"


def test_the_table_is_read() -> None:
    assert len(rows()) > 60
