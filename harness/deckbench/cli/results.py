"""Verbs that work with answers and records: calibrate, score, compare, report, verify, run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from deckbench.cli.app import app
from deckbench.cli.dispatch import dispatchable, writes_output
from deckbench.cli.options import (
    Condition,
    Curriculum,
    ExtraOutput,
    InputPath,
    Json,
    NamedPools,
    OptionalData,
    OptionalInput,
    OptionalModel,
    OptionalText,
    OutputPath,
    PredictionsFile,
    Record,
    Records,
    Seed,
    SuiteRef,
    Text,
    WorkFolder,
)
from deckbench.cli.show import harmless, show
from deckbench.errors import AnswerIsNo, InputError
from deckbench.progress import say
from deckbench.runners.kinds import Kind


def check_record(*, record: bool, predictions: Path, data: Path | None, **given: Any) -> None:
    """What a record of a score needs is asked for before anything is written."""
    if record:
        from deckbench.record import facts, provenance

        content, _ = provenance.predictions_facts(predictions)
        dataset = provenance.dataset_facts(data, given["condition"])
        model = facts.model_facts(content["inputs"]["model"], given["curriculum"])
        provenance.check_fields(given["records"], **dataset, **model)


def check_score(**given: Any) -> None:
    """Before scoring: what a record needs, and the judge, which runs here."""
    check_record(**given)
    if given["judge"] is not None:
        from deckbench.judge import Options, judge
        from deckbench.predictions.columns import parse_columns
        from deckbench.record.scores import check_score_place

        check_score_place(given["out"])
        asked = Options(
            given["judge"],
            given["judge_repeats"],
            given["judge_swap"],
            given["judge_calibration"],
            given["seed"],
            given["max_cost"],
        )
        columns = None if given["columns"] is None else parse_columns(given["columns"])
        result = judge(given["predictions"], asked, data=given["data"], columns=columns)
        cost = f", cost {result['cost']:.4f} {result['currency']}" if "cost" in result else ""
        failed = f", {result['failed']} of them not given" if result["failed"] else ""
        say(f"judge: {result['verdicts']} verdicts on {result['answers']} answers{failed}{cost}")


def record_score(*, record: bool, out: Path, predictions: Path, data: Path | None, **given: Any) -> None:
    """The record of a score, where one is asked for."""
    if record:
        from deckbench.record import provenance

        names = ("records", "curriculum", "condition", "ontology", "calibration")
        options = {name: given[name] for name in names}
        say(f"record: {provenance.record_score(out, predictions=predictions, data=data, **options)}")


def calibration_lines(block: Mapping[str, Any] | None) -> list[str]:
    """What a calibration does to a score, for people."""
    if block is None:
        return []
    names = {"brier": "Brier score", "log_loss": "log loss", "ece": "calibration error"}
    sides = [[block[side][name]["value"] for side in ("before", "after")] for name in names]
    lines = [f"{words}: {old:.3f} -> {new:.3f}" for words, (old, new) in zip(names.values(), sides, strict=True)]
    for at in block["thresholds"]:
        rates = [at[name]["value"] for name in ("false_stop_rate", "miss_rate")]
        stops, misses = ("none" if rate is None else f"{rate:.1%}" for rate in rates)
        allowed = f"{at['allowed_false_stop_rate']:g} false stops allowed on val"
        lines.append(f"{allowed}: false stops {stops}, missed {misses}")
    return lines


@app.command(
    epilog="Example: deckbench calibrate preds/S2-val.csv --data data/S2 --out calibration.json, with answers of "
    "`deckbench infer --split val`; then: deckbench score preds/S2.csv --data data/S2 --calibration calibration.json"
)
@dispatchable()
def calibrate(
    predictions: Annotated[PredictionsFile, typer.Argument(help="FILE.csv of the val part.")],
    out: Annotated[OutputPath, typer.Option("--out", help="Output calibration.json; an older one is replaced.")],
    data: Annotated[OptionalData, typer.Option(help="The dataset, for types of questions, groups and parts.")] = None,
    false_stop: Annotated[
        list[float] | None, typer.Option(help="Choose a threshold at this false-stop rate; repeatable. [0.01 0.05 0.1]")
    ] = None,
    error: Annotated[
        list[float] | None, typer.Option(help="Choose an abstention at this error; repeatable. [0.01 0.05 0.1]")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Fit temperatures and thresholds to predictions on val.

    One temperature per type of question, thresholds on P(anomaly) at stated false-stop rates, and how sure an answer
    has to be at a stated error. `score --calibration` applies them to test.
    """
    from deckbench.calibrate import calibrate as run_calibrate

    made = run_calibrate(predictions, data=data, out=out, false_stops=false_stop, errors=error, seed=seed)
    for note in made.notes:
        say(harmless(note))
    lines = [
        f"{harmless(name) or 'no type'}: temperature {t.temperature:.3f} ({t.n} samples)"
        for name, t in made.temperatures.items()
    ]
    show(made.model_dump(mode="json", exclude={"samples"}), as_json, [*lines, f"calibration: {out}"])


