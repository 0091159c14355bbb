"""The command line: parses, calls one step, prints. Heavy modules are imported by the verb that needs them."""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from deckbench import __version__
from deckbench.cli.containers import app as containers_app
from deckbench.errors import AnswerIsNo, DeckBenchError, InputError
from deckbench.progress import say

app = typer.Typer(
    name="deckbench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help='Which vision-language model can be trusted to watch an Opentrons OT-2 and say "stop"?',
    epilog="Examples: deckbench run demo --work work/demo; deckbench run demo --runner docker",
)
pool_app = typer.Typer(no_args_is_help=True, help="Pools of frames with YOLO labels: render, check, group.")
models_app = typer.Typer(no_args_is_help=True, help="Known models: list, check against reference tensors, pretrain.")
app.add_typer(pool_app, name="pool")
app.add_typer(models_app, name="models")
app.add_typer(containers_app, name="containers")

Seed = Annotated[int, typer.Option(help="Everything random is drawn from this number.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Out = Annotated[Path, typer.Option("--out", help="Where the result goes; must not exist yet.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes; default: all cores.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave broken frames out and list them in the manifest.")]
Model = Annotated[str, typer.Option("--model", help="A known name, a model folder, endpoint:NAME, a baseline.")]
Adapter = Annotated[Path | None, typer.Option("--adapter", help="LoRA weights made by `deckbench train`.")]
Runner = Annotated[str, typer.Option(help="local, docker (in a container), or auto: docker where it is ready.")]
Host = Annotated[str | None, typer.Option(help="ssh://USER@MACHINE: in a container there, data copied in and out.")]
ImageName = Annotated[str | None, typer.Option("--image", help="Default: the first that serves the model.")]
Limits = Annotated[str | None, typer.Option(help="Of a container: memory=GIB,minutes=N,pids=N; default: the image's.")]


def anywhere(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options that say where it runs; in a container, it runs there instead of here."""
    signature = inspect.signature(verb, eval_str=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter("context", keyword, annotation=typer.Context),
        inspect.Parameter("runner", keyword, default="local", annotation=Runner),
        inspect.Parameter("host", keyword, default=None, annotation=Host),
        inspect.Parameter("image", keyword, default=None, annotation=ImageName),
        inspect.Parameter("limits", keyword, default=None, annotation=Limits),
    ]

    @functools.wraps(verb)
    def run_there_or_here(
        *, context: typer.Context, runner: str, host: str | None, image: str | None, limits: str | None, **given: Any
    ) -> None:
        from deckbench.runners.dispatch import Asked, check_asked, run_elsewhere

        asked = Asked(runner, host, image, limits)
        check_asked(asked)
        code = run_elsewhere(verb.__name__, options_of(context.command, given), asked)
        if code is None:
            verb(**given)
        elif code:
            raise typer.Exit(code)

    parameters = [param.replace(kind=keyword) for param in signature.parameters.values()]
    run_there_or_here.__signature__ = signature.replace(parameters=[*parameters, *added])  # type: ignore[attr-defined]
    run_there_or_here.__annotations__ = {param.name: param.annotation for param in [*parameters, *added]}
    return run_there_or_here


def options_of(command: Any, given: Mapping[str, Any]) -> list[Any]:
    """What a verb was given, with the flags it is written with."""
    from deckbench.runners.dispatch import Option

    flags = {param.name: "" if param.param_type_name == "argument" else param.opts[0] for param in command.params}
    return [Option(name, flags[name], value) for name, value in given.items()]


def show(result: Any, as_json: bool, lines: list[str]) -> None:
    """A result on stdout: as JSON, or as lines for people."""
    print(json.dumps(result, indent=1, ensure_ascii=False) if as_json else "\n".join(lines))


def parse_size(text: str) -> tuple[int, int]:
    """`704x396` -> (704, 396). Raises InputError."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise InputError(f"cannot read {text!r} as a size", "--size", "write WIDTHxHEIGHT, such as 704x396") from None
    return width, height


def parse_factors(pairs: list[str]) -> dict[str, float]:
    """`["damaged_tip=10"]` -> {"damaged_tip": 10.0}. Raises InputError."""
    try:
        return {kind: float(factor) for kind, factor in (pair.split("=") for pair in pairs)}
    except ValueError:
        fix = "write KIND=FACTOR, such as --emphasis damaged_tip=10"
        raise InputError(f"cannot read {', '.join(pairs)!r}", "--emphasis", fix) from None


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """`["lr=0.001", "rank=8"]` -> {"lr": 0.001, "rank": 8}; values are YAML. Raises InputError."""
    import yaml

    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"cannot read {pair!r}", "--set", "write KEY=VALUE, such as --set lr=0.001")
        try:
            settings[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):  # ValueError: a date that no calendar has
            raise InputError(f"the value of {key!r} is not YAML", "--set", "quote it") from None
    return settings


@pool_app.command("synth", epilog="Example: deckbench pool synth pools/demo --frames 800 --seed 7")
def pool_synth(
    out: Annotated[Path, typer.Argument(help="The pool's folder; must not exist yet.")],
    frames: Annotated[int, typer.Option(help="How many frames.")],
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels.")] = "704x396",
    seed: Seed = 0,
    shifted: Annotated[bool, typer.Option("--shifted", help="Unseen poses, lights, labware, anomaly shapes.")] = False,
    emphasis: Annotated[
        list[str] | None, typer.Option(help="KIND=FACTOR: an anomaly FACTOR times as likely as usual; repeat.")
    ] = None,
    workers: Workers = None,
) -> None:
    """Render labelled frames of an OT-2 deck (the embedded default pool)."""
    from deckbench.pool.synth import synth_pool

    more = parse_factors(emphasis or [])
    synth_pool(out, frames=frames, size=parse_size(size), seed=seed, shifted=shifted, workers=workers, emphasis=more)
    say(f"pool: {out}")


@pool_app.command("check", epilog="Example: deckbench pool check pools/mine --json")
def pool_check(
    pool: Annotated[Path, typer.Argument(help="The pool's folder or its yaml.")], as_json: Json = False
) -> None:
    """Validate a YOLO pool; list every problem with file and line. Exit 2 when it has errors."""
    from deckbench.pool.check import check_pool

    report = check_pool(pool)
    show(report.as_dict(), as_json, report.lines())
    if not report.ok:
        raise InputError("the pool has errors (listed above)", pool, "fix them, or build with --skip-bad")


@pool_app.command("group", epilog=r"Example: deckbench pool group pools/mine --by 'regex:(run\d+)_' --out frames.csv")
def pool_group(
    pool: Annotated[Path, typer.Argument(help="The pool's folder or its yaml.")],
    by: Annotated[str, typer.Option(help="regex:R, time:60s or phash.")],
    out: Out,
) -> None:
    """Propose groups (frames that never stand on both sides of a split) for a pool that has none."""
    from deckbench.pool.group import group_pool

    group_pool(pool, by=by, out=out)
    say(f"groups: {out}")


@app.command(epilog="Example: deckbench build ot2-guided@1 --pool pools/demo --out data/S2")
@anywhere
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


@app.command(epilog="Example: deckbench train --model tiny-glm4v --data data/S1 --out adapters/S1 --set epochs=2")
@anywhere
def train(
    model: Model,
    data: Annotated[Path, typer.Option(help="The dataset to train on.")],
    out: Annotated[Path | None, typer.Option("--out", help="The adapter; default: adapters/MODEL-DATASET.")] = None,
    init: Annotated[Path | None, typer.Option(help="Go on from this adapter.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="yaml, or tiny-glm4v, tiny-phi3v, glm4v-9b, phi3-vision; default: the model's.")
    ] = None,
    gpus: Annotated[str | None, typer.Option(help="GPUs to train on, a rank each: 0,2,3.")] = None,
    nproc: Annotated[int | None, typer.Option(min=1, help="Ranks on this machine's CPU.")] = None,
    nnodes: Annotated[int, typer.Option(min=1, help="Machines that train together; give --rendezvous too.")] = 1,
    rendezvous: Annotated[str | None, typer.Option(help="HOST:PORT where several machines find each other.")] = None,
    feature_cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps the features of frozen vision between epochs and runs.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, goes over the yaml.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a broken training stopped.")] = False,
    seed: Seed = 0,
) -> None:
    """Fine-tune with LoRA; broken runs go on with --resume."""
    from deckbench.train import train as run_train
    from deckbench.train import train_in_ranks
    from deckbench.train.config import config_of
    from deckbench.train.launch import asked_places

    settings = [*(settings or []), *([] if feature_cache is None else [f"feature_cache={feature_cache}"])]
    overrides = parse_settings(settings)
    config = config or config_of(model)
    out = out or Path("adapters", f"{Path(model).name}-{data.resolve().name}")
    ranks = asked_places(gpus=gpus, nproc=nproc, nnodes=nnodes, rendezvous=rendezvous)
    if ranks is not None:
        command = ["train", "--model", model, "--data", str(data), "--out", str(out), "--seed", str(seed)]
        command += [] if init is None else ["--init", str(init)]
        command += [] if config is None else ["--config", str(config)]
        command += [part for setting in settings for part in ("--set", setting)]
        command += ["--resume"] if resume else []
        train_in_ranks(ranks, command, out=out, config=config, overrides=overrides, resume=resume)
        return  # the first rank has said where the adapter is
    run_train(model=model, data=data, out=out, init=init, config=config, overrides=overrides, resume=resume, seed=seed)
    if os.environ.get("RANK", "0") == "0":
        say(f"adapter: {out}")


@app.command(epilog="Example: deckbench merge --model tiny-glm4v --adapter adapters/S1 --out models/tiny-S1")
@anywhere
def merge(
    model: Model,
    adapter: Annotated[Path, typer.Option(help="The adapter to merge.")],
    out: Out,
    layout: Annotated[
        str, typer.Option(help="Names of the weights: official, for other tools, or native.")
    ] = "official",
) -> None:
    """Write a complete, loadable model folder: base plus adapter."""
    from deckbench.train.merge import merge as run_merge

    run_merge(model=model, adapter=adapter, out=out, layout=layout)
    say(f"model: {out}")


@app.command(
    epilog="Example: deckbench infer --model tiny-glm4v --adapter adapters/S1 --data data/S1 --out preds/S1.csv"
)
@anywhere
def infer(
    model: Model,
    data: Annotated[Path, typer.Option(help="A dataset or a messages JSONL.")],
    out: Annotated[Path, typer.Option("--out", help="FILE.csv; an unfinished one is taken up again.")],
    adapter: Adapter = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    shard: Annotated[str | None, typer.Option(help="i/N: only this part of the pictures.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N samples.")] = None,
) -> None:
    """Answer every sample of a dataset; goes on by itself where it was broken off."""
    from deckbench.infer import infer as run_infer

    run_infer(model=model, adapter=adapter, data=data, out=out, split=split, shard=shard, limit=limit)
    say(f"predictions: {out}")


@app.command(epilog="Example: deckbench ask --model tiny-glm4v frame.jpg 'What is in slot 7?'")
def ask(
    frame: Annotated[Path, typer.Argument(help="A picture.")],
    questions: Annotated[list[str], typer.Argument(help="One or more questions.")],
    model: Model,
    adapter: Adapter = None,
    as_json: Json = False,
) -> None:
    """Ask a few questions about one frame."""
    from dataclasses import asdict

    from deckbench.infer import ask as run_ask

    answers = run_ask(model=model, adapter=adapter, frame=frame, questions=questions)
    show([asdict(a) for a in answers], as_json, [f"{q} -> {a.text}" for q, a in zip(questions, answers, strict=True)])


@app.command(epilog="Example: deckbench score preds/S2.csv --data data/S2 --out scores/S2.json")
@anywhere
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


@app.command(epilog="Example: deckbench bench --model tiny-glm4v --data data/S3 --engine torch --out bench/tiny")
@anywhere
def bench(
    model: Model,
    data: Annotated[Path, typer.Option(help="The dataset whose frames and questions are asked.")],
    out: Out,
    adapter: Adapter = None,
    engine: Annotated[str, typer.Option(help="What executes the model: torch.")] = "torch",
    weights: Annotated[str, typer.Option(help="checkpoint, or random: times without a trained model.")] = "checkpoint",
    min_seconds: Annotated[float, typer.Option(help="At least so long for each kind of question.")] = 10.0,
    max_queries: Annotated[int, typer.Option(min=1, help="At most so many of each kind.")] = 5000,
    warmup: Annotated[int, typer.Option(min=0, help="Queries that are not counted, first.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch; default: its own choice.")] = None,
    as_json: Json = False,
    seed: Seed = 0,
) -> None:
    """Measure latency, its stages, and peak memory, one query after the other."""
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
    epilog="All options of `deckbench bench`, besides. Example: nox -s bench-orin -- --host ssh://lab@orin "
    "--model glm-4v-9b --data data/S3 --out bench/orin",
)
def bench_orin(
    context: typer.Context,
    host: Host = None,
    emulate: Annotated[bool, typer.Option("--emulate", help="The arm64 image here, under qemu; never ranked.")] = False,
    image: Annotated[str | None, typer.Option("--image", help="Default: the one for the Orin's L4T release.")] = None,
    limits: Limits = None,
) -> None:
    """`bench` on a Jetson AGX Orin: over ssh, or on this machine if it is one; needs no --host there."""
    from deckbench.pipeline.bench_orin import bench as bench_there
    from deckbench.pipeline.bench_orin import find

    place = find(host, emulate=emulate, image=image)
    command = typer.main.get_command(app).commands["bench"]  # type: ignore[attr-defined]
    given = dict(command.make_context("deckbench bench", list(context.args)).params)
    for name in ("runner", "host", "image", "limits"):
        given.pop(name)
    code = bench_there(place, options_of(command, given), limits)
    if code:
        raise typer.Exit(code)


@models_app.command("ls", epilog="Example: deckbench models ls")
def models_ls(as_json: Json = False) -> None:
    """List the known models."""
    from deckbench.models.load import known_models

    known = known_models()
    show(known, as_json, [f"{name}: {text}" for name, text in known.items()])


@models_app.command("check", epilog="Example: deckbench models check MODEL_DIR --cases CASES_DIR")
def models_check(
    folder: Annotated[Path, typer.Argument(help="A checkpoint folder.")],
    cases: Annotated[Path, typer.Option(help="Folder with cases-*.json and reference tensors.")],
    as_json: Json = False,
) -> None:
    """Does this checkpoint reproduce the original code's tensors here? Exit 4 when not."""
    from deckbench.models.check import check

    result = check(folder, cases)
    lines = [f"{key}: {value}" for key, value in result.items() if not isinstance(value, list | dict)]
    show(result, as_json, lines)
    if not result["passed"]:
        raise AnswerIsNo("the checkpoint does not reproduce the reference tensors", folder)


@models_app.command("pretrain", epilog="Example: deckbench models pretrain tiny-glm4v --pool pools/a --out models/base")
def models_pretrain(
    model: Annotated[str, typer.Argument(help="tiny-glm4v or tiny-phi3v")],
    pool: Annotated[list[Path], typer.Option(help="Synthetic pools; give it several times.")],
    out: Out,
    steps: Annotated[int | None, typer.Option(min=1, help="Default: the recipe's.")] = None,
    init: Annotated[Path | None, typer.Option(help="A base to go on from, instead of a fresh one.")] = None,
    lr: Annotated[float | None, typer.Option(min=0, help="Peak learning rate; default: the recipe's.")] = None,
    seed: Seed = 0,
) -> None:
    """Make the base of an embedded model again: it learns to name what stands on a deck."""
    from deckbench.models.pretrain import Recipe, pretrain

    given = {key: value for key, value in (("steps", steps), ("lr", lr)) if value is not None}
    pretrain(model, pool, out=out, recipe=Recipe(seed=seed, **given), init=init)  # type: ignore[arg-type]
    say(f"model: {out}")


@app.command(epilog="Example: deckbench run demo --work work/demo; in a container: deckbench run demo --runner docker")
@anywhere
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


@app.command(epilog="Example: deckbench doctor --host ssh://lab@orin --model glm-4v-9b")
def doctor(
    host: Annotated[str | None, typer.Option(help="Look at ssh://USER@MACHINE instead of this machine.")] = None,
    model: Annotated[str | None, typer.Option(help="Also: does this model fit? A known name or a folder.")] = None,
    as_json: Json = False,
) -> None:
    """What can this machine run, and what is missing? Changes nothing. Exit 4 when the answer is nothing, or no."""
    from deckbench.doctor import doctor as look
    from deckbench.doctor.show import lines, table

    report = look(host, model)
    if sys.stdout.isatty() and not as_json:
        table(report.findings)
    else:
        show(report.as_dict(), as_json, lines(report.findings))
    if report.answer:
        raise AnswerIsNo(report.answer, None, "see what is bad or absent above")


@app.command(epilog="Example: deckbench schema suite > suite.schema.json")
def schema(
    name: Annotated[str | None, typer.Argument(help="Such as suite, task, record; without: list them.")] = None,
    as_json: Json = False,
) -> None:
    """Print the JSON Schema of a kind of file, made from what reads it."""
    from deckbench.cli.schemas import KINDS, schema_of

    if name is None:
        about = {known: kind.about for known, kind in KINDS.items()}
        show(about, as_json, [f"{known}: {text}" for known, text in about.items()])
    else:
        show(schema_of(name), True, [])


def version(value: bool) -> None:
    """Print the version and leave."""
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Options that stand before the verb."""


def left_to_launcher(error: DeckBenchError) -> bool:
    """In a rank of `train`: leave the error to the launcher, which says it once."""
    from deckbench.train.launch import leave_word

    return leave_word(error)


def main() -> None:
    """Exit codes: 0 done, 2 wrong input, 3 outside failure, 4 the answer is no, 1 a bug, 130 interrupted."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    try:
        app(standalone_mode=True)
    except DeckBenchError as error:
        if not ("RANK" in os.environ and left_to_launcher(error)):
            print(f"deckbench: {error.message()}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("deckbench: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)


if __name__ == "__main__":
    main()
