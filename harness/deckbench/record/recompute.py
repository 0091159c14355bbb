"""Does a record prove itself? Its metrics are measured again from its own samples, by the code that `score` uses, and
everything else it says is derived again from its lineage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from deckbench.errors import InputError
from deckbench.language import LANGS
from deckbench.predictions import CONTENT_NAME, answer_notes
from deckbench.record.calibration import Calibration, fit_differences
from deckbench.record.judge_metrics import select
from deckbench.record.judged import Judged, with_verdicts
from deckbench.record.lineage import Lineage, contradictions, plain
from deckbench.record.metrics import measure
from deckbench.record.questions import Question, asked_of, question_differences, thumbnail_differences
from deckbench.record.read import (
    Run,
    read_lineage,
    read_ontology,
    read_questions,
    read_record_calibration,
    read_record_judged,
    read_samples,
    read_thumbnails,
)
from deckbench.record.schema import Record, shown
from deckbench.record.table import grade_table, predictions_sha256
from deckbench.record.terms import Terms

GRADES = ("parsed", "right", "substring", "judge", "reason")


@dataclass(frozen=True)
class Contents:
    """What lies in a record beside record.json. rows: of the samples; thumbnails: name -> sha256 of what it shows."""

    lineage: Lineage
    questions: Mapping[str, Question]
    rows: Sequence[Mapping[str, str]] = ()
    terms: Terms | None = None
    calibration: Calibration | None = None
    judged: Judged | None = None
    thumbnails: Mapping[str, str | None] = field(default_factory=dict)


def differences(run: Run) -> tuple[str, ...]:
    """Why a record does not follow from what is in it, one line each; empty when it does. Found once for a run."""
    if run.found is None:
        try:
            found = record_differences(run.record, contents_of(run))
        except InputError as error:
            found = (error.message().splitlines()[0],)
        run.keep(found)
        return found
    return run.found


def contents_of(run: Run) -> Contents:
    """Everything in a record. Raises InputError for a file that is damaged, or not the one the record names."""
    return Contents(
        read_lineage(run),
        read_questions(run),
        read_samples(run),
        read_ontology(run),
        read_record_calibration(run),
        read_record_judged(run),
        read_thumbnails(run),
    )


def record_differences(record: Record, contents: Contents) -> tuple[str, ...]:
    """What of a record does not follow from its contents, one line each: from its lineage, questions and samples."""
    found = contradictions(record, contents.lineage)
    try:
        images = contents.lineage.dataset["files"]
        found += thumbnail_differences(contents.rows, contents.questions, contents.thumbnails, images)
    except (LookupError, TypeError, AttributeError) as error:
        found.append(f"its lineage cannot be followed ({type(error).__name__})")
    if record.metrics is None:
        return tuple(found)
    if contents.calibration is not None:
        try:
            found += calibration_differences(contents.calibration, record, contents)
        except (LookupError, TypeError, AttributeError) as error:
            found.append(f"its calibration cannot be followed ({type(error).__name__})")
    return (*found, *question_differences(contents.rows, contents.questions), *metric_differences(record, contents))


def metric_differences(record: Record, contents: Contents) -> tuple[str, ...]:
    """What of a record's metrics does not follow from its samples, one line each.

    Every answer is parsed and graded again and compared with the columns; every metric, interval and count is measured
    again, with the record's seed and number of resamples.
    """
    rows, terms = contents.rows, contents.terms
    metrics = record.metrics
    if metrics is None or not rows:
        return () if metrics is None else ("it has no samples",)
    table = pd.DataFrame({name: [row[name] for row in rows] for name in rows[0]}, dtype=object)
    found = [*part_differences(record, table), *count_differences(table, contents)]
    graded = with_verdicts(grade_table(table, inferred=False), contents.judged)
    if contents.judged is not None:
        found += judge_differences(contents.judged, graded)
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
        notes=answer_notes((contents.lineage.predictions or {}).get("endpoint")),
        asked=asked_of(contents.questions),
        resamples=metrics.resamples,
        calibration=contents.calibration,
        judged=contents.judged,
    )
    if again != metrics:
        changed = differing(metrics.model_dump(mode="json"), again.model_dump(mode="json"))
        path, old, new = changed[0]
        more = f" ({len(changed)} differences)" if len(changed) > 1 else ""
        found.append(f"{path} is {shown(old)}, the samples give {shown(new)}{more}")
    return tuple(found)


def calibration_differences(made: Calibration, record: Record, contents: Contents) -> list[str]:
    """Why a calibration is not one for this record: fitted again from its val answers, for the same model and dataset,
    on val, on no question of test. That the dataset is another one stands in the score (`transferred`)."""
    found, lineage, on = fit_differences(made), contents.lineage, made.fitted_on
    if on.model != (lineage.predictions or {}).get("inputs", {}).get("model"):
        found.append("the calibration was made for another model or adapter")
    manifest = on.manifest or {}
    if manifest.get("inputs", {}).get("data") != on.data_content:
        found.append("the calibration's dataset is not the one that its manifest names")
    if manifest.get("params", {}).get("split") != "val":
        found.append("the calibration was not fitted on val")
    elif manifest["files"][CONTENT_NAME]["sha256"] != plain(on.predictions_sha256):
        found.append("the calibration was fitted on other predictions than its manifest names")
    if tested := sorted(set(made.samples.id) & {*contents.questions}):
        found.append(f"the calibration was fitted on the test question {shown(tested[0])}")
    counts = (lineage.dataset.get("params", {}).get("counts") or {}).get("val")
    types = Counter(made.samples.question_type)
    same = plain(on.data_content) == plain(record.dataset)
    if same and counts is not None and (more := [name for name, n in sorted(types.items()) if n > counts.get(name, 0)]):
        found.append(f"the calibration has more samples of the type {shown(more[0])} than the dataset's val part")
    return found


def judge_differences(judged: Judged, graded: pd.DataFrame) -> list[str]:
    """Why what a judge said is not about these answers: all that it had to judge, and the choices that were drawn."""
    found = []
    if plain(judged.predictions_sha256) != predictions_sha256(graded):
        found.append("the judge was asked about other predictions")
    wanted = select(graded, judged.judge.calibration, judged.judge.seed)
    if [answer.id for answer in judged.answers] != graded["id"].iloc[wanted].tolist():
        found.append("the judge's answers are not those that it had to judge")
    return found


def part_differences(record: Record, table: pd.DataFrame) -> list[str]:
    """Why samples are not those of the record's questions: its whole test part, each sample once."""
    twice = table["id"][table["id"].duplicated()]
    found = [f"the sample {twice.iloc[0]} occurs twice"] if len(twice) else []
    allowed = {"task": {record.task}, "split": {"", "test"}}
    if record.stage is not None:
        allowed["stage"] = {"", record.stage}
    for name, values in allowed.items():
        found += [f"the samples are of the {name} {other or 'nothing'}" for other in sorted({*table[name]} - values)]
    return found


def count_differences(table: pd.DataFrame, contents: Contents) -> list[str]:
    """Why samples are not all that was answered: a server's manifest lists what it left out, a dataset's counts."""
    found = []
    missing = sorted({*contents.questions} - {*table["id"]})
    left_out = contents.lineage.left_out
    if left_out is not None and missing != sorted(left_out):
        found.append(f"{len(missing)} samples are missing, the predictions left out {len(left_out)}")
    params = contents.lineage.dataset.get("params", {})
    counts = (params.get("counts") or {}).get("test")
    types = dict(sorted(Counter(table["question_type"]).items()))
    if not missing and counts is not None and types != counts:
        found.append(f"the question types are {shown(types)}, the dataset counts {shown(counts)}")
    languages = {*table["lang"]} - {params.get("lang")}
    if params.get("lang") in LANGS and languages:
        found.append(f"samples are in {', '.join(sorted(languages)) or 'no language'}, the dataset is {params['lang']}")
    return found


def differing(a: Any, b: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """The places where two JSON values differ, with both."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted({*a, *b})
        return [found for key in keys for found in differing(a.get(key), b.get(key), f"{path}.{key}".strip("."))]
    return [] if a == b else [(path, a, b)]
