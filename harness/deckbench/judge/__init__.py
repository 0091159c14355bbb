"""Answers graded by a model behind a server: a second opinion, and how far it can be trusted. See docs/judge.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.progress import say

if TYPE_CHECKING:
    import pandas as pd

    from deckbench.endpoint.structured import Outcome

CALIBRATION = 200  # choices of known truth
LETTERS = {"correct": "c", "incorrect": "i", "unclear": "u"}
NO_VERDICT = "x"


@dataclass(frozen=True)
class Options:
    """How a judge is asked. repeats: times in each order. swapped: in both orders of reference and answer.
    calibration: choices of known truth that are judged too, at most. max_cost: of all calls about these predictions."""

    model: str
    repeats: int = 1
    swapped: bool = True
    calibration: int = CALIBRATION
    seed: int = 0
    max_cost: float | None = None


def judge(
    predictions: Path, options: Options, *, data: Path | None = None, columns: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Have a model grade the open, scene and unparsed answers of a prediction file, and some whose truth is known.

    Writes `FILE.judge.json` (`record.judged.Judged`) and `FILE.judge.transcript.jsonl` beside the predictions. Every
    call is kept in `FILE.judge.calls.jsonl` before it is used: what was answered is never asked, or paid, again.

    Args:
        predictions: FILE.csv.
        options: how the judge is asked.
        data: the dataset the predictions were made on.
        columns: of a result file of another tool (`predictions.columns`).

    Returns:
        `answers`: how many were judged; `verdicts`: how many were asked for, `failed`: of these, those not given; and
        what was observed of the server and paid to it.

    Raises:
        InputError: the predictions are broken, or the model is no server.
        OutsideError: the server fails for good, or the next call may exceed the cost; what was answered is kept.
    """
    from deckbench.endpoint.spec import PREFIX, find_server, identity_of, read_spec
    from deckbench.endpoint.structured import answer_all, estimate, open_calls, replay, transcript
    from deckbench.judge.prompt import request_for, template
    from deckbench.record import table as tables
    from deckbench.record.judge_metrics import select
    from deckbench.record.judged import Judged, JudgedAnswer, judged_bytes, judged_path
    from deckbench.record.metrics_schema import JudgeRef

    predictions = Path(predictions)
    if not options.model.startswith(PREFIX):
        raise InputError(
            f"{options.model} cannot judge", "--judge", f"give a server: {PREFIX}NAME or {PREFIX}FILE.yaml"
        )
    spec = read_spec(options.model)
    table = read_graded(predictions, data, columns)
    wanted = select(table, options.calibration, options.seed)
    names = [("", False), ("/", True)] if options.swapped else [("", False)]
    requests, rows = [], table.to_dict("records")
    for at in wanted:
        row = {str(name): str(cell) for name, cell in rows[at].items()}
        requests += [
            request_for(f"{row['id']}\n{int(swapped)}\n{repeat}", row, swapped=swapped, repeat=repeat)
            for _, swapped in names
            for repeat in range(options.repeats)
        ]
    beside = {kind: predictions.with_name(f"{predictions.stem}.judge.{kind}.jsonl") for kind in ("calls", "transcript")}
    with open_calls(beside["calls"]) as calls:
        done = replay(requests, spec, calls)
        if any(outcome is None for outcome in done):
            say(estimate(requests, spec, calls).line())
            run = answer_all(requests, spec, find_server(spec), calls, max_cost=options.max_cost, what="judging")
            outcomes, observed = list(run.outcomes), run.observed
        else:
            outcomes, observed = [outcome for outcome in done if outcome is not None], {"paid_before": len(done)}
        per = len(requests) // len(wanted) if wanted else 1
        given = [outcomes[at * per : (at + 1) * per] for at in range(len(wanted))]
        answers = [
            JudgedAnswer(id=rows[at]["id"], **said_of(part, options.repeats))
            for at, part in zip(wanted, given, strict=True)
        ]
        ref = JudgeRef(
            model=spec.label,
            identity=identity_of(spec)["hash"],
            prompt=template().ref,
            prompt_sha256=template().sha256,
            repeats=options.repeats,
            swapped=options.swapped,
            calibration=options.calibration,
            seed=options.seed,
        )
        judged = Judged(predictions_sha256=tables.predictions_sha256(table), judge=ref, answers=tuple(answers))
        keys = dict.fromkeys(key for outcome in outcomes for key in outcome.calls)
        text = transcript(calls, keys)
    artifact.atomic_write_all({judged_path(predictions): judged_bytes(judged), beside["transcript"]: text})
    every = "".join(answer.calls for answer in answers)
    return {"answers": len(answers), "verdicts": len(requests), "failed": every.count(NO_VERDICT), **observed}


def read_graded(predictions: Path, data: Path | None, columns: Mapping[str, str] | None) -> pd.DataFrame:
    """The graded table of a prediction file, as `score` makes it. Raises InputError."""
    from deckbench.predictions import is_inferred, read_manifest
    from deckbench.predictions.columns import read_columns
    from deckbench.predictions.read import read_predictions
    from deckbench.record import table as tables

    if columns and data is not None and "id" not in columns:
        raise InputError("a dataset is joined by ids, and --columns names none", "--columns", "add id=COLUMN to it")
    table = read_columns(predictions, columns) if columns else read_predictions(predictions)
    manifest = None if columns else read_manifest(predictions)
    if data is not None:
        tables.check_data(manifest, predictions, data)
    fields = None if data is None else tables.read_fields(data)
    return tables.grade_table(tables.join(table, predictions, fields), inferred=is_inferred(manifest))


def said_of(outcomes: Sequence[Outcome], repeats: int) -> dict[str, str]:
    """`calls` and `reason` of one answer, from the outcomes of its requests: in the first order, then the other."""
    from deckbench.record.judged import MAX_REASON, verdict_of

    letters = "".join(LETTERS[o.value.verdict] if o.status == "answered" else NO_VERDICT for o in outcomes)
    calls = "/".join(letters[at : at + repeats] for at in range(0, len(letters), repeats))
    verdict = verdict_of(calls)
    reasons = [o.value.reason for o in outcomes if o.status == "answered" and o.value.verdict == verdict]
    reasons += [" ".join(o.reasons) for o in outcomes if o.status != "answered"] if verdict == "ungraded" else []
    text = " ".join(next(iter(reasons), "").split())
    return {"calls": calls, "reason": text if len(text) <= MAX_REASON else f"{text[: MAX_REASON - 1]}…"}
