"""`annotate`: banks and scene texts by a model, checked against labels, and what `build --qa` makes of them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from deckbench import artifact
from deckbench.annotate import annotate, merge, preview
from deckbench.annotate.audit import audit_bank
from deckbench.build import build_dataset
from deckbench.errors import InputError, OutsideError
from deckbench.infer import infer
from tests.annotate import writer
from tests.build.build_helpers import picture, write_pool
from tests.endpoint.faulty import KEY
from tests.endpoint.writing_server import Server, paid_twice

Model = Callable[..., str]
DECK = ("Deck", 0.5, 0.5, 0.2, 0.2)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "samples.csv", dtype=str, keep_default_na=False)


def gold_accuracy(dataset: Path, tmp_path: Path) -> pd.DataFrame:
    infer(model="rule:gold", data=dataset, out=tmp_path / "gold.csv")
    return pd.read_csv(tmp_path / "gold.csv", dtype=str, keep_default_na=False)


@pytest.mark.parametrize("lang", ["en", "zh", "both"])
def test_scene_texts_become_the_open_answers(
    lang: str, pool: Path, model: Model, server: Server, tmp_path: Path
) -> None:
    made = annotate("ot2-scene@1", pool=pool, out=tmp_path / "qa", model=model(), lang=lang)
    assert made.content["params"]["counts"] == {"answered": 60, "rejected": 0, "refused": 0, "skipped": 0}
    assert made.content["params"]["prompt"]["ref"] == "scene@1" and not paid_twice(server)
    texts = lines(tmp_path / "qa" / "scenes.jsonl")
    assert len(texts) == 60 and set(texts[0]) == {"frame", *(("en", "zh") if lang == "both" else (lang,))}
    build_dataset(
        "ot2-scene@1", pool=pool, out=tmp_path / "data", split="pool", qa=tmp_path / "qa", lang=lang, workers=1
    )
    plain = build_dataset("ot2-scene@1", pool=pool, out=tmp_path / "plain", split="pool", lang=lang, workers=1)
    table, before = rows(tmp_path / "data"), rows(tmp_path / "plain")
    scenes = table[table["kind"] == "scene"]
    assert len(scenes) and set(scenes["id"]) == set(before[before["kind"] == "scene"]["id"])
    told = {text["frame"]: text for text in texts}
    for row in scenes.to_dict("records"):
        text = told[row["frame"]][row["lang"]]
        word = {"en": f" Verdict: {row['gold']}.", "zh": f"结论:{'异常' if row['gold'] == 'anomaly' else '正常'}。"}
        assert row["answer"] == text + word[row["lang"]]
    # Choices and all gold verdicts are as without the texts.
    for column in ("gold", "anomaly", "question"):
        assert list(table[column]) == list(before[column])
    assert plain.content_hash != artifact.read(tmp_path / "data", "dataset").content_hash
    assert table["task"].str.startswith("ot2-scene@1+").all()


def test_banks_of_s1(pool: Path, model: Model, server: Server, tmp_path: Path) -> None:
    made = annotate("ot2-concept@1", pool=pool, out=tmp_path / "qa", model=model(), lang="both")
    assert made.content["params"]["counts"]["answered"] == 7
    text = (tmp_path / "qa" / "trash_overfull.txt").read_text(encoding="utf-8")
    assert (
        "Q: What do people need it for?\n问: " not in text
        and "Q: What do people need it for?\nA: use of the overfull trash\n" in text
    )
    assert "问: 人们用它来做什么?\n" in text
    build_dataset(
        "ot2-concept@1", pool=pool, out=tmp_path / "data", split="pool", qa=tmp_path / "qa", lang="both", workers=1
    )
    table = rows(tmp_path / "data")
    own = table[table["question"].isin(["What do people need it for?", "人们用它来做什么?"])]
    assert set(own[own["class"] == "spill"]["answer"]) == {"use of the spill", "洒液:乙"}
    assert set(table["kind"]) == {"open", "choice"}  # the task's own questions stay
    gold = gold_accuracy(tmp_path / "data", tmp_path)
    gold["crop"] = gold["id"].str.extract(r"^(s1-.*?-c\d)")
    # Where the rule takes a crop's object for its neighbour, it does so for the task's own questions too.
    plain = gold["question"].isin(["What is shown?", "图中是什么?"])
    unclear = set(gold[plain & (gold["gold"] != gold["prediction"])]["crop"])
    clear = gold[~gold["crop"].isin(unclear)]
    assert len(clear) > 400 and list(clear["gold"]) == list(clear["prediction"])


def test_banks_of_s2(pool: Path, model: Model, server: Server, tmp_path: Path) -> None:
    annotate("ot2-guided@1", pool=pool, out=tmp_path / "qa", model=model(), lang="both", pairs=2)
    assert (tmp_path / "qa" / "white_plate.txt").is_file()
    text = (tmp_path / "qa" / "plate_crooked.txt").read_text(encoding="utf-8")
    assert "normal: accepted\nanomaly: rejected\nA: rejected\n" in text
    (tmp_path / "qa" / "questions.yaml").unlink()
    build_dataset(
        "ot2-guided@1", pool=pool, out=tmp_path / "data", split="pool", qa=tmp_path / "qa", lang="both", workers=1
    )
    table = rows(tmp_path / "data")
    assert set(table["question_type"]) == {"verdict"} and set(table["class"]) >= {
        "plate_crooked",
        "white_plate",
        "spill",
    }
    gold = gold_accuracy(tmp_path / "data", tmp_path)
    assert list(gold["gold"]) == list(gold["prediction"])


CHECKS = """frame,step,phase,check,expected,verdict,anomaly,caption,step_zh,check_zh,expected_zh,caption_zh,anomaly_zh
images/a.jpg,load,pre,slot 3,a rack,normal,,a rack stands in slot 3,装载,三号板位,吸头架,三号板位有吸头架,
images/b.jpg,load,pre,slot 3,a rack,anomaly,rack missing,slot 3 is bare,装载,三号板位,吸头架,三号板位空着,缺少吸头架
images/b.jpg,load,post,lid,closed,unknown,,the lid is hidden,装载,盖子,关,看不见盖子,
"""


def test_checks_are_described_in_two_languages(model: Model, server: Server, tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        picture(tmp_path / "pool" / "images" / f"{name}.jpg", number)
    (tmp_path / "pool" / "checks.csv").write_text(CHECKS, encoding="utf-8")
    (tmp_path / "pool" / "dataset.yaml").write_text("path: .\ntest: images\nnames: [x]\n")
    pool = tmp_path / "pool"
    made = annotate("ot2-check@1", pool=pool, out=tmp_path / "qa", model=model(), lang="both")
    assert made.content["params"]["counts"] == {"answered": 2, "rejected": 0, "refused": 0, "skipped": 1}
    prompt = writer.prompt_of(server.seen[1])
    assert "rack missing: rack missing (缺少吸头架)" in prompt and "Seen: slot 3 is bare / 三号板位空着" in prompt
    (listed,) = lines(tmp_path / "qa" / "listed.jsonl")
    assert listed["reasons"] == ["the verdict is unknown"] and "lid" in listed["id"]
    build_dataset("ot2-check@1", pool=pool, out=tmp_path / "data", split="test-only", qa=tmp_path / "qa", lang="both")
    table = rows(tmp_path / "data")
    told = set(table[table["kind"] == "scene"]["answer"])
    assert "The deck is in view. What stands out: rack missing. Verdict: anomaly." in told
    assert "画面是台面。需要注意:缺少吸头架。结论:异常。" in told
    # Without a text in one of the languages only the verdict is asked.
    texts = [line.partition(', "zh"')[0] + "}" for line in (tmp_path / "qa" / "scenes.jsonl").read_text().splitlines()]
    (tmp_path / "qa" / "scenes.jsonl").write_text("\n".join(texts))
    build_dataset("ot2-check@1", pool=pool, out=tmp_path / "less", split="test-only", qa=tmp_path / "qa", lang="both")
    assert set(rows(tmp_path / "less")["kind"]) == {"choice"}
    assert "no written description" in (tmp_path / "less" / "left_out.csv").read_text()


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"frame": "images/a"}', "there is no text"),
        ('{"frame": "images/a", "en": "Fine. Verdict: normal."}', "states a verdict"),
        ('{"frame": "images/a", "en": "x", "fr": "y"}', "fr: unknown field"),
        ('{"frame": "images/a", "en": "x"}\n{"frame": "images/a", "zh": "y"}', "a second text"),
        ("[1]", "scenes"),
        ("{", "not valid JSON"),
    ],
)
def test_broken_scene_texts(line: str, what: str, pool: Path, tmp_path: Path) -> None:
    (tmp_path / "scenes.jsonl").write_text(line)
    with pytest.raises(InputError, match=what) as caught:
        build_dataset("ot2-scene@1", pool=pool, out=tmp_path / "data", split="pool", qa=tmp_path)
    assert f"scenes.jsonl:{line.count(chr(10)) + 1}" in str(caught.value)


def test_an_ontology_without_verdicts_calls_nothing_normal(model: Model, tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", sessions=2, names=("Deck",), wrong=None, scenes=(("", (DECK,)),))
    with pytest.raises(InputError, match="has no verdicts"):
        annotate("ot2-scene@1", pool=pool, out=tmp_path / "qa", model=model(), ontology="deck-yolo")


def test_by_the_batch_api(pool: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same texts at half the price."""
    from deckbench.endpoint.structured import batch
    from tests.endpoint.batch_server import BatchServer

    monkeypatch.setattr(batch, "POLL_S", (0.01, 0.02))
    server = BatchServer(writer.write)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    reference = model(base_url=server.address, price_in=1, price_out=2)
    kept = tmp_path / "one.jsonl"
    live = annotate("ot2-guided@1", pool=pool, out=tmp_path / "live", model=reference, calls=kept)
    by_batch = annotate("ot2-guided@1", pool=pool, out=tmp_path / "batch", model=reference, batch=True)
    again = annotate("ot2-guided@1", pool=pool, out=tmp_path / "again", model=reference, batch=True, calls=kept)
    server.shutdown()
    server.server_close()
    for path in (tmp_path / "live").glob("*.txt"):
        assert path.read_bytes() == (tmp_path / "batch" / path.name).read_bytes()
    assert by_batch.observed["calls"]["cost"] == pytest.approx(live.observed["calls"]["cost"] / 2)
    assert len(server.batches) == 1 and again.content_hash == live.content_hash  # those were paid already


