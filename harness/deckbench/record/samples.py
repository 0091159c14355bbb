"""The table of a record's samples: every prediction with what is known of its sample, and which get a thumbnail."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.predictions import csv_bytes
from deckbench.record.schema import MAX_THUMBS

if TYPE_CHECKING:
    import pandas as pd

THUMB_WIDTH = 320

# Columns of samples.csv.gz: all that scoring reads. `right`, `substring` are true or false; `p_*` are probabilities or
# empty; `thumbnail` is a path inside the record or empty; the rest is text.
SAMPLE_COLUMNS = (
    *("id", "pair_id", "task", "stage", "split", "frame", "group", "kind", "question_type", "class", "step"),
    *("anomaly", "lang", "question", "option_a", "option_b", "gold", "prediction", "parsed", "right", "substring"),
    *("judge", "reason", "p_a", "p_b", "p_anomaly", "tokens_in", "tokens_out", "thumbnail"),
)
# What follows where a sample has it.
LATER_COLUMNS = ("view", "context")


def graded_samples(predictions: Path, data: Path, score: Path) -> pd.DataFrame:
    """Predictions with what `data` knows of each sample and the grades of a score: SAMPLE_COLUMNS and `image`.

    Raises InputError when a file is missing or damaged, or they do not belong together.
    """
    from deckbench.predictions.read import read_predictions
    from deckbench.record.scores import read_scored
    from deckbench.record.table import SCORED_COLUMNS, join, read_fields

    table = join(read_predictions(predictions), predictions, read_fields(data))
    scored = read_scored(score)
    if set(scored) != set(table["id"]):
        raise InputError("the score is of other predictions", score, "run `deckbench score` on these predictions")
    for name in SCORED_COLUMNS[1:]:
        table[name] = [scored[key][name] for key in table["id"]]
    table["thumbnail"] = ""
    return table


def pick_pictures(samples: pd.DataFrame, most: int = MAX_THUMBS) -> list[str]:
    """The pictures worth a thumbnail: those of wrong answers first, taken in turn from each class, then the rest."""
    chosen: dict[str, None] = {}
    if not most:
        return []
    for wanted in ("false", "true"):
        rows = samples[samples["right"] == wanted]
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
    """A picture as JPEG, at most THUMB_WIDTH wide, EXIF turned and metadata dropped. Raises InputError.

    Its comment is the sha256 of `source`, so that a thumbnail says which image of the dataset it shows.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(source) as picture:
            picture = ImageOps.exif_transpose(picture).convert("RGB")
            if picture.width > THUMB_WIDTH:
                height = max(1, round(picture.height * THUMB_WIDTH / picture.width))
                picture = picture.resize((THUMB_WIDTH, height), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            comment = artifact.hash_file(source).encode()
            picture.save(buffer, "JPEG", quality=82, optimize=True, comment=comment)
    except (OSError, ValueError) as error:
        raise InputError(f"the image cannot be read ({error})", source, "build the dataset again") from error
    return buffer.getvalue()


def shown_image(jpeg: bytes) -> str | None:
    """The sha256 in a thumbnail's comment; None where there is none, or this is no JPEG."""
    at, comment = 2, None
    while jpeg[:2] == b"\xff\xd8" and jpeg[at : at + 1] == b"\xff" and jpeg[at + 1 : at + 2] != b"\xda":
        size = int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if jpeg[at + 1] == 0xFE:
            if comment is not None:
                return None
            comment = jpeg[at + 4 : at + 2 + size]
        at += 2 + max(size, 2)
    return None if comment is None else comment.decode("ascii", "replace")


def sample_bytes(samples: Sequence[Mapping[str, str]]) -> bytes:
    """Rows of SAMPLE_COLUMNS, and LATER_COLUMNS where any row has them, as CSV."""
    later = LATER_COLUMNS if any(row.get(name) for row in samples for name in LATER_COLUMNS) else ()
    columns = (*SAMPLE_COLUMNS, *later)
    return csv_bytes(columns, [[row.get(name, "") for name in columns] for row in samples])
