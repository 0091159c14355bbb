"""Verbs that make and check datasets: build, mix, import, audit."""

from typing import Annotated

import typer

from deckbench.cli.app import app
from deckbench.cli.dispatch import dispatchable, writes_output
from deckbench.cli.options import (
    DataPath,
    InputPath,
    Json,
    OptionalInput,
    OptionalModel,
    OptionalPool,
    Out,
    PoolPath,
    RenamedFolders,
    Seed,
    SkipBad,
    SplitRef,
    TaskRef,
    Text,
    Texts,
    WeightedData,
    Workers,
)
from deckbench.cli.show import show
from deckbench.errors import AnswerIsNo, InputError
from deckbench.progress import say
from deckbench.runners.kinds import Kind

LEAKS = ("answer_in_question", "told_by_text")  # what a bank's report lists


@app.command(epilog="Example: deckbench build ot2-guided@1 --pool pools/demo --out data/S2")
@dispatchable()
def build(
    task: Annotated[
        TaskRef, typer.Argument(help="A task, e.g. ot2-concept@1, ot2-guided@1, ot2-scene@1; or its folder.")
    ],
    pool: Annotated[PoolPath, typer.Option(help="The pool's folder or its yaml.")],
    out: Out,
    ontology: Annotated[OptionalInput, typer.Option(help="Custom ontology yaml.")] = None,
    qa: Annotated[OptionalInput, typer.Option(help="Folder of custom question banks.")] = None,
    lang: Annotated[Text, typer.Option(help="en, zh or both.")] = "en",
    split: Annotated[
        SplitRef, typer.Option(help="group, pool, blocks=K,gap=G, test-only, or a folder made by `pool split`.")
    ] = "group",
    settings: Annotated[Texts, typer.Option("--set", help="Override a task option, KEY=VALUE; repeatable.")] = None,
    seed: Seed = 0,
    workers: Workers = None,
    skip_bad: SkipBad = False,
    export: Annotated[Text, typer.Option(help="Also export for other tools: swift, phi3v, or both.")] = "",
    max_leak: Annotated[
        float, typer.Option(min=0, max=1, help="Most open questions of --qa that may tell their answer, a fraction.")
    ] = 0.1,
) -> None:
    """Build a dataset from a task and a pool."""
    from deckbench.build import build_dataset
    from deckbench.build.export import parse_formats
    from deckbench.yamlfile import parse_settings

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
        max_leak=max_leak,
    )
    say(f"dataset: {out}")


@app.command(epilog="Example: deckbench mix data/S2 data/S1:0.3 --out data/S1_and_S2")
@writes_output
def mix(
    datasets: Annotated[WeightedData, typer.Argument(help="DATASET or DATASET:WEIGHT.")], out: Out, seed: Seed = 0
) -> None:
    """Mix datasets: one, and replayed parts of others."""
    from deckbench.build.mix import mix as mix_datasets
    from deckbench.runners.paths import split_weight

    parts = []
    for text in datasets:
        path, weight = split_weight(text)
        try:
            parts.append((path, float(weight.removeprefix(":") if weight else 1)))
        except ValueError:
            raise InputError(f"cannot read the weight {weight[1:]!r}", text, "write DATASET:0.3") from None
    mix_datasets(parts, out=out, seed=seed)
    say(f"dataset: {out}")


@app.command(
    "import",
    epilog="Example: deckbench import GLM_SFT/Singel --map region1=S1,all_box2=S2 --image-root /home/me/crops=crops "
    "--pool pools/mine --out data/old",
)
@writes_output
def import_(
    old: Annotated[InputPath, typer.Argument(help="Folder (or file) of existing JSONL, JSON or CSV files.")],
    out: Out,
    maps: Annotated[Texts, typer.Option("--map", help="FOLDER=STAGE,...: S1, S2, S3 or mix; repeatable.")] = None,
    image_roots: Annotated[
        RenamedFolders, typer.Option("--image-root", help="OLD=NEW: images of OLD are in NEW now; repeatable.")
    ] = None,
    pool: Annotated[OptionalPool, typer.Option(help="The pool of the images: gives frames and groups.")] = None,
    split: Annotated[Text, typer.Option(help="files, group, train-only or test-only.")] = "files",
    columns: Annotated[
        Texts,
        typer.Option(
            help="image=NAME,question=NAME,answer=NAME: columns of tables; ignore=NAME: a field to leave out."
        ),
    ] = None,
    seed: Seed = 0,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Import a lab's existing files as datasets.

    Rows that match nothing are listed in unmatched.csv.
    """
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


@app.command(epilog="Example: deckbench audit data/S2 --json; deckbench audit qa/S1 --task ot2-concept@1")
def audit(
    dataset: Annotated[DataPath, typer.Argument(help="A dataset, any folder of messages JSONL, or a question bank.")],
    task: Annotated[
        str | None, Kind.TASK, typer.Option(help="Of a bank: the task it is for; default: what `annotate` noted.")
    ] = None,
    ontology: Annotated[OptionalInput, typer.Option(help="Of a bank: custom ontology yaml.")] = None,
    max_leak: Annotated[
        float, typer.Option(min=0, max=1, help="Of a bank: most open questions that may tell their answer.")
    ] = 0.1,
    blind: Annotated[
        OptionalModel, typer.Option(help="Of a bank: an endpoint that is asked every question without the picture.")
    ] = None,
    as_json: Json = False,
    seed: Seed = 0,
) -> None:
    """Check a dataset for leakage and shortcuts, or a bank. Exit 4 if it fails."""
    from deckbench.questions import is_bank

    if is_bank(dataset):
        from deckbench.annotate.audit import audit_bank

        result = audit_bank(dataset, task=task, ontology=ontology, max_leak=max_leak, blind=blind)
        fix = "edit the questions that are listed (--json lists all)"
    else:
        from deckbench.build.audit import audit as run_audit

        result = run_audit(dataset, seed=seed)
        fix = "split by group, remove the duplicates, or balance"
    lines = [f"{key}: {value}" for key, value in result.items() if not isinstance(value, dict | list)]
    lines += [f"{one['where']}: {one['question']}" for key in LEAKS for one in result.get(key, ())]
    show(result, as_json, [*lines, *result["reasons"]])
    if not result["passed"]:
        raise AnswerIsNo("the audit failed (see above)", dataset, fix)
