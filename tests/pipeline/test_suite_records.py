"""What a suite writes into its records: who answered, where, on which frames, and how to do it again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from deckbench import artifact
from deckbench.pipeline import provenance, state, steps
from deckbench.pipeline.plan import Target
from deckbench.record.facts import part_of
from deckbench.record.read import read_record
from deckbench.record.schema import Record
from deckbench.record.scores import scored_path
from deckbench.suite import DataSpec, Suite, TrainSpec
from deckbench.yamlfile import parse_settings
from tests.record import fake

RUN_ANSWERS = steps.run_answers
SUITE: dict[str, Any] = {
    "name": "mine",
    "pools": {"deck": {"path": "my pools/deck"}},
    "data": {"S2": {"task": "ot2-guided@1", "pool": "deck", "audit": False}},
    "tests": [{"data": "S2"}],
    "train": {"S1": {"data": ["S2"]}},
    "models": [{"ref": "tiny-glm4v", "curricula": ["base", "S1"]}],
}
MACHINES = {"on-a-gpu.yaml": {**fake.MACHINE, "device": "cuda", "accelerators": [{"name": "Example GPU"}]}}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> state.Run:
    """A run whose pool and dataset are there, and whose answers are invented."""
    file = tmp_path / "suite.yaml"
    file.write_text(json.dumps(SUITE))  # JSON is YAML
    data = fake.dataset(tmp_path / "data", pool="pool", synthetic=False)
    predictions = fake.predictions(tmp_path / "p.csv", data)

    def answers(run: state.Run, target: Target, adapter: state.StepOutput | None) -> tuple[Path, Path, None]:
        identity = {**fake.IDENTITY, "adapter": adapter.content_hash if adapter else None}
        fake.manifest(predictions, data, identity, machine=MACHINES.get(run.ref))
        return predictions, fake.score(predictions, data), None

    monkeypatch.setattr(steps, "run_answers", answers)
    run = state.Run(Suite.model_validate(SUITE), "mine.yaml", file, tmp_path / "work")
    run.pools["deck"] = state.StepOutput(tmp_path, fake.sha("pool"))
    run.data["S2"] = state.StepOutput(data, artifact.read(data).content_hash)
    return run


def written(run: state.Run, adapter: str | None = None, condition: str = "same distribution") -> Record:
    target = Target("tiny-glm4v", "S1" if adapter else "base", "S2", condition)
    output = None
    if adapter:
        place = run.file.parent / adapter
        base = {"name": "tiny-glm4v", "hash": fake.IDENTITY["hash"]}
        if not place.exists():
            inputs = {"base": base, "dataset": fake.sha(adapter), "init": None}
            with artifact.writing(place, "adapter", inputs=inputs):
                pass
        output = run.adapters["tiny-glm4v", "S1"] = state.StepOutput(place, artifact.read(place).content_hash)
    return read_record(steps.run_record(run, target, output, {})).record


def test_an_adapter_is_part_of_the_models_identity(run: state.Run) -> None:
    """Else two trainings of one curriculum would share a row of the board."""
    assert "adapter" not in written(run).model.identity
    assert written(run, "one").model.identity["adapter"] == artifact.read(run.file.parent / "one").content_hash
    assert written(run, "one").model.identity != written(run, "two").model.identity


@pytest.mark.parametrize(
    ("split", "condition", "part"),
    [
        ("group", "same distribution", "same distribution"),
        ("group", "own words", "same distribution"),
        ("group", "shifted", "shifted"),
        ("test-only", "same distribution", "same distribution"),
        ("test-only", "another lab", "shifted"),
    ],
)
def test_frames_of_another_lab_are_not_of_the_same_distribution(split: str, condition: str, part: str) -> None:
    assert part_of(split, condition) == part


def test_the_commands_of_a_record_can_be_typed(run: state.Run, tmp_path: Path) -> None:
    """Quoted for a shell, with the pool where it lies and options as YAML."""
    assert written(run).command == "deckbench run mine.yaml --only tiny-glm4v:base:S2"
    run.ref = "my suite.yaml"
    assert shlex.split(written(run).command)[2:4] == ["my suite.yaml", "--only"]
    options = {"box_margin": [0, 0.35], "scene_counts": True, "box_style": "source-lab", "max_test": 4}
    spec = DataSpec(task="ot2-guided@1", pool="deck", split="blocks=6,gap=4", options=options)
    argv = shlex.split(provenance.build_command(spec, run.suite, tmp_path))
    assert argv[argv.index("--pool") + 1] == "my pools/deck"
    settings = parse_settings([argv[at + 1] for at, word in enumerate(argv) if word == "--set"])
    assert settings == options


def test_a_record_names_the_machine_that_answered(run: state.Run, tmp_path: Path) -> None:
    """Not the one that happens to write the record, and not a processor where a GPU was used."""
    run.ref = "on-a-gpu.yaml"
    record = written(run)
    assert record.hardware.device == "cuda" and record.packages == fake.PACKAGES


def test_a_detectors_new_labels_are_answered_anew(tmp_path: Path) -> None:
    """The answers of `rule:FOLDER` are found again by this identity, so it changes with the folder's content."""
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    before = provenance.identity_of(f"rule:{tmp_path / 'labels'}")
    (tmp_path / "labels" / "a.txt").write_text("1 0.5 0.5 0.1 0.1\n")
    assert provenance.identity_of(f"rule:{tmp_path / 'labels'}") != before
    assert provenance.identity_of("rule:gold") == {"baseline": "rule:gold"}
    assert provenance.identity_of("majority") == {"baseline": "majority"}


