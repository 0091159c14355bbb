"""What a text names and claims, by the words of an ontology: classes that are not there, anomalies, verdicts.

Only what a careful reader would call a contradiction is found. Words that the ontology does not know are not judged.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from deckbench.language import Lang
from deckbench.ontology import Ontology

SENTENCE = re.compile(r"[.!?;\n。!?;]+")
BESIDE_CJK = re.compile(r"(?<=[\u3400-\u9fff]) | (?=[\u3400-\u9fff])")
NOT = r"(?:not|n't|never|cannot|no longer|far from)\s+(?:\w+\s+)?"
FAULTS = r"(?:anomal(?:y|ies|ous)|abnormal\w*|irregular\w*|problems?|issues?|faults?|errors?|defects?|concerns?)"
NORMAL = {
    "en": re.compile(
        rf"\b(?:nothing\s+(?:\w+\s+){{0,2}}?(?:wrong|amiss|unusual|abnormal|anomalous|out of (?:place|the ordinary))"
        rf"|(?:no|without(?:\s+any)?|free of)\s+(?:\w+\s+)?{FAULTS}|no\s+signs?\s+of\s+(?:\w+\s+)?{FAULTS}"
        r"|(?:everything|all)\s+(?:\w+\s+){0,3}?(?:fine|normal|ok|okay|well|in order|correct|good)"
        r"|as\s+(?:it\s+should\s+be|expected|they\s+should\s+be|intended)"
        r"|(?:is|are|looks?|appears?|seems?)\s+(?:\w+\s+)?(?:normal|fine|in order)"
        r"|(?:can|may|should)\s+(?:continue|carry on|proceed|go on)|safe\s+to\s+(?:continue|proceed))\b",
        re.IGNORECASE,
    ),
    "zh": re.compile(
        r"(?:没有|无|未见|未发现|未出现|不存在|并无)(?:任何|明显)?(?:异常|问题|错误|故障)|(?<!不)(?<!非)正常|(?<!不)符合(?:预期|要求)"
        r"|(?<!不)(?:可以|可)继续|(?<!不)应(?:当|该)?继续"
    ),
}
DENIED = re.compile(rf"{NOT}$|\b(?:not|n't)\s*$", re.IGNORECASE)
WRONG = {
    "en": re.compile(
        rf"\b(?:{FAULTS}|wrong(?:ly)?|amiss|faulty|must\s+(?:be\s+)?stop(?:ped)?|should\s+(?:be\s+)?stop(?:ped)?"
        r"|stop\s+the\s+(?:robot|run|protocol)|intervene|intervention)\b",
        re.IGNORECASE,
    ),
    "zh": re.compile(r"异常|不正常|非正常|不符合|错误|有误|出错|故障|停止|停机|问题|不可以?继续|不应"),
}


@dataclass(frozen=True)
class Term:
    """Words for classes. classes: all that may be called so."""

    text: str
    classes: frozenset[str]


class Vocabulary:
    """The words of an ontology in one language, longest first."""

    def __init__(self, ontology: Ontology, lang: Lang, others: Iterable[str] = ()) -> None:
        """others: names of anomalies that are no classes, each a class of its own."""
        self.ontology, self.lang = ontology, lang
        found: dict[str, set[str]] = {}
        self.names: dict[str, set[str]] = {}  # class -> words for it alone, not for its kind
        for cls, spec in ontology.classes.items():
            self.names[cls] = {plain(word) for word in (spec.name.get(lang), *spec.aliases, cls)}
            for word in {*self.names[cls], plain(spec.kind_text.get(lang))}:
                found.setdefault(word, set()).add(cls)
        for cls, spec in ontology.classes.items():
            for noun in spec.nouns:
                word = plain(ontology.nouns[noun].get(lang))
                if word in found:  # a neutral word alone names no class
                    found[word].add(cls)
        for word in others:
            self.names[word] = {plain(word)}
            found.setdefault(plain(word), set()).add(word)
        self.terms = [Term(word, frozenset(classes)) for word, classes in found.items() if word]
        self.terms.sort(key=lambda term: (-len(term.text), term.text))
        self.by_text = {term.text: term for term in self.terms}
        self.pattern = re.compile("|".join(_expression(term.text) for term in self.terms) or r"(?!)", re.IGNORECASE)

    def named(self, text: str) -> Iterator[Term]:
        """The terms in a text, the longest at each place."""
        for match in self.pattern.finditer(plain(text)):
            word = match[0]
            term = self.by_text.get(word) or self.by_text.get(word.removesuffix("es")) or self.by_text.get(word[:-1])
            if term is not None:
                yield term

    def absent(self, text: str, present: Collection[str]) -> list[str]:
        """Reasons to reject a text that names what is not there. present: classes that are."""
        reasons = [
            f"it names {term.text!r}, which is not there; say nothing of what is not there, not even that it is missing"
            for term in dict.fromkeys(self.named(text))
            if not term.classes & set(present)
        ]
        for sentence in SENTENCE.split(text):
            terms = [term for term in self.named(sentence) if term.classes & set(present)]
            for cls, spec in self.ontology.classes.items():
                if spec.state is None or cls in present or not any(cls in term.classes for term in terms):
                    continue
                state = spec.state.get(self.lang)
                about = [term for term in terms if cls in term.classes]
                true = {
                    other.state.get(self.lang).casefold()
                    for name in present
                    if (other := self.ontology.classes.get(name)) is not None and other.state is not None
                }
                known = any(has(term.text, state) for term in about) or state.casefold() in true
                if not known and has(sentence, state):
                    reasons.append(f"it says {state!r} of {about[0].text!r}, and no label says so")
        return list(dict.fromkeys(reasons))

    def against(self, text: str, cls: str) -> list[str]:
        """Reasons to reject a statement about a class: it names an anomaly that the class is not, or a sibling's state.

        Siblings share a noun: a bent tip and a straight one. Other objects may be named: a rack holds tips.
        """
        spec, reasons = self.ontology.classes[cls], []
        if spec.verdict != "anomaly":
            for term in dict.fromkeys(self.named(text)):
                if all(name != cls and self.is_anomaly(name) for name in term.classes):
                    reasons.append(f"it names {term.text!r}, and this is none")
        own = " ".join(
            [
                spec.name.get(self.lang),
                spec.kind_text.get(self.lang),
                *(fact.get(self.lang) for fact in (*spec.facts.values(), *([spec.state] if spec.state else []))),
            ]
        )
        for name, other in self.ontology.classes.items():
            if name == cls or other.state is None or not set(other.nouns) & set(spec.nouns):
                continue
            state = other.state.get(self.lang)
            if has(text, state) and not has(own, state):
                reasons.append(f"it says {state!r}, which is {other.name.get(self.lang)!r}, another class")
        return list(dict.fromkeys(reasons))

    def is_anomaly(self, cls: str) -> bool:
        spec = self.ontology.classes.get(cls)
        return spec is None or spec.verdict == "anomaly"

    def missing(self, text: str, anomalies: Iterable[str]) -> list[str]:
        """Reasons to reject a text that does not say what is wrong."""
        reasons = []
        named = list(self.named(text))
        for cls in anomalies:
            own = any(term.text in self.names.get(cls, ()) for term in named)
            spec = self.ontology.classes.get(cls)
            if spec is not None and spec.state is not None and not own:
                state = spec.state.get(self.lang)
                own = any(
                    has(sentence, state) and any(cls in term.classes for term in self.named(sentence))
                    for sentence in SENTENCE.split(text)
                )
            if not own:
                called = spec.name.get(self.lang) if spec is not None else plain(cls)
                reasons.append(f"it does not mention {called!r}, which is what is wrong; use these words")
        return reasons


def plain(text: str) -> str:
    """A text as it is searched: case, blanks, `_` and `-` do not matter, nor blanks beside Chinese."""
    return BESIDE_CJK.sub("", re.sub(r"[\s_-]+", " ", text).strip().casefold())


def _expression(word: str) -> str:
    """A word, whole, in singular or plural; in Chinese anywhere."""
    if not word[:1].isascii():
        return re.escape(word)
    return rf"(?<![a-z0-9]){re.escape(word)}(?:s|es)?(?![a-z0-9])"


def has(text: str, word: str) -> bool:
    """Whether a word stands in a text, whole."""
    return re.search(_expression(plain(word)), plain(text)) is not None


def claims(text: str, lang: Lang) -> tuple[bool, bool]:
    """(it says that all is well, it says that something is wrong)."""
    well = wrong = False

    def take(match: re.Match[str]) -> str:
        nonlocal well, wrong
        if lang == "en" and DENIED.search(text[max(0, match.start() - 24) : match.start()]):
            wrong = True
        else:
            well = True
        return " "

    rest = NORMAL[lang].sub(take, text)
    return well, wrong or WRONG[lang].search(rest) is not None


def contradictions(text: str, lang: Lang, *, anomaly: bool, name: str = "") -> list[str]:
    """Reasons to reject a text that contradicts its verdict."""
    well, wrong = claims(text, lang)
    if anomaly and well:
        return [f"it says that all is well{name}, and the verdict is anomaly"]
    if not anomaly and wrong:
        return [f"it says that something is wrong{name}, and the verdict is normal"]
    return []
