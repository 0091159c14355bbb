"""The calibration of a suite's row: the model is asked on val, and what is fitted there is applied to test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deckbench import artifact
from deckbench.dataset import splits_of
from deckbench.pipeline.asking import Asking
from deckbench.pipeline.plan import Target, val_set
from deckbench.pipeline.state import Run, StepOutput
from deckbench.progress import say

CALIBRATION = "calibration.json"


def run_calibration(run: Run, target: Target, adapter: StepOutput | None) -> Path | None:
    """Calibrate one row, once. A dataset that is only tested on takes the calibration of another one of its task.

    Args:
        run, target: the row.
        adapter: of the row.

    Returns:
        Its calibration.json; None where the suite asks for none, there is no val part, or the model gives no
        probabilities.
    """
    from deckbench.calibrate import NoProbabilities, calibrate

    spec, name = run.suite.calibrate, val_set(run.suite, target)
    if spec is None or name is None or not has_val(run.data[name].path):
        return None
    target = replace(target, data=name)
    asking = Asking(run, target, adapter)
    key = {**asking.key, **spec.model_dump(mode="json")}
    out = run.output_path("calibrations", target.label, key, (*asking.code, "calibrate")) / CALIBRATION
    none = out.with_name("none.txt")  # why there is none
    if out.is_file() or none.is_file():
        return out if out.is_file() else None
    out.parent.mkdir(parents=True, exist_ok=True)
    val = out.with_name("val.csv")
    asking.ask(val, split="val", limit=spec.max_val)
    run.steps_run.append(f"calibrations/{target.label}")
    try:
        made = calibrate(
            val,
            data=run.data[name].path,
            out=out,
            false_stops=spec.false_stops,
            errors=spec.errors,
            seed=run.suite.seed,
        )
    except NoProbabilities as error:
        say(f"calibration {target.label}: none; {error.what}")
        artifact.atomic_write(none, f"{error.what}\n")
        return None
    found = (f"{name} {t.temperature:.2f}" for name, t in made.temperatures.items())
    say(f"calibration {target.label}: {made.n} choices of val, temperatures {', '.join(found)}")
    return out


def has_val(data: Path) -> bool:
    """Whether a dataset has samples to calibrate on."""
    return "val" in splits_of(data) and (data / "val.jsonl").stat().st_size > 0
