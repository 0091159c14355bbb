"""Tasks as data: the published ones are whole and locked, and broken ones are refused with file and field."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from deckbench import task as tasks
from deckbench.errors import InputError
from deckbench.ontology import Ontology, load_ontology, map_classes
from deckbench.questions import load_bank, render
from deckbench.resources import tasks_folder
from deckbench.task import LOCK_FILE, load_task, lock_entries, published
from deckbench.yamlfile import read_yaml

MAIN = ("ot2-concept@1", "ot2-guided@1", "ot2-scene@1")


def read_lock() -> dict[str, str]:
    """versions.lock: `name@version` or `ontology/NAME` -> sha256."""
    lines = (tasks.tasks_folder() / LOCK_FILE).read_text(encoding="utf-8").splitlines()
    return dict(line.split()[::-1] for line in lines if line.strip() and not line.startswith("#"))


def test_published_versions_never_change() -> None:
    """If this fails you edited a published task or ontology: undo, or make a new version."""
    assert read_lock() == lock_entries()


def test_an_edited_task_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "tasks"
    shutil.copytree(tasks_folder(), copy)
    monkeypatch.setattr(tasks, "tasks_folder", lambda: copy)
    assert read_lock() == tasks.lock_entries()
    bank = copy / "ot2-guided" / "v1" / "questions.yaml"
    bank.write_text(bank.read_text(encoding="utf-8").replace("normal or an anomaly", "fine"), encoding="utf-8")
    assert {name for name, digest in tasks.lock_entries().items() if read_lock()[name] != digest} == {"ot2-guided@1"}


def test_line_ends_do_not_change_a_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "tasks"
    shutil.copytree(tasks_folder(), copy)
    for path in copy.rglob("*.yaml"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    monkeypatch.setattr(tasks, "tasks_folder", lambda: copy)
    assert read_lock() == tasks.lock_entries()


@pytest.mark.parametrize("ref", MAIN)
def test_published_tasks_load(ref: str) -> None:
    task = load_task(ref)
    assert task.ref == ref
    assert [question.id for question in task.bank.questions]
    assert set(MAIN) <= set(published())


def texts(value: Any, place: str = "") -> list[tuple[str, dict[str, str]]]:
    """Every map with an `en` in a yaml."""
    if isinstance(value, dict):
        if "en" in value:
            return [(place, value)]
        return [found for key, each in value.items() for found in texts(each, f"{place}.{key}")]
    if isinstance(value, list):
        return [found for number, each in enumerate(value) for found in texts(each, f"{place}[{number}]")]
    return []


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(tasks_folder().rglob("*.yaml")) if path.parent.name != "suites"],
    ids=lambda p: p.name,
)
def test_every_english_text_has_its_chinese(path: Path) -> None:
    found = texts(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert found
    for place, text in found:
        assert set(text) == {"en", "zh"}, place
        assert any("一" <= letter <= "鿿" for letter in text["zh"]) or "{{" in text["zh"], f"{place}: {text['zh']}"
        assert not any("一" <= letter <= "鿿" for letter in text["en"]), f"{place}: {text['en']}"


def test_neutral_nouns_do_not_tell_the_answer() -> None:
    """What a question calls an object never holds a word that only anomalies carry."""
    ontology = load_ontology("ot2")
    telling = {
        word
        for spec in ontology.classes.values()
        if spec.verdict == "anomaly"
        for text in (spec.name, spec.state)
        if text is not None
        for word in text.en.split()
    }
    innocent = {"tip", "rack", "plate", "trash", "with", "labware"}
    for noun in ontology.nouns.values():
        assert not set(noun.en.split()) & (telling - innocent)


def test_every_anomaly_can_be_asked_about_with_a_normal_counterpart() -> None:
    """Else it would be left out of S2 for want of a twin."""
    ontology = load_ontology("ot2")
    normal = {noun for spec in ontology.classes.values() if spec.verdict != "anomaly" for noun in spec.nouns}
    for name, spec in ontology.classes.items():
        if spec.verdict == "anomaly":
            assert spec.decoy or normal & set(spec.nouns), name


def test_verdicts_at_steps() -> None:
    ontology = load_ontology("ot2")
    assert ontology.verdict("pcr_lid_open", "thermocycle") == "anomaly"
    assert ontology.verdict("pcr_lid_open", "load_pcr") == "normal"
    assert ontology.verdict("pcr_lid_closed", "load_pcr") == "anomaly"
    assert ontology.verdict("multi_channel_tip", "drop_tips") == "anomaly"
    assert ontology.verdict("multi_channel_tip", None) == "normal"
    assert ontology.verdict("spill", "setup") == "anomaly"
    assert load_ontology("deck-yolo").verdict("Deck", None) is None


@pytest.mark.parametrize(
    "name,expected",
    [("PCR lid open", "pcr_lid_open"), ("Single-channel tips", "single_channel_tip"), ("TRASH BIN", "trash_bin")],
)
def test_a_labs_spelling_of_a_class_is_understood(name: str, expected: str) -> None:
    assert map_classes([name], [0], load_ontology("ot2"), "pool") == {0: expected}


def test_only_classes_in_use_must_be_known() -> None:
    assert map_classes(["spill", "zebra"], [0], load_ontology("ot2"), "pool") == {0: "spill"}
    with pytest.raises(InputError, match="'zebra'"):
        map_classes(["spill", "zebra"], [0, 1], load_ontology("ot2"), "pool")


def test_an_own_ontology_or_bank_shows_in_the_name(tmp_path: Path) -> None:
    source = tasks_folder() / "ontology" / "ot2.yaml"
    own = tmp_path / "mine.yaml"
    own.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    assert load_task("ot2-concept@1", ontology=own).ref == "ot2-concept@1"  # the same content is the same task
    own.write_text(source.read_text(encoding="utf-8").replace("a bent", "bent").replace("en: spill", "en: puddle"))
    changed = load_task("ot2-concept@1", ontology=own).ref
    assert changed.startswith("ot2-concept@1+")
    assert len(changed) == len("ot2-concept@1+") + 8
    assert load_task("ot2-concept@1", ontology="deck-yolo").ref != changed


def test_options_that_change_what_is_made_show_in_the_name_and_limits_do_not() -> None:
    assert load_task("ot2-guided@1", options={"max_test": 10}).ref == "ot2-guided@1"
    assert load_task("ot2-guided@1", options={"box_style": "source-lab"}).ref.startswith("ot2-guided@1+")


def test_a_task_folder_of_ones_own_needs_no_edit_in_the_core(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(published()["ot2-scene@1"], folder)
    text = (folder / "task.yaml").read_text(encoding="utf-8")
    (folder / "task.yaml").write_text(text.replace("name: ot2-scene", "name: my-scene"), encoding="utf-8")
    assert load_task(str(folder)).ref.startswith("my-scene@1+")


def test_csv_bank(tmp_path: Path) -> None:
    (tmp_path / "bank.csv").write_text(
        "id,kind,about,ask_en,ask_zh,answer_en,answer_zh,normal_en,normal_zh,anomaly_en,anomaly_zh,classes\r\n"
        'v,choice,verdict,"Fine, the {{ noun }}?",好吗?,,,yes,好,no,坏,\r\n'
        "w,open,kind,What?,什么?,{{ kind }},{{ kind }},,,,,spill;trash_bin\r\n",
        encoding="utf-8",
        newline="",
    )
    bank = load_bank(tmp_path)
    assert [question.id for question in bank.questions] == ["v", "w"]
    assert bank.questions[0].options["anomaly"].zh == "坏"
    assert bank.questions[1].classes == ("spill", "trash_bin")


def test_templates_run_in_a_sandbox() -> None:
    with pytest.raises(InputError, match="template fails"):
        render("{{ ''.__class__.__mro__[1].__subclasses__() }}", {})


ONTOLOGY = """name: mine
about: {en: x, zh: 某}
nouns:
  tip: {en: tip, zh: 吸头}
