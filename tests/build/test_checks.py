"""Questions about checks: each check is asked or listed, twins share it, and its texts are data."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from deckbench.build import checks
from deckbench.build.audit import audit
from deckbench.build.contact import contact_sheet
from deckbench.build.dataset import build_dataset
from deckbench.build.mix import mix
from deckbench.build.plan import Context, LeftOut, Unit, trim
from deckbench.dataset import OurRow, read_samples
from deckbench.errors import InputError
from deckbench.gold import read_labels
from deckbench.infer import infer
from deckbench.language import AnyText
from deckbench.models import baselines
from deckbench.score import score
from deckbench.score.compare import compare
from deckbench.yolo.frame import Check
from deckbench.yolo.read import read_pool
from tests.build.build_helpers import frame, write_pool
from tests.build.test_plan import Make

HEADER = (
    *("frame", "step", "phase", "check", "expected", "verdict", "anomaly", "region", "caption"),
    *("step_zh", "check_zh", "expected_zh", "caption_zh", "anomaly_zh"),
)
LEVELS = ("none", "step", "step+check", "step+check+expected")
TASKS = ("ot2-check@1", "ot2-check-box@1", "ot2-check-crop@1")
TEMPLATE = "Is {{ noun }} empty {% if %}?"  # a text from outside that looks like a template


def check_rows(sessions: int) -> list[dict[str, str]]:
    """Four kinds of checks in every session: of two frames each, normal in one and an anomaly in the other.

    Frame 0 passes the first check at one step and fails another one; the last check is never passed.
    """
    rows = []
    for session in range(sessions):
        for number, check, verdict in (
            (0, "bin", "normal"), (1, "bin", "anomaly"), (2, "plate", "normal"), (0, "plate", "anomaly"),
            (3, "lid", "normal"), (4, "lid", "unknown"), (5, "never", "anomaly"),
        ):  # fmt: skip
            wrong = verdict == "anomaly"
            rows.append(
                {
                    "frame": f"s{session:02d}f{number}.jpg",
                    "step": f"Step {check}; go on",
                    "phase": "pre" if check == "bin" else "post",
                    "check": TEMPLATE if check == "bin" else f"Is the {check} there?",
                    "expected": f"A {check} stands there.",
                    "verdict": verdict,
                    "anomaly": ("missing" if session % 2 else "tilted;dirty") if wrong else "",
                    "region": f"0.1 0.1 0.{4 + session % 3} 0.5",
                    "caption": f"{'No' if wrong else 'A'} {check} is seen." if check != "plate" or session else "",
                    "step_zh": f"步骤{check}",
                    "check_zh": f"{check}在吗?",
                    "expected_zh": "" if check == "plate" else f"有{check}。",
                    "caption_zh": f"{check}可见。",
                    "anomaly_zh": ("缺失" if session % 2 else "倾斜;脏") if wrong else "",
                }
            )
    return rows


def write_checks(pool: Path, rows: Sequence[dict[str, str]]) -> None:
    with (pool / "checks.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, HEADER)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_pool(tmp_path_factory.mktemp("pools") / "checked")
    write_checks(root, check_rows(10))
    table = (root / "frames.csv").read_text().splitlines()
    views = [table[0] + ",view", *(f"{line},{'top' if at % 2 else 'side'}" for at, line in enumerate(table[1:]))]
    (root / "frames.csv").write_text("\n".join(views) + "\n")
    return root


@pytest.fixture(scope="module")
def built(pool: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Task, or level of context -> dataset."""
    folder = tmp_path_factory.mktemp("built")
    for task in TASKS:
        build_dataset(task, pool=pool, out=folder / task, split="pool", seed=5, workers=1)
    for level in LEVELS:
        options = {"context": level}
        build_dataset(TASKS[0], pool=pool, out=folder / level, split="pool", seed=5, workers=1, options=options)
    return {name: folder / name for name in (*TASKS, *LEVELS)}


def table(dataset: Path) -> pd.DataFrame:
    return pd.read_csv(dataset / "samples.csv", dtype=str, keep_default_na=False)


