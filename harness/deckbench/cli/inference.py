"""Verbs that run a model: infer, ask, bench, bench-orin."""

from pathlib import Path
from typing import Annotated, Any

import typer

from deckbench.cli.app import app
from deckbench.cli.dispatch import dispatchable, options_of
from deckbench.cli.options import (
    Adapter,
    Condition,
    Curriculum,
    DataPath,
    Host,
    InputPath,
    Json,
    Limits,
    Model,
    OptionalText,
    Out,
    OutputPath,
    Record,
    Records,
    Seed,
    Text,
)
from deckbench.cli.show import show
from deckbench.progress import say
from deckbench.runners.kinds import Kind


@app.command(
    epilog="Example: deckbench infer --model tiny-glm4v --adapter adapters/S1 --data data/S1 --out preds/S1.csv"
)
@dispatchable()
def infer(
    model: Model,
    data: Annotated[DataPath, typer.Option(help="A dataset or a messages JSONL.")],
    out: Annotated[OutputPath, typer.Option("--out", help="FILE.csv; an unfinished one is resumed.")],
    adapter: Adapter = None,
    split: Annotated[Text, typer.Option(help="train, val or test.")] = "test",
    shard: Annotated[OptionalText, typer.Option(help="i/N: only this shard of the images.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N samples.")] = None,
) -> None:
    """Run inference on a dataset; resumes automatically."""
    from deckbench.infer import infer as run_infer
    from deckbench.predictions import unchecked_training

    made = run_infer(model=model, adapter=adapter, data=data, out=out, split=split, shard=shard, limit=limit)
    if (line := unchecked_training(made.content, made.observed)) is not None:
        say(line)
    say(f"predictions: {out}")


@app.command(epilog="Example: deckbench ask --model tiny-glm4v frame.jpg 'What is in slot 7?'")
def ask(
    frame: Annotated[InputPath, typer.Argument(help="An image.")],
    questions: Annotated[list[str], Kind.TEXT, typer.Argument(help="One or more questions.")],
    model: Model,
    adapter: Adapter = None,
    as_json: Json = False,
) -> None:
    """Ask a model questions about one frame."""
    from dataclasses import asdict

    from deckbench.cli.show import harmless
    from deckbench.infer import ask as run_ask

    answers = run_ask(model=model, adapter=adapter, frame=frame, questions=questions)
    lines = [f"{q} -> {harmless(a.text)}" for q, a in zip(questions, answers, strict=True)]
    show([asdict(answer) for answer in answers], as_json, lines)


def check_record(*, record: bool, adapter: Path | None, data: Path, **given: Any) -> None:
    """What a record of a bench needs is asked for before anything is measured: nothing else is lost."""
    if record:
        from deckbench.record import facts, provenance

        dataset = provenance.dataset_facts(data, given["condition"])
        facts.check_curriculum(given["curriculum"], adapter)
        model = facts.model_facts({"name": given["model"]}, None)
        provenance.check_fields(given["records"], **dataset, **model)


def record_bench(*, record: bool, out: Path, data: Path, **given: Any) -> None:
    """The record of a bench, where one is asked for."""
    if record:
        from deckbench.record import provenance

        options = {name: given[name] for name in ("records", "curriculum", "condition")}
        say(f"record: {provenance.record_bench(out, data=data, **options)}")


@app.command(epilog="Example: deckbench bench --model tiny-glm4v --data data/S3 --engine torch --out bench/tiny")
@dispatchable(before=check_record, then=record_bench)
def bench(
    model: Model,
    data: Annotated[DataPath, typer.Option(help="The dataset to take frames and questions from.")],
    out: Out,
    adapter: Adapter = None,
    engine: Annotated[Text, typer.Option(help="Inference engine: torch.")] = "torch",
    weights: Annotated[
        Text, typer.Option(help="checkpoint, or random: latency without a trained model.")
    ] = "checkpoint",
    min_seconds: Annotated[float, typer.Option(help="Minimum measurement time per question kind, in seconds.")] = 10.0,
    max_queries: Annotated[int, typer.Option(min=1, help="Maximum number of queries per question kind.")] = 5000,
    warmup: Annotated[int, typer.Option(min=0, help="Warm-up queries, excluded from the results.")] = 3,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Number of torch threads; default: torch's choice.")
    ] = None,
    record: Record = False,
    records: Records = None,
    curriculum: Curriculum = None,
    condition: Condition = None,
    as_json: Json = False,
    seed: Seed = 0,
) -> None:
    """Measure latency by stage and peak memory, one query at a time."""
    from deckbench.bench import bench as run_bench

    manifest = run_bench(
        model=model,
        adapter=adapter,
        data=data,
        engine=engine,
        out=out,
        seed=seed,
        weights=weights,
        min_seconds=min_seconds,
        max_queries=max_queries,
        warmup=warmup,
        threads=threads,
    )
    show(manifest.observed["results"], as_json, [f"bench: {out}"])


@app.command(
    "bench-orin",
    hidden=True,  # `bench` with a choice of machine: what `nox -s bench-orin` calls
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Takes all options of `deckbench bench`. Example: nox -s bench-orin -- --host ssh://lab@orin "
    "--model glm-4v-9b --data data/S3 --out bench/orin",
)
def bench_orin(
    context: typer.Context,
    host: Host = None,
    emulate: Annotated[
        bool, typer.Option("--emulate", help="Run the arm64 image on this machine under qemu; never ranked.")
    ] = False,
    image: Annotated[OptionalText, typer.Option("--image", help="Default: the one for the Orin's L4T release.")] = None,
    limits: Limits = None,
) -> None:
    """Run `bench` on a Jetson AGX Orin.

    Over ssh, or on this machine if it is one (without --host).
    """
    from deckbench.pipeline.bench_orin import bench as bench_there
    from deckbench.pipeline.bench_orin import find

    place = find(host, emulate=emulate, image=image)
    command = typer.main.get_command(app).commands["bench"]  # type: ignore[attr-defined]
    given = dict(command.make_context("deckbench bench", list(context.args)).params)
    for name in ("runner", "host", "image", "limits"):
        given.pop(name)
    code = bench_there(place, options_of(command, bench, given), limits)
    if code:
        raise typer.Exit(code)
