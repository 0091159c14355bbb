"""S1 and S2: question banks, one file a class, from what a model wrote about each class.

A question that only one class is ever asked tells the class: whoever has read the bank answers without looking. So in
S1 the questions that the model wrote for one class are put about all of them (each topic has a few phrasings, the same
for all), and only the answers are a class's own. S2's questions are asked about normal objects and anomalies alike.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from deckbench.annotate.items import Item, Skipped, can_name_file, concept_answer, guided_answer, languages_line
from deckbench.annotate.scenes import language_faults
from deckbench.annotate.words import Vocabulary, contradictions, has, plain
from deckbench.endpoint.structured import Request
from deckbench.endpoint.structured.prompt import Prompt
from deckbench.language import Lang, Text
from deckbench.ontology import ClassSpec, Ontology
from deckbench.questions import render
from deckbench.task import Task
from deckbench.textbank import TextQuestion

LONGEST_QUESTION, LONGEST_ANSWER, LONGEST_OPTION = 200, 200, 60
ALIKE = 0.9  # of two questions' characters in order: the same question in other words
ENDS = ("?", "?")
# Of a question in a file, and the field of an answer.
PARTS = (("ask", "question"), ("normal", "normal"), ("anomaly", "anomaly"), ("answer", "answer"))


def concept_items(counts: Counter[str], task: Task, prompt: Prompt, langs: Sequence[Lang]) -> Iterator[Item | Skipped]:
    """S1: one item for each class that has labels. counts: labels of each class."""
    ontology = task.ontology
    known = own_questions(task, "open", langs)
    words = {lang: Vocabulary(ontology, lang) for lang in langs}
    topics = prompt.spec.lists.get("topics", {})
    for cls, spec in ontology.classes.items():
        if why := unusable(cls, spec, counts, crops=True):
            yield Skipped(cls, why)
            continue
        asked = {name: text for name, text in topics.items() if name != "condition" or spec.state is not None}
        facts = [f"{name}: {both(text, langs)}" for name, text in spec.facts.items()]
        values = {**class_values(spec, langs), "topics": asked, "facts": facts, "known": all_texts(known)}
        check = concept_check(cls, spec, words, langs, tuple(asked), known)
        yield Item(cls, {"class": cls}, request(cls, prompt, values, ontology, langs, concept_answer, asked, check))


def guided_items(
    counts: Counter[str], task: Task, prompt: Prompt, langs: Sequence[Lang], pairs: int
) -> Iterator[Item | Skipped]:
    """S2: one item for each judged class that has labels. pairs: questions for each."""
    ontology = task.ontology
    words = {lang: Vocabulary(ontology, lang) for lang in langs}
    for cls, spec in ontology.classes.items():
        if why := unusable(cls, spec, counts, crops=False):
            yield Skipped(cls, why)
            continue
        noun = ontology.nouns[spec.nouns[0]]
        known = own_questions(task, "choice", langs, noun)
        values = {**class_values(spec, langs), "pairs": pairs, "noun": noun.en, "noun_zh": noun.zh * ("zh" in langs)}
        values["known"] = all_texts(known)
        check = guided_check(cls, spec, words, langs, noun, pairs, known)
        yield Item(cls, {"class": cls}, request(cls, prompt, values, ontology, langs, guided_answer, None, check))


def own_questions(task: Task, kind: str, langs: Sequence[Lang], noun: Text | None = None) -> dict[Lang, list[str]]:
    """The task's own questions of a kind, which are not to be written again: a picture is asked each question once."""
    about = {"open": {"kind", "state", "fact"}, "choice": {"verdict"}}[kind]
    asked = [question for question in task.bank.questions if question.kind == kind and question.about in about]
    return {
        lang: [render(one.ask.get(lang), {"noun": noun.get(lang) if noun else "x"}, one.id) for one in asked]
        for lang in langs
    }


def all_texts(known: Mapping[Lang, Sequence[str]]) -> list[str]:
    return [text for texts in known.values() for text in texts]


def unusable(cls: str, spec: ClassSpec, counts: Counter[str], *, crops: bool) -> str:
    """Why no question is written about a class."""
    if not counts[cls]:
        return "no label in the pool"
    if not can_name_file(cls):
        return "no file can have the class's name"
    if crops and not spec.local:
        return "a crop alone does not show it"
    if not crops and spec.verdict is None:
        return "the ontology does not judge it"
    return ""


