"""The learning curve: a CSV that is part of the adapter, and TensorBoard events that are not (they hold times)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = ("step", "epoch", "loss", "token_accuracy", "lr", "grad_norm")


def curve_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of (step, epoch, mean loss and token accuracy since the row before, lr and gradient norm at the step)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        cells = [f"{row['epoch']:.4f}", *(f"{row[name]:.6f}" for name in ("loss", "token_accuracy"))]
        writer.writerow([row["step"], *cells, f"{row['lr']:.6e}", f"{row['grad_norm']:.6f}"])
    return text.getvalue()
