"""Predictions on val -> a calibration: a temperature per type of question, thresholds, abstention. See
docs/calibration.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench import artifact
from deckbench.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from deckbench.record.calibration import Calibration

LEAST_RATE = 1e-4  # no val part shows a smaller one
MOST_RATES = 20
ON_VAL = "a calibration is fitted on val, never on what is tested or trained on"
ASK_VAL = "ask val: `deckbench infer --split val`"


class NoProbabilities(InputError):
    """The model that answered gives no probabilities."""


def calibrate(
    predictions: Path,
    *,
    out: Path,
    data: Path | None = None,
    false_stops: Sequence[float] | None = None,
    errors: Sequence[float] | None = None,
    seed: int = 0,
) -> Calibration:
    """Fit a calibration to predictions on the val part of a dataset.

    Args:
        predictions: FILE.csv of the val part.
        out: the file to write; an older calibration there is replaced.
        data: the dataset; it says what type each question is, its group and its part. Without it all questions get one
            temperature, and the manifest beside the predictions has to say that they are of val.
        false_stops: stated false-stop rates at which thresholds are chosen; default: 1%, 5%, 10%.
        errors: stated errors of the abstention; default: the same.
        seed: of the bootstrap in the intervals of before and after.

    Returns:
        The calibration. The same inputs and seed give the same bytes.

    Raises:
        InputError: with `file:line`, where a prediction is not of val, or is broken; the rates are no rates; or `out`
            is something else than a calibration.
        NoProbabilities: no choice has any.
    """
    from deckbench import stats
    from deckbench.predictions import is_inferred, read_manifest
    from deckbench.predictions.read import read_predictions
    from deckbench.record import table as tables
    from deckbench.record.answers import Answers, groups_of
    from deckbench.record.calibration import RATES, CalibrationFile, FittedOn, fit

    predictions, out = Path(predictions), Path(out)
    if not 0 <= seed <= artifact.MAX_SEED:
        raise InputError(f"the seed is {seed}", "--seed", f"give a number from 0 to {artifact.MAX_SEED}")
    rates = [checked(given or RATES, name) for given, name in ((false_stops, "--false-stop"), (errors, "--error"))]
    check_place(out)
    table = read_predictions(predictions)
    manifest = read_manifest(predictions)
    content = None if manifest is None else manifest["content"]
    inputs = (content or {}).get("inputs")
    data_content = inputs.get("data") if isinstance(inputs, dict) else None
    fields = None
    if data is not None:
        data_content = tables.check_data(manifest, predictions, Path(data))
        fields = tables.read_fields(Path(data))
    table = tables.join(table, predictions, fields)
    check_part(table, predictions, content, split_known=data is not None and Path(data).is_dir())
    table = tables.grade_table(table, inferred=is_inferred(manifest))
    labels, _, _ = groups_of(table)
    samples = val_samples(Answers(table, stats.clusters_of(labels, seed)), labels, predictions, fields is not None)
    fitted_on = FittedOn(
        predictions_sha256=tables.predictions_sha256(table),
        manifest=content,
        data_content=data_content if isinstance(data_content, str) else None,
        types="kind" if fields is None else "question_type",
        answers=len(table),
    )
    made = fit(samples, fitted_on, false_stops=rates[0], errors=rates[1], seed=seed)
    file = CalibrationFile(content_hash=made.content_hash, content=made)
    artifact.atomic_write(out, json.dumps(file.model_dump(mode="json"), ensure_ascii=False, allow_nan=False) + "\n")
    return made


def checked(rates: Sequence[float], option: str) -> list[float]:
    """Stated rates, in order, each once. Raises InputError for what is none."""
    for rate in rates:
        if not LEAST_RATE <= rate <= 1 - LEAST_RATE:
            raise InputError(
                f"the rate is {rate}", option, f"give a share from {LEAST_RATE} to {1 - LEAST_RATE}, e.g. 0.05"
            )
    found = sorted({round(rate, 10) for rate in rates})
    if len(found) > MOST_RATES:
        raise InputError(f"{len(found)} rates are given", option, f"give at most {MOST_RATES}")
    return found


def check_place(out: Path) -> None:
    """Raises InputError unless the place is free, or holds an older calibration."""
    from deckbench.disk import read_bytes
    from deckbench.record.calibration import MAX_BYTES

    artifact.check_name(out)
    if out.is_dir():
        raise InputError("the output is a directory; a file is expected", out, "name a file, e.g. calibration.json")
    if out.exists():
        try:
            older = json.loads(read_bytes(out, MAX_BYTES))
        except (OSError, ValueError, RecursionError):
            older = None
        if not isinstance(older, dict) or older.get("kind") != "calibration":
            raise InputError("refusing to overwrite a file that is not a calibration", out, "choose another --out")


def check_part(table: pd.DataFrame, predictions: Path, content: Any, *, split_known: bool) -> None:
    """Raises InputError unless all rows are of val: by the dataset where it is known, and by the manifest."""
    from deckbench.predictions import PredictionFiles
    from deckbench.predictions.read import line_of

    if split_known:
        for row, (key, split) in enumerate(zip(table["id"], table["split"], strict=True)):
            if split != "val":
                what = f"the sample {key!r} is of the part {split or 'nothing'}; {ON_VAL}"
                raise InputError(what, f"{predictions}:{line_of(table, predictions, row)}", ASK_VAL)
    params = (content or {}).get("params")
    split = params.get("split") if isinstance(params, dict) else None
    if split is None and not split_known:
        what = f"nothing says that these answers are to the val part; {ON_VAL}"
        raise InputError(what, f"{predictions}:{line_of(table, predictions, 0)}", f"give --data DATASET, or {ASK_VAL}")
    if split not in (None, "val"):
        what = f"{PredictionFiles(predictions).manifest.name} says: answers to the {str(split)[:40]} part; {ON_VAL}"
        raise InputError(what, f"{predictions}:{line_of(table, predictions, 0)}", ASK_VAL)


def val_samples(answers: Any, labels: Sequence[str], predictions: Path, typed: bool) -> Any:
    """The choices that have a probability. Raises InputError where there are too many, NoProbabilities where none."""
    from deckbench.record.calibration import MAX_SAMPLES, NO_NAME, ValSamples
    from deckbench.record.choice_odds import odds_of, probabilities

    odds, choices = odds_of(answers)
    rows = odds.rows
    if not len(rows):
        what = "no choice question" if not len(choices) else "no choice has a probability (p_a, p_b or p_anomaly)"
        fix = "calibrate a dataset that has some" if not len(choices) else "a model that gives none is not calibrated"
        raise NoProbabilities(f"there is nothing to calibrate: {what}", predictions, fix)
    if len(rows) > MAX_SAMPLES:
        what = f"{len(rows)} choices; a calibration holds at most {MAX_SAMPLES}"
        raise InputError(what, predictions, "ask fewer: `deckbench infer --split val --limit N`")
    one, other = probabilities(answers, rows)
    ids = answers.table["id"].to_numpy(dtype=object)[rows]
    return ValSamples(
        id=tuple(str(key) for key in ids),
        group=tuple(labels[row] for row in rows.tolist()),
        question_type=tuple(str(name) if typed else NO_NAME for name in odds.types.tolist()),
        verdict=tuple(odds.verdict.tolist()),
        event=tuple(odds.event.tolist()),
        p_event=tuple(one.tolist()),
        p_other=tuple(other.tolist()),
    )
