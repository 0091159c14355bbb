"""What merge does with shards that anybody may have written: refused with file and line, nothing outside its folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from deckbench import artifact
from deckbench.annotate import annotate, merge, preview
from deckbench.annotate.files import Line, write_banks
from deckbench.annotate.shards import parse_shard
from deckbench.errors import InputError

Model = Callable[..., str]
Change = Callable[[dict[str, Any], list[dict[str, Any]]], Any]


@pytest.fixture
def shard(pool: Path, model: Model, tmp_path: Path) -> Callable[[str], Path]:
    def make(task: str) -> Path:
        out = tmp_path / "shard"
        annotate(task, pool=pool, out=out, model=model(), lang="both", shard="1/1")
        return out

    return make


def forge(folder: Path, change: Change) -> Path:
    """A shard with a right hash. change: of (params, entries)."""
    manifest = json.loads((folder / "manifest.json").read_text())
    path = folder / "lines.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines.sort(key=lambda line: line["status"] != "answered")
    change(manifest["content"]["params"], lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    manifest["content"]["files"]["lines.jsonl"]["sha256"] = artifact.hash_file(path)
    manifest["content_hash"] = artifact.hash_json(manifest["content"])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def set_first(new: dict[str, Any], answer: dict[str, Any] | None = None) -> Change:
    """Set fields of the first entry, or of its answer."""

    def change(params: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        lines[0].update(new)
        if answer is not None:
            lines[0]["answer"].update(answer)

    return change


LINES: list[tuple[str, dict[str, Any]]] = [
    ("facts.class", {"facts": {"class": "../escaped"}}),
    ("facts.class", {"facts": {"class": "/escaped"}}),
    ("facts.class", {"facts": {"class": ".hidden"}}),
    ("facts.class", {"facts": {"class": ""}}),
    ("facts.class", {"facts": {"class": "a\x00b"}}),
    ("facts", {"facts": {"class": "\ud800"}}),
    ("facts", {"facts": {}}),
    ("facts", {"facts": {"class": "x", "id": "y"}}),
    ("answer", {"answer": None}),
    ("pairs", {"answer": {}}),
    ("pairs", {"answer": {"pairs": [{}]}}),
    ("pairs", {"answer": {"pairs": 5}}),
    ("status", {"status": "paid"}),
    ("answer where", {"status": "rejected"}),
    ("number", {"number": "x"}),
    ("number", {"number": True}),
    ("number", {"number": -1}),
    ("entry 99999", {"number": 99999}),
    ("reasons", {"reasons": None}),
    ("transcript", {"transcript": 5}),
    ("transcript", {"transcript": "no end"}),
    ("unknown field", {"more": 1}),
]
PARAMS: list[tuple[str, Change]] = [
    ("of", lambda params, lines: params.pop("of")),
    ("bank", lambda params, lines: params.pop("bank")),
    ("bank", lambda params, lines: params.update(bank=["x"])),
    ("lang", lambda params, lines: params["of"].update(lang="xx")),
    ("kind", lambda params, lines: params["of"].update(kind="text")),
    ("phrasings", lambda params, lines: params["of"].update(phrasings="3")),
    ("phrasings", lambda params, lines: params["of"].pop("phrasings")),
    ("topics", lambda params, lines: params["of"]["prompt"]["template"].update(lists={})),
    ("i/N", lambda params, lines: params.update(shard="x")),
    ("shard", lambda params, lines: params.update(shard=3)),
    ("i/N", lambda params, lines: params.update(shard="1/3000000000")),
    ("shards are missing: 1/100000.*and 99991 more", lambda params, lines: params.update(shard="50000/100000")),
    ("total", lambda params, lines: params.update(total=None)),
    ("the run has 1000000000000", lambda params, lines: params.update(total=10**12)),
]


def test_forged_shards_are_refused(shard: Callable[[str], Path], tmp_path: Path) -> None:
    good = shard("ot2-concept@1")
    cases: list[tuple[str, str, Change]] = [
        ("" if "the run" in what or "missing" in what else "manifest.json", what, change) for what, change in PARAMS
    ]
    cases += [("lines.jsonl:1", what, set_first(new)) for what, new in LINES]
    cases += [
        ("lines.jsonl:2", "again", lambda _, lines: lines[1].update(number=lines[0]["number"])),
        ("lines.jsonl:2", "the same", lambda _, lines: lines[1].update(facts=lines[0]["facts"])),
        ("lines.jsonl:1", "dict|object|mapping|instance", lambda _, lines: lines.__setitem__(0, cast(Any, [1]))),
        ("", "different entries", lambda _, lines: lines.pop()),
    ]
    assert merge([good], out=tmp_path / "whole").content["params"]["counts"]["answered"] > 1
    for where, what, change in cases:
        shutil.rmtree(tmp_path / "forged", ignore_errors=True)
        forged = forge(Path(shutil.copytree(good, tmp_path / "forged")), change)
        with pytest.raises(InputError, match=f"(?s){what}") as caught:
            merge([forged], out=tmp_path / "out" / "qa")
        assert str(caught.value.where).endswith(where), (what, caught.value)
        assert not (tmp_path / "out").exists() and not (tmp_path / "escaped.txt").exists()


def test_forged_scene_texts_are_refused(shard: Callable[[str], Path], tmp_path: Path) -> None:
    good = shard("ot2-scene@1")
    for what, new in (
        ("verdict", {"judgement_en": "Verdict: normal"}),
        ("Verdict|verdict", {"verdict": "fine"}),
        ("description_zh", {"description_zh": " "}),
        ("string|unicode", {"description_en": "\ud800"}),
    ):
        shutil.rmtree(tmp_path / "forged", ignore_errors=True)
        copy = Path(shutil.copytree(good, tmp_path / "forged"))
        forged = forge(copy, set_first({}, new))
        with pytest.raises(InputError, match=what) as caught:
            merge([forged], out=tmp_path / "out")
        assert str(caught.value.where).endswith("lines.jsonl:1")


def test_what_is_observed_is_checked(shard: Callable[[str], Path], tmp_path: Path) -> None:
    place = shard("ot2-scene@1") / "manifest.json"
    manifest = json.loads(place.read_text())
    place.write_text(json.dumps({**manifest, "observed": {"address": "\ud800"}}))
    with pytest.raises(InputError, match="observed") as caught:
        merge([place.parent], out=tmp_path / "out")
    assert caught.value.where == str(place)


def test_no_file_is_written_outside_the_folder(tmp_path: Path) -> None:
    pair = {"question_en": "Is it?", "normal_en": "yes", "anomaly_en": "no", "answer_en": "no"}
    (tmp_path / "in").mkdir()
    line = Line(0, "x", "answered", {"class": "../escaped"}, {"pairs": [pair]}, (), "")
    with pytest.raises(InputError, match="class's name"):
        write_banks(tmp_path / "in", [line], ("en",), {"kind": "guided"})
    assert not (tmp_path / "escaped.txt").exists()


@pytest.mark.parametrize(
    "text",
    ["01/2", "1/02", "٢/٣", "²/2", "1/0", "0/1", "3/2", " 1/2", "1/2\n", "1/100001", "1/3000000000", "1/" + "9" * 5000],
)
def test_shards_are_refused_at_the_start(text: str, model: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not i/N") as caught:
        annotate("ot2-scene@1", pool=tmp_path / "none", out=tmp_path / "qa", model=model(), shard=text)
    assert len(str(caught.value)) < 400
    with pytest.raises(InputError, match="not i/N"):
        preview("ot2-scene@1", pool=tmp_path / "none", model=model(), shard=text)


def test_a_shard_has_two_numbers() -> None:
    assert parse_shard("16/100000") == (16, 100000)
