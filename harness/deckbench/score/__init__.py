"""Predictions -> score.json and scored.csv: strict parse, intervals, miss and false-stop rates. See docs/metrics.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.extras import require
from deckbench.progress import say


def score(
    predictions: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    plots: Path | None = None,
    curves: Mapping[str, Path] | None = None,
    seed: int = 0,
    ontology: Path | None = None,
    columns: Mapping[str, str] | None = None,
    calibration: Path | None = None,
    transfer: bool = False,
) -> dict[str, Any]:
    """Score a prediction file.

    Args:
        predictions: FILE.csv. What `infer` parsed each answer as is taken from it; answers of other tools are parsed.
        data: the dataset the predictions were made on; it gives options, classes, steps, anomalies and groups.
        out: where score.json is written, and beside it the graded answers (`scored_path`): both or none. An older
            score there is replaced.
        plots: folder for plots, as SVG, PNG and CSV.
        curves: name -> score.json, in this order, for a plot of accuracies over the curriculum.
        seed: of the bootstrap.
        ontology: names of anomalies looked for in scene texts, by default those of the published task.
        columns: of a result file of another tool: our name -> its column (`predictions.columns`); what it lacks is
            unknown.
        calibration: of `calibrate`, made for the same model, adapter and dataset, on other samples.
        transfer: the calibration may be one of another dataset.

    What a judge said of these predictions is taken from `FILE.judge.json` beside them, where it was asked.

    Returns:
        What `score.json` holds (`record.metrics_schema.Metrics`). The same inputs and seed give the same bytes.

    Raises:
        InputError: with `file:line` when the predictions are broken, unfinished, or do not fit the dataset, when `out`
            is something else than a score, and when the calibration is for something else.
    """
    from deckbench.predictions import answer_notes, is_inferred, read_manifest
    from deckbench.predictions.columns import read_columns
    from deckbench.predictions.read import read_predictions
    from deckbench.record import table as tables
    from deckbench.record.judged import find_judged, with_verdicts
    from deckbench.record.metrics import coverage_note, measure
    from deckbench.record.metrics_schema import ScoreInputs
    from deckbench.record.scores import check_score_place, scored_path
    from deckbench.record.terms import find_terms

    predictions = Path(predictions)
    if not 0 <= seed <= artifact.MAX_SEED:
        raise InputError(f"the seed is {seed}", "--seed", f"give a number from 0 to {artifact.MAX_SEED}")
    if curves and plots is None:
        raise InputError("--curve needs a place for the plot", "--curve", "add --plots DIR")
    if plots is not None:
        require("matplotlib", "score --plots")
    if plots is not None and Path(plots).is_file():
        raise InputError("the place for plots is a file, a folder is needed", plots, "choose another --plots")
    if out is not None:
        check_score_place(Path(out))
    if columns and data is not None and "id" not in columns:
        raise InputError("a dataset is joined by ids, and --columns names none", "--columns", "add id=COLUMN to it")
    table = read_columns(predictions, columns) if columns else read_predictions(predictions)
    manifest = None if columns else read_manifest(predictions)
    data_content = None if data is None else tables.check_data(manifest, predictions, Path(data))
    fields = None if data is None else tables.read_fields(Path(data))
    table = tables.join(table, predictions, fields)
    calibrated = None
    if calibration is not None:
        from deckbench.score.calibration import calibration_for

        content = None if manifest is None else manifest["content"]
        calibrated = calibration_for(
            Path(calibration),
            table=table,
            predictions=predictions,
            content=content,
            data_content=data_content,
            transfer=transfer,
        )
    table = tables.grade_table(table, inferred=is_inferred(manifest))
    judged = find_judged(predictions, table)
    table = with_verdicts(table, judged)
    scenes = table[table["kind"] == "scene"]
    terms = find_terms(ontology, scenes["task"]) if len(scenes) else None
    notes = []
    if manifest is None:
        notes.append("no manifest beside the predictions: it is unknown what made them")
    if data is None:
        notes.append("no dataset given: no classes and steps; truth only where the file itself says it")
    notes += answer_notes(manifest["content"].get("endpoint") if manifest else None)
    metrics = measure(
        table,
        seed=seed,
        inputs=ScoreInputs(
            predictions_sha256=tables.predictions_sha256(table),
            predictions_content=manifest["content_hash"] if manifest else None,
            data_content=data_content,
            ontology=terms.content_hash if terms else None,
        ),
        terms=terms.at if terms else None,
        notes=notes,
        asked=asked_of(table, fields),
        calibration=calibrated,
        judged=judged,
    )
    if not metrics.complete:
        say(f"{predictions}: {coverage_note(metrics.n, metrics.asked or {})}")
    result = metrics.model_dump(mode="json")
    if plots is not None:
        from deckbench.score.curves import size_plots, stage_curve
        from deckbench.score.plots import write_plots

        more = [] if data is None else size_plots(table, Path(data), seed)
        write_plots(result, Path(plots), more=[*more, *([stage_curve(curves)] if curves else [])])
    if out is not None:
        scored = tables.table_bytes(table, tables.SCORED_COLUMNS)
        text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        artifact.atomic_write_all({scored_path(Path(out)): scored, Path(out): text})
    return result


def asked_of(table: Any, fields: Any) -> dict[str, int] | None:
    """How many questions of each kind the asked parts of the dataset hold; None where that is not known."""
    if fields is None:
        return None
    parts = {*table["split"]}
    kinds = fields.loc[fields["split"].isin(parts), "asked"]
    return {kind: int(n) for kind, n in kinds.value_counts().items()} if all(kinds) else None
