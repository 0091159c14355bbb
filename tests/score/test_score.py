"""The scorer: gold scores exactly 1.0, worked numbers come out, the same inputs give the same bytes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from deckbench.record.metrics_schema import Metrics
from deckbench.score import score
from tests.score.score_helpers import answered, choice, make_data, make_predictions, open_question, scene


def both_orders(count: int, **more: Any) -> list[dict[str, Any]]:
    return [choice(i, anomaly=i % 2 == 0, swap=swap, **more) for i in range(count) for swap in (False, True)]


def value(result: dict[str, Any], name: str, kind: str = "choice") -> Any:
    return result["kinds"][kind]["metrics"][name]["value"]


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    samples = both_orders(20)
    samples += [scene(i, anomaly=i % 3 == 0) for i in range(12)]
    samples += [open_question(i, ["tip, bent", "spill", "1号位"][i % 3]) for i in range(6)]
    return make_data(tmp_path / "data", samples), samples


def test_gold_scores_one(world: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    """Answers that are the gold answers prove the scorer: nothing is lost between reading and counting."""
    data, samples = world
    sure = [answered(s, p_anomaly=float(s["anomaly"] == "true") if s["kind"] == "choice" else None) for s in samples]
    result = score(make_predictions(tmp_path / "gold.csv", sure, data), data=data)
    assert result["n"] == len(samples) and result["unparsed"] == 0 and result["groups"] == 5
    assert result["metrics"]["accuracy"]["value"] == 1.0
    perfect = {"accuracy", "balanced_accuracy", "precision", "recall", "f1", "auroc", "order_consistency"}
    perfect |= {"pair_accuracy", "token_f1", "statement_f1", "exact_match", "substring_accuracy", "letter_mass"}
    none = {"miss_rate", "false_stop_rate", "miss_rate_at_5", "brier", "ece", "unparsed_rate"}
    seen = set()
    for block in result["kinds"].values():
        for name, metric in block["metrics"].items():
            seen.add(name)
            if name in perfect:
                low, high = metric["cluster"]
                assert metric["value"] == high == 1.0 and 0 < low <= 1.0, name
            if name in none:
                assert metric["value"] == 0.0, name
        for part in ("by_class", "by_step", "by_stage", "by_lang"):
            assert all(entry["metrics"]["accuracy"]["value"] == 1.0 for entry in block[part].values())
    assert perfect | none <= seen
    assert set(result["kinds"]) == {"choice", "scene", "open"} and result["primary"] == "choice"


def test_worked_example(tmp_path: Path) -> None:
    """Eight verdicts: 4 anomalies (2 found, 1 missed, 1 unparsed), 4 normal (3 right, 1 stopped)."""
    said = [("anomaly", "B"), ("anomaly", "B"), ("anomaly", "A"), ("anomaly", "AB")]
    said += [("normal", "A"), ("normal", "A"), ("normal", "A"), ("normal", "B")]
    p = [0.9, 0.8, 0.3, 0.5, 0.1, 0.2, 0.3, 0.7]
    samples = [choice(i, anomaly=truth == "anomaly") for i, (truth, _) in enumerate(said)]
    data = make_data(tmp_path / "data", samples)
    rows = [answered(s, text, q) for s, (_, text), q in zip(samples, said, p, strict=True)]
    result = score(make_predictions(tmp_path / "p.csv", rows, data), data=data)
    block = result["kinds"]["choice"]
    assert block["confusion"] == {
        "anomaly_as_anomaly": 2,
        "anomaly_as_normal": 1,
        "anomaly_unparsed": 1,
        "normal_as_normal": 3,
        "normal_as_anomaly": 1,
        "normal_unparsed": 0,
    }
    assert result["unparsed"] == 1
    assert value(result, "accuracy") == 5 / 8
    assert value(result, "recall") == 0.5 and value(result, "miss_rate") == 0.5
    assert value(result, "false_stop_rate") == 0.25
    assert value(result, "balanced_accuracy") == 0.625
    assert value(result, "precision") == pytest.approx(2 / 3)
    assert value(result, "f1") == pytest.approx(4 / 7)
    # positives .9 .8 .3 .5 against negatives .1 .2 .3 .7: wins 4 + 4 + 2.5 + 3 of 16
    assert value(result, "auroc") == pytest.approx(13.5 / 16)
    assert value(result, "miss_rate_at_5") == 0.5  # no negative may stop: threshold 0.8
    assert block["operating_point"] == {
        "allowed_false_stop_rate": 0.05,
        "threshold": 0.8,
        "false_stop_rate": 0.0,
        "miss_rate": 0.5,
    }
    assert block["metrics"]["accuracy"]["k"] == 5 and block["metrics"]["accuracy"]["n"] == 8
    assert block["by_anomaly"]["damaged_tip"]["metrics"]["miss_rate"]["value"] == 0.5
    assert block["by_class"]["single_channel_tip"]["metrics"]["accuracy"]["value"] == 0.75
    assert value(result, "substring_accuracy") == 6 / 8  # "AB" holds "b"
    assert value(result, "substring_agreement") == 7 / 8


def test_unparsed_is_wrong_on_both_sides(tmp_path: Path) -> None:
    samples = [choice(i, anomaly=i < 3) for i in range(6)]
    data = make_data(tmp_path / "data", samples)
    result = score(make_predictions(tmp_path / "p.csv", [answered(s, "hm") for s in samples], data), data=data)
    assert result["unparsed"] == 6 and value(result, "accuracy") == 0
    assert value(result, "miss_rate") == 1 and value(result, "false_stop_rate") == 1
    assert value(result, "unparsed_rate") == 1 and result["kinds"]["choice"]["metrics"]["share_a"]["n"] == 0


def test_position_bias_and_order(tmp_path: Path) -> None:
    """A model that always says A is half right, wholly inconsistent, and no pair is right in both orders."""
    samples = both_orders(10)
    data = make_data(tmp_path / "data", samples)
    result = score(make_predictions(tmp_path / "p.csv", [answered(s, "A") for s in samples], data), data=data)
    assert value(result, "accuracy") == 0.5 and value(result, "share_a") == 1.0
    assert value(result, "order_consistency") == 0.0 and value(result, "pair_accuracy") == 0.0
    assert result["kinds"]["choice"]["metrics"]["order_consistency"]["n"] == 10
    content = [answered(s, "AB"[(s["option_a"], s["option_b"]).index("normal")]) for s in samples]
    result = score(make_predictions(tmp_path / "c.csv", content, data), data=data)
    assert value(result, "order_consistency") == 1.0 and value(result, "pair_accuracy") == 0.5
    assert value(result, "share_a") == 0.5


def test_answers_may_be_the_options_text(tmp_path: Path) -> None:
    samples = both_orders(4)
    data = make_data(tmp_path / "data", samples)
    rows = [answered(s, "anomaly" if s["anomaly"] == "true" else "Normal.") for s in samples]
    assert value(score(make_predictions(tmp_path / "p.csv", rows, data), data=data), "accuracy") == 1.0
    without = score(tmp_path / "p.csv")  # options then come from the prompt
    assert value(without, "accuracy") == 1.0


def test_options_may_stand_in_the_prompt_alone(tmp_path: Path) -> None:
    """A lab's own file: the dataset names no options, the prompt prints them."""
    samples = [{**s, "option_a": "", "option_b": ""} for s in both_orders(4)]
    data = make_data(tmp_path / "data", samples)
    rows = [answered(s, "anomaly" if s["anomaly"] == "true" else "Normal.") for s in samples]
    result = score(make_predictions(tmp_path / "p.csv", rows, data), data=data)
    assert value(result, "accuracy") == 1.0
    assert value(result, "order_consistency") == 1.0