def request(
    cls: str,
    prompt: Prompt,
    values: Mapping[str, Any],
    ontology: Ontology,
    langs: Sequence[Lang],
    answer: Callable[..., Any],
    topics: Mapping[str, str] | None,
    check: Callable[[Any], list[str]],
) -> Request:
    about = {"about": ontology.about.get("en"), "languages": languages_line(langs)}
    system, user = prompt.texts({**values, **about})
    form = answer(tuple(langs)) if topics is None else answer(tuple(langs), tuple(topics))
    return Request(
        id=cls,
        prompt=prompt.ref,
        system=system,
        user=user,
        answer=form,
        temperature=prompt.spec.temperature,
        max_tokens=prompt.spec.max_tokens,
        check=check,
    )


def class_values(spec: ClassSpec, langs: Sequence[Lang]) -> dict[str, Any]:
    """What a prompt says of a class."""
    verdicts = {"normal": "normal", "anomaly": "an anomaly", None: "neither normal nor an anomaly"}
    verdict = verdicts.get(spec.verdict, "normal at some steps of a protocol and an anomaly at others")
    return {
        "name": spec.name.en,
        "name_zh": spec.name.zh if "zh" in langs else "",
        "kind": both(spec.kind_text, langs),
        "state": both(spec.state, langs) if spec.state else "",
        "verdict": verdict,
        "judged": spec.verdict in {"normal", "anomaly"},
    }


def both(text: Text, langs: Sequence[Lang]) -> str:
    return " / ".join(dict.fromkeys(text.get(lang) for lang in langs))


# Checks


def concept_check(
    cls: str,
    spec: ClassSpec,
    words: Mapping[Lang, Vocabulary],
    langs: Sequence[Lang],
    topics: Sequence[str],
    known: Mapping[Lang, Sequence[str]],
) -> Callable[[Any], list[str]]:
    def check(answer: Any) -> list[str]:
        reasons = []
        given = Counter(pair.topic for pair in answer.pairs)
        if missing := [topic for topic in topics if not given[topic]]:
            reasons.append(f"no question about {', '.join(missing)}")
        if again := [topic for topic in topics if given[topic] > 1]:
            reasons.append(f"several questions about {', '.join(again)}; one is asked for")
        for lang in langs:
            pairs = [(getattr(pair, f"question_{lang}"), getattr(pair, f"answer_{lang}")) for pair in answer.pairs]
            found = duplicates([question for question, _ in pairs], known[lang])
            for question, said in pairs:
                found += question_faults(question, lang, words[lang], allowed="")
                found += answer_faults(question, said, lang, cls, spec, words[lang])
            reasons += [f"{lang}: {reason}" for reason in dict.fromkeys(found)]
        return reasons

    return check


def guided_check(
    cls: str,
    spec: ClassSpec,
    words: Mapping[Lang, Vocabulary],
    langs: Sequence[Lang],
    noun: Text,
    count: int,
    known: Mapping[Lang, Sequence[str]],
) -> Callable[[Any], list[str]]:
    def check(answer: Any) -> list[str]:
        reasons = [] if len(answer.pairs) == count else [f"{len(answer.pairs)} questions; {count} are asked for"]
        for pair in answer.pairs:
            right = set()
            for lang in langs:
                question, normal, anomaly, said = (
                    getattr(pair, f"{part}_{lang}") for part in ("question", "normal", "anomaly", "answer")
                )
                found = question_faults(question, lang, words[lang], allowed=noun.get(lang))
                found += option_faults(question, normal, anomaly, said, lang)
                right.add({normal: "normal", anomaly: "anomaly"}.get(said, ""))
                reasons += [f"{lang}: {reason}" for reason in found]
            if spec.verdict in {"normal", "anomaly"} and (wrong := right - {"", spec.verdict}):
                reasons.append(f"an answer means {', '.join(sorted(wrong))}, and this object is {spec.verdict}")
            elif len(right - {""}) > 1:
                reasons.append("the answers in the two languages contradict each other")
        for lang in langs:
            repeated = duplicates([getattr(pair, f"question_{lang}") for pair in answer.pairs], known[lang])
            reasons += [f"{lang}: {reason}" for reason in repeated]
        return list(dict.fromkeys(reasons))

    return check


def question_faults(question: str, lang: Lang, words: Vocabulary, allowed: str) -> list[str]:
    """Why a question is rejected. allowed: the neutral word for its object."""
    shown = question[:80]
    faults = [f"{shown!r}: {reason}" for reason in language_faults(question, lang)]
    if not question.endswith(ENDS):
        faults.append(f"{shown!r} does not end with a question mark")
    if len(question) > LONGEST_QUESTION:
        faults.append(f"{shown!r} is longer than {LONGEST_QUESTION} characters")
    rest = plain(question).replace(plain(allowed), " ") if allowed else question
    for term in dict.fromkeys(words.named(rest)):
        faults.append(f"{shown!r} names {term.text!r}, and the same question is asked about other objects")
    states = {spec.state.get(lang) for spec in words.ontology.classes.values() if spec.state is not None}
    for state in sorted(states):
        if has(rest, state) and len(state) > 1:
            faults.append(f"{shown!r} says {state!r}, which is an answer")
    return faults


