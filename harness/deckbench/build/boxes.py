"""`picture: box` (S2): the object in the drawn box, normal or an anomaly; and which of two kinds it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import replace

import numpy as np

from deckbench.build.plan import (
    Box4,
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
    round_robin,
    twins,
)

MATCH_AMONG = 4000  # normals looked at for each anomaly; more change nothing and cost time
Stratum = tuple[str, str | None]  # noun, step where the verdict depends on it


def plan(ctx: Context, split: str) -> list[Unit]:
    """The questions of one split."""
    ontology, options = ctx.ontology, ctx.task.options
    units: list[Unit] = []
    order: list[View] = []
    pairs = _limit_frames(ctx, split, _verdict_pairs(ctx, split))
    phrasings = ctx.questions("verdict")
    turn: dict[Stratum, int] = defaultdict(int)
    for (noun, step), normal, anomaly in pairs:
        shown = [view.cls for view in (normal, anomaly) if view.cls is not None]  # a decoy has no class
        able = [question for question in phrasings if all(asked_of(question, cls) for cls in shown)]
        if not able:
            ctx.left.add("no question is put about the class", split, str(anomaly.cls), count=2)
            continue
        order += [normal, anomaly]
        start = turn[noun, step]
        turn[noun, step] += 1
        for number in range(min(options.questions_per_picture, len(able))):
            question = able[(start + number) % len(able)]
            first, second = twins(question, normal, anomaly, ("normal", "anomaly"), noun=noun, step=step)
            units.append((_judged(first, False), _judged(second, True)))
    if ontology.judges:
        rng = ctx.rng("kind share", split)
        some = [view for view in dict.fromkeys(order) if rng.random() < options.kind_share]
    else:
        everything = (view for index in ctx.members(split) for view in ctx.views(index))
        order = some = choose(ctx, split, everything, options.per_class(split), options.max_boxes_per_frame)
    units += kind_twins(ctx, some, split)
    if ctx.asks_presence:
        decoyed = find_decoys(ctx, split, [view for view in some if view.cls and ontology.classes[view.cls].decoy])
        units += presence_twins(ctx, decoyed)
        decoys = dict(decoyed)
        order = [each for view in order for each in (view, decoys.get(view)) if each is not None]
    return by_rank(units, order)


def _judged(asked: ViewQuestion, anomaly: bool) -> ViewQuestion:
    return replace(asked, anomaly=anomaly)


def _verdict_pairs(ctx: Context, split: str) -> list[tuple[Stratum, View, View]]:
    """(noun and step, normal view, anomalous view), nouns in turn; what finds no counterpart is counted."""
    ontology = ctx.ontology
    sides: dict[Stratum, dict[str, list[View]]] = defaultdict(lambda: {"normal": [], "anomaly": []})
    decoyed: list[View] = []
    for index in ctx.members(split):
        for view in ctx.views(index):
            cls = str(view.cls)
            verdict = ctx.verdict(index, cls)
            if verdict is None:
                ctx.left.add("not judged at this step", split, cls, ctx.frames[index].id)
            elif ontology.classes[cls].decoy and verdict == "anomaly":
                decoyed.append(view)
            else:
                for noun in ontology.classes[cls].nouns:
                    step = ctx.frames[index].step if ontology.step_matters(noun) else None
                    sides[noun, step][verdict].append(view)
    matched: dict[str, dict[Hashable, list[tuple[Stratum, View, View]]]] = defaultdict(dict)
    for stratum in sorted(sides, key=str):
        normal, anomaly = sides[stratum]["normal"], sides[stratum]["anomaly"]
        pairs = match(ctx, split, stratum, normal, anomaly)
        matched[stratum[0]][stratum] = [(stratum, first, second) for first, second in pairs]
        for name, side in (("normal", normal), ("anomaly", anomaly)):
            if rest := len(side) - len(pairs):
                ctx.left.add(
                    f"{name} without a counterpart", split, "@".join(str(part) for part in stratum if part), count=rest
                )
    for view, decoy in find_decoys(ctx, split, decoyed):
        stratum = (ontology.classes[str(view.cls)].nouns[0], None)
        matched[stratum[0]].setdefault(stratum, []).append((stratum, decoy, view))
    # nouns in turn and steps in turn within one, so that under a limit no noun weighs more for having steps
    return round_robin({noun: round_robin(by_step) for noun, by_step in matched.items()})


def match(
    ctx: Context, split: str, stratum: Stratum, normal: list[View], anomaly: list[View]
) -> list[tuple[View, View]]:
    """For each view of the smaller side the unused one of the other whose box is most like it.

    Likeness is in place and logarithm of the size, so that box geometry tells little about the answer. The smaller
    side is taken class by class, so that a rare anomaly is not crowded out.
    """
    anomalies_are_few = len(anomaly) <= len(normal)
    few, many = (anomaly, normal) if anomalies_are_few else (normal, anomaly)
    by_class: dict[Hashable, list[View]] = defaultdict(list)
    for view in few:
        by_class[view.cls].append(view)
    rng = ctx.rng("match", split, *stratum)
    for cls in sorted(by_class, key=str):
        rng.shuffle(by_class[cls])
    few = round_robin(by_class)
    if len(many) > max(MATCH_AMONG, 2 * len(few)):
        many = rng.sample(many, max(MATCH_AMONG, 2 * len(few)))
    if not few:
        return []
    table = np.array([shape_of(view.box) for view in many])
    free = np.ones(len(many), dtype=bool)
    pairs = []
    for view in few:
        far = np.abs(table - np.array(shape_of(view.box))).sum(axis=1)
        place = int(np.where(free, far, np.inf).argmin())
        free[place] = False
        pairs.append((many[place], view) if anomalies_are_few else (view, many[place]))
    return pairs


def shape_of(box: Box4 | None) -> tuple[float, float, float, float]:
    """Centre and half the logarithm of the sides."""
    assert box is not None
    x0, y0, x1, y1 = box
    width, height = max(x1 - x0, 1e-4), max(y1 - y0, 1e-4)
    return ((x0 + x1) / 2, (y0 + y1) / 2, float(np.log(width)) / 2, float(np.log(height)) / 2)


def _limit_frames(
    ctx: Context, split: str, pairs: list[tuple[Stratum, View, View]]
) -> list[tuple[Stratum, View, View]]:
    """Drop pairs that would draw more than `max_boxes_per_frame` pictures of one frame."""
    most = ctx.task.options.max_boxes_per_frame
    used: dict[int, set[str]] = defaultdict(set)
    kept = []
    for stratum, normal, anomaly in pairs:
        wanted: dict[int, set[str]] = defaultdict(set)
        for view in (normal, anomaly):
            wanted[view.frame].add(view.key)
        if any(len(used[frame] | keys) > most for frame, keys in wanted.items()):
            ctx.left.add("enough from this frame", split, stratum[0], count=2)
            continue
        for frame, keys in wanted.items():
            used[frame] |= keys
        kept.append((stratum, normal, anomaly))
    return kept