def test_questions_without_a_verdict(tmp_path: Path) -> None:
    """S1 choices have no anomaly: no detection metrics, balance over the gold letters."""
    more: dict[str, Any] = {"class": "tip_rack"}
    samples = [choice(i, anomaly=i % 2 == 0, **more) | {"anomaly": ""} for i in range(8)]
    data = make_data(tmp_path / "data", samples)
    rows = [answered(s, "A") for s in samples]
    result = score(make_predictions(tmp_path / "p.csv", rows, data), data=data)
    block = result["kinds"]["choice"]
    assert block["confusion"] is None and "miss_rate" not in block["metrics"] and block["by_anomaly"] == {}
    assert value(result, "balanced_accuracy") == 0.5


def test_scene_texts(tmp_path: Path) -> None:
    ontology = tmp_path / "ontology.yaml"
    ontology.write_text(
        "name: small\nabout: {en: deck, zh: 台面}\n"
        "nouns: {tip: {en: tip, zh: 吸头}, lid: {en: lid, zh: 盖}}\n"
        "steps: {transfer: {en: transfer, zh: 移液}, thermocycle: {en: thermocycle, zh: 热循环}}\n"
        "classes:\n"
        "  damaged_tip: {name: {en: damaged tip, zh: 坏}, state: {en: bent, zh: 弯}, nouns: [tip], verdict: anomaly}\n"
        "  tip: {name: {en: tip, zh: 吸头}, state: {en: straight, zh: 直}, nouns: [tip], verdict: normal}\n"
        "  lid_open: {name: {en: open lid, zh: 开盖}, state: {en: open, zh: 开}, nouns: [lid], verdict: depends, "
        "anomaly_at: [thermocycle]}\n",
        encoding="utf-8",
    )
    samples = [scene(0, anomaly=True), scene(1, anomaly=False), scene(2, anomaly=False), scene(3, anomaly=True)]
    samples += [scene(4, anomaly=False, step="thermocycle")]
    data = make_data(tmp_path / "data", samples)
    said = [
        "tip: bent. Wrong: damaged tip. Verdict: anomaly.",
        "tip: bent. Verdict: normal.",  # states an anomaly, says normal; its verdict is right all the same
        "tip: straight. Verdict: anomaly.",  # gives no reason
        "tip: straight.",  # no verdict
        "lid: open. Verdict: normal.",  # open is wrong at this step
    ]
    rows = [answered(s, text) for s, text in zip(samples, said, strict=True)]
    result = score(make_predictions(tmp_path / "p.csv", rows, data), data=data, ontology=ontology)
    assert result["unparsed"] == 1 and value(result, "accuracy", "scene") == 3 / 5
    assert value(result, "names_anomaly_says_normal", "scene") == 2 / 5
    assert value(result, "says_anomaly_names_none", "scene") == 1 / 5
    assert value(result, "contradictions", "scene") == 3 / 5
    assert result["kinds"]["scene"]["confusion"]["anomaly_unparsed"] == 1
    # statements: 2/2 right, 0 of 1, 1 of 1, 0, 0
    assert value(result, "statement_f1", "scene") == pytest.approx((1 + 0 + 1 + 0 + 0) / 5)
    assert result["inputs"]["ontology"] is not None
    mixed = make_data(tmp_path / "own", [sample | {"task": "ot2-scene@1+0123abcd"} for sample in samples])
    plain = score(make_predictions(tmp_path / "own.csv", rows), data=mixed)
    assert "contradictions" not in plain["kinds"]["scene"]["metrics"]
    assert any("ontology" in note for note in plain["notes"])


