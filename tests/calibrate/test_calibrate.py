"""`calibrate` and `score --calibration`: what is fitted, what is refused, what stands before and after."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deckbench import artifact
from deckbench.calibrate import NoProbabilities, calibrate
from deckbench.cli import main
from deckbench.errors import InputError
from deckbench.record.calibration import read_calibration
from deckbench.score import score
from tests.calibrate.calibrate_helpers import MODEL, row, samples, seal, world
from tests.score.score_helpers import COLUMNS, make_data, write_csv

PLANTED = {"verdict": 3.0, "kind": 0.6}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, Path]:
    """Dataset, predictions of val and of test, and the calibration. Do not change them."""
    folder = tmp_path_factory.mktemp("planted")
    data, val, test = world(folder, temperatures=PLANTED, n=800)
    calibrate(val, data=data, out=folder / "calibration.json")
    return data, val, test, folder / "calibration.json"


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["deckbench", *map(str, words)])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


# What is fitted


def test_each_type_of_question_gets_its_own_temperature(planted: tuple[Path, ...]) -> None:
    made = read_calibration(planted[3])
    for name, temperature in PLANTED.items():
        found = made.temperatures[name]
        assert found.temperature == pytest.approx(temperature, rel=0.05)
        assert found.source == "own"
        low, high = found.interval or (0, 0)
        assert low < temperature < high
    assert made.after.log_loss.value < made.before.log_loss.value
    assert made.n == 1600
    assert made.fitted_on.model == MODEL


def test_the_same_inputs_give_the_same_bytes(planted: tuple[Path, ...], tmp_path: Path) -> None:
    data, val, _, made = planted
    calibrate(val, data=data, out=tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == made.read_bytes()
    calibrate(val, data=data, out=tmp_path / "again", errors=[0.2, 0.2])  # an older one is replaced
    assert [bound.stated_error for bound in read_calibration(tmp_path / "again").conformal] == [0.2]


def test_half_a_surrogate_pair_is_refused(planted: tuple[Path, ...], tmp_path: Path) -> None:
    value = json.loads(planted[3].read_text()) if planted[3].suffix == ".json" else {"kind": "calibration"}
    value["\ud800"] = "\ud800"
    (tmp_path / "c.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match="half a surrogate pair"):
        read_calibration(tmp_path / "c.json")


def test_without_a_dataset_all_questions_have_one_temperature(planted: tuple[Path, ...], tmp_path: Path) -> None:
    _, val, test, _ = planted
    made = calibrate(val, out=tmp_path / "c.json")
    assert [*made.temperatures] == ["choice"]
    assert "one temperature for all questions" in " ".join(made.notes)
    block = score(test, calibration=tmp_path / "c.json")["calibration"]
    assert block["after"]["log_loss"]["value"] < block["before"]["log_loss"]["value"]


def test_a_type_with_too_few_samples_takes_the_temperature_of_all(tmp_path: Path) -> None:
    made, odds = samples(30, "val", np.random.default_rng(1), question_type="rare")
    made = [sample | {"id": f"rare-{sample['id']}"} for sample in made]
    more, more_odds = samples(400, "val", np.random.default_rng(2), question_type="verdict")
    folder = tmp_path
    asked = [*made[:20], *more]
    data = make_data(folder / "data", asked)
    p = 1 / (1 + np.exp(-3 * np.concatenate([odds[:20], more_odds])))
    file = write_csv(folder / "val.csv", COLUMNS, [row(s, float(x)) for s, x in zip(asked, p, strict=True)])
    found = calibrate(seal(file, data, "val"), data=data, out=folder / "c.json")
    assert (found.temperatures["rare"].source, found.temperatures["rare"].state) == ("pooled", "too few samples")
    assert found.temperatures["rare"].temperature == found.pooled.temperature
    assert any(note.startswith("rare: too few samples (20)") for note in found.notes)


def test_a_perfect_model_keeps_its_probabilities(tmp_path: Path) -> None:
    asked, _ = samples(60, "val", np.random.default_rng(0), question_type="verdict")
    data = make_data(tmp_path / "data", asked)
    rows = [row(sample, 1.0 if sample["anomaly"] == "true" else 0.0) for sample in asked]
    val = seal(write_csv(tmp_path / "val.csv", COLUMNS, rows), data, "val")
    made = calibrate(val, data=data, out=tmp_path / "c.json")
    assert made.temperatures["verdict"].temperature == 1.0
    assert made.temperatures["verdict"].state == "all right"
    assert made.clipped == 60
    assert made.before == made.after
    assert math.isfinite(made.after.log_loss.value or 0)
    assert made.conformal[1].bound == 0.5  # everything may be answered


def test_models_without_probabilities_are_told_apart(tmp_path: Path) -> None:
    asked, _ = samples(40, "val", np.random.default_rng(0), question_type="verdict")
    data = make_data(tmp_path / "data", asked)
    val = seal(write_csv(tmp_path / "val.csv", COLUMNS, [row(sample, None) for sample in asked]), data, "val")
    with pytest.raises(NoProbabilities, match="no choice has a probability"):
        calibrate(val, data=data, out=tmp_path / "c.json")
    assert not (tmp_path / "c.json").exists()


# What is refused


def test_never_on_test_or_train(
    planted: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, val, test, _ = planted
    out = tmp_path / "c.json"
    assert run(monkeypatch, "calibrate", test, "--data", data, "--out", out) == 2
    said = capsys.readouterr().err
    assert f"{test}:5: the sample" in said
    assert "is of the part test; a calibration is fitted on val" in said
    assert "fix: ask val" in said
    assert run(monkeypatch, "calibrate", test, "--out", out) == 2
    said = capsys.readouterr().err
    assert f"{test}:5: test.manifest.json says: answers to the test part; a calibration is fitted on val" in said
    bare = tmp_path / "bare.csv"
    bare.write_bytes(val.read_bytes())
    assert run(monkeypatch, "calibrate", bare, "--out", out) == 2
    assert "nothing says that these answers are to the val part" in capsys.readouterr().err
    assert not out.exists()


def test_one_test_row_among_those_of_val_is_found_with_its_line(planted: tuple[Path, ...], tmp_path: Path) -> None:
    data, val, test, _ = planted
    mixed = tmp_path / "mixed.csv"
    lines = test.read_text().splitlines(keepends=True)
    mixed.write_text(val.read_text() + "".join(lines[-4:]))
    with pytest.raises(InputError, match="is of the part test") as caught:
        calibrate(mixed, data=data, out=tmp_path / "c.json")
    assert str(caught.value.where) == f"{mixed}:{len(mixed.read_text().splitlines())}"


def test_a_manifest_that_says_val_does_not_make_test_rows_val(planted: tuple[Path, ...], tmp_path: Path) -> None:
    data, _, test, _ = planted
    file = tmp_path / "test.csv"
    file.write_bytes(test.read_bytes())
    seal(file, data, "val")
    with pytest.raises(InputError, match="is of the part test"):
        calibrate(file, data=data, out=tmp_path / "c.json")


@pytest.mark.parametrize("option", ["--error", "--false-stop"])
@pytest.mark.parametrize("value", ["0", "1", "-0.1", "nan", "5", "1e-12", "0.999999999"])
def test_rates_that_are_none(
    planted: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, value: str
) -> None:
    data, val, _, _ = planted
    assert run(monkeypatch, "calibrate", val, "--data", data, "--out", tmp_path / "c.json", option, value) == 2
    assert not (tmp_path / "c.json").exists()


def test_something_else_at_out_is_not_overwritten(planted: tuple[Path, ...], tmp_path: Path) -> None:
    data, val, _, _ = planted
    other = tmp_path / "notes.json"
    other.write_text('{"kind": "diary"}')
    with pytest.raises(InputError, match="refusing to overwrite"):
        calibrate(val, data=data, out=other)
    with pytest.raises(InputError, match="directory"):
        calibrate(val, data=data, out=tmp_path)
    assert other.read_text() == '{"kind": "diary"}'


def edit(made: Path, out: Path, change: Any, *, reseal: bool = False) -> Path:
    """A calibration with its JSON changed."""
    value = json.loads(made.read_text())
    change(value)
    if reseal:
        value["content_hash"] = artifact.hash_json(value["content"])
    out.write_text(json.dumps(value))
    return out


def test_a_forged_calibration_is_refused(planted: tuple[Path, ...], tmp_path: Path) -> None:
    data, _, test, made = planted

    def colder(value: Any) -> None:
        value["content"]["temperatures"]["verdict"]["temperature"] = 1.5

    def lower(value: Any) -> None:
        value["content"]["thresholds"][0]["threshold"] = 0.2

    def dropped(value: Any) -> None:
        for column in value["content"]["samples"].values():
            column.pop()

    with pytest.raises(InputError, match="edited"):
        score(test, data=data, calibration=edit(made, tmp_path / "a", colder))
    for change in (colder, lower, dropped):
        forged = edit(made, tmp_path / "b", change, reseal=True)
        with pytest.raises(InputError, match="does not follow from its val answers"):
            score(test, data=data, calibration=forged)
    for breaks in (lambda v: v.update(more=1), lambda v: v["content"].pop("samples"), lambda v: v.update(kind="x")):
        with pytest.raises(InputError):
            score(test, data=data, calibration=edit(made, tmp_path / "c", breaks))
    (tmp_path / "d").write_text("[" * 100_000)
    with pytest.raises(InputError, match="cannot be read"):
        score(test, data=data, calibration=tmp_path / "d")
    with pytest.raises(InputError, match="not found"):
        score(test, data=data, calibration=tmp_path / "none")


def test_another_model_adapter_or_dataset_is_refused(planted: tuple[Path, ...], tmp_path: Path) -> None:
    data, _, test, made = planted
    for name, words in (
        ("name", "another model"),
        ("adapter", "another adapter"),
        ("dtype", "a model with another dtype"),
    ):
        file = tmp_path / f"{name}.csv"
        file.write_bytes(test.read_bytes())
        seal(file, data, "test", MODEL | {name: "3" * 64})
        with pytest.raises(InputError, match=words):
            score(file, data=data, calibration=made)
    bare = tmp_path / "bare.csv"
    bare.write_bytes(test.read_bytes())
    with pytest.raises(InputError, match="another model"):
        score(bare, data=data, calibration=made)
    other, _, elsewhere = world(tmp_path / "other", temperatures=PLANTED, n=40, seed=9)
    with pytest.raises(InputError, match="another dataset") as caught:
        score(elsewhere, data=other, calibration=made)
    assert "add --transfer" in caught.value.message()
    with pytest.raises(InputError, match="give --data"):
        score(test, calibration=made)


def test_a_calibration_of_another_dataset_is_applied_on_request(planted: tuple[Path, ...], tmp_path: Path) -> None:
    """On a dataset where the same model is five times too sure, what was learnt elsewhere is said to be from there."""
    other, _, test = world(tmp_path, temperatures={"verdict": 5.0}, n=200, seed=9)
    with pytest.raises(InputError, match="give --data"):
        score(test, calibration=planted[3], transfer=True)  # without the dataset nothing tells what is scored
    block = score(test, data=other, calibration=planted[3], transfer=True)["calibration"]
    assert block["transferred"] is True
    assert block["temperatures"] == {"verdict": read_calibration(planted[3]).temperatures["verdict"].temperature}
    assert block["change"]["log_loss"]["value"] < 0
    own = score(planted[2], data=planted[0], calibration=planted[3], transfer=True)["calibration"]
    assert own["transferred"] is False


def test_the_rows_it_was_fitted_on_are_refused(planted: tuple[Path, ...]) -> None:
    data, val, _, made = planted
    with pytest.raises(InputError, match="was fitted on the sample") as caught:
        score(val, data=data, calibration=made)
    assert str(caught.value.where) == f"{val}:5"


# What stands before and after


def test_before_and_after_on_test(planted: tuple[Path, ...]) -> None:
    data, _, test, made = planted
    plain = score(test, data=data)
    found = score(test, data=data, calibration=made)
    block = found.pop("calibration")
    assert "calibration" not in plain  # what was scored before stays the same
    assert found == plain
    for name in ("brier", "ece", "log_loss"):
        assert block["after"][name]["value"] < block["before"][name]["value"]
        low, high = block["after"][name]["cluster"]
        assert low <= block["after"][name]["value"] <= high or name == "ece"
    assert block["change"]["log_loss"]["cluster"][1] < 0
    assert block["before"]["brier"]["value"] == pytest.approx(
        plain["kinds"]["choice"]["metrics"]["brier"]["value"], abs=1e-6
    )
    assert block["temperatures"] == {name: read_calibration(made).temperatures[name].temperature for name in PLANTED}
    assert [len(block[side]["reliability"]) for side in ("before", "after")] == [10, 10]


def test_the_plot_shows_before_and_after(planted: tuple[Path, ...], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    data, _, test, made = planted
    found = score(test, data=data, calibration=made, plots=tmp_path)
    with (tmp_path / "choice-reliability.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    after = [row for row in rows if "calibrated" in row.values()]
    assert len(after) == sum(at["n"] > 0 for at in found["calibration"]["after"]["reliability"])
    assert len(rows) > len(after)


def test_thresholds_keep_on_test_what_they_promise_on_val(planted: tuple[Path, ...]) -> None:
    data, _, test, made = planted
    block = score(test, data=data, calibration=made)["calibration"]
    rates = []
    for at in block["thresholds"]:
        low, high = at["false_stop_rate"]["cluster"]
        assert low <= at["allowed_false_stop_rate"] <= high
        rates.append((at["false_stop_rate"]["value"], at["miss_rate"]["value"]))
    assert rates == sorted(rates, key=lambda pair: (pair[0], -pair[1]))  # more false stops, fewer misses


def test_abstention_on_test(planted: tuple[Path, ...]) -> None:
    data, _, test, made = planted
    block = score(test, data=data, calibration=made)["calibration"]
    answered = [at["answered"]["value"] for at in block["abstention"]]
    assert answered == sorted(answered)
    for at in block["abstention"]:
        low, _ = at["error"]["cluster"]
        assert low <= at["stated_error"]
        assert at["error_among_answered"]["n"] == at["answered"]["k"]
        assert at["error_among_answered"]["k"] == at["error"]["k"]


def test_answers_that_are_missing_count_as_wrong(tmp_path: Path) -> None:
    """120 questions on test: 80 have no answer, 20 no probability, and those that are there are all right."""
    asked, _ = samples(120, "test", np.random.default_rng(3), question_type="verdict")
    old, _ = samples(400, "val", np.random.default_rng(0), question_type="verdict")
    folder = tmp_path
    both = make_data(folder / "data", [*old, *asked])
    p = np.random.default_rng(1).uniform(0.05, 0.95, 400)
    val = seal(
        write_csv(folder / "val.csv", COLUMNS, [row(s, float(x)) for s, x in zip(old, p, strict=True)]), both, "val"
    )
    calibrate(val, data=both, out=folder / "c.json")
    rows = [row(sample, 0.999 if sample["anomaly"] == "true" else 0.001) for sample in asked[:20]]
    rows += [row(sample, None) | {"prediction": sample["gold"], "parsed": sample["gold"]} for sample in asked[20:40]]
    test = seal(write_csv(folder / "test.csv", COLUMNS, rows), both, "test")
    block = score(test, data=both, calibration=folder / "c.json")["calibration"]
    assert (block["n"], block["without_p"]) == (20, 20)
    corrected = block["chance_corrected"]
    assert (corrected["k"], corrected["n"], corrected["chance"]) == (40, 120, 0.5)
    assert corrected["value"] == pytest.approx((40 / 120 - 0.5) / 0.5)
    low, high = corrected["interval"]
    assert low <= corrected["value"] <= high
    for at in block["abstention"]:
        assert at["answered"]["n"] == 40
        assert at["answered"]["k"] <= 20


def test_the_command_line_says_before_and_after(
    planted: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, _, test, made = planted
    words = ("score", test, "--data", data, "--calibration", made, "--out", tmp_path / "score.json")
    assert run(monkeypatch, *words) == 0
    said = capsys.readouterr().out
    block = json.loads((tmp_path / "score.json").read_text())["calibration"]
    before, after = (block[side]["log_loss"]["value"] for side in ("before", "after"))
    assert f"log loss: {before:.3f} -> {after:.3f}" in said
    assert (
        f"0.05 false stops allowed on val: false stops {block['thresholds'][1]['false_stop_rate']['value']:.1%}" in said
    )


def test_the_schema_names_the_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "schema", "calibration") == 0
    assert json.loads(capsys.readouterr().out)["required"] == ["content_hash", "content"]
