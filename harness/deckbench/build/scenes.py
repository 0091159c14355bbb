"""`picture: frame` (S3): the whole frame, nothing drawn; describe and judge, or judge at once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from deckbench import verdicts
from deckbench.build.plan import (
    Context,
    Unit,
    View,
    ViewQuestion,
    by_rank,
    pair_up,
    round_robin,
    twins,
)
from deckbench.language import Lang
from deckbench.questions import REGIONS, BankQuestion

NOT_WRITTEN = "no written description, so only the verdict is asked"
CLEARLY = 0.7  # part of a box that must lie in a region to be there; less than the rest, and it is not


def plan(ctx: Context, split: str) -> list[Unit]:
    """The questions of one split."""
    units: list[Unit] = []
    order: list[View] = []
    if ctx.ontology.judges:
        for normal, anomaly in _verdict_pairs(ctx, split):
            order += [normal, anomaly]
            step = ctx.frames[normal.frame].step
            for question in ctx.questions("verdict", "scene"):
                if question.kind == "choice":
                    first, second = twins(question, normal, anomaly, ("normal", "anomaly"), step=step)
                elif ctx.lacks_text(normal.frame) or ctx.lacks_text(anomaly.frame):
                    names = [ctx.frames[view.frame].id for view in (normal, anomaly) if ctx.lacks_text(view.frame)]
                    ctx.left.add(NOT_WRITTEN, split, question.id, names[0], count=2)
                    continue
                else:
                    first = ViewQuestion(normal, question, "normal", step=step)
                    second = ViewQuestion(anomaly, question, "anomaly", step=step)
                units.append((_judged(ctx, first, False), _judged(ctx, second, True)))
    if ctx.asks_presence:
        order += [view for view in map(View, ctx.members(split)) if view not in set(order)]
        units += round_robin({**_presence(ctx, split), **_place(ctx, split)})
        return units if not ctx.ontology.judges else by_rank(units, order)
    return by_rank(units, order)


def _judged(ctx: Context, asked: ViewQuestion, anomaly: bool) -> ViewQuestion:
    return replace(asked, anomaly=anomaly, cls=";".join(wrong_classes(ctx, asked.view.frame)) or None)


def wrong_classes(ctx: Context, index: int) -> list[str]:
    """What is wrong in a frame, in the ontology's order."""
    return verdicts.wrong_classes(ctx.ontology, ctx.frames[index], ctx.classes[index])


def verdict_of(ctx: Context, index: int) -> tuple[bool | None, str]:
    """(is the frame anomalous, why it cannot be said)."""
    return verdicts.frame_verdict(ctx.ontology, ctx.frames[index], ctx.classes[index], synthetic=ctx.synthetic)


def _verdict_pairs(ctx: Context, split: str) -> list[tuple[View, View]]:
    """(normal frame, anomalous frame) at the same step, steps in turn, anomalies in turn within a step."""
    sides: dict[str | None, tuple[list[View], dict[Hashable, list[View]]]] = defaultdict(
        lambda: ([], defaultdict(list))
    )
    for index in ctx.members(split):
        anomaly, why = verdict_of(ctx, index)
        step = ctx.frames[index].step
        if anomaly is None:
            ctx.left.add(why, split, "verdict", ctx.frames[index].id)
        elif anomaly:
            sides[step][1][wrong_classes(ctx, index)[0]].append(View(index))
        else:
            sides[step][0].append(View(index))
    pairs: dict[Hashable, list[tuple[View, View]]] = {}
    for step in sorted(sides, key=str):
        normal, by_anomaly = sides[step]
        rng = ctx.rng("frames", split, step)
        rng.shuffle(normal)
        for name in sorted(by_anomaly, key=str):
            rng.shuffle(by_anomaly[name])
        anomalous = round_robin(by_anomaly)
        pairs[step] = list(zip(normal, anomalous, strict=False))
        for name, rest in (("normal", normal), ("anomaly", anomalous)):
            if over := len(rest) - len(pairs[step]):
                ctx.left.add(f"{name} without a counterpart", split, step or "no step", count=over)
    return round_robin(pairs)


def written_scene(ctx: Context, asked: ViewQuestion, lang: Lang) -> str | None:
    """A scene's written description, then the verdict that the labels say; None where none is written."""
    text = ctx.written(asked.view.frame, None, lang)
    if text is None:
        return None
    verdict = asked.question.options[asked.value].get(lang)
    return f"{text}. Verdict: {verdict}." if lang == "en" else f"{text}。结论:{verdict}。"


