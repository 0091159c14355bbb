"""Whether a calibration may be applied to some predictions: made for the same model, adapter and dataset, on others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench.errors import InputError
from deckbench.predictions.read import line_of
from deckbench.record.calibration import Calibration, read_calibration

if TYPE_CHECKING:
    import pandas as pd

ELSEWHERE = "add --transfer to see how it holds on another dataset"
FIX = "give the calibration of these, or make one: `deckbench infer --split val`, then `deckbench calibrate`"


def calibration_for(
    path: Path,
    *,
    table: pd.DataFrame,
    predictions: Path,
    content: Any,
    data_content: str | None,
    transfer: bool = False,
) -> Calibration:
    """Read the calibration for some predictions.

    Args:
        path: the file that `calibrate` wrote.
        table: the predictions, joined.
        predictions: FILE.csv, for messages.
        content: of their manifest; None where there is none.
        data_content: hash of the dataset; None where none is given.
        transfer: whether it may have been made for another dataset.

    Returns:
        The calibration.

    Raises:
        InputError: it is broken, made for another model, adapter or (without `transfer`) dataset, or fitted on one of
            these answers.
    """
    made = read_calibration(path)
    inputs = (content or {}).get("inputs")
    inputs = inputs if isinstance(inputs, dict) else {}
    model = inputs.get("model")
    if made.fitted_on.model != model:
        raise InputError(f"the calibration was made for {other_model(made.fitted_on.model, model)}", path, FIX)
    if made.fitted_on.types == "question_type" and data_content is None:
        what = "the calibration has a temperature for each type of question, and nothing says the types of these"
        raise InputError(what, path, "give --data DATASET")
    data = data_content or inputs.get("data")
    if made.fitted_on.data_content != data and not (transfer and data_content):
        what = f"{short(made.fitted_on.data_content)}, these are answers to {short(data)}"
        fix = "give --data DATASET" if transfer else f"{FIX}; {ELSEWHERE}"
        raise InputError(f"the calibration was made for another dataset: {what}", path, fix)
    fitted = set(made.samples.id)
    for row, key in enumerate(table["id"]):
        if key in fitted:
            what = f"the calibration was fitted on the sample {key!r}: what it gains there is no evidence"
            raise InputError(
                what,
                f"{predictions}:{line_of(table, predictions, row)}",
                "score the test part: `deckbench infer --split test`",
            )
    return made


def other_model(told: Any, given: Any) -> str:
    """What tells two identities apart."""
    if not (isinstance(told, dict) and isinstance(given, dict)):
        return (
            f"{'another' if told else 'an unknown'} model, these are answers of {'one' if given else 'an unknown one'}"
        )
    name = next(key for key in ("name", "adapter", *told, *given) if told.get(key) != given.get(key))
    kind = {"adapter": "another adapter", "name": "another model"}.get(name, f"a model with another {name}")
    return f"{kind}: {short(told.get(name))}, these are answers of {short(given.get(name))}"


def short(value: Any) -> str:
    """A hash or a name in a message."""
    return "none" if value is None else str(value).removeprefix("sha256:")[:12]
