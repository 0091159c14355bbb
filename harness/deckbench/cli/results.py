"""Verbs that work with answers and records: score, compare, report, verify, run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deckbench.cli.app import app
from deckbench.cli.dispatch import dispatchable
from deckbench.cli.options import Json, Seed
from deckbench.cli.show import show
from deckbench.errors import AnswerIsNo


@app.command(epilog="Example: deckbench score preds/S2.csv --data data/S2 --out scores/S2.json")
@dispatchable
def score(
    predictions: Annotated[Path, typer.Argument(help="FILE.csv made by `deckbench infer`.")],
    out: Annotated[Path, typer.Option("--out", help="Where score.json goes; an older score is replaced.")],
    data: Annotated[Path | None, typer.Option(help="The dataset: classes, steps and groups come from it.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for pictures.")] = None,
    ontology: Annotated[Path | None, typer.Option(help="Your own ontology yaml, for words in scene texts.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Score predictions: strict parse, intervals, miss and false-stop rates."""
    from deckbench.score import score as run_score

    result = run_score(predictions, data=data, out=out, plots=plots, seed=seed, ontology=ontology)
    show(result, as_json, [f"score: {out}"])


@app.command(epilog="Example: deckbench compare preds/base.csv preds/S2.csv --data data/S2")
def compare(
    first: Annotated[Path, typer.Argument(help="FILE.csv")],
    second: Annotated[Path, typer.Argument(help="FILE.csv of the same samples")],
    data: Annotated[Path | None, typer.Option(help="The dataset, for groups.")] = None,
    as_json: Json = False,
) -> None:
    """Compare two prediction files of the same samples (exact McNemar, paired difference)."""
    from deckbench.score.compare import compare as run_compare

    result = run_compare(first, second, data=data)
    show(result, as_json, [f"{key}: {value}" for key, value in result.items()])


@app.command(epilog="Example: deckbench run demo --work work/demo; in a container: deckbench run demo --runner docker")
@dispatchable
def run(
    suite: Annotated[str, typer.Argument(help="A suite yaml, or the name of an embedded one: demo, smoke.")],
    work: Annotated[Path | None, typer.Option(help="Where everything is made; default work/SUITE.")] = None,
    only: Annotated[str | None, typer.Option(help="MODEL:CURRICULUM:DATA, one row of the page alone.")] = None,
    as_json: Json = False,
) -> None:
    """Run a whole suite to its leaderboard; what is done is skipped, what was broken off goes on."""
    from deckbench.pipeline.suite import run_suite

    result = run_suite(suite, work=work, only=only)
    show(result, as_json, [f"leaderboard: {result['page']}"])


@app.command(epilog="Example: deckbench report --records results/records --out results/site")
def report(
    out: Annotated[Path, typer.Option("--out", help="The site's folder; an older site is replaced.")],
    records: Annotated[Path, typer.Option(help="Folder of records.")] = Path("results/records"),
    check: Annotated[bool, typer.Option("--check", help="Also hold the records against the gates; exit 4.")] = False,
    as_json: Json = False,
) -> None:
    """Render the HTML leaderboard from records."""
    from deckbench.report import report as run_report

    result = run_report(records, out=out, check=check)
    lines = [f"page: {(out / 'index.html').resolve().as_uri()}"] if result["site"] else []
    if check:
        lines += [f"{'holds' if gate['holds'] else 'FAILS'}: {gate['name']}" for gate in result["gates"]]
    show(result, as_json, lines)
    if check and result["failed"]:
        raise AnswerIsNo(f"gates that do not hold: {', '.join(result['failed'])}", records)


@app.command(epilog="Example: deckbench verify results/records/NAME --from infer")
def verify(
    record: Annotated[Path, typer.Argument(help="A record's folder.")],
    since: Annotated[str, typer.Option("--from", help="score, infer or train: what is done again.")] = "score",
    work: Annotated[Path | None, typer.Option(help="What it was made in, for what stays; default: work/SUITE.")] = None,
    as_json: Json = False,
) -> None:
    """Does this record reproduce from its inputs? Exit 4 when the answer is no.

    Everything but scoring is done in a temporary folder; a record from a container is done in its image, which is built
    where it is missing.
    """
    from deckbench.pipeline.verify import verify as run_verify

    result = run_verify(record, since=since, work=work)
    show(result, as_json, [f"{key}: {value}" for key, value in result.items()])
    if not result["reproduced"]:
        raise AnswerIsNo(f"the record does not reproduce: {result['verdict']}", record)
