"""Questions about checks: the verdict on one thing that a frame is checked for at a protocol step.

Twins share the check: step, phase, check and what is expected are the same text, the verdicts are opposite. Which
checks are asked does not depend on how much of them stands in the question (option `context`), so levels can be
compared on the same samples.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from deckbench.artifact import hash_json
from deckbench.build.boxes import shape_of
from deckbench.build.crops import LEAST_PIXELS
from deckbench.build.plan import Context, Unit, View, ViewQuestion, round_robin, twins
from deckbench.language import AnyText, Lang, Text
from deckbench.parse import parse_scene
from deckbench.questions import render
from deckbench.task import ContextLevel, PromptSpec
from deckbench.yolo.frame import Box4, Check, Frame

TEXTS = ("step", "phase", "check", "expected")  # what stands in a question
# How a question calls the usual phases; others are called as checks.csv has them.
PHASES = {
    "pre": Text(en="before it starts", zh="开始前"),
    "post": Text(en="when it is done", zh="完成后"),
}
UNKNOWN, NO_TEXT = "the verdict is unknown", "has no text in"  # why a check is not asked
OTHER_VIEW = 0.05  # what another camera view counts against the difference of two boxes, for twins


@dataclass(frozen=True, slots=True)
class Side:
    """A check that can be asked. camera: from where it looks. two_sided: the frame has both verdicts."""

    view: View
    check: Check
    camera: str
    two_sided: bool


def text_of(check: Check, name: str, lang: Lang) -> str:
    """A text of a check in one language, as a question has it; empty where the check has none."""
    text: AnyText | None = getattr(check, name)
    if text is None:
        return ""
    if name == "phase" and (known := PHASES.get(text.any.casefold())) is not None:
        return known.get(lang)
    return text.get(lang) or ""


def plan(ctx: Context, split: str, langs: Sequence[Lang]) -> list[Unit]:
    """The questions about the checks of one split, steps in turn. langs: each text must exist in all of them."""
    sides: dict[tuple[str, ...], dict[str, list[Side]]] = defaultdict(lambda: {"normal": [], "anomaly": []})
    for side in usable(ctx, split, langs):
        key = tuple(text_of(side.check, name, lang) for name in TEXTS for lang in langs)
        sides[key][side.check.verdict].append(side)
    pairs: dict[Hashable, list[tuple[Side, Side]]] = {}
    for key in sorted(sides):
        normal, anomaly = sides[key]["normal"], sides[key]["anomaly"]
        pairs[key] = match(normal, anomaly, ctx.rng("checks", split, *key))
        used = {(side.view.frame, side.check) for pair in pairs[key] for side in pair}
        for name, have, other in (("normal", normal, anomaly), ("anomaly", anomaly, normal)):
            opposite = "anomaly" if name == "normal" else "normal"
            reason = f"{name} without a counterpart" if other else f"only {name} here, no {opposite} with these texts"
            for side in have:
                if (side.view.frame, side.check) not in used:
                    ctx.left.add_check(reason, split, side.check, ctx.frames[side.view.frame].id)
    return [
        unit
        for number, pair in enumerate(round_robin(pairs))
        for unit in asked_of_pair(ctx, split, langs, *pair, number)
    ]


def usable(ctx: Context, split: str, langs: Sequence[Lang]) -> Iterator[Side]:
    """The checks of a split that can be asked; the others are listed."""
    whole = ctx.task.spec.picture == "frame"
    drawn: dict[int, set[str]] = defaultdict(set)
    for index in ctx.members(split):
        frame = ctx.frames[index]
        regions = sorted({box for check in frame.checks if (box := hull(check.regions)) is not None})
        views = {box: View(index, f"r{number}", None, box) for number, box in enumerate(regions)}
        two_sided = {"normal", "anomaly"} <= {check.verdict for check in frame.checks}
        for check in frame.checks:
            box = hull(check.regions)
            view = View(index) if whole or box is None else views[box]
            why = why_not(check, langs)
            if why is None and not whole:
                why = why_no_view(view, frame)
            if why is None and not whole and view.key not in drawn[index]:
                if len(drawn[index]) == ctx.task.options.max_boxes_per_frame:
                    why = "enough from this frame"
                else:
                    drawn[index].add(view.key)
            if why is not None:
                ctx.left.add_check(why, split, check, frame.id)
            else:
                yield Side(view, check, frame.view or "", two_sided)


def why_not(check: Check, langs: Sequence[Lang]) -> str | None:
    """Why a check cannot be asked in these languages, None when it can."""
    if check.verdict == "unknown":
        return UNKNOWN
    for name in TEXTS:
        for lang in langs:
            if getattr(check, name) is not None and not text_of(check, name, lang):
                return f"`{name}` {NO_TEXT} {lang}"
    return None


def why_no_view(view: View, frame: Frame) -> str | None:
    """Why a check's region cannot be shown, None when it can."""
    if view.box is None:
        return "no region"
    x0, y0, x1, y1 = view.box
    if min((x1 - x0) * frame.width, (y1 - y0) * frame.height) < LEAST_PIXELS:
        return f"a side under {LEAST_PIXELS} pixels"
    return None


