"""Questions -> rows -> `samples.csv` -> `train.jsonl`, `val.jsonl`, `test.jsonl`."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deckbench.build.checks import check_id, context_lines, describe
from deckbench.build.pictures import Picture
from deckbench.build.plan import Context, Unit, ViewQuestion
from deckbench.build.scenes import scene_values, written_scene
from deckbench.language import LANGS, Lang
from deckbench.questions import render

SPLITS = ("train", "val", "test")
COLUMNS = (
    "id", "pair_id", "split", "stage", "task", "kind", "frame", "group", "image", "question", "answer", "option_a",
    "option_b", "gold", "anomaly", "class", "step", "lang", "box", "width", "height", "question_type", "twin",
)  # fmt: skip
# What follows in rows about checks, and of frames whose view is known; a dataset without such rows has no such columns.
CHECK_COLUMNS = ("phase", "check", "context", "view")
JSONL_FIELDS = ("id", "pair_id", "frame", "group", "task", "stage", "kind", "option_a", "option_b")
Row = tuple[str, ...]  # COLUMNS, and CHECK_COLUMNS where they are known
encode = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps makes a new one for each call


def languages(lang: str) -> tuple[Lang, ...]:
    """The languages of `--lang en|zh|both`."""
    return LANGS if lang == "both" else tuple(each for each in LANGS if each == lang)


class Writer:
    """Turns questions into rows. Texts that repeat are kept once, so 100,000 rows stay small."""

    def __init__(self, ctx: Context, lang: str) -> None:
        self.ctx = ctx
        self.langs = languages(lang)
        self.several = len(self.langs) > 1
        self.texts: dict[Any, str] = {}

    def rows(self, units: Iterable[Unit], split: str, pictures: Mapping[Any, Picture]) -> Iterator[Row]:
        """The rows of one split. pictures: view -> its picture."""
        for number, unit in enumerate(units):
            swapped = self.ctx.rng("order", split, number).random() < 0.5
            for asked in unit:
                for lang in self.langs:
                    orders = (False, True) if asked.other is not None and split != "train" else (swapped,)
                    for order in orders:
                        yield self._row(asked, lang, split, pictures[asked.view], order, len(orders) > 1, number)

    def _row(
        self, asked: ViewQuestion, lang: Lang, split: str, picture: Picture, swapped: bool, both: bool, number: int
    ) -> Row:
        ctx = self.ctx
        frame = ctx.frames[asked.view.frame]
        question = asked.question
        a = b = ""
        if asked.other is not None:
            right, wrong = self._option(asked, asked.value, lang), self._option(asked, asked.other, lang)
            # The order is a matter of the question, not of the answer: twins show the same order.
            a, b = (right, wrong) if (asked.value < asked.other) != swapped else (wrong, right)
            gold = answer = "A" if a == right else "B"
        else:
            answer = self._answer(asked, lang)
            gold = asked.value if question.kind == "scene" else answer
        check = asked.check
        tail = (
            [question.id]
            + ([check_id(check)] if check else [])
            + ([asked.region] if asked.region else [])
            + ([asked.noun] if asked.noun else [])
        )
        pair = "-".join([picture.name.rpartition(".")[0], *tail, *([lang] if self.several else [])]).replace(":", "-")
        if question.about in {"kind", "state"} and asked.other is not None:
            pair += f"-{asked.other}"
        key = f"{pair}-{'ba' if swapped else 'ab'}" if both else pair
        box = picture.box or self._box_in_crop(asked, picture)
        more: Row = ()
        if check is not None:
            more = (check.key[1], check.key[2], ctx.task.context, frame.view or "")
        elif frame.view is not None:
            more = ("", "", "", frame.view)
        return (
            key,
            pair,
            split,
            ctx.task.stage,
            ctx.task.ref,
            question.kind,
            frame.id,
            ctx.groups[asked.view.frame],
            f"images/{picture.name}",
            self._question(asked, lang, a, b),
            answer,
            a,
            b,
            gold,
            "" if asked.anomaly is None else str(asked.anomaly).lower(),
            asked.cls or "",
            (frame.step or "") if check is None else check.key[0],
            lang,
            " ".join(str(round(side, 1)) for side in box) if box else "",
            str(picture.width),
            str(picture.height),
            question.about,
            f"{split}-{number}" if asked.other is not None or question.kind == "scene" else "",
            *more,
        )

    def _box_in_crop(self, asked: ViewQuestion, picture: Picture) -> tuple[float, ...] | None:
        """The label's box in the crop's pixels."""
        if picture.crop is None or asked.view.box is None:
            return None
        frame = self.ctx.frames[asked.view.frame]
        x0, y0, x1, y1 = asked.view.box
        left, top, _, _ = picture.crop
        return (
            max(0.0, x0 * frame.width - left),
            max(0.0, y0 * frame.height - top),
            min(float(picture.width), x1 * frame.width - left),
            min(float(picture.height), y1 * frame.height - top),
        )

    def _noun(self, asked: ViewQuestion, lang: Lang) -> str:
        if asked.noun is None:
            return ""
        if asked.noun.startswith("class:"):
            return self.ctx.ontology.classes[asked.noun.removeprefix("class:")].kind_text.get(lang)
        return self.ctx.ontology.nouns[asked.noun].get(lang)

    def _option(self, asked: ViewQuestion, value: str, lang: Lang) -> str:
        if asked.question.about == "kind":
            return self.ctx.ontology.classes[value].kind_text.get(lang)
        if asked.question.about == "state":
            state = self.ctx.ontology.classes[value].state
            assert state is not None
            return state.get(lang)
        return asked.question.options[value].get(lang)

    def _question(self, asked: ViewQuestion, lang: Lang, a: str, b: str) -> str:
        key = (asked.question.id, asked.noun, asked.region, asked.step, lang, a, b, asked.check)
        if key not in self.texts:
            prompt = self.ctx.task.spec.prompt
            region = asked.question.regions[asked.region].get(lang) if asked.region in asked.question.regions else ""
            values = {"noun": self._noun(asked, lang), "region": region}
            text = render(asked.question.ask.get(lang), values, f"questions.{asked.question.id}.ask.{lang}")
            if asked.step is not None:
                text = render(prompt.step.get(lang), {"step": asked.step}) + "\n" + text
            if asked.check is not None:
                text = "\n".join([*context_lines(asked, prompt, self.ctx.task.context, lang), text])
            if asked.other is not None:
                text = render(prompt.choice.get(lang), {"question": text, "option_a": a, "option_b": b})
            self.texts[key] = text
        return self.texts[key]

    def _answer(self, asked: ViewQuestion, lang: Lang) -> str:
        question, ontology = asked.question, self.ctx.ontology
        assert question.answer is not None
        where = f"questions.{question.id}.answer.{lang}"
        if asked.check is not None:
            text = describe(self.ctx, asked, lang)
            return self.texts.setdefault(("scene", text), text)
        if question.kind == "scene":
            text = written_scene(self.ctx, asked, lang) or render(
                question.answer.get(lang), scene_values(self.ctx, asked, lang), where
            )
            return self.texts.setdefault(("scene", text), text)
        key = (question.id, "answer", lang, asked.value)
        if key not in self.texts:
            spec = ontology.classes[asked.value]
            values = {
                "kind": spec.kind_text.get(lang),
                "state": spec.state.get(lang) if spec.state else "",
                "name": spec.name.get(lang),
                "fact": spec.facts[question.fact].get(lang) if question.fact in spec.facts else "",
            }
            self.texts[key] = render(question.answer.get(lang), values, where)
        return self.texts[key]


def shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    """Rows in an order that depends on seed and ids only."""
    return sorted(rows, key=lambda row: hashlib.sha256(f"{seed}|{row[0]}".encode()).digest())


def columns_of(rows: Iterable[Row]) -> Row:
    """The columns of a table with these rows."""
    return (*COLUMNS, *CHECK_COLUMNS) if any(len(row) > len(COLUMNS) for row in rows) else COLUMNS


def write_tables(folder: Path, rows: Sequence[Row]) -> None:
    """samples.csv with every field, then one JSONL a split that has rows, in the same order."""
    columns = columns_of(rows)
    with (folder / "samples.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows((*row, *[""] * (len(columns) - len(row))) for row in rows)
    place = COLUMNS.index("split")
    for split in SPLITS:
        lines = (as_json(dict(zip(columns, row, strict=False))) for row in rows if row[place] == split)
        first = next(lines, None)
        if first is not None:
            with (folder / f"{split}.jsonl").open("w", encoding="utf-8", newline="") as file:
                file.write(first)
                file.writelines(lines)


def as_json(row: Mapping[str, str]) -> str:
    """One row as a line of messages JSONL (DESIGN: files)."""
    data: dict[str, Any] = {
        "messages": [
            {"role": "user", "content": row["question"], "image": row["image"]},
            {"role": "assistant", "content": row["answer"]},
        ]
    }
    data |= {name: row[name] or None for name in JSONL_FIELDS}
    data["anomaly"] = {"true": True, "false": False}.get(row["anomaly"])
    data["class"] = row["class"] or None
    data["step"] = row["step"] or None
    data |= {name: row[name] for name in CHECK_COLUMNS if row.get(name)}
    return encode(data) + "\n"