def test_a_dry_run_asks_nothing(pool: Path, model: Model, server: Server) -> None:
    found, first = preview("ot2-scene@1", pool=pool, model=model(price_in=1, price_out=2))
    assert found.requests == 60 and found.cost > 0 and not server.seen
    assert "Verdict:" in first["user"]


@pytest.mark.parametrize("task", ["ot2-scene@1", "ot2-concept@1", "ot2-guided@1"])
def test_shards_are_the_whole(task: str, pool: Path, model: Model, server: Server, tmp_path: Path) -> None:
    whole = annotate(task, pool=pool, out=tmp_path / "whole", model=model(), lang="both")
    asked = len(server.seen)
    for number in (1, 2, 3):
        annotate(task, pool=pool, out=tmp_path / f"s{number}", model=model(), lang="both", shard=f"{number}/3")
    assert len(server.seen) == 2 * asked and max(server.answered.values()) == 2
    merged = merge([tmp_path / f"s{number}" for number in (3, 1, 2)], out=tmp_path / "merged")
    assert merged.content_hash == whole.content_hash
    for path in (tmp_path / "whole").iterdir():
        if path.name != "manifest.json":
            assert path.read_bytes() == (tmp_path / "merged" / path.name).read_bytes()


def test_shards_that_do_not_fit(pool: Path, model: Model, tmp_path: Path) -> None:
    for number in (1, 2):
        annotate("ot2-concept@1", pool=pool, out=tmp_path / f"s{number}", model=model(), shard=f"{number}/2")
    annotate("ot2-concept@1", pool=pool, out=tmp_path / "zh", model=model(), lang="zh", shard="2/2")
    for shards, what in (
        (["s1"], "shards are missing: 2/2"),
        (["s1", "s1"], "given twice"),
        (["s1", "zh"], "different runs: another lang"),
    ):
        with pytest.raises(InputError, match=what):
            merge([tmp_path / name for name in shards], out=tmp_path / "out")
    path = tmp_path / "s2" / "lines.jsonl"
    path.write_text(path.read_text().replace("use of", "Use of"))
    with pytest.raises(InputError, match="changed since"):
        merge([tmp_path / "s1", tmp_path / "s2"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_model_gets_wrong_is_listed(pool: Path, model: Model, server: Server, tmp_path: Path) -> None:
    """One frame is never described well, one only at the second try."""

    def write(body: dict[str, Any]) -> str:
        made = json.loads(writer.write(body))
        prompt = writer.prompt_of(body)
        if "overfull trash" in prompt:
            made["description_en"] += " A spill is on the deck."
        elif "spill" in prompt and len(body["messages"]) == 2:
            made["judgement_en"] = "Everything is normal."
        return json.dumps(made)

    server.write = write
    made = annotate("ot2-scene@1", pool=pool, out=tmp_path / "qa", model=model(), limit=6)
    counts = made.content["params"]["counts"]
    assert (counts["answered"], counts["rejected"]) == (5, 1)
    (listed,) = lines(tmp_path / "qa" / "listed.jsonl")
    assert listed["frame"].endswith("f1") and "names 'spill'" in listed["reasons"][0]
    transcript = lines(tmp_path / "qa" / "transcript.jsonl")
    assert len(transcript) == 4 + 2 + 3 and KEY not in json.dumps(transcript)
    assert any("all is well" in json.dumps(call["messages"]) for call in transcript)


def test_a_lost_server_keeps_what_was_paid(pool: Path, model: Model, server: Server, tmp_path: Path) -> None:
    server.plan = lambda key, attempt, body: "500" if sum(server.answered.values()) >= 3 else None
    with pytest.raises(OutsideError):
        annotate("ot2-scene@1", pool=pool, out=tmp_path / "qa", model=model())
    assert not (tmp_path / "qa").exists()
    server.plan = lambda key, attempt, body: None
    annotate("ot2-scene@1", pool=pool, out=tmp_path / "qa", model=model())
    assert not paid_twice(server)


def test_an_own_prompt_has_a_hash(pool: Path, model: Model, tmp_path: Path) -> None:
    from deckbench.annotate.run import PROMPTS

    own = tmp_path / "own.yaml"
    own.write_text((PROMPTS / "scene.yaml").read_text(encoding="utf-8").replace("one to four", "two"), encoding="utf-8")
    made = annotate("ot2-scene@1", pool=pool, out=tmp_path / "qa", model=model(), limit=1, prompt=own)
    assert made.content["params"]["prompt"]["ref"].startswith("scene@1+")
    own.write_text("name: x\nversion: 1\nuser: '{{ nothing }}'\n")
    with pytest.raises(InputError, match="nothing"):
        annotate("ot2-scene@1", pool=pool, out=tmp_path / "qa2", model=model(), limit=1, prompt=own)


def test_images_are_sent_where_asked(pool: Path, model: Model, server: Server, tmp_path: Path) -> None:
    annotate("ot2-scene@1", pool=pool, out=tmp_path / "qa", model=model(), limit=3, with_image=True)
    assert all(body["messages"][1]["content"][0]["type"] == "image_url" for body in server.seen)
    with pytest.raises(InputError, match="--with-image"):
        annotate("ot2-concept@1", pool=pool, out=tmp_path / "qb", model=model(), with_image=True)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"task": "ot2-check-box@1"}, "checks"),
        ({"task": "ot2-check@1"}, "nothing to write about"),
        ({"lang": "de"}, "not known"),
        ({"shard": "3/2"}, "i/N"),
        ({"limit": 0}, "limit"),
        ({"model": "tiny-glm4v"}, "no endpoint"),
        ({"max_cost": 1.0}, "price_in"),
        ({"max_cost": float("nan"), "prices": True}, "the limit is nan"),
        ({"max_cost": -1.0, "prices": True}, "the limit is -1"),
    ],
)
def test_wrong_input(
    given: dict[str, Any], what: str, pool: Path, model: Model, server: Server, tmp_path: Path
) -> None:
    known: dict[str, Any] = {"task": "ot2-scene@1", "pool": pool, "out": tmp_path / "qa", "model": model()}
    given = dict(given)
    if given.pop("prices", False):
        known["model"] = model(price_in=1, price_out=1)
    with pytest.raises(InputError, match=what):
        annotate(**{**known, **given})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["writer.yaml"] and not server.seen