def hull(regions: Sequence[Box4]) -> Box4 | None:
    """The box around all regions of a check."""
    if not regions:
        return None
    x0, y0, x1, y1 = zip(*regions, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def match(normal: list[Side], anomaly: list[Side], rng: random.Random) -> list[tuple[Side, Side]]:
    """(normal, anomaly): for each check of the smaller side the unused one of the other that looks most like it.

    Likeness is in the region's place and size, then in the camera view, so that neither tells the answer; among equals
    kinds of anomaly are taken in turn. A frame that is normal in one check and an anomaly in another goes first: the
    image alone does not answer it.
    """
    rng.shuffle(normal)
    rng.shuffle(anomaly)
    by_kind: dict[Hashable, list[Side]] = defaultdict(list)
    for side in anomaly:
        by_kind[side.check.anomaly].append(side)
    few, many = sorted((normal, round_robin(by_kind)), key=len)
    if not few:
        return []
    shapes = np.array([shape(side) for side in many])
    cameras = np.array([side.camera for side in many])
    bonus = 2 * OTHER_VIEW * np.array([side.two_sided for side in many])
    free = np.ones(len(many), dtype=bool)
    pairs = []
    for side in few:
        far = np.abs(shapes - np.array(shape(side))).sum(axis=1) + OTHER_VIEW * (cameras != side.camera) - bonus
        place = int(np.where(free, far, np.inf).argmin())
        free[place] = False
        pairs.append((side, many[place]) if side.check.verdict == "normal" else (many[place], side))
    return pairs


def shape(side: Side) -> tuple[float, float, float, float]:
    """Place and size of the region; the same for all whole frames."""
    return (0.0, 0.0, 0.0, 0.0) if side.view.box is None else shape_of(side.view.box)


def asked_of_pair(
    ctx: Context, split: str, langs: Sequence[Lang], normal: Side, anomaly: Side, number: int
) -> Iterator[Unit]:
    """All questions about a normal check and its twin: phrasings in turn, and the description where both have one."""
    choices = [question for question in ctx.questions("check") if question.kind == "choice"]
    for turn in range(min(ctx.task.options.questions_per_picture, len(choices))):
        question = choices[(number + turn) % len(choices)]
        first, second = twins(question, normal.view, anomaly.view, ("normal", "anomaly"))
        yield judged(first, normal.check), judged(second, anomaly.check)
    for question in ctx.questions("check"):
        if question.kind != "scene":
            continue
        first = judged(ViewQuestion(normal.view, question, "normal"), normal.check)
        second = judged(ViewQuestion(anomaly.view, question, "anomaly"), anomaly.check)
        for asked in (first, second):
            if any(not describable(ctx, asked, lang) for lang in langs):
                frame = ctx.frames[asked.view.frame].id
                what = "caption to describe with" if ctx.task.scenes is None else "written description"
                reason = f"no {what}, so only the verdict is asked"
                ctx.left.add(reason, split, question.id, frame, count=2)
                break
        else:
            yield first, second


def judged(asked: ViewQuestion, check: Check) -> ViewQuestion:
    """A question about a check, with what is known of its answer."""
    return replace(asked, anomaly=check.verdict == "anomaly", cls=";".join(check.anomaly) or None, check=check)


def caption_of(ctx: Context, asked: ViewQuestion, lang: Lang) -> str:
    """What was seen in a check: the written description where descriptions are written, else the pool's caption."""
    assert asked.check is not None
    if ctx.task.scenes is not None:
        return ctx.written(asked.view.frame, asked.check, lang) or ""
    return text_of(asked.check, "caption", lang)


def describe(ctx: Context, asked: ViewQuestion, lang: Lang) -> str:
    """The answer of a description: what was seen, then the verdict."""
    assert asked.check is not None and asked.question.answer is not None
    caption = caption_of(ctx, asked, lang).rstrip(" .。")
    values = {"caption": caption, "verdict": asked.question.options[asked.value].get(lang)}
    return render(asked.question.answer.get(lang), values, f"questions.{asked.question.id}.answer.{lang}")


def describable(ctx: Context, asked: ViewQuestion, lang: Lang) -> bool:
    """Whether a check has a caption, and one that says no other verdict."""
    return bool(caption_of(ctx, asked, lang)) and parse_scene(describe(ctx, asked, lang)) == asked.anomaly


def context_lines(asked: ViewQuestion, prompt: PromptSpec, level: ContextLevel, lang: Lang) -> list[str]:
    """What stands before a question about a check, as its level says. Texts of checks are values, never templates."""
    check = asked.check
    assert check is not None and prompt.check is not None and prompt.expected is not None
    said = {name: text_of(check, name, lang) for name in TEXTS}
    parts = level.split("+")
    lines = []
    if "step" in parts and (said["step"] or said["phase"]):
        lines.append(render(prompt.step.get(lang), {"step": said["step"], "phase": said["phase"]}, "prompt.step"))
    if "check" in parts:
        lines.append(render(prompt.check.get(lang), {"check": said["check"]}, "prompt.check"))
    if "expected" in parts and said["expected"]:
        lines.append(render(prompt.expected.get(lang), {"expected": said["expected"]}, "prompt.expected"))
    return lines


def check_id(check: Check) -> str:
    """A short name of what is checked, the same in every frame and at every context level."""
    return "k" + hash_json(list(check.key))[:8]