def about_checks(dataset: Path) -> pd.DataFrame:
    rows: pd.DataFrame = table(dataset).query("question_type == 'check'")
    return rows


def left_out(dataset: Path) -> pd.DataFrame:
    return pd.read_csv(dataset / "left_out.csv", keep_default_na=False)


@pytest.mark.parametrize("task", [*TASKS, "none"])
def test_every_check_is_asked_or_listed(pool: Path, built: dict[str, Path], task: str) -> None:
    known = {(each.id, *check.key) for each in read_pool(pool).frames for check in each.checks}
    asked = {
        tuple(row) for row in about_checks(built[task])[["frame", "step", "phase", "check"]].itertuples(index=False)
    }
    left = left_out(built[task])
    left = left[left["what"].str.startswith("Step ")]
    listed = {
        (frame, what)
        for what, frames in zip(left["what"], left["examples"], strict=True)
        for frame in frames.split(";")
    }
    assert asked <= known
    assert len(asked) + left["count"].sum() == len(known)
    assert {(frame, " / ".join(key)) for frame, *key in known - asked} == listed
    assert "the verdict is unknown" in set(left["reason"])
    assert "only anomaly here, no normal with these texts" in set(left["reason"])


@pytest.mark.parametrize("task", [*TASKS, *LEVELS])
def test_a_question_alone_never_tells(built: dict[str, Path], task: str) -> None:
    rows = about_checks(built[task])
    for (_, question), part in rows[rows["kind"] == "choice"].groupby(["split", "question"]):
        assert Counter(part["anomaly"]) == {"true": len(part) / 2, "false": len(part) / 2}, question
    for twin, part in rows.groupby("twin"):
        assert len(part[["step", "phase", "check"]].drop_duplicates()) == 1, twin
        assert set(part["anomaly"]) == {"true", "false"}
    assert set(rows["split"]) == {"train", "val", "test"}


def test_levels_ask_the_same_samples(built: dict[str, Path]) -> None:
    tables = [table(built[level]) for level in LEVELS]
    same = ["id", "pair_id", "split", "image", "gold", "option_a", "anomaly", "class", "step", "check", "twin"]
    for each in tables[1:]:
        assert each[same].equals(tables[0][same])
    assert [set(each["context"]) for each in tables] == [{level} for level in LEVELS]
    refs = [set(each["task"]) for each in tables]
    assert refs[-1] == {"ot2-check@1"}
    assert len(set.union(*refs)) == 4


def test_each_level_says_more(built: dict[str, Path]) -> None:
    def question(level: str) -> str:
        rows = about_checks(built[level])
        return str(rows[(rows["kind"] == "scene") & rows["step"].str.startswith("Step bin")].iloc[0]["question"])

    ask = "Say what the frame shows, then judge it."
    step = "Protocol step (before it starts): Step bin; go on"
    check, expected = f"Check: {TEMPLATE}", "Expected: A bin stands there."
    lines = [ask], [step, ask], [step, check, ask], [step, check, expected, ask]
    assert [question(level) for level in LEVELS] == ["\n".join(each) for each in lines]


def test_captions_and_kinds_stay_out_of_the_question(built: dict[str, Path]) -> None:
    rows = about_checks(built["ot2-check@1"])
    assert not rows["question"].str.contains("is seen|missing|tilted|dirty").any()
    scenes = rows[rows["kind"] == "scene"]
    assert set(scenes[scenes["anomaly"] == "true"]["answer"]) == {
        "No bin is seen. Verdict: anomaly.", "No plate is seen. Verdict: anomaly."
    }  # fmt: skip
    assert set(rows[rows["anomaly"] == "true"]["class"]) == {"missing", "tilted;dirty"}
    assert set(rows[rows["anomaly"] == "false"]["class"]) == {""}


def test_a_frame_appears_with_both_answers(built: dict[str, Path]) -> None:
    rows = about_checks(built["ot2-check@1"])
    both = rows.groupby("frame")["anomaly"].nunique()
    assert len(both[both == 2]) == 10


