"""The calibration of a suite's row: the model is asked on val, and what is fitted there is applied to test."""

from __future__ import annotations

from pathlib import Path

from deckbench import artifact
from deckbench.dataset import splits_of
from deckbench.pipeline.plan import Target
from deckbench.pipeline.state import Code, Run, StepOutput
from deckbench.progress import say
from deckbench.suite import CalibrateSpec

CALIBRATION = "calibration.json"


def run_calibration(
    run: Run,
    spec: CalibrateSpec,
    target: Target,
    adapter: StepOutput | None,
    model: str,
    model_key: dict[str, object],
    code: Code,
) -> Path | None:
    """Calibrate one row, once.

    Args:
        run, target: the row.
        spec: of the suite.
        adapter: of the row.
        model: as `infer` takes it.
        model_key: all that decides what the model answers.
        code: the modules that answer.

    Returns:
        Its calibration.json; None where the dataset has no val part, or the model gives no probabilities.
    """
    from deckbench.calibrate import NoProbabilities, calibrate
    from deckbench.infer import infer

    data = run.data[target.data]
    if not has_val(data.path):
        return None
    key = {**model_key, **spec.model_dump(mode="json"), "seed": run.suite.seed}
    out = run.output_path("calibrations", target.label, key, (*code, "calibrate")) / CALIBRATION
    none = out.with_name("none.txt")  # why there is none
    if out.is_file() or none.is_file():
        return out if out.is_file() else None
    out.parent.mkdir(parents=True, exist_ok=True)
    val = out.with_name("val.csv")
    infer(
        model=model,
        adapter=adapter.path if adapter else None,
        data=data.path,
        out=val,
        split="val",
        limit=spec.max_val,
    )
    run.steps_run.append(f"calibrations/{target.label}")
    try:
        made = calibrate(
            val,
            data=data.path,
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
