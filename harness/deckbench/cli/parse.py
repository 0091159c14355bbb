"""Texts of the command line as values."""

from __future__ import annotations

from typing import Literal

from deckbench.errors import InputError


def parse_size(text: str) -> tuple[int, int]:
    """`704x396` -> (704, 396). Raises InputError."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise InputError(f"cannot read {text!r} as a size", "--size", "write WIDTHxHEIGHT, such as 704x396") from None
    return width, height


def parse_factors(pairs: list[str]) -> dict[str, float]:
    """`["damaged_tip=10"]` -> {"damaged_tip": 10.0}. Raises InputError."""
    try:
        return {kind: float(factor) for kind, factor in (pair.split("=") for pair in pairs)}
    except ValueError:
        fix = "write KIND=FACTOR, such as --emphasis damaged_tip=10"
        raise InputError(f"cannot read {', '.join(pairs)!r}", "--emphasis", fix) from None


def parse_checks(text: str) -> Literal["step", "all"]:
    """Which checks a frame of a run has. Raises InputError."""
    if text == "step":
        return "step"
    if text == "all":
        return "all"
    raise InputError(f"{text!r} says nothing of checks", "--checks", "write step or all")
