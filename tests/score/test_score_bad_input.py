"""Each kind of bad input: one message with file and line, exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.score import score
from tests.score.score_helpers import COLUMNS, answered, choice, make_data, make_predictions, write_csv


@pytest.fixture
def good(tmp_path: Path) -> tuple[Path, Path]:
    """A prediction file that scores, and its dataset."""
    samples = [choice(i, anomaly=i % 2 == 0) for i in range(4)]
    data = make_data(tmp_path / "data", samples)
    path = make_predictions(tmp_path / "p.csv", [answered(s, p_anomaly=0.25) for s in samples])
    assert score(path, data=data)["n"] == 4
    return path, data


def edit(change: Callable[[str], str]) -> Callable[[Path], object]:
    return lambda path: path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8", newline="")


def cell(name: str, text: str) -> Callable[[Path], None]:
    """Put `text` in a column of the last row."""

    def change(path: Path) -> None:
        import csv

        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        rows[-1][name] = text
        write_csv(path, COLUMNS, rows)

    return change


def drop(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        import csv

        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        kept = [column for column in COLUMNS if column != name]
        write_csv(path, kept, [{k: v for k, v in row.items() if k != name} for row in rows])

    return change


# Four questions of four lines each: the last row ends at line 17.
BROKEN = [
    ("not-csv", lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff\xfe"), "not UTF-8", ""),
    ("not-csv-text", lambda p: p.write_text("hello\n"), "'id' is missing", ":1"),
    ("open-quote", edit(lambda t: t + '"'), "not a valid CSV", ""),
    ("empty", lambda p: p.write_text(""), "'id' is missing", ":1"),
    ("header-only", edit(lambda t: t.splitlines()[0] + "\n"), "holds no predictions", ""),
    *((f"no-{name}", drop(name), f"{name!r} is missing", ":1") for name in COLUMNS),
    ("short-row", edit(lambda t: t + "q9,q9,choice\n"), "do not fit the header", ":18"),
    ("long-row", edit(lambda t: t.rstrip("\n") + ",more\n"), "do not fit the header", ":17"),
    ("no-id", cell("id", ""), "has no id", ":17"),
    ("twice", cell("id", "q0"), "occurs twice (first at line 5)", ":17"),
    ("kind", cell("kind", "essay"), "the kind is 'essay'", ":17"),
    ("gold", cell("gold", "C"), "the gold of a choice is 'C'", ":17"),
    ("p-text", cell("p_a", "high"), "p_a is 'high', not a number", ":17"),
    ("p-high", cell("p_b", "1.5"), "p_b is 1.5, outside 0 to 1", ":17"),
    ("p-low", cell("p_anomaly", "-0.1"), "outside 0 to 1", ":17"),
    ("p-nan", cell("p_anomaly", "nan"), "not a finite number", ":17"),
    ("p-inf", cell("p_a", "inf"), "not a finite number", ":17"),
    ("tokens", cell("tokens_in", "many"), "tokens_in is 'many', not a number", ":17"),
    ("tokens-half", cell("tokens_out", "1.5"), "not a count", ":17"),
    ("unknown", cell("id", "q77"), "'q77' is not in the dataset", ":17"),
    ("other-gold", cell("gold", "B"), "is not the dataset's", ":17"),
    ("missing", lambda p: p.unlink(), "not found", ""),
]


@pytest.mark.parametrize(("change", "what", "line"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_broken_predictions(good: tuple[Path, Path], change: Callable[[Path], None], what: str, line: str) -> None:
    path, data = good
    change(path)
    out, plots = path.parent / "score.json", path.parent / "plots"
    with pytest.raises(InputError) as caught:
        score(path, data=data, out=out, plots=plots)
    assert what in caught.value.what
    assert caught.value.where == f"{path}{line}"
    assert caught.value.fix and caught.value.exit_code == 2
    assert not out.exists() and not plots.exists()


def test_bom_and_crlf_are_fine(good: tuple[Path, Path]) -> None:
    path, data = good
    before = score(path, data=data)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    after = score(path, data=data)
    assert before["kinds"] == after["kinds"]


def test_unfinished(good: tuple[Path, Path]) -> None:
    path, data = good
    (path.parent / "p.partial").mkdir()
    score(path, data=data)  # FILE.csv is there: done
    path.unlink()
    with pytest.raises(InputError, match="not finished"):
        score(path, data=data)


def test_a_folder_is_no_prediction_file(good: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="this is a folder"):
        score(good[0].parent)


def test_another_dataset(good: tuple[Path, Path], tmp_path: Path) -> None:
    path, data = good
    samples = [choice(i, anomaly=i % 2 == 0) for i in range(4)]
    make_predictions(path, [answered(s) for s in samples], data)
    score(path, data=data)
    other = make_data(tmp_path / "other", [*samples, choice(9, anomaly=True)])
    with pytest.raises(InputError, match="made on another dataset"):
        score(path, data=other)


def test_changed_after_it_was_made(good: tuple[Path, Path]) -> None:
    path, data = good
    make_predictions(path, [answered(choice(i, anomaly=i % 2 == 0)) for i in range(4)], data)
    path.write_text(path.read_text(encoding="utf-8").replace(",7,", ",8,"), encoding="utf-8")
    with pytest.raises(InputError, match="changed after it was made"):
        score(path, data=data)


@pytest.mark.parametrize(
    ("text", "what"),
    [("{", "cannot be read"), ("{}", "cannot be read"), ("[]", "is not a JSON object")],
)
def test_damaged_manifest(good: tuple[Path, Path], text: str, what: str) -> None:
    path, data = good
    (path.parent / "p.manifest.json").write_text(text)
    with pytest.raises(InputError, match=what):
        score(path, data=data)


def test_edited_or_foreign_manifest(good: tuple[Path, Path]) -> None:
    from deckbench.artifact import hash_json

    path, data = good
    place = path.parent / "p.manifest.json"
    place.write_text(json.dumps({"content": {"kind": "predictions"}, "content_hash": "0" * 64}))
    with pytest.raises(InputError, match="does not fit"):
        score(path, data=data)
    content = {"kind": "adapter"}
    place.write_text(json.dumps({"content": content, "content_hash": hash_json(content)}))
    with pytest.raises(InputError, match="manifest of a adapter"):
        score(path, data=data)


def test_wrong_data(good: tuple[Path, Path], tmp_path: Path) -> None:
    path, data = good
    with pytest.raises(InputError, match="not found"):
        score(path, data=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no train\.jsonl"):
        score(path, data=tmp_path / "empty")
    from deckbench import artifact

    with artifact.writing(tmp_path / "pool", "pool") as draft:
        (draft.path / "x").write_text("x")
    with pytest.raises(InputError, match="this is a pool, not a dataset"):
        score(path, data=tmp_path / "pool")
    table = data / "samples.csv"
    text = table.read_text(encoding="utf-8").replace(",gold,", ",golden,")
    shutil.rmtree(tmp_path / "empty")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "samples.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="'gold' is missing"):
        score(path, data=tmp_path / "bad")


@pytest.mark.parametrize("text", ["", "classes: 3\n", "[1, 2]\n", "a: [\n", "classes: {x: 3}\n"])
def test_wrong_ontology(good: tuple[Path, Path], tmp_path: Path, text: str) -> None:
    from tests.score.score_helpers import scene

    path, data = good
    samples = [scene(1, anomaly=True)]
    data = make_data(tmp_path / "scenes", samples)
    make_predictions(path, [answered(s) for s in samples])
    place = tmp_path / "ontology.yaml"
    place.write_text(text)
    with pytest.raises(InputError):
        score(path, data=data, ontology=place)
    with pytest.raises(InputError, match="no such ontology"):
        score(path, data=data, ontology=tmp_path / "no.yaml")


def test_only_a_score_is_replaced(good: tuple[Path, Path], tmp_path: Path) -> None:
    said, data = good
    before = said.read_bytes()
    with pytest.raises(InputError, match="not a DeckBench score"):
        score(said, data=data, out=said, plots=tmp_path / "plots")
    assert said.read_bytes() == before and not (tmp_path / "plots").exists()
    with pytest.raises(InputError, match="not a DeckBench score"):
        score(said, data=data, out=tmp_path)
    with pytest.raises(InputError, match="the place for plots is a file"):
        score(said, data=data, plots=said)
    score(said, data=data, out=tmp_path / "score.json")
    score(said, data=data, out=tmp_path / "score.json", seed=1)
    assert '"seed": 1' in (tmp_path / "score.json").read_text()


def test_a_dataset_that_was_edited(good: tuple[Path, Path]) -> None:
    """Its groups and classes decide the intervals and tables; the score names the dataset by its hash."""
    said, data = good
    table = data / "samples.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(",g1,", ",g2,"), encoding="utf-8")
    with pytest.raises(InputError, match="was changed since") as caught:
        score(said, data=data)
    assert caught.value.where == str(table)


def test_a_dataset_whose_images_were_edited(good: tuple[Path, Path], tmp_path: Path) -> None:
    """A record shows them beside the answers."""
    said, data = good
    with artifact.writing(tmp_path / "pictured", "dataset") as draft:
        shutil.copyfile(data / "samples.csv", draft.path / "samples.csv")
        (draft.path / "one.jpg").write_bytes(b"an image")
    (tmp_path / "pictured" / "one.jpg").write_bytes(b"another image")
    with pytest.raises(InputError, match="was changed since"):
        score(said, data=tmp_path / "pictured")
