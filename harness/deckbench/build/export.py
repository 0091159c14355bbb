"""`build --export`: the same samples in the formats of other tools, beside our own.

`exports/swift/<part>.jsonl` is ms-swift's standard form (`messages`, `images`, the picture's place marked `<image>`);
`exports/phi3v/<part>.json` is the list of `conversations` that trainers of Phi-3-vision read (LLaVA's form). Paths are
relative to the dataset folder, which those tools take as their image folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deckbench.build.rows import COLUMNS, SPLITS, Row
from deckbench.errors import InputError

MARK = "<image>"
FOLDER = "exports"


def swift(row: Mapping[str, str]) -> dict[str, Any]:
    """A row for ms-swift."""
    messages = [
        {"role": "user", "content": MARK + row["question"]},
        {"role": "assistant", "content": row["answer"]},
    ]
    return {"messages": messages, "images": [row["image"]]}


def phi3v(row: Mapping[str, str]) -> dict[str, Any]:
    """A row for trainers of Phi-3-vision."""
    turns = [
        {"from": "human", "value": f"{MARK}\n{row['question']}"},
        {"from": "gpt", "value": row["answer"]},
    ]
    return {"id": row["id"], "image": row["image"], "conversations": turns}


FORMATS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {"swift": swift, "phi3v": phi3v}


def parse_formats(text: str) -> tuple[str, ...]:
    """`swift,phi3v` -> the formats asked for, in a fixed order. Raises InputError."""
    asked = [word.strip() for word in text.split(",") if word.strip()]
    for word in asked:
        if word not in FORMATS:
            raise InputError(f"the format {word!r} is not known", "--export", f"one or more of {', '.join(FORMATS)}")
    return tuple(name for name in FORMATS if name in asked)


def write_exports(folder: Path, rows: Sequence[Row], formats: Sequence[str]) -> None:
    """Write the asked formats below `folder`/exports, one file a part that has rows, in the order of the rows."""
    place = COLUMNS.index("split")
    for name in formats:
        target = folder / FOLDER / name
        target.mkdir(parents=True)
        for split in SPLITS:
            records = (FORMATS[name](dict(zip(COLUMNS, row, strict=False))) for row in rows if row[place] == split)
            lines = [json.dumps(record, ensure_ascii=False) for record in records]
            if not lines:
                continue
            if name == "swift":
                (target / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
            else:
                (target / f"{split}.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
