"""Verbs that make and check datasets: build, mix, import, audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deckbench.cli.app import app
from deckbench.cli.dispatch import dispatchable
from deckbench.cli.options import Json, Out, Seed, SkipBad, Workers
from deckbench.cli.parse import parse_settings
from deckbench.cli.show import show
from deckbench.errors import AnswerIsNo, InputError
from deckbench.progress import say


@app.command(epilog="Example: deckbench build ot2-guided@1 --pool pools/demo --out data/S2")
@dispatchable
def build(
    task: Annotated[str, typer.Argument(help="Such as ot2-concept@1, ot2-guided@1, ot2-scene@1.")],
    pool: Annotated[Path, typer.Option(help="The pool's folder or its yaml.")],
    out: Out,
    ontology: Annotated[Path | None, typer.Option(help="Your own ontology yaml.")] = None,
    qa: Annotated[Path | None, typer.Option(help="Your own question banks.")] = None,
    lang: Annotated[str, typer.Option(help="en, zh or both.")] = "en",
    split: Annotated[str, typer.Option(help="group, pool, blocks=K,gap=G or test-only.")] = "group",
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, a task option.")] = None,
    seed: Seed = 0,
    workers: Workers = None,
    skip_bad: SkipBad = False,
    export: Annotated[str, typer.Option(help="Also write it for other tools: swift, phi3v, or both.")] = "",
) -> None:
    """Make a dataset from a task and a pool."""
    from deckbench.build import build_dataset
    from deckbench.build.export import parse_formats

    options = parse_settings(settings or [])
    build_dataset(
        task,
        pool=pool,
        out=out,
        ontology=ontology,
        qa=qa,
        lang=lang,
        split=split,
        options=options,
        seed=seed,
        workers=workers,
        skip_bad=skip_bad,
        export=parse_formats(export),
    )
    say(f"dataset: {out}")


@app.command(epilog="Example: deckbench mix data/S2 data/S1:0.3 --out data/S1_and_S2")
def mix(
    datasets: Annotated[list[str], typer.Argument(help="DATASET or DATASET:WEIGHT.")], out: Out, seed: Seed = 0
) -> None:
    """Make the incremental training set: one dataset with others replayed."""
    from deckbench.build.mix import mix as mix_datasets

    parts = []
    for text in datasets:
        path, colon, weight = text.rpartition(":")
        try:
            parts.append((Path(path), float(weight)) if colon and not Path(text).exists() else (Path(text), 1.0))
        except ValueError:
            raise InputError(f"cannot read the weight {weight!r}", text, "write DATASET:0.3") from None
    mix_datasets(parts, out=out, seed=seed)
    say(f"dataset: {out}")


@app.command(
    "import",
    epilog="Example: deckbench import GLM_SFT/Singel --map region1=S1,all_box2=S2 --image-root /home/me/crops=crops "
    "--pool pools/mine --out data/old",
)
def import_(
    old: Annotated[Path, typer.Argument(help="The folder (or file) with old JSONL, JSON or CSV files.")],
    out: Out,
    maps: Annotated[list[str] | None, typer.Option("--map", help="FOLDER=STAGE,...: S1, S2, S3 or mix.")] = None,
    image_roots: Annotated[
        list[str] | None, typer.Option("--image-root", help="OLD=NEW: where the pictures of OLD lie now.")
    ] = None,
    pool: Annotated[Path | None, typer.Option(help="The pool the pictures come from: gives frames, groups.")] = None,
    split: Annotated[str, typer.Option(help="files, group, train-only or test-only.")] = "files",
    columns: Annotated[
        list[str] | None, typer.Option(help="image=NAME,question=NAME,answer=NAME: columns of tables.")
    ] = None,
    seed: Seed = 0,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Make datasets from a lab's old files; every row that matches nothing is listed in unmatched.csv."""
    from deckbench.build import import_old

    result = import_old(
        old,
        out=out,
        maps=maps or [],
        image_roots=image_roots or [],
        pool=pool,
        split=split,
        columns=columns or [],
        seed=seed,
        skip_bad=skip_bad,
    )
    show(result, as_json, [f"{name}: {one['counts']}" for name, one in result["datasets"].items()])
    say(f"datasets: {out}" if len(result["datasets"]) > 1 else f"dataset: {out}")


@app.command(epilog="Example: deckbench audit data/S2 --json")
def audit(
    dataset: Annotated[Path, typer.Argument(help="A dataset, or any folder of messages JSONL.")],
    as_json: Json = False,
    seed: Seed = 0,
) -> None:
    """Look for leakage across the split and for shortcuts. Exit 4 when the dataset fails."""
    from deckbench.build.audit import audit as run_audit

    result = run_audit(dataset, seed=seed)
    lines = [f"{key}: {value}" for key, value in result.items() if not isinstance(value, dict | list)]
    show(result, as_json, lines)
    if not result["passed"]:
        raise AnswerIsNo("the audit failed (see above)", dataset, "split by group, remove the duplicates, or balance")