def test_published_task_brings_its_ontology(tmp_path: Path) -> None:
    samples = [scene(i, anomaly=i == 0, task="ot2-scene@1") for i in range(3)]
    data = make_data(tmp_path / "data", samples)
    said = ["plate: tilted. Wrong: crooked plate. Verdict: anomaly.", "plate: tilted. Verdict: normal."]
    rows = [answered(s, text) for s, text in zip(samples, [*said, "lid: open. Verdict: normal."], strict=True)]
    result = score(make_predictions(tmp_path / "p.csv", rows, data), data=data)
    assert result["kinds"]["scene"]["metrics"]["names_anomaly_says_normal"]["k"] == 1  # open is fine at `transfer`


def test_open_answers(tmp_path: Path) -> None:
    samples = [open_question(i, "tip, bent") for i in range(4)]
    data = make_data(tmp_path / "data", samples)
    rows = [
        answered(s, text) for s, text in zip(samples, ["tip, bent", "Tip  bent.", "a bent tip here", ""], strict=True)
    ]
    result = score(make_predictions(tmp_path / "p.csv", rows, data), data=data)
    assert value(result, "accuracy", "open") == 0.5 and value(result, "exact_match", "open") == 0.25
    assert value(result, "token_f1", "open") == pytest.approx((1 + 1 + 2 * 2 / 6 + 0) / 4)
    assert result["unparsed"] == 1