def test_choices_that_nothing_decides_are_counted(
    tmp_path: Path, pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for level in ("none", "step+check+expected"):
        out = tmp_path / level.replace("+", "-")
        build_dataset("ot2-check@1", pool=pool, out=out, split="pool", workers=1, options={"context": level})
        rows = about_checks(out)
        rows = rows[rows["kind"] == "choice"]
        answers = rows.groupby(["image", "question"])["anomaly"].transform("nunique")
        undecided = int((answers > 1).sum())
        said = f"{undecided} choices have image and question in common with one of the other answer"
        assert (undecided > 0) == (level == "none")
        assert (said in capsys.readouterr().err) == (level == "none")


def test_a_pool_whose_checks_cannot_be_asked_says_what_to_do(tmp_path: Path, pool: Path) -> None:
    unknown = {"verdict": "unknown", "anomaly": "", "anomaly_zh": ""}
    for lang, change, fix in (("en", unknown, "--labels"), ("zh", {"check_zh": ""}, "or build with --lang en")):
        copy = tmp_path / lang
        shutil.copytree(pool, copy)
        write_checks(copy, [{**row, **change} for row in check_rows(4)])
        with pytest.raises(InputError) as error:
            build_dataset("ot2-check@1", pool=copy, out=tmp_path / "d", split="pool", lang=lang, workers=1)
        assert fix in str(error.value) and len(str(error.value)) < 500
        assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(("lang", "unusable"), [("zh", True), ("both", True), ("en", False)])
def test_texts_must_exist_in_the_language(tmp_path: Path, pool: Path, lang: str, unusable: bool) -> None:
    build_dataset("ot2-check@1", pool=pool, out=tmp_path / "d", split="pool", lang=lang, workers=1)
    rows, left = about_checks(tmp_path / "d"), left_out(tmp_path / "d")
    assert ("`expected` has no text in zh" in set(left["reason"])) == unusable
    assert rows["step"].str.startswith("Step plate").any() != unusable
    if lang != "en":
        assert (
            rows["question"]
            .str.contains("实验步骤(开始前):步骤bin\n检查项:bin在吗?\n应有状态:有bin。", regex=False)
            .any()
        )
        assert rows["answer"].str.contains("bin可见。结论:异常。").any()
    ids = Counter(rows["lang"])
    assert len(ids) == (2 if lang == "both" else 1)


@pytest.mark.parametrize("task", [*TASKS, "none"])
def test_gold_rule_needs_the_dataset_only(built: dict[str, Path], task: str) -> None:
    samples = [sample for sample in read_samples(built[task], "test") if sample.check]
    answers = baselines.load("rule:gold").answer_samples(samples)
    for sample, answer in zip(samples, answers, strict=True):
        if sample.kind == "choice":
            assert getattr(answer, "text", None) == sample.gold
        else:
            assert sample.gold.endswith(getattr(answer, "text", "?").rpartition("Verdict")[2])
    assert len(samples) > 8
    labels = read_labels(built[task])
    assert all(each.checks for each in labels.values()) or task == "ot2-check-crop@1"


def test_a_detector_cannot_answer_checks(pool: Path, built: dict[str, Path]) -> None:
    samples = read_samples(built["ot2-check@1"], "test")
    with pytest.raises(InputError, match="question about a check"):
        baselines.load(f"rule:{pool}").answer_samples(samples)


@pytest.mark.parametrize("task", TASKS[1:])
def test_regions_are_drawn_and_cropped(pool: Path, built: dict[str, Path], task: str) -> None:
    rows = about_checks(built[task])
    assert rows["box"].ne("").all()
    for row in rows.itertuples():
        x0, y0, x1, y1 = map(float, str(row.box).split())
        assert 0 <= x0 < x1 <= float(str(row.width)) and 0 <= y0 < y1 <= float(str(row.height))
    assert rows["image"].str.contains("-r0.jpg").all()
    kinds = set(table(built[task])["question_type"])
    assert kinds == ({"check"} if "box" in task else {"check", "kind", "state", "fact"})


def test_without_a_region_nothing_is_drawn(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "pool")
    write_checks(root, [{**row, "region": ""} for row in check_rows(10)])
    with pytest.raises(InputError, match="no region"):
        build_dataset("ot2-check-box@1", pool=root, out=tmp_path / "d", split="pool", workers=1)
    build_dataset("ot2-check@1", pool=root, out=tmp_path / "e", split="pool", workers=1)


def test_no_ontology_is_needed_for_checks(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d", "e", "f", "g")
    scenes = [("", (("a", 0.5, 0.5, 0.2, 0.2),))] * 6
    root = write_pool(tmp_path / "pool", names=names, scenes=scenes, wrong=None)
    write_checks(root, check_rows(10))
    build_dataset("ot2-check@1", pool=root, out=tmp_path / "d", split="pool", workers=1)
    assert set(table(tmp_path / "d")["task"]) == {"ot2-check@1"}
    with pytest.raises(InputError, match="lacks the pool's class"):
        build_dataset("ot2-check-crop@1", pool=root, out=tmp_path / "e", split="pool", workers=1)


def test_a_pool_without_checks_says_so(tmp_path: Path, hand_pool: Path) -> None:
    with pytest.raises(InputError, match="no sample for ot2-check@1; it has no checks"):
        build_dataset("ot2-check@1", pool=hand_pool, out=tmp_path / "d", split="pool", workers=1)


@pytest.mark.parametrize("task", ["ot2-scene@1", "ot2-guided@1"])
def test_checks_alone_judge_their_frames(tmp_path: Path, task: str) -> None:
    """Labels and frames.csv say that frame 4 is an anomaly and 5 is not; the checks say the opposite."""
    root = write_pool(tmp_path / "pool")
    rows = [row for row in check_rows(10) if row["frame"][-5] not in "03"]
    write_checks(root, [{**row, "verdict": row["verdict"].replace("unknown", "normal")} for row in rows])
    if task == "ot2-guided@1":
        build_dataset(task, pool=root, out=tmp_path / "d", split="pool", workers=1)
        frames = set(table(tmp_path / "d").query("question_type == 'verdict'")["frame"])
        assert {name[-1] for name in frames} <= {"0", "3"}
        return
    build_dataset(task, pool=root, out=tmp_path / "d", split="pool", workers=1)
    truth = table(tmp_path / "d").groupby("frame")["anomaly"].first()
    assert {str(name)[-1]: value for name, value in truth.items() if str(name)[-1] in "45"} == {
        "4": "false",
        "5": "true",
    }


def test_a_row_of_the_dataset_keeps_its_schema(built: dict[str, Path]) -> None:
    line = json.loads((built["ot2-check@1"] / "test.jsonl").read_text(encoding="utf-8").splitlines()[0])
    row = OurRow.model_validate(line)
    assert row.check and row.context == "step+check+expected" and row.view in {"top", "side"}


def test_a_mix_keeps_what_is_known(tmp_path: Path, built: dict[str, Path]) -> None:
    mix([(built["ot2-check-box@1"], 1.0), (built["ot2-check-crop@1"], 0.5)], out=tmp_path / "mix")
    mixed = table(tmp_path / "mix")
    boxes = table(built["ot2-check-box@1"])
    kept = mixed[mixed["stage"] == "S2"].sort_values("id").reset_index(drop=True)
    assert kept[["check", "context", "view"]].equals(
        boxes.sort_values("id").reset_index(drop=True)[["check", "context", "view"]]
    )
    samples = read_samples(tmp_path / "mix", "test")
    answers = baselines.load("rule:gold").answer_samples([sample for sample in samples if sample.check])
    assert all(getattr(answer, "text", "") for answer in answers)


def test_scores_by_view_and_context(tmp_path: Path, built: dict[str, Path]) -> None:
    paths = []
    for level in ("none", "step+check+expected"):
        paths.append(tmp_path / f"{level}.csv")
        infer(model="rule:gold", data=built[level], out=paths[-1])
    result = score(paths[1], data=built["step+check+expected"])
    block: dict[str, Any] = result["kinds"]["choice"]
    assert set(block["by_view"]) == {"top", "side"}
    assert block["by_context"]["step+check+expected"]["metrics"]["balanced_accuracy"]["value"] == 1.0
    assert set(block["by_anomaly"]) == {"missing", "tilted", "dirty"}
    assert any("Step bin; go on" in step for step in block["by_step"])
    compared = compare(*paths, data=built["none"])
    assert compared["n"] == result["n"] and compared["only_b"] == 0
    assert any("another dataset" in note for note in compared["notes"])


def test_audit_and_contact_sheet(tmp_path: Path, built: dict[str, Path]) -> None:
    report = audit(built["ot2-check-box@1"])
    assert report["question_only_accuracy"] == 0.5 and report["box_only_accuracy"] is not None
    assert contact_sheet(built["ot2-check@1"], tmp_path / "sheet.png", count=4).stat().st_size > 1000


# --- planning ----------------------------------------------------------------------------------------------------


def check(verdict: Any = "normal", **more: Any) -> Check:
    text = AnyText("c")
    fields = {"step": text, "phase": None, "expected": None, "anomaly": (), "regions": (), "caption": None, **more}
    return Check(check=text, verdict=verdict, **fields)


def planned(ctx: Context) -> list[Unit]:
    return checks.plan(ctx, "train", ("en",))


def test_a_caption_that_says_another_verdict_is_not_described(context: Make) -> None:
    liar = check("anomaly", caption=AnyText("It seems fine. Verdict: normal."))
    frames = [replace(frame(0, []), checks=(check(caption=AnyText("ok")),)), replace(frame(1, []), checks=(liar,))]
    ctx = context("ot2-check@1", frames)
    units = planned(ctx)
    assert [unit[0].question.kind for unit in units] == ["choice"]
    assert any("no caption to describe with" in row[0] for row in ctx.left.rows())


def test_what_is_expected_is_the_same_for_twins(context: Make) -> None:
    """An expectation that differs with the verdict would tell the answer: such checks are no twins."""
    told = [check(expected=AnyText("a plate")), check("anomaly", expected=AnyText("no plate"))]
    ctx = context("ot2-check@1", [replace(frame(at, []), checks=(each,)) for at, each in enumerate(told)])
    assert planned(ctx) == []
    assert sum(ctx.left.counts.values()) == 2


def test_twins_have_the_same_camera_and_a_like_region(context: Make) -> None:
    def region(size: float) -> tuple[tuple[float, float, float, float], ...]:
        return ((0.1, 0.1, 0.1 + size, 0.1 + size),)

    sizes = (0.1, 0.3, 0.5, 0.7)
    frames = [
        replace(frame(at, [], view=f"v{at % 4}"), checks=(check(verdict, regions=region(sizes[at % 4])),))
        for at, verdict in enumerate(["normal"] * 4 + ["anomaly"] * 8)
    ]
    for task in ("ot2-check@1", "ot2-check-box@1"):
        ctx = context(task, frames)
        for first, second in planned(ctx):
            assert ctx.frames[first.view.frame].view == ctx.frames[second.view.frame].view
            assert first.view.box == second.view.box


def test_a_limit_lists_the_checks_that_it_cuts(context: Make) -> None:
    frames = [
        replace(frame(at, []), checks=(check("normal" if at % 2 else "anomaly", step=AnyText(f"s{at // 2}")),))
        for at in range(12)
    ]
    ctx = context("ot2-check@1", frames)
    kept = trim(planned(ctx), "train", 6, ctx.left, ctx.frames)
    assert len(kept) == 3
    rows = [row for row in ctx.left.rows() if row[0] == "over the limit"]
    assert sum(int(row[3]) for row in rows) == 6
    assert sorted(name for row in rows for name in row[4].split(";")) == sorted(
        ctx.frames[at].id for at in range(12) if at not in {asked.view.frame for unit in kept for asked in unit}
    )


def test_left_out_names_every_frame() -> None:
    left = LeftOut()
    for number in range(20):
        left.add_check("the verdict is unknown", "test", check(), f"f{number}")
    assert len(left.rows()[0][4].split(";")) == 20
