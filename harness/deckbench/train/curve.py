"""The learning curve: a CSV that is part of the adapter, and TensorBoard events that are not (they hold times)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deckbench.csvfile import csv_text

COLUMNS = ("step", "epoch", "loss", "token_accuracy", "lr", "grad_norm")


def curve_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of (step, epoch, mean loss and token accuracy since the row before, lr and gradient norm at the step)."""
    cells = []
    for row in rows:
        means = [f"{row[name]:.6f}" for name in ("loss", "token_accuracy")]
        cells.append((row["step"], f"{row['epoch']:.4f}", *means, f"{row['lr']:.6e}", f"{row['grad_norm']:.6f}"))
    return csv_text(COLUMNS, cells)
