"""The columns of a table of predictions: `infer` writes them, `score` and `report` read them."""

from __future__ import annotations

COLUMNS = (
    "id",
    "pair_id",
    "kind",
    "question",
    "gold",
    "prediction",
    "parsed",
    "p_a",
    "p_b",
    "p_anomaly",
    "tokens_in",
    "tokens_out",
)
