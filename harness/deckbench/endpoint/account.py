"""What a run's answers cost, and what the server would not do: for the predictions' manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from deckbench.endpoint.spec import EndpointSpec
from deckbench.predictions import answer_notes
from deckbench.stats import percentile


def account(
    spec: EndpointSpec, facts: Sequence[Mapping[str, Any]], tokens: Sequence[tuple[int, int]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(part of the content, part of what was observed) of a finished run.

    facts: `Answer.facts` of every answer, of all runs that made them. tokens: (in, out) of every answer that was
    counted. Only what was answered is counted: a request that failed may have been charged too. A percentile is None
    where there are too few answers for it.
    """
    seconds = sorted(fact["answer_s"] for fact in facts)
    tokens_in, tokens_out = sum(pair[0] for pair in tokens), sum(pair[1] for pair in tokens)
    observed: dict[str, Any] = {
        "addresses": sorted({fact["address"] for fact in facts}),
        "models": sorted({fact["model"] for fact in facts} - {""}),
        "fingerprints": sorted({fact["fingerprint"] for fact in facts} - {""}),
        "answers": len(facts),
        "requests": sum(fact["tries"] for fact in facts),
        "cut": sum(fact["cut"] for fact in facts),
        "strange_logprobs": dict(sorted(Counter(fact["strange"] for fact in facts if fact["strange"]).items())),
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "uncounted": len(facts) - len(tokens),
        "answer_s": {name: percentile(seconds, p) for name, p in (("p50", 0.5), ("p90", 0.9))},
    }
    if spec.price_in is not None and (spec.price_out is not None or not tokens_out):
        cost = (tokens_in * spec.price_in + tokens_out * (spec.price_out or 0)) / 1e6
        observed |= {"cost": round(cost, 6), "currency": spec.currency}
    content: dict[str, Any] = {"dropped": sorted({name for fact in facts for name in fact["dropped"]})}
    if spec.api != "chat":
        content["api"] = dict(sorted(Counter(api_of(fact) for fact in facts if fact.get("kind") == "choice").items()))
    if stripped := Counter(name for fact in facts for name in fact.get("stripped", ())):
        content["stripped"] = dict(sorted(stripped.items()))
    return content, observed


def api_of(fact: Mapping[str, Any]) -> str:
    """By which API an answer came."""
    return str(fact.get("api", "chat"))


def notices(content: Mapping[str, Any], observed: Mapping[str, Any], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a finished run's numbers should not hide, a line each. content, observed: as `account` returns them."""
    lines = []
    if len(observed["models"]) > 1:
        lines.append(f"answered by several models: {', '.join(observed['models'])}")
    if len(apis := content.get("api", {})) > 1:
        ways = ", ".join(f"{api} ({number})" for api, number in apis.items())
        lines.append(f"choice questions were asked in several ways, and their probabilities differ in kind: {ways}")
    lines += answer_notes({"stripped": content.get("stripped")})
    if reasons := observed["strange_logprobs"]:
        listed = ", ".join(f"{reason} ({number})" for reason, number in reasons.items())
        lines.append(f"without probabilities: {sum(reasons.values())} choice answers: {listed}")
    if cut := sum(fact["cut"] for fact in facts if fact.get("kind") == "choice"):
        what = f"{cut} choice answers ran into their limit; if the model thinks before it answers, raise"
        lines.append(f"{what} `thinking_tokens` in the endpoint's file")
    return lines


def all_empty(facts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether no answer of a run has a word in it."""
    return bool(facts) and all(fact.get("empty") for fact in facts)