def test_a_models_weights_are_hashed_once_a_run(run: state.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    identity = provenance.identity_of("tiny-glm4v")
    monkeypatch.setattr(state, "identity_of", lambda ref: asked.append(ref) or identity)
    assert run.identity("tiny-glm4v") == run.identity("tiny-glm4v") == identity
    assert asked == ["tiny-glm4v"]


def test_scene_texts_are_searched_with_the_suites_own_ontology(
    run: state.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task with an ontology of its own does not say where that lies, so the suite must."""
    given: list[Path | None] = []

    def score(*_: Any, out: Path, ontology: Path | None, **__: Any) -> None:
        given.append(ontology)
        for file in (out, scored_path(out)):
            file.write_text("{}")

    def infer(*, out: Path, **_: Any) -> None:
        out.write_text("id\n")
        content: dict[str, Any] = {"inputs": {}}
        manifest = {"content": content, "content_hash": artifact.hash_json(content)}
        out.with_name("predictions.manifest.json").write_text(json.dumps(manifest))

    monkeypatch.setattr("deckbench.infer.infer", infer)
    monkeypatch.setattr("deckbench.score.score", score)
    for ontology, seed in ((None, 0), ("mine.yaml", 1)):
        data = {"S2": {**SUITE["data"]["S2"], "ontology": ontology}}
        run.suite = Suite.model_validate({**SUITE, "data": data, "seed": seed})
        RUN_ANSWERS(run, Target("rule:gold", None, "S2", "same distribution"), None)
    assert given == [None, tmp_path / "mine.yaml"]


def test_a_weight_on_a_single_part_is_applied(run: state.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[tuple[state.StepOutput, float]]] = []
    drawn = state.StepOutput(tmp_path, fake.sha("drawn"))
    monkeypatch.setattr(steps, "run_mix", lambda run, curriculum, parts: asked.append(parts) or drawn)
    monkeypatch.setattr(
        steps, "run_audit", lambda *_: {"shared_groups": [], "shared_frames": [], "pairs": {"exact": []}}
    )
    (drawn.path / "test.jsonl").write_text("{}")
    sets = [steps.run_train_set(run, "S1", TrainSpec(data=[part])) for part in ("S2:0.3", "S2")]
    assert asked == [[(run.data["S2"], 0.3)]]
    assert sets == [drawn, run.data["S2"]]