def scene_values(ctx: Context, asked: ViewQuestion, lang: Lang) -> dict[str, Any]:
    """What a scene answer's template may use: parts (noun, states), wrong (names), verdict."""
    ontology = ctx.ontology
    index = asked.view.frame
    seen = Counter(cls for cls in ctx.classes[index] if ontology.classes[cls].scene)
    parts = []
    for noun, text in ontology.nouns.items():
        states: dict[str, int] = {}
        for cls, spec in ontology.classes.items():
            if seen[cls] and spec.nouns[0] == noun:
                word = (spec.state or spec.name).get(lang)
                states[word] = states.get(word, 0) + seen[cls]
        if states:
            counts = ctx.task.options.scene_counts and sum(states.values()) > 1
            words = [f"{number} {word}" if counts else word for word, number in states.items()]
            parts.append({"noun": text.get(lang), "states": words})
    wrong = [
        ontology.classes[cls].name.get(lang) if cls in ontology.classes else cls for cls in wrong_classes(ctx, index)
    ]
    return {"parts": parts, "wrong": wrong, "verdict": asked.question.options[asked.value].get(lang)}


def _where(ctx: Context, index: int, cls: str, region: str) -> str | None:
    """Whether a class is in a region of a frame: "present", "absent", or None when that is not clear."""
    rx0, ry0, rx1, ry1 = REGIONS[region]
    found = False
    for box, name in zip(ctx.frames[index].boxes, ctx.classes[index], strict=True):
        if name == cls:
            width = max(0.0, min(box.x1, rx1) - max(box.x0, rx0))
            height = max(0.0, min(box.y1, ry1) - max(box.y0, ry0))
            part = width * height / max(1e-12, (box.x1 - box.x0) * (box.y1 - box.y0))
            if part >= CLEARLY:
                found = True
            elif part > 1 - CLEARLY:
                return None
    if found:
        return "present"
    return "absent" if ctx.synthetic or ctx.ontology.is_exhaustive(cls) else None


def _two_sided(
    ctx: Context, split: str, question: BankQuestion, name: str, answers: dict[int, str | None], **more: Any
) -> list[Unit]:
    """Twins among frames with different answers to one question text."""
    able = [View(index) for index in answers if answers[index] is not None]
    if unclear := len(answers) - len(able):
        ctx.left.add("not clear from the labels", split, name, count=unclear)
    pairs = pair_up(able, lambda view: str(answers[view.frame]), lambda a, b: True, ctx.rng(name, split))
    if over := len(able) - 2 * len(pairs):
        ctx.left.add("no twin with another answer", split, name, count=over)
    return [
        twins(question, first, second, (str(answers[first.frame]), str(answers[second.frame])), **more)
        for first, second in pairs
    ]


def _presence(ctx: Context, split: str) -> dict[Hashable, list[Unit]]:
    members = ctx.members(split)
    return {
        (question.id, cls, region): _two_sided(
            ctx,
            split,
            question,
            f"{question.id}:{cls}:{region}",
            {index: _where(ctx, index, cls, region) for index in members},
            noun=_own_noun(cls),
            region=region,
        )
        for question in ctx.questions("presence")
        for cls in _classes(ctx, question)
        for region in question.regions or ("picture",)
    }


def _place(ctx: Context, split: str) -> dict[Hashable, list[Unit]]:
    """In which half: frames with exactly one such object, clearly in one half."""
    members = ctx.members(split)
    found: dict[Hashable, list[Unit]] = {}
    for question in ctx.questions("place"):
        low, high = ("left", "right") if question.axis == "x" else ("top", "bottom")
        for cls in _classes(ctx, question):
            answers: dict[int, str | None] = {}
            for index in members:
                if list(ctx.classes[index]).count(cls) == 1:
                    sides = (_where(ctx, index, cls, low) == "present", _where(ctx, index, cls, high) == "present")
                    answers[index] = {(True, False): "low", (False, True): "high"}.get(sides)
            name = f"{question.id}:{cls}"
            found[name] = _two_sided(ctx, split, question, name, answers, noun=_own_noun(cls))
    return found


def _classes(ctx: Context, question: BankQuestion) -> list[str]:
    return [cls for cls in ctx.ontology.classes if question.classes is None or cls in question.classes]


def _own_noun(cls: str) -> str:
    """Presence and place ask for the class itself, not for a neutral noun: `class:` marks that."""
    return f"class:{cls}"
