"""S3: one description and judgement of a frame, or of a check of it, checked against the labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from deckbench import verdicts
from deckbench.annotate.items import Item, Skipped, languages_line, scene_answer
from deckbench.annotate.words import Vocabulary, contradictions, plain
from deckbench.endpoint.structured import Request
from deckbench.endpoint.structured.prompt import Prompt
from deckbench.language import AnyText, Lang
from deckbench.ontology import Ontology
from deckbench.parse import states_verdict
from deckbench.scenetexts import LONGEST, SceneText
from deckbench.textbank import CJK
from deckbench.yolo.frame import Check, Frame, Pool

TEXTS = ("step", "phase", "check", "expected", "caption")  # of a check
Vocabularies = dict[Lang, Vocabulary]


def frame_items(
    pool: Pool,
    classes: Sequence[Sequence[str]],
    ontology: Ontology,
    prompt: Prompt,
    langs: Sequence[Lang],
    *,
    with_image: bool,
) -> Iterator[Item | Skipped]:
    """One item for each frame whose verdict is known, in pool order. classes: the ontology's, of each label."""
    words = vocabularies(ontology, langs, other_names(pool, ontology))
    for frame, labelled in zip(pool.frames, classes, strict=True):
        anomaly, why = None, "the ontology has no verdicts"
        if ontology.judges or frame.checks:
            anomaly, why = verdicts.frame_verdict(ontology, frame, labelled, synthetic=pool.synthetic)
        if anomaly is None:
            yield Skipped(frame.id, why)
            continue
        wrong = verdicts.wrong_classes(ontology, frame, labelled)
        values = {
            "step": frame.step,
            "objects": objects_of(frame, labelled, ontology, langs),
            "wrong": [named(cls, ontology, langs) for cls in wrong],
        }
        present = {*labelled, *wrong}
        check = checker(words, langs, anomaly=anomaly, wrong=wrong, present=present)
        facts = {"frame": frame.id}
        yield item(frame.id, facts, prompt, values, ontology, langs, anomaly, check, frame if with_image else None)


def check_items(
    pool: Pool, ontology: Ontology, prompt: Prompt, langs: Sequence[Lang], *, with_image: bool
) -> Iterator[Item | Skipped]:
    """One item for each check whose verdict is known, in pool order."""
    kinds = {kind for frame in pool.frames for check in frame.checks for kind in check.anomaly}
    words = vocabularies(ontology, langs, sorted(kinds))
    for frame in pool.frames:
        for check in frame.checks:
            step, phase, what = check.key
            name = " / ".join(filter(None, (frame.id, step, phase, what)))
            if check.verdict == "unknown":
                yield Skipped(name, "the verdict is unknown")
                continue
            anomaly = check.verdict == "anomaly"
            values: dict[str, Any] = {name: in_one(getattr(check, name), langs) for name in TEXTS}
            values["wrong"] = [named(kind, ontology, langs, zh) for kind, zh in kinds_of(check)]
            facts = {"frame": frame.id, "step": step, "phase": phase, "check": what}
            test = checker(words, langs, anomaly=anomaly, wrong=check.anomaly, present=None, kinds=kinds)
            yield item(name, facts, prompt, values, ontology, langs, anomaly, test, frame if with_image else None)


def item(
    name: str,
    facts: dict[str, str],
    prompt: Prompt,
    values: dict[str, Any],
    ontology: Ontology,
    langs: Sequence[Lang],
    anomaly: bool,
    check: Callable[[Any], list[str]],
    frame: Frame | None,
) -> Item:
    """frame: whose image is sent."""
    verdict = "anomaly" if anomaly else "normal"
    about = ontology.about.get("en")
    system, user = prompt.texts({**values, "about": about, "verdict": verdict, "languages": languages_line(langs)})
    request = Request(
        id=name,
        prompt=prompt.ref,
        system=system,
        user=user,
        answer=scene_answer(tuple(langs)),
        image=None if frame is None else frame.path,
        temperature=prompt.spec.temperature,
        max_tokens=prompt.spec.max_tokens,
        check=check,
    )
    return Item(name, facts, request)


def vocabularies(ontology: Ontology, langs: Sequence[Lang], others: Sequence[str]) -> Vocabularies:
    return {lang: Vocabulary(ontology, lang, others) for lang in langs}


def other_names(pool: Pool, ontology: Ontology) -> list[str]:
    """Anomalies that frames.csv and checks.csv name and the ontology does not know."""
    said = {word for frame in pool.frames for word in verdicts.said_anomalies(ontology, frame) or ()}
    said |= {kind for frame in pool.frames for check in frame.checks for kind in check.anomaly}
    return sorted(said - set(ontology.classes))


