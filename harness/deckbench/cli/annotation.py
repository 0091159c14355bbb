"""The verb that has a model write: annotate."""

from typing import Annotated, Any

import typer

from deckbench.cli.app import app
from deckbench.cli.dispatch import writes_output
from deckbench.cli.options import (
    ExtraOutput,
    InputPaths,
    Json,
    OptionalInput,
    OptionalModel,
    OptionalPool,
    OptionalText,
    Out,
    SkipBad,
    Text,
)
from deckbench.cli.show import harmless, show
from deckbench.errors import InputError
from deckbench.progress import say
from deckbench.runners.kinds import Kind

EXAMPLES = (
    "Example: deckbench annotate ot2-scene@1 --pool pools/demo --out qa/S3 --model endpoint:gpt.yaml --lang both "
    "--max-cost 5; deckbench annotate ot2-concept@1 --pool pools/demo --out qa/S1 --model endpoint:gpt.yaml --dry-run; "
    "deckbench annotate --merge qa/1 --merge qa/2 --out qa/S3"
)


@app.command(epilog=EXAMPLES)
@writes_output
def annotate(
    out: Out,
    task: Annotated[str | None, Kind.TASK, typer.Argument(help="A task, e.g. ot2-concept@1, or its folder.")] = None,
    pool: Annotated[OptionalPool, typer.Option(help="The pool's folder or its yaml.")] = None,
    model: Annotated[OptionalModel, typer.Option(help="Who writes: endpoint:NAME or endpoint:FILE.yaml.")] = None,
    ontology: Annotated[OptionalInput, typer.Option(help="Custom ontology yaml.")] = None,
    lang: Annotated[Text, typer.Option(help="en, zh or both.")] = "en",
    prompt: Annotated[OptionalInput, typer.Option(help="An edited copy of the prompt.")] = None,
    with_image: Annotated[bool, typer.Option("--with-image", help="Send the frame too (S3).")] = False,
    pairs: Annotated[int, typer.Option(min=1, max=20, help="Questions about a class (S2).")] = 4,
    phrasings: Annotated[int, typer.Option(min=1, max=20, help="Phrasings of each topic (S1).")] = 3,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N frames, checks or classes.")] = None,
    shard: Annotated[OptionalText, typer.Option(help="i/N: only this shard; --merge puts them together.")] = None,
    merge: Annotated[InputPaths, typer.Option(help="A shard that was written; repeatable. Asks nothing.")] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="Stop before the calls cost more, in the endpoint's currency.")
    ] = None,
    tries: Annotated[int, typer.Option(min=1, max=10, help="Answers to one request until one is accepted.")] = 3,
    batch: Annotated[bool, typer.Option("--batch", help="Use the Batch API: half the price, within 24 hours.")] = False,
    calls: Annotated[ExtraOutput, typer.Option(help="File of paid calls; default: OUT.calls.jsonl.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only estimate calls, tokens and cost.")] = False,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Have a model write question banks or scene texts.

    S1 and S2: banks, one file a class; S3: a description and judgement of each frame or check. All are checked against
    the labels. An interrupted run resumes with the same command; what was paid is not paid again.
    """
    if merge:
        from deckbench.annotate import merge as merge_shards

        made = merge_shards(merge, out=out)
        show({"out": str(out), "content_hash": made.content_hash}, as_json, [f"{out}: {made.content_hash}"])
        return
    if task is None or pool is None or model is None:
        what = "TASK, --pool and --model are needed"
        raise InputError(what, "annotate", "or give shards that were written with --merge")
    from deckbench.annotate import annotate as run_annotate
    from deckbench.annotate import preview

    asked: dict[str, Any] = {
        "pool": pool,
        "model": model,
        "ontology": ontology,
        "lang": lang,
        "prompt": prompt,
        "with_image": with_image,
        "pairs": pairs,
        "phrasings": phrasings,
        "limit": limit,
        "shard": shard,
        "batch": batch,
        "skip_bad": skip_bad,
    }
    if dry_run:
        estimate, first = preview(task, **asked)
        lines = [estimate.line(), *(f"\n{name}: {harmless(text)}" for name, text in first.items())]
        show({**estimate.as_json(), "first": first}, as_json, lines)
        return
    made = run_annotate(task, out=out, max_cost=max_cost, tries=tries, calls=calls, **asked)
    if as_json:
        show({"content_hash": made.content_hash, **made.content["params"]["counts"], **made.observed}, True, [])
    elif shard is not None:
        say(f"when all shards are written: deckbench annotate --merge {out} --merge ... --out QA")
    else:
        say(f"build with: deckbench build {task} --pool {pool} --qa {out} --out DATASET")