def test_calibration(tmp_path: Path) -> None:
    samples = [choice(i, anomaly=i < 8) for i in range(10)]
    data = make_data(tmp_path / "data", samples)
    rows = [answered(s, p_anomaly=0.85) for s in samples]
    result = score(make_predictions(tmp_path / "p.csv", rows, data), data=data)
    assert value(result, "ece") == pytest.approx(0.05)
    assert value(result, "brier") == pytest.approx(0.8 * 0.15**2 + 0.2 * 0.85**2)
    bars = [bar for bar in result["kinds"]["choice"]["reliability"] if bar["n"]]
    assert bars == [{"low": 0.8, "high": 0.9, "n": 10, "mean_predicted": 0.85, "observed_frequency": 0.8}]


def test_same_inputs_same_bytes(world: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    data, samples = world
    rng = random.Random(4)
    rows = [answered(s, rng.choice([None, "A"]), rng.random() if s["kind"] == "choice" else None) for s in samples]
    path = make_predictions(tmp_path / "p.csv", rows, data)
    score(path, data=data, out=tmp_path / "a.json", plots=tmp_path / "a", seed=3)
    score(path, data=data, out=tmp_path / "b.json", plots=tmp_path / "b", seed=3)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    made = sorted((tmp_path / "a").iterdir())
    assert {"choice-roc", "choice-confusion", "choice-reliability", "scene-classes"} <= {path.stem for path in made}
    assert [path.suffix for path in made] == [".csv", ".png", ".svg"] * (len(made) // 3)
    for picture in made:
        assert picture.read_bytes() == (tmp_path / "b" / picture.name).read_bytes()
        if picture.suffix == ".svg":
            ElementTree.parse(picture)
    loaded = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert Metrics.model_validate(loaded).model_dump(mode="json") == loaded


def test_order_of_rows_does_not_matter(world: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    data, samples = world
    rng = random.Random(4)
    rows = [answered(s, rng.choice([None, "A"]), rng.random() if s["kind"] == "choice" else None) for s in samples]
    a = score(make_predictions(tmp_path / "a.csv", rows, data), data=data)
    rng.shuffle(rows)
    b = score(make_predictions(tmp_path / "b.csv", rows, data), data=data)
    for part in ("kinds", "metrics", "n", "unparsed"):
        assert a[part] == b[part]


def test_frames_stand_for_unknown_groups(tmp_path: Path) -> None:
    samples = both_orders(6, group="")
    data = make_data(tmp_path / "data", samples)
    path = make_predictions(tmp_path / "p.csv", [answered(s) for s in samples], data)
    result = score(path, data=data)
    assert result["group_by"] == "frame" and result["groups"] == 6
    assert any("frame" in note for note in result["notes"])
    result = score(path)
    assert result["group_by"] == "pair_id" and result["groups"] == 6


def test_without_a_dataset_the_verdict_comes_from_p_anomaly(tmp_path: Path) -> None:
    samples = both_orders(10)
    path = make_predictions(tmp_path / "p.csv", [answered(s, p_anomaly=0.7) for s in samples])
    result = score(path)
    assert value(result, "miss_rate") == 0.0 and value(result, "auroc") == 0.5
    assert result["inputs"]["data_content"] is None


def test_one_group_has_no_cluster_interval(tmp_path: Path) -> None:
    samples = both_orders(6, group="only")
    data = make_data(tmp_path / "data", samples)
    result = score(make_predictions(tmp_path / "p.csv", [answered(s) for s in samples], data), data=data)
    assert result["kinds"]["choice"]["metrics"]["accuracy"]["cluster"] is None
    assert any("1 groups" in note for note in result["notes"])


def test_missing_predictions_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = both_orders(6)
    data = make_data(tmp_path / "data", [*samples, choice(99, anomaly=True, split="train")])
    result = score(make_predictions(tmp_path / "p.csv", [answered(s) for s in samples[:9]], data), data=data)
    said = "9 of 12 questions answered; 3 have no prediction and are not in the score"
    assert result["notes"][0] == said and result["asked"] == {"choice": 12}
    assert capsys.readouterr().err == f"{tmp_path / 'p.csv'}: {said}\n"
