"""Every test file is collected: pytest leaves out folders by name (`build` is one of them) without a word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


def collected(node: pytest.Collector) -> Iterator[Path]:
    """The test files pytest finds below a folder, in the way it finds those it runs."""
    for child in node.collect():
        if isinstance(child, pytest.Module):
            yield child.path
        elif isinstance(child, pytest.Collector):
            yield from collected(child)


@pytest.mark.torch
def test_pytest_collects_every_test_file(request: pytest.FixtureRequest) -> None:
    folder = pytest.Package.from_parent(request.session, path=TESTS)
    assert sorted(collected(folder)) == sorted(TESTS.rglob("test_*.py"))


def test_every_folder_of_tests_is_a_package() -> None:
    """Two test files of one name collide otherwise, and helpers cannot be imported."""
    assert [path for path in TESTS.rglob("test_*.py") if not (path.parent / "__init__.py").is_file()] == []
