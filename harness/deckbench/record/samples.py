"""The table of a record's samples: every prediction with what is known of its sample, and which get a thumbnail."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from deckbench.errors import InputError
from deckbench.grade import narrow, parse_scene
from deckbench.predictions import COLUMNS as PREDICTION_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

MAX_THUMBS = 50
THUMB_WIDTH = 320

# Columns of samples.csv.gz. `correct` is true or false; `thumbnail` is a path inside the record or empty; `p_a`, `p_b`,
# `p_anomaly` are probabilities or empty; the rest is text.
SAMPLE_COLUMNS = (
    "id",
    "pair_id",
    "frame",
    "group",
    "kind",
    "class",
    "step",
    "anomaly",
    "lang",
    "question",
    "option_a",
    "option_b",
    "gold",
    "prediction",
    "parsed",
    "correct",
    "p_a",
    "p_b",
    "p_anomaly",
    "tokens_in",
    "tokens_out",
    "thumbnail",
)


def read_table(path: Path, needed: Iterable[str]) -> pd.DataFrame:
    """A CSV as text columns (empty stays empty). Raises InputError when it is missing, damaged or lacks a column."""
    import pandas as pd

    if not path.is_file():
        raise InputError("not found", path, "make it again")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False, encoding="utf-8-sig")
    except (ValueError, OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read as CSV ({type(error).__name__})", path, "make it again") from error
    if missing := [name for name in needed if name not in table.columns]:
        raise InputError(f"column {missing[0]} is missing", path, "make it again")
    return table


def join_samples(predictions: Path, data: Path) -> pd.DataFrame:
    """Predictions with what `data/samples.csv` knows of each sample: SAMPLE_COLUMNS and `image`, all text.

    Raises InputError when a file is missing or a prediction's id is unknown to the dataset.
    """
    said = read_table(predictions, PREDICTION_COLUMNS)
    known = read_table(data / "samples.csv", ("id", "frame", "group", "image"))
    if said["id"].duplicated().any():
        raise InputError(f"the id {said['id'][said['id'].duplicated()].iloc[0]!r} occurs twice", predictions)
    extra = [name for name in (*SAMPLE_COLUMNS, "image") if name not in said.columns and name in known.columns]
    joined = said.merge(known.drop_duplicates("id")[["id", *extra]], on="id", how="left", indicator=True)
    if (joined["_merge"] != "both").any():
        lost = joined.loc[joined["_merge"] != "both", "id"].iloc[0]
        raise InputError(
            f"the sample {lost!r} is not in the dataset",
            predictions,
            "give the dataset these predictions were made from",
        )
    for name in SAMPLE_COLUMNS:
        if name not in joined.columns:
            joined[name] = ""
    asked = joined[["kind", "gold", "prediction", "parsed", "anomaly"]]
    joined["correct"] = [is_correct(*row) for row in asked.itertuples(index=False, name=None)]
    table: pd.DataFrame = joined[[*SAMPLE_COLUMNS, "image"]]
    return table


def is_correct(kind: str, gold: str, prediction: str, parsed: str, anomaly: str) -> str:
    """`true` or `false`, by the rules of the scorer: the letter, the verdict of a scene, or the same words."""
    if kind == "choice":
        right = parsed == gold
    elif kind == "scene":
        truth = {"true": True, "false": False}.get(anomaly.lower(), parse_scene(gold))
        said = parse_scene(prediction)
        right = said is not None and said == truth
    else:
        right = bool(words(prediction)) and words(prediction) == words(gold)
    return "true" if right else "false"


def words(text: str) -> list[str]:
    """Words in lower case, punctuation dropped; every Chinese character is one word."""
    return re.findall(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+", narrow(text).casefold())


def pick_pictures(samples: pd.DataFrame, most: int = MAX_THUMBS) -> list[str]:
    """The pictures worth a thumbnail: those of wrong answers first, taken in turn from each class, then the rest."""
    chosen: dict[str, None] = {}
    for wanted in ("false", "true"):
        rows = samples[samples["correct"] == wanted]
        if rows.empty:
            continue
        turn = rows.groupby("class", sort=True).cumcount()
        for image in rows.assign(turn=turn).sort_values(["turn", "class", "id"], kind="stable")["image"]:
            if image:
                chosen.setdefault(image)
            if len(chosen) == most:
                return list(chosen)
    return list(chosen)


def thumbnail(source: Path) -> bytes:
    """A picture as JPEG, at most THUMB_WIDTH wide, EXIF turned and metadata dropped. Raises InputError."""
    from PIL import Image, ImageOps

    try:
        with Image.open(source) as picture:
            picture = ImageOps.exif_transpose(picture).convert("RGB")
            if picture.width > THUMB_WIDTH:
                height = max(1, round(picture.height * THUMB_WIDTH / picture.width))
                picture = picture.resize((THUMB_WIDTH, height), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=82, optimize=True)
    except (OSError, ValueError) as error:
        raise InputError(f"the picture cannot be read ({error})", source, "build the dataset again") from error
    return buffer.getvalue()


def csv_bytes(samples: pd.DataFrame) -> bytes:
    """SAMPLE_COLUMNS as CSV with `\\n` line ends."""
    text = samples[list(SAMPLE_COLUMNS)].to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    return str(text).encode()