steps: {setup: {en: setup, zh: 准备}}
classes:
  tip:
    name: {en: tip, zh: 吸头}
    nouns: [tip]
"""

BAD_ONTOLOGIES = {
    "extra field": (ONTOLOGY + "    colour: red\n", r"mine\.yaml:10: classes\.tip\.colour: unknown field"),
    "top level": (ONTOLOGY + "extra: 1\n", r"mine\.yaml:10: extra: unknown field"),
    "language": (ONTOLOGY.replace("{en: tip, zh: 吸头}\n    nouns", "{en: tip}\n    nouns"), r"classes\.tip\.name\.zh"),
    "noun": (ONTOLOGY.replace("[tip]", "[tap]"), r"classes\.tip\.nouns: 'tap' is not defined"),
    "no noun": (ONTOLOGY.replace("[tip]", "[]"), r"classes\.tip\.nouns"),
    "verdict": (ONTOLOGY + "    verdict: maybe\n", r":10: classes\.tip\.verdict"),
    "depends": (ONTOLOGY + "    verdict: depends\n", r"anomaly_at"),
    "step": (ONTOLOGY + "    verdict: depends\n    anomaly_at: [never]\n", r"'never' is not defined"),
    "margin": (ONTOLOGY + "    crop: {margin: 9}\n", r"classes\.tip\.crop\.margin"),
    "yaml": (ONTOLOGY + "  - [\n", r"mine\.yaml:1[01]: not valid YAML"),
    "twice": (ONTOLOGY + "  tip:\n    name: {en: a, zh: 某}\n", r"mine\.yaml:10: .*'tip' occurs twice"),
    "list": ("- a\n", r"a map of fields is expected"),
    "empty": ("", r"a map of fields is expected"),
    "alias": (
        ONTOLOGY + "  other:\n    name: {en: a, zh: 某}\n    nouns: [tip]\n    aliases: [TIP]\n",
        r"also a spelling of 'tip'",
    ),
}


@pytest.mark.parametrize("case", sorted(BAD_ONTOLOGIES))
def test_bad_ontologies_are_refused_with_file_and_field(case: str, tmp_path: Path) -> None:
    text, expected = BAD_ONTOLOGIES[case]
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=expected) as caught:
        read_yaml(path, Ontology)
    assert caught.value.exit_code == 2
    assert "mine.yaml" in str(caught.value.where)


BANK = """questions:
  - id: what
    kind: open
    about: kind
    ask: {en: "What?", zh: "什么?"}
    answer: {en: "{{ kind }}", zh: "{{ kind }}"}