@app.command(epilog="Example: deckbench score preds/S2.csv --data data/S2 --out scores/S2.json --record")
@dispatchable(before=check_score, then=record_score)
def score(
    predictions: Annotated[PredictionsFile, typer.Argument(help="FILE.csv made by `deckbench infer`.")],
    out: Annotated[OutputPath, typer.Option("--out", help="Output score.json; an older score is replaced.")],
    data: Annotated[OptionalData, typer.Option(help="The dataset, for classes, steps and groups.")] = None,
    plots: Annotated[ExtraOutput, typer.Option(help="Output folder for plots: SVG, PNG and CSV.")] = None,
    curve: Annotated[
        NamedPools, typer.Option(help="NAME=score.json, for the plot of stages: base, S1, S1+S2 ...; repeatable.")
    ] = None,
    ontology: Annotated[OptionalInput, typer.Option(help="Custom ontology yaml, for words in scene texts.")] = None,
    columns: Annotated[
        OptionalText, typer.Option(help="For other tools' CSV files: question=COLUMN,gold=COLUMN,prediction=COLUMN.")
    ] = None,
    calibration: Annotated[OptionalInput, typer.Option(help="Of `deckbench calibrate`: before and after.")] = None,
    transfer: Annotated[bool, typer.Option("--transfer", help="The calibration may be of another dataset.")] = False,
    judge: Annotated[
        OptionalModel,
        typer.Option(help="endpoint:NAME or endpoint:FILE.yaml: grades open, scene and unparsed answers."),
    ] = None,
    judge_repeats: Annotated[int, typer.Option(min=1, max=99, help="Times each answer is judged in each order.")] = 1,
    judge_swap: Annotated[bool, typer.Option(help="Judge in both orders of reference and answer.")] = True,
    judge_calibration: Annotated[
        int, typer.Option(min=0, help="Number of choices of known truth to judge, for the judge's own errors.")
    ] = 200,
    max_cost: Annotated[
        float | None, typer.Option(help="Most that all calls of the judge may cost, in the currency of its prices.")
    ] = None,
    record: Record = False,
    records: Records = None,
    curriculum: Curriculum = None,
    condition: Condition = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Score predictions: metrics with confidence intervals.

    With a judge: deckbench score preds/S3.csv --data data/S3 --judge endpoint:gpt.yaml --max-cost 2 --out score.json

    Old result files too: deckbench score OLD.csv --columns question=Q,gold=Answer,prediction=Output --out score.json
    """
    from deckbench.predictions import read_manifest, unchecked_training
    from deckbench.predictions.columns import parse_columns
    from deckbench.score import score as run_score
    from deckbench.score.curves import parse_curves

    names = None if columns is None else parse_columns(columns)
    result = run_score(
        predictions,
        data=data,
        out=out,
        plots=plots,
        curves=parse_curves(curve or []),
        seed=seed,
        ontology=ontology,
        columns=names,
        calibration=calibration,
        transfer=transfer,
    )
    manifest = None if columns else read_manifest(predictions)
    if manifest is not None and (line := unchecked_training(manifest["content"], manifest.get("observed") or {})):
        say(line)
    show(result, as_json, [*calibration_lines(result.get("calibration")), f"score: {out}"])


@app.command(
    epilog="Example: deckbench compare preds/base.csv preds/S2.csv --data data/S2; where errors sit: deckbench compare "
    "--stages S1.csv S2.csv S3.csv --data data/S1 --data data/S2 --data data/S3"
)
def compare(
    files: Annotated[list[Path], Kind.PREDICTIONS, typer.Argument(help="FILE.csv FILE.csv ... of the same samples.")],
    data: Annotated[
        list[Path] | None, Kind.DATA, typer.Option(help="The dataset, for groups; with --stages three, in order.")
    ] = None,
    stages: Annotated[
        bool, typer.Option("--stages", help="The files are one model's S1, S2 and S3: where does it lose anomalies?")
    ] = False,
    plots: Annotated[ExtraOutput, typer.Option(help="With --stages: output folder for a plot.")] = None,
    as_json: Json = False,
) -> None:
    """Compare prediction files of the same samples.

    Two: exact McNemar test and paired difference of accuracies. More: every pair, corrected by Holm, and shared ranks.
    With --stages: the same anomalies on the crop, in the box and in the whole frame, lost at perception, localisation
    or judgement.
    """
    if len(files) < 2:
        raise InputError("one prediction file is given", files[0], "give two or more")
    if plots is not None and not stages:
        raise InputError("only --stages has a plot", "--plots", "add --stages, or remove --plots")
    if stages:
        from deckbench.score.locate import locate, location_plot

        result = locate(files, data or [])
        if plots is not None:
            from deckbench.score.plots import write_plots

            write_plots({"kinds": {}}, plots, more=[location_plot(result)])
    elif data is not None and len(data) > 1:
        raise InputError("several datasets are given", "--data", "give one; three are for --stages")
    elif len(files) == 2:
        from deckbench.score.compare import compare as run_compare

        result = run_compare(*files, data=data[0] if data else None)
    else:
        from deckbench.score.several import compare_several

        result = compare_several(files, data=data[0] if data else None)
    show(result, as_json, [f"{key}: {value}" for key, value in result.items()])


def default_work_folder(given: Mapping[str, Any]) -> Path:
    """Where a suite runs if nothing is said: work/SUITE."""
    from deckbench.suite import load_suite

    return Path("work", load_suite(given["suite"])[0].name)


@app.command(epilog="Example: deckbench run demo --work work/demo; in a container: deckbench run demo --runner docker")
@dispatchable(default_output=default_work_folder)
def run(
    suite: Annotated[SuiteRef, typer.Argument(help="A suite yaml, or the name of an embedded one: demo, smoke.")],
    work: Annotated[WorkFolder, typer.Option(help="Folder for all outputs; default: work/SUITE.")] = None,
    pool: Annotated[NamedPools, typer.Option(help="DIR, or NAME=DIR: a pool that the suite takes.")] = None,
    only: Annotated[OptionalText, typer.Option(help="MODEL:CURRICULUM:DATA: run one row only.")] = None,
    as_json: Json = False,
) -> None:
    """Run a suite up to its leaderboard; resumes automatically.

    Finished steps are skipped, interrupted ones resumed.
    """
    from deckbench.pipeline.suite import run_suite

    result = run_suite(suite, work=work, only=only, pools=pool or [])
    show(result, as_json, [f"leaderboard: {result['page']}"])


GATE_WORDS = {"holds": "passes", "fails": "FAILS", "nothing to check": "nothing to check"}
SHOWN = 5  # reasons of a gate on a terminal; the page has more


@app.command(epilog="Example: deckbench report --records results/records --out results/site")
@writes_output
def report(
    out: Annotated[OutputPath, typer.Option("--out", help="Output folder; an older site is replaced.")],
    records: Annotated[InputPath, typer.Option(help="Folder of records.")] = Path("results/records"),
    check: Annotated[bool, typer.Option("--check", help="Also check the gates; exit 4 if one fails.")] = False,
    as_json: Json = False,
) -> None:
    """Render the HTML leaderboard from records."""
    from deckbench.report import report as run_report

    result = run_report(records, out=out, check=check)
    for message in result["broken"]:
        say(f"left out: {message.splitlines()[0]}")
    lines = [f"page: {(out / 'index.html').resolve().as_uri()}"] if result["site"] else []
    if check:
        lines += [f"{GATE_WORDS[gate['verdict']]}: {gate['name']}" for gate in result["gates"]]
        lines += [f"  {reason}" for gate in result["gates"] for reason in gate["reasons"][:SHOWN]]
    show(result, as_json, lines)
    if check and result["failed"]:
        raise AnswerIsNo(f"failed gates: {', '.join(result['failed'])}", records)


@app.command(epilog="Example: deckbench verify results/records/NAME --from infer")
def verify(
    record: Annotated[InputPath, typer.Argument(help="A record's folder.")],
    since: Annotated[Text, typer.Option("--from", help="Rerun from: score, infer or train.")] = "score",
    work: Annotated[
        OptionalInput, typer.Option(help="Work folder of the run, for what is reused; default: work/SUITE.")
    ] = None,
    signature: Annotated[bool, typer.Option("--signature", help="Also require a valid signature.")] = False,
    key: Annotated[OptionalInput, typer.Option(help="Public key that must have signed it (FILE.pub).")] = None,
    as_json: Json = False,
) -> None:
    """Rerun a record and report whether it reproduces. Exit 4 if not.

    Everything but scoring runs in a temporary folder. A record made in a container is rerun in its image, which is
    built if it is missing.
    """
    from deckbench.pipeline.verify import NOT_HERE
    from deckbench.pipeline.verify import verify as run_verify

    result = run_verify(record, since=since, work=work, signature=signature or key is not None, key=key)
    show(result, as_json, [f"{name}: {value}" for name, value in result.items()])
    if not result["reproduced"]:
        if result["verdict"] == NOT_HERE:
            raise AnswerIsNo(
                f"the record cannot be rerun here: {result['why']}", record, "`--from score` grades it again"
            )
        raise AnswerIsNo(f"the record does not reproduce: {result['verdict']}", record)


@app.command(epilog="Example: deckbench sign --new-key lab.key; deckbench sign results/records/* --key lab.key")
def sign(
    records: Annotated[list[Path] | None, Kind.INPUT, typer.Argument(help="Folders of records.")] = None,
    key: Annotated[OptionalInput, typer.Option(help="Private key to sign with: ed25519, PEM.")] = None,
    new_key: Annotated[
        ExtraOutput, typer.Option("--new-key", help="Make a private key here; FILE.pub is to be published.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign records, or make a key. A record that does not reproduce is not signed."""
    from deckbench.pipeline.sign import sign_records

    result = sign_records(records or [], key=key, new_key=new_key)
    lines = [f"{'key' if new_key else 'signed'}: {path}" for path in result["files"]]
    show(result, as_json, [*lines, f"by: {result['fingerprint']}"])
