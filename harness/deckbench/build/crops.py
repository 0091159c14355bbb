"""`picture: crop` (S1): what is in a crop, which state it is in, what it is for."""

from __future__ import annotations

from deckbench.build.plan import (
    Context,
    Unit,
    View,
    ViewQuestion,
    asked_of,
    by_rank,
    choose,
    find_decoys,
    kind_twins,
    presence_twins,
)

LEAST_PIXELS = 4  # a label with a shorter side shows nothing


def plan(ctx: Context, split: str) -> list[Unit]:
    """The questions of one split."""
    options = ctx.task.options
    views = choose(
        ctx,
        split,
        (view for index in ctx.members(split) for view in ctx.views(index, "c") if _usable(ctx, split, view)),
        options.per_class(split),
        options.max_boxes_per_frame,
    )
    units: list[Unit] = []
    for view in views:
        spec = ctx.ontology.classes[str(view.cls)]
        for question in ctx.questions("kind", "state", "fact"):
            if question.kind != "open" or not asked_of(question, view.cls):
                continue
            if (question.about == "state" and spec.state is None) or (
                question.about == "fact" and question.fact not in spec.facts
            ):
                ctx.left.add("the ontology has no answer for the class", split, f"{question.id}:{view.cls}")
                continue
            units.append((ViewQuestion(view, question, str(view.cls), cls=view.cls),))
    units += kind_twins(ctx, views, split, "kind")
    units += kind_twins(ctx, views, split, "state")
    order = list(views)
    if ctx.asks_presence:
        pairs = find_decoys(ctx, split, [view for view in views if ctx.ontology.classes[str(view.cls)].decoy])
        units += presence_twins(ctx, pairs)
        decoys = dict(pairs)
        order = [each for view in views for each in (view, decoys.get(view)) if each is not None]
    return by_rank(units, order)


def _usable(ctx: Context, split: str, view: View) -> bool:
    frame = ctx.frames[view.frame]
    if not ctx.ontology.classes[str(view.cls)].local:
        ctx.left.add("a crop alone does not show it", split, str(view.cls))
        return False
    assert view.box is not None
    x0, y0, x1, y1 = view.box
    if min((x1 - x0) * frame.width, (y1 - y0) * frame.height) < LEAST_PIXELS:
        ctx.left.add(f"a side under {LEAST_PIXELS} pixels", split, str(view.cls), frame.id)
        return False
    return True
