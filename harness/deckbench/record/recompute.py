"""Does a record prove itself? Its metrics are measured again from its own samples, by the code that `score` uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd

from deckbench.errors import InputError
from deckbench.record.metrics import measure
from deckbench.record.read import Run, read_ontology, read_samples
from deckbench.record.schema import Record
from deckbench.record.table import grade_table, predictions_sha256
from deckbench.record.terms import Terms

GRADES = ("parsed", "right", "substring", "judge", "reason")


@lru_cache(maxsize=4096)
def differences(run: Run) -> tuple[str, ...]:
    """Why a record does not follow from its own samples, one line each; empty when it does, or holds only times."""
    if run.record.metrics is None:
        return ()
    try:
        return unproven(run.record, read_samples(run), read_ontology(run))
    except InputError as error:
        return (error.message().splitlines()[0],)


def unproven(record: Record, rows: Sequence[Mapping[str, str]], terms: Terms | None) -> tuple[str, ...]:
    """What of a record's metrics does not follow from the samples `rows`, one line each.

    Every answer is parsed and graded again and compared with the columns; every metric, interval and count is measured
    again, with the record's seed and number of resamples.
    """
    metrics = record.metrics
    if metrics is None or not rows:
        return () if metrics is None else ("it has no samples",)
    table = pd.DataFrame({name: [row[name] for row in rows] for name in rows[0]}, dtype=object)
    found = misplaced(record, table)
    if metrics.inputs.data_content not in (None, record.dataset.removeprefix("sha256:"), record.dataset):
        found.append("the metrics are of another dataset")
    graded = grade_table(table, inferred=False)
    for name in GRADES:
        wrong = (graded[name] != table[name]).to_numpy().nonzero()[0]
        if len(wrong):
            was, now = table[name].iloc[wrong[0]], graded[name].iloc[wrong[0]]
            what = f"the column {name} of sample {table['id'].iloc[wrong[0]]} is {was!r}, its answer makes it {now!r}"
            found.append(what + (f" ({len(wrong)} such samples)" if len(wrong) > 1 else ""))
    if predictions_sha256(graded) != metrics.inputs.predictions_sha256.removeprefix("sha256:"):
        found.append("the predictions are not those that were scored")
    again = measure(
        graded,
        seed=metrics.seed,
        inputs=metrics.inputs,
        terms=terms.at if terms else None,
        resamples=metrics.resamples,
    )
    left_out = [note for note in again.notes if note not in metrics.notes]
    again = again.model_copy(update={"notes": metrics.notes})
    if again != metrics:
        changed = differing(metrics.model_dump(mode="json"), again.model_dump(mode="json"))
        path, old, new = changed[0]
        more = f" ({len(changed)} differences)" if len(changed) > 1 else ""
        found.append(f"{path} is {shown(old)}, the samples give {shown(new)}{more}")
    return (*found, *(f"the note is missing: {note}" for note in left_out))


def misplaced(record: Record, table: pd.DataFrame) -> list[str]:
    """Why samples are not those of the record's questions: its whole test part, each sample once."""
    twice = table["id"][table["id"].duplicated()]
    found = [f"the sample {twice.iloc[0]} occurs twice"] if len(twice) else []
    allowed = {"task": {record.task}, "split": {"", "test"}}
    if record.stage is not None:
        allowed["stage"] = {"", record.stage}
    for name, values in allowed.items():
        found += [f"the samples are of the {name} {other or 'nothing'}" for other in sorted({*table[name]} - values)]
    return found


def differing(a: Any, b: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """The places where two JSON values differ, with both."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted({*a, *b})
        return [found for key in keys for found in differing(a.get(key), b.get(key), f"{path}.{key}".strip("."))]
    return [] if a == b else [(path, a, b)]


def shown(value: Any) -> str:
    """A value in a message: long ones are cut."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
