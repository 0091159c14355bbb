"""A server that judges, by what is true or with known errors, and predictions for it to judge."""

from __future__ import annotations

import csv
import json
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deckbench.endpoint.structured import Outcome, Request, Run
from deckbench.endpoint.structured.answer import read_answer
from deckbench.predictions import COLUMNS
from tests.endpoint.writing_server import text_in
from tests.score.score_helpers import (
    answered,
    choice,
    make_data,
    make_predictions,
    open_question,
    prompt,
    scene,
    write_csv,
)

NAMES = ("tip rack", "trash bin", "pcr plate", "magnetic module", "tube rack")


def part(body: dict[str, Any], name: str) -> str:
    """What stands between a pair of marks of the first question."""
    user = next(message for message in body["messages"] if message["role"] == "user")
    found = re.search(rf"<{name}>\n(.*?)\n</{name}>", text_in(user["content"]), re.DOTALL)
    assert found is not None, user
    return found[1]


def is_swapped(body: dict[str, Any]) -> bool:
    user = text_in(next(message for message in body["messages"] if message["role"] == "user")["content"])
    return user.index("<answer>") < user.index("<reference>")


def is_right(body: dict[str, Any]) -> bool:
    """Whether the answer says what the reference says, as far as these tests write them."""
    reference, answer = part(body, "reference").lower(), part(body, "answer").lower()
    if letter := re.match(r"([ab])\. (.+)", reference):
        return answer in {letter[1], letter[2]} or f"surely {letter[2]}" in answer
    if "verdict:" in reference:
        return ("verdict: anomaly" in reference) == ("anomaly" in answer or "wrong" in answer)
    return reference in answer


def chance(text: str) -> float:
    """A number from 0 to 1 that is the same for the same text."""
    return zlib.crc32(text.encode()) / 2**32


def judge(error: float = 0.0, *, unclear: bool = True) -> Callable[[dict[str, Any]], str]:
    """Writes verdicts; wrong ones with probability `error`, by the answer's text."""

    def write(body: dict[str, Any]) -> str:
        right = is_right(body) != (chance(part(body, "question") + part(body, "answer")) < error)
        if unclear and "cannot tell" in part(body, "answer"):
            return json.dumps({"reason": "it settles on none", "verdict": "unclear"})
        return json.dumps(
            {"reason": "it says the same" if right else "不同", "verdict": "correct" if right else "incorrect"}
        )

    return write


def world(folder: Path, n: int = 20, *, wrong: int = 4) -> tuple[Path, Path]:
    """(predictions, dataset): n choices, n open questions and n scenes; each `wrong`-th answer is wrong, some of the
    choices and scenes cannot be parsed."""
    samples: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for i in range(n):
        bad = i % wrong == 0
        options_shown = ("normal", "anomaly")
        one = choice(i, anomaly=i % 2 == 0, question=prompt(f"Is deck {i} normal?", *options_shown))
        options = {"A": one["option_a"], "B": one["option_b"]}
        said = one["gold"] if not bad else "AB".replace(one["gold"], "")
        if i % 5 == 1:
            said = f"It is surely {options[said]}, I think."
        if i % 10 == 7:
            said = "I cannot tell."
        samples.append(one)
        rows.append(answered(one, said, p_anomaly=0.5))
        name = NAMES[i % len(NAMES)]
        two = open_question(i, name, question=f"What is in slot {i}?")
        text = f"There is a {name if not bad else NAMES[(i + 1) % len(NAMES)]} in slot {i}."
        samples.append(two)
        rows.append(answered(two, name if i % 3 == 0 and not bad else text))
        three = scene(i, anomaly=i % 2 == 0, question=f"Describe deck {i}.")
        verdict = (i % 2 == 0) != bad
        text = "The tip is bent. Verdict: anomaly." if verdict else "All is as it should be. Verdict: normal."
        if i % 4 == 3:
            text = "Something is wrong here" if verdict else "All fine"
        samples.append(three)
        rows.append(answered(three, f"Deck {i}. {text}"))
    data = make_data(folder / "data", samples)
    return make_predictions(folder / "p.csv", rows, data), data


def many(folder: Path, n: int) -> Path:
    """Predictions to n open questions, right in two of three, in ten groups; no dataset."""
    rows = []
    for i in range(n):
        name = NAMES[i % len(NAMES)]
        said = name if i % 3 else NAMES[(i + 1) % len(NAMES)]
        rows.append(
            {**dict.fromkeys(COLUMNS, ""), "id": f"q{i}", "pair_id": f"g{i % 10}", "kind": "open"}
            | {"question": f"What is in slot {i}?", "gold": name, "prediction": f"A {said} is in slot {i}."}
        )
    return write_csv(folder / "p.csv", list(COLUMNS), rows)


def edit(predictions: Path, change: Callable[[dict[str, str]], str]) -> None:
    """Other texts for the answers; their manifest goes, it names the old ones."""
    with predictions.open(encoding="utf-8", newline="") as file:
        rows = [dict(row) for row in csv.DictReader(file)]
    for row in rows:
        row["prediction"] = change(row)
    write_csv(predictions, list(COLUMNS), rows)
    predictions.with_name("p.manifest.json").unlink(missing_ok=True)


def answer_offline(write: Callable[[dict[str, Any]], str]) -> Callable[..., Run]:
    """In place of `answer_all`: as a server that writes would answer, without one."""

    def answer(requests: Sequence[Request], *_: Any, **__: Any) -> Run:
        outcomes = []
        for one in requests:
            body = {"messages": [{"role": "system", "content": one.system}, {"role": "user", "content": one.user}]}
            outcomes.append(Outcome(one, "answered", read_answer(write(body), one.answer)))
        return Run(tuple(outcomes), {})

    return answer