"""

BAD_BANKS = {
    "field": (BANK + "    hint: x\n", r"bank\.yaml:7: questions\.0\.hint: unknown field"),
    "kind": (BANK.replace("open", "essay"), r"bank\.yaml:3: questions\.0\.kind"),
    "about": (BANK.replace("about: kind", "about: verdict"), r"cannot be about 'verdict'"),
    "no answer": (BANK.replace("    answer", "    # answer"), r"need `answer`"),
    "id twice": (BANK + BANK.replace("questions:\n", ""), r"'what' occurs twice"),
    "template": (BANK.replace("{{ kind }}", "{{ kin }}"), r"'kin' is undefined"),
    "syntax": (BANK.replace("{{ kind }}", "{{ kind"), r"template fails"),
    "options": (
        BANK.replace("open", "choice").replace("    answer", "    # answer").replace("about: kind", "about: verdict"),
        r"normal, anomaly",
    ),
    "none": ("questions: []\n", r"questions"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(BAD_BANKS))
def test_bad_banks_are_refused_with_file_and_line(case: str, tmp_path: Path) -> None:
    text, expected = BAD_BANKS[case]
    (tmp_path / "bank.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=expected):
        load_bank(tmp_path / "bank.yaml")


HEAD = "id,kind,about,ask_en,ask_zh,answer_en,answer_zh\n"
BAD_CSV = {
    "column missing": ("id,kind,about,ask_en\n", r"bank\.csv:1: the column 'ask_zh' is missing"),
    "column unknown": (HEAD.replace("id", "id,colour") + "a,red,open,kind,a,b,c,d\n", r"unknown column 'colour'"),
    "cells": (HEAD + "a,open,kind,What?,什么?\n", r"bank\.csv:2: the row's cells"),
    "kind": (HEAD + "a,open,kind,W,什,x,某\nb,essay,kind,W,什,x,某\n", r"bank\.csv:3: kind"),
    "twice": (HEAD + "a,open,kind,W,什,x,某\na,open,kind,W,什,x,某\n", r"bank\.csv:3: the id 'a' occurs twice"),
}


@pytest.mark.parametrize("case", sorted(BAD_CSV))
def test_bad_csv_banks_are_refused_with_file_and_line(case: str, tmp_path: Path) -> None:
    text, expected = BAD_CSV[case]
    (tmp_path / "bank.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=expected):
        load_bank(tmp_path)


@pytest.mark.parametrize(
    "kwargs,expected",
    [
        ({"ref": "ot2-nothing@1"}, r"there is no task 'ot2-nothing'.*\n.*ot2-concept@1"),
        ({"ref": "ot2-scene@9"}, r"'ot2-scene' has no version 9.*\n.*ot2-scene@1"),
        ({"ref": "ot2-scene"}, r"is not a task.*\n.*NAME@VERSION"),
        ({"ref": "ot2-scene@1", "ontology": "nope.yaml"}, r"no such ontology"),
        ({"ref": "ot2-scene@1", "qa": Path("nope")}, r"no such question bank"),
        (
            {"ref": "ot2-scene@1", "options": {"colour": "red"}},
            r"options: colour: unknown field; there are .*box_style",
        ),
        ({"ref": "ot2-scene@1", "options": {"box_style": "loud"}}, r"options: box_style"),
        ({"ref": "ot2-scene@1", "options": {"box_margin": [0.5, 0.1]}}, r"minimum <= maximum"),
        ({"ref": "ot2-scene@1", "options": {"max_test": 0}}, r"options: max_test"),
    ],
)
def test_wrong_requests_name_what_there_is(kwargs: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        load_task(kwargs.pop("ref"), **kwargs)
    assert caught.value.exit_code == 2


def test_a_bank_that_names_a_class_the_ontology_lacks(tmp_path: Path) -> None:
    (tmp_path / "bank.yaml").write_text(BANK + "    classes: [zebra]\n", encoding="utf-8")
    with pytest.raises(InputError, match="'zebra' is not in the ontology 'ot2'"):
        load_task("ot2-concept@1", qa=tmp_path)


def test_a_bank_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "bank.yaml").write_bytes(BANK.replace("What", "Où").encode("latin-1", "replace"))
    with pytest.raises(InputError, match="not UTF-8"):
        load_bank(tmp_path)


@pytest.mark.parametrize("step", ["drop_tips", "Drop tips", "drop-tips"])
def test_a_step_is_known_by_any_spelling(step: str) -> None:
    assert load_ontology("ot2").verdict("multi_channel_tip", step) == "anomaly"


def test_a_step_that_is_not_defined_is_unknown_not_normal() -> None:
    data = load_ontology("ot2").model_dump()
    data["classes"]["pcr_lid_closed"]["without_step"] = "unknown"
    ontology = Ontology.model_validate(data)
    assert ontology.verdict("pcr_lid_closed", "loading") is None
    assert ontology.verdict("pcr_lid_closed", "setup") == "normal"


def test_kinds_with_one_word_in_either_language_are_never_the_two_options() -> None:
    data = load_ontology("ot2").model_dump()
    data["classes"]["white_plate"]["kind"] = {"en": "white plate", "zh": "孔板"}
    data["classes"]["square_well_plate"]["kind"] = {"en": "square plate", "zh": "孔板"}
    assert Ontology.model_validate(data).overlap("white_plate", "square_well_plate")