def answer_faults(question: str, answer: str, lang: Lang, cls: str, spec: ClassSpec, words: Vocabulary) -> list[str]:
    """Why an answer is rejected: form, in the question, of another class, against the verdict."""
    shown = answer[:80]
    faults = [f"{shown!r}: {reason}" for reason in language_faults(answer, lang)]
    if len(answer) > LONGEST_ANSWER:
        faults.append(f"{shown!r} is longer than {LONGEST_ANSWER} characters")
    if tells(question, answer):
        faults.append(f"the answer {shown!r} stands in its question")
    faults += [f"{shown!r}: {reason}" for reason in words.against(answer, cls)]
    if spec.verdict in {"normal", "anomaly"}:
        said = contradictions(answer, lang, anomaly=spec.verdict == "anomaly")
        faults += [f"{shown!r}: {reason}" for reason in said]
    return faults


def option_faults(question: str, normal: str, anomaly: str, answer: str, lang: Lang) -> list[str]:
    """Why the options of a verdict question are rejected."""
    faults = []
    if plain(normal) == plain(anomaly):
        faults.append(f"the two options of {question[:60]!r} are the same")
    if answer not in {normal, anomaly}:
        faults.append(f"the answer {answer[:60]!r} is neither {normal!r} nor {anomaly!r}")
    for option in (normal, anomaly):
        if len(option) > LONGEST_OPTION:
            faults.append(f"the option {option[:40]!r} is longer than {LONGEST_OPTION} characters")
        if len(plain(option)) > 3 and has(question, option):
            faults.append(f"the option {option!r} stands in its question {question[:60]!r}")
    return faults


def duplicates(questions: Sequence[str], known: Sequence[str] = ()) -> list[str]:
    """Reasons where questions are the same, or nearly so. known: questions that are there already."""
    faults = []
    for number, one in enumerate(questions):
        if any(alike(one, other) for other in [*known, *questions[:number]]):
            faults.append(f"{one[:80]!r} repeats another question")
    return faults


def alike(one: str, other: str) -> bool:
    """Whether two questions are one in other words."""
    a, b = plain(one), plain(other)
    return a == b or SequenceMatcher(None, a, b, autojunk=False).ratio() >= ALIKE


def same_question(one: Mapping[str, str], other: Mapping[str, str], langs: Sequence[Lang]) -> bool:
    return any(alike(one[f"question_{lang}"], other[f"question_{lang}"]) for lang in langs)


def tells(question: str, answer: str) -> bool:
    """Whether a question holds its answer."""
    said = re.sub(r"[\s.。!!]+$", "", answer)
    return bool(said) and has(question, said)


# Files


def concept_files(
    answers: Mapping[str, Mapping[str, Any]], langs: Sequence[Lang], phrasings: int
) -> dict[str, list[TextQuestion]]:
    """Class -> its questions. answers: class -> the model's answer as plain data, in the ontology's order.

    Each topic has the first `phrasings` questions that differ from each other; all classes share them.
    """
    asked: dict[str, list[Mapping[str, str]]] = {}
    for answer in answers.values():
        for pair in answer["pairs"]:
            known = asked.setdefault(pair["topic"], [])
            others = [other for topic in asked.values() for other in topic]
            fresh = not any(same_question(pair, other, langs) for other in others)
            if fresh and len(known) < phrasings:
                known.append(pair)
    found: dict[str, list[TextQuestion]] = {}
    for cls, answer in answers.items():
        found[cls] = [
            TextQuestion(
                {
                    **{("ask", lang): phrasing[f"question_{lang}"] for lang in langs},
                    **{("answer", lang): pair[f"answer_{lang}"] for lang in langs},
                }
            )
            for pair in answer["pairs"]
            for phrasing in asked[pair["topic"]]
            if not any(tells(phrasing[f"question_{lang}"], pair[f"answer_{lang}"]) for lang in langs)
        ]
    return found


def guided_files(answers: Mapping[str, Mapping[str, Any]], langs: Sequence[Lang]) -> dict[str, list[TextQuestion]]:
    """Class -> its verdict questions. What several classes have in the same words is one question of the bank."""
    return {
        cls: [
            TextQuestion({(name, lang): pair[f"{field}_{lang}"] for name, field in PARTS for lang in langs})
            for pair in answer["pairs"]
        ]
        for cls, answer in answers.items()
    }
