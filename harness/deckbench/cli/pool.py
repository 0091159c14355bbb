"""`deckbench pool ...`: parses, calls, prints."""

from typing import Annotated

import typer

from deckbench.cli.app import pool_app
from deckbench.cli.dispatch import writes_output
from deckbench.cli.options import (
    FileOrAddress,
    FileOrName,
    InputPath,
    Json,
    OptionalInput,
    OptionalText,
    Out,
    OutputPath,
    PoolPath,
    Seed,
    SkipBad,
    Text,
    Texts,
    Workers,
)
from deckbench.cli.parse import parse_checks, parse_factors, parse_size
from deckbench.cli.show import show
from deckbench.errors import InputError
from deckbench.progress import say


@pool_app.command("synth", epilog="Example: deckbench pool synth pools/demo --frames 800 --seed 7")
@writes_output
def pool_synth(
    out: Annotated[OutputPath, typer.Argument(help="The pool's folder; must not exist yet.")],
    frames: Annotated[int, typer.Option(help="Number of frames.")],
    size: Annotated[Text, typer.Option(help="WIDTHxHEIGHT in pixels.")] = "704x396",
    seed: Seed = 0,
    shifted: Annotated[
        bool, typer.Option("--shifted", help="Unseen poses, lighting, labware and anomaly shapes.")
    ] = False,
    emphasis: Annotated[
        Texts, typer.Option(help="KIND=FACTOR: an anomaly FACTOR times as likely as usual; repeatable.")
    ] = None,
    protocol: Annotated[
        FileOrName, typer.Option(help="A protocol, its analysis, or pcr-setup: render its runs, with checks.csv.")
    ] = None,
    workers: Workers = None,
) -> None:
    """Render labelled frames of an OT-2 deck: the default pool."""
    from deckbench.pool.synth import synth_pool

    more = parse_factors(emphasis or [])
    synth_pool(
        out, frames=frames, size=parse_size(size), seed=seed, shifted=shifted, workers=workers, emphasis=more,
        protocol=protocol,
    )  # fmt: skip
    say(f"pool: {out}")


@pool_app.command("import", epilog="Example: deckbench pool import sdls downloads/sdls --out pools/sdls")
@writes_output
def pool_import(
    name: Annotated[Text, typer.Argument(metavar="FORMAT", help="Which data set: sdls.")],
    source: Annotated[InputPath, typer.Argument(help="The folder with the data set's own files.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Import another data set's own files as a pool with checks.

    Every record that gives no check is listed in POOL/refused.csv.
    """
    from deckbench.pool.importing.run import import_pool

    counts = import_pool(name, source, out=out)
    show({"out": str(out), **counts}, as_json, [f"pool: {out}"])


@pool_app.command("check", epilog="Example: deckbench pool check pools/mine --json")
def pool_check(
    pool: Annotated[PoolPath, typer.Argument(help="The pool's folder or its yaml.")],
    labels_only: Annotated[
        bool, typer.Option("--labels-only", help="Check yaml, labels and tables; open no image.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Validate a YOLO pool; list every problem with file and line. Exit 2 if it has errors."""
    from deckbench.pool.check import check_pool

    report = check_pool(pool, labels_only=labels_only)
    show(report.as_dict(), as_json, report.lines())
    if not report.ok:
        fix = "fix them" if report.skipping_does_not_help else "fix them, or build with --skip-bad"
        raise InputError("the pool has errors (listed above)", pool, fix)


@pool_app.command("group", epilog=r"Example: deckbench pool group pools/mine --by 'regex:(run\d+)_' --out frames.csv")
@writes_output
def pool_group(
    pool: Annotated[PoolPath, typer.Argument(help="The pool's folder or its yaml.")],
    by: Annotated[Text, typer.Option(help="regex:R, time:60s or phash.")],
    out: Out,
) -> None:
    """Propose groups for a pool that has none.

    A group is frames that a split never separates, such as one session.
    """
    from deckbench.pool.group import group_pool

    group_pool(pool, by=by, out=out)
    say(f"groups: {out}")


@pool_app.command("split", epilog="Example: deckbench pool split pools/demo --out splits/demo --seed 7")
@writes_output
def pool_split(
    pool: Annotated[PoolPath, typer.Argument(help="The pool's folder or its yaml.")],
    out: Out,
    split: Annotated[Text, typer.Option(help="group, pool, blocks=K,gap=G or test-only.")] = "group",
    seed: Seed = 0,
    skip_bad: SkipBad = False,
    workers: Workers = None,
) -> None:
    """Split a pool once for all stages, for `build --split OUT`."""
    from deckbench.pool.split import split_pool

    split_pool(pool, out=out, split=split, seed=seed, skip_bad=skip_bad, workers=workers)
    say(f"split: {out}")


@pool_app.command(
    "from-run",
    epilog="Example: deckbench pool from-run --protocol analysis.json --run run.json --frames frames --out pools/run1",
)
@writes_output
def pool_from_run(
    protocol: Annotated[
        InputPath, typer.Option(help="The protocol's analysis (of the robot, the app or opentrons), or the protocol.")
    ],
    run: Annotated[
        FileOrAddress, typer.Option(help="The run log: saved commands of the run, or http://HOST:31950/runs/ID.")
    ],
    frames: Annotated[InputPath, typer.Option(help="Folder of the frames.")],
    out: Out,
    times: Annotated[
        OptionalText, typer.Option(help="Frame times: exif, name, or name:PATTERN like name:cam_%Y%m%d-%H%M%S.")
    ] = None,
    times_csv: Annotated[OptionalInput, typer.Option(help="Frame times: a csv `frame,time` instead.")] = None,
    zone: Annotated[
        OptionalText, typer.Option(help="The camera's time zone: UTC, +08:00 or Asia/Shanghai; default: UTC.")
    ] = None,
    offset: Annotated[
        float | None, typer.Option(help="Seconds added to frame times to have the robot's; default: estimated.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="Frames so near to a command's start or end are ambiguous, in seconds.")
    ] = None,
    max_offset: Annotated[float, typer.Option(help="Largest offset that is tried, in seconds.")] = 120.0,
    labels: Annotated[OptionalInput, typer.Option(help="Verdicts: a csv `frame,check,verdict`.")] = None,
    checks: Annotated[
        Text, typer.Option(help="step: what the command is about; all: everything that can be seen.")
    ] = "step",
    texts: Annotated[OptionalInput, typer.Option(help="Templates of steps and checks; default: the package's.")] = None,
) -> None:
    """Make a pool with checks from the frames of a robot run."""
    from deckbench.pool.run import pool_from_run

    pool_from_run(
        protocol=protocol, run=run, frames=frames, out=out, times=times, times_csv=times_csv, zone=zone,
        offset_s=offset, margin_s=margin, max_offset_s=max_offset, labels=labels, checks=parse_checks(checks),
        texts=texts,
    )  # fmt: skip
    say(f"pool: {out}")