def checker(
    words: Vocabularies,
    langs: Sequence[Lang],
    *,
    anomaly: bool,
    wrong: Sequence[str],
    present: set[str] | None,
    kinds: set[str] | None = None,
) -> Callable[[Any], list[str]]:
    """Why an answer is rejected: it names what is not there, misses what is wrong, or contradicts its verdict.

    present: classes that are there; None where labels are not known: then only kinds of anomaly (`kinds`) can be
    absent.
    """
    verdict = "anomaly" if anomaly else "normal"

    def check(answer: Any) -> list[str]:
        reasons = []
        if answer.verdict != verdict:
            reasons.append(f"its verdict is {answer.verdict}, and the labels say {verdict}")
        if missing := [name for name in wrong if name not in answer.anomalies]:
            reasons.append(f"`anomalies` lacks {', '.join(missing)}")
        if extra := [name for name in answer.anomalies if name not in wrong]:
            reasons.append(f"`anomalies` has {', '.join(extra)[:200]}, which the labels do not have")
        for lang in langs:
            text = text_of(answer, lang)
            found = language_faults(text, lang) + contradictions(text, lang, anomaly=anomaly)
            if present is not None:
                found += words[lang].absent(text, present)
            else:
                found += absent_kinds(words[lang], text, set(kinds or ()) - set(wrong), set(wrong))
            # Kinds of checks.csv are English words: a Chinese text says them in its own.
            sayable = [name for name in wrong if lang == "en" or name in words[lang].ontology.classes]
            found += words[lang].missing(text, sayable)
            reasons += [f"{lang}: {reason}" for reason in found]
        return reasons

    return check


def absent_kinds(words: Vocabulary, text: str, absent: set[str], wrong: set[str]) -> list[str]:
    """Reasons where a text names a kind of anomaly that this check has not."""
    terms = [term for term in words.named(text) if term.classes & absent and not term.classes & wrong]
    return [f"it names {term.text!r}, which is not what is wrong here" for term in dict.fromkeys(terms)]


def language_faults(text: str, lang: Lang) -> list[str]:
    """Reasons where a text is not in its language, or states a verdict as a dataset does."""
    reasons = []
    if (CJK.search(text) is not None) != (lang == "zh"):
        reasons.append("it is not in this language")
    if not text.isprintable():
        reasons.append("it holds control characters")
    if states_verdict(text):
        reasons.append("it states the verdict as `Verdict: ...` or `结论:...`; leave that out")
    if len(text) > LONGEST:
        reasons.append(f"it is longer than {LONGEST} characters")
    return reasons


def text_of(answer: Any, lang: Lang) -> str:
    """Description and judgement as one text."""
    description, judgement = (str(getattr(answer, f"{part}_{lang}")).strip() for part in ("description", "judgement"))
    stop = "。" if lang == "zh" else "."
    joined = description if description[-1:] in ".。!?!?" else description + stop
    return f"{joined}{'' if lang == 'zh' else ' '}{judgement}"


def scene_text(facts: dict[str, str], answer: Any, langs: Sequence[Lang]) -> SceneText:
    """What becomes of an answer."""
    return SceneText(**facts, **{lang: text_of(answer, lang) for lang in langs})


def named(cls: str, ontology: Ontology, langs: Sequence[Lang], zh: str = "") -> dict[str, str]:
    """An anomaly as a prompt names it."""
    spec = ontology.classes.get(cls)
    if spec is None:
        return {"id": cls, "name": plain(cls), "zh": zh if "zh" in langs else ""}
    return {"id": cls, "name": spec.name.en, "zh": spec.name.zh if "zh" in langs else ""}


def kinds_of(check: Check) -> list[tuple[str, str]]:
    """(kind of anomaly, the same in Chinese)."""
    zh = check.anomaly_zh if len(check.anomaly_zh) == len(check.anomaly) else ("",) * len(check.anomaly)
    return list(zip(check.anomaly, zh, strict=True))


def in_one(text: AnyText | None, langs: Sequence[Lang]) -> str:
    """A text of a check for a prompt: in the languages asked for, as far as it is there."""
    if text is None:
        return ""
    texts = [found for lang in langs if (found := text.get(lang))]
    return " / ".join(dict.fromkeys(texts)) or text.any


def objects_of(frame: Frame, classes: Sequence[str], ontology: Ontology, langs: Sequence[Lang]) -> list[dict[str, Any]]:
    """What is labelled in a frame, in the ontology's order, for a prompt."""
    counts = Counter(classes)
    found = []
    for cls, spec in ontology.classes.items():
        if not counts[cls]:
            continue
        places = [place_of(box) for box, name in zip(frame.boxes, classes, strict=True) if name == cls]
        zh = spec.name.zh if "zh" in langs else ""
        state = spec.state.en if spec.state else ""
        where = ", ".join(dict.fromkeys(places)) if len(places) <= 3 else ""
        found.append({"name": spec.name.en, "zh": zh, "count": counts[cls], "state": state, "where": where})
    return found


def place_of(box: Any) -> str:
    """Where the middle of a box lies, in words: a third of the frame each way."""
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    across = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    down = "upper" if y < 1 / 3 else "lower" if y > 2 / 3 else ""
    if not across and not down:
        return "in the middle"
    return f"{down} {across}".strip() if down and across else f"at the {across or down} side"