def pick(body: dict[str, Any]) -> str:
    """The option that has a word in common with the question, else the first."""
    question, *options = (line.strip() for line in writer.prompt_of(body).splitlines() if line.strip())
    words = set(re.findall(r"\w{4,}", question.lower()))
    shared = [number for number, text in enumerate(options[:-1], 1) if words & set(re.findall(r"\w{4,}", text.lower()))]
    return json.dumps({"number": shared[0] if shared else 1})


def test_a_bank_is_asked_without_the_picture(pool: Path, model: Model, server: Server, tmp_path: Path) -> None:
    annotate("ot2-concept@1", pool=pool, out=tmp_path / "qa", model=model())
    (tmp_path / "qa" / "questions.yaml").unlink()
    server.write = pick
    found = audit_bank(tmp_path / "qa", blind=model(), calls=tmp_path / "blind.jsonl")
    assert found["blind"]["n"] == found["open_questions"] and found["passed"]
    assert not any("image_url" in json.dumps(body) for body in server.seen)


def test_a_bank_that_a_blind_model_answers_fails(model: Model, server: Server, tmp_path: Path) -> None:
    (tmp_path / "qa").mkdir()
    for cls, word in (("trash_bin", "waste"), ("tip_rack", "clean"), ("white_plate", "sample"), ("spill", "puddle")):
        asked = (f"Q: Where is the {word} number {number}?\nA: the {word} place {number}\n" for number in range(4))
        (tmp_path / "qa" / f"{cls}.txt").write_text("\n".join(asked))
    server.write = pick
    found = audit_bank(tmp_path / "qa", max_leak=1, blind=model())
    assert not found["passed"] and "without the picture 16 of 16 are right" in found["reasons"][0]
    assert found["blind"]["answerable"][0]["where"].endswith(".txt:1")


def test_what_annotate_writes_does_not_leak(pool: Path, model: Model, tmp_path: Path) -> None:
    annotate("ot2-concept@1", pool=pool, out=tmp_path / "qa", model=model(), lang="both")
    found = audit_bank(tmp_path / "qa")
    assert found["passed"] and found["leak"] == 0 and not found["duplicates"]
