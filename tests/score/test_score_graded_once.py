"""An answer is graded once: infer, score, record and site tell the same of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from deckbench import artifact, grade
from deckbench.errors import InputError
from deckbench.parse import clean, parse
from deckbench.record.read import read_record, read_samples
from deckbench.record.scores import scored_path
from deckbench.record.table import SCORED_COLUMNS
from deckbench.score import score
from tests.record import fake
from tests.score.score_helpers import answered, choice, make_data, make_predictions, open_question, scene

ODD = ["\x1fA", "A\r\n", "A\r", "\x00A", "A\x7f", "\tA\n", "A\x0c", "\x85A", "yes\r\n"]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_kept_text_is_the_parsed_text() -> None:
    """What `infer` parses and what a record parses again from the text that was kept are the same."""
    for text in ODD:
        assert parse(text, "choice", ("yes", "no")) == parse(clean(text), "choice", ("yes", "no"))
        first = grade.grade(text, "A", "choice", options=("yes", "no"))
        assert grade.grade(clean(text), "A", "choice", options=("yes", "no")) == first
    assert parse("\x1fA", "choice") == "" and parse("A\r\n", "choice") == "A"


def infer_odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Predictions of a model that answers ODD, through `infer`."""
    from deckbench.infer import infer, predict
    from deckbench.models.interface import Answer

    data = fake.dataset(tmp_path / "data", n=2 * len(ODD), pictures=1)

    def odd(answerer: Any, samples: Any) -> list[Answer]:
        return [Answer(ODD[i % len(ODD)], None, None, 1, 1, {}) for i in range(len(samples))]

    monkeypatch.setattr(predict, "answer_picture", odd)
    infer(model="majority", data=data, out=tmp_path / "p.csv")
    return data, tmp_path / "p.csv"


def test_infer_score_and_record_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, predictions = infer_odd(tmp_path, monkeypatch)
    said = read(predictions)
    scored = tmp_path / "scored.csv"
    result = score(predictions, data=data, out=tmp_path / "score.json")
    assert result["inputs"]["predictions_sha256"] == artifact.hash_file(predictions)
    assert [row["parsed"] for row in read(scored)] == [row["parsed"] for row in said]
    changes = {"predictions": predictions, "score": tmp_path / "score.json"}
    folder = fake.record(tmp_path / "r", tmp_path / "w", data=data, instead=changes)
    kept = read_samples(read_record(folder))
    assert [[row[name] for name in SCORED_COLUMNS] for row in kept] == [list(row.values()) for row in read(scored)]
    right = sum(row["right"] == "true" for row in kept)
    assert result["kinds"]["choice"]["metrics"]["accuracy"]["k"] == right
    control = next(row for row in kept if row["prediction"] == "\ufffdA")
    assert (control["parsed"], control["right"], control["reason"]) == ("", "false", "unparsed")


def test_what_infer_parsed_is_taken_and_other_files_are_parsed(tmp_path: Path) -> None:
    samples = [choice(i, anomaly=True) for i in range(4)]
    data = make_data(tmp_path / "data", samples)
    rows = [{**answered(sample), "parsed": "A"} for sample in samples]  # the gold is B, and so is the text
    path = make_predictions(tmp_path / "p.csv", rows, data)
    assert score(path, data=data)["metrics"]["accuracy"]["value"] == 1.0
    place = tmp_path / "p.manifest.json"
    manifest = json.loads(place.read_text())
    manifest["content"]["inputs"]["model"] = {"name": "x"}
    manifest["content_hash"] = artifact.hash_json(manifest["content"])
    place.write_text(json.dumps(manifest))
    assert score(path, data=data)["metrics"]["accuracy"]["value"] == 0.0


def test_scored_csv_has_a_row_a_sample(tmp_path: Path) -> None:
    samples = [choice(0, anomaly=True), choice(1, anomaly=True), choice(2, anomaly=True), choice(3, anomaly=True)]
    samples += [scene(4, anomaly=True), open_question(5, "tip, bent"), open_question(6, "tip")]
    texts = [None, "A", " ", "AB", "All is well.", "Tip bent", "?"]
    data = make_data(tmp_path / "data", samples)
    rows = [answered(sample, text) for sample, text in zip(samples, texts, strict=True)]
    score(make_predictions(tmp_path / "p.csv", rows, data), data=data, out=tmp_path / "S2.json")
    assert [tuple(row.values()) for row in read(tmp_path / "S2.scored.csv")] == [
        ("q0", "B", "true", "true", "", ""),
        ("q1", "A", "false", "false", "", "wrong"),
        ("q2", "", "false", "false", "", "empty"),
        ("q3", "", "false", "true", "", "unparsed"),
        ("s4", "", "false", "false", "", "unparsed"),
        ("o5", "", "true", "false", "", ""),
        ("o6", "", "false", "false", "", "unparsed"),
    ]


def test_both_files_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [choice(i, anomaly=True) for i in range(4)]
    data = make_data(tmp_path / "data", samples)
    path = make_predictions(tmp_path / "p.csv", [answered(sample) for sample in samples], data)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/scored.csv").write_text("my,table\n")
    with pytest.raises(InputError, match="not a table of graded answers"):
        score(path, data=data, out=tmp_path / "out/score.json")
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["scored.csv"]
    (tmp_path / "out/scored.csv").unlink()
    (tmp_path / "out/score.json").mkdir()
    with pytest.raises(InputError, match="not a DeckBench score"):
        score(path, data=data, out=tmp_path / "out/score.json")
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["score.json"]


def test_no_two_scores_share_their_graded_answers(tmp_path: Path) -> None:
    names = {
        "score.json": "scored.csv",
        "score": "score.scored.csv",
        "S2.json": "S2.scored.csv",
        "a.b": "a.b.scored.csv",
    }
    assert {name: scored_path(Path(name)).name for name in names} == names
    data = fake.dataset(tmp_path / "data")
    predictions = fake.predictions(tmp_path / "p.csv", data)
    score(predictions, data=data, out=tmp_path / "S2.json")
    with pytest.raises(InputError, match=r"those of S2\.json"):
        score(predictions, data=data, out=tmp_path / "S2")
    assert not (tmp_path / "S2").exists()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes(tmp_path: Path, seed: int) -> None:
    with pytest.raises(InputError, match="seed"):
        score(tmp_path / "p.csv", seed=seed)
