"""The stopwatch around a model that sleeps for known times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deckbench import artifact
from deckbench.answer import Answer, Question
from deckbench.bench import Job, bench, bench_all, choose, measure
from deckbench.bench.measure import Loaded
from deckbench.bench.turns import Limits, take_turn
from deckbench.dataset import read_samples
from deckbench.errors import InputError
from deckbench.models import families
from deckbench.models.families import published
from deckbench.models.interface import FamilySpec, Model
from tests.models.glm4v_small import make_small
from tests.models.published_small import shrink

SLEEP = {"vision": 0.004, "prefill": 0.002, "decode": 0.006}


class Sleeper(Model):
    """A model with known stage times; the first question ever takes longer."""

    name = "sleeper"
    family = "test"

    def __init__(self) -> None:
        self.asked: list[Question] = []

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": "sleeper", "weights": "0" * 64}

    def answer(self, image: Image.Image, questions: Sequence[Question], blank: bool = False) -> list[Answer]:
        if not self.asked:
            time.sleep(0.05)
        self.asked += questions
        seconds = {"preprocess": 0.0}
        for name, pause in SLEEP.items():
            began = time.perf_counter()
            time.sleep(pause if name != "decode" or questions[0].kind == "scene" else 0)
            seconds[name] = time.perf_counter() - began
        seconds["first_token"] = seconds["preprocess"] + seconds["vision"] + seconds["prefill"]
        tokens = 1 if questions[0].max_new_tokens == 1 else 4
        return [Answer("A", 0.6, 0.4, 20, tokens, seconds) for _ in questions]


def write_data(folder: Path, pictures: int = 3, kinds: tuple[str, ...] = ("choice", "scene", "open")) -> Path:
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(pictures):
        name = f"images/{number}.png"
        Image.new("RGB", (32, 24), (number * 20, 0, 0)).save(folder / name)
        for kind in kinds:
            for turn in range(2 if kind == "choice" else 1):
                user = {"role": "user", "content": f"Question {turn}?", "image": name}
                messages = [user, {"role": "assistant", "content": "A" if kind == "choice" else "text"}]
                lines.append(json.dumps({"messages": messages, "id": f"{kind}{number}-{turn}", "kind": kind}))
    (folder / "test.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def sleeper(monkeypatch: pytest.MonkeyPatch) -> Sleeper:
    model = Sleeper()
    spec = FamilySpec(
        name="sleeper",
        serves="sleeper",
        known={},
        identity=lambda ref: model.identity,
        load=lambda ref, device, dtype: model,
        prefixes=("sleeper",),
    )
    known = families.families()
    monkeypatch.setattr(families, "families", lambda: {**known, "sleeper": spec})
    return model


def test_measures_what_happened(sleeper: Sleeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "disturbances", lambda *_: [])
    data = write_data(tmp_path / "data")
    manifest = bench(model="sleeper", data=data, out=tmp_path / "out", min_seconds=0.2, warmup=2)
    results = manifest.observed["results"]
    assert set(results["kinds"]) == {"choice", "scene"}
    choice, scene = results["kinds"]["choice"], results["kinds"]["scene"]
    assert choice["queries"] >= 5 and choice["latency"]["n"] == choice["queries"] and choice["warmup"] == 2
    assert 0.006 <= choice["latency"]["p50"] < scene["latency"]["p50"]
    assert 0.004 <= choice["stages"]["vision"]["p50"] < 0.05
    assert choice["first_query_s"] > 0.05  # the cold one is not among the counted
    assert choice["tokens_per_s"] is None and choice["tokens_out"] == 1
    assert scene["tokens_out"] == 4 and 0 < scene["tokens_per_s"] <= 3 / 0.006
    assert scene["first_token"]["p50"] <= scene["latency"]["p50"] - 0.006
    assert results["memory"]["peak_bytes"] > 10_000_000 and results["load_s"] >= 0
    assert results["hardware"]["cpu"] and results["hardware"]["threads"] >= 1
    assert set(results["state"]) == {"start", "end"} and results["engine"] == "torch"
    limits = {question.kind: question.max_new_tokens for question in sleeper.asked}
    assert limits == {"choice": 1, "scene": 128}
    assert all(part["n"] == choice["queries"] for part in choice["stages"].values())


def test_content_is_what_was_asked_not_how_long_it_took(sleeper: Sleeper, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    first = bench(model="sleeper", data=data, out=tmp_path / "a", min_seconds=0.02)
    second = bench(model="sleeper", data=data, out=tmp_path / "b", min_seconds=0.02)
    other = bench(model="sleeper", data=data, out=tmp_path / "c", min_seconds=0.02, seed=1)
    assert first.content_hash == second.content_hash != other.content_hash
    assert first.content["inputs"]["model"] == sleeper.identity
    assert artifact.read(tmp_path / "a", "bench", verify=True).content["params"]["weights"] == "checkpoint"


def test_threads_are_put_back(sleeper: Sleeper, tmp_path: Path) -> None:
    import torch

    before = torch.get_num_threads()
    data = write_data(tmp_path / "data")
    manifest = bench(model="sleeper", data=data, out=tmp_path / "out", min_seconds=0.02, threads=before + 1)
    assert manifest.observed["results"]["hardware"]["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_jobs_take_turns(sleeper: Sleeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deckbench.bench import turns

    loads = []
    real = turns.load
    monkeypatch.setattr(turns, "load", lambda *given: loads.append(given[0]) or real(*given))
    monkeypatch.setattr(measure, "disturbances", lambda *_: [])
    data = write_data(tmp_path / "data", kinds=("choice",))
    jobs = [Job(f"sleeper:{name}", None, data, tmp_path / name) for name in "ab"]
    made = bench_all(jobs, min_seconds=0.2, warmup=0, rounds=2)
    assert loads == ["sleeper:a", "sleeper:b", "sleeper:a"]  # there and back again: b is not loaded twice in a row
    schedules = [manifest.observed["results"]["schedule"] for manifest in made]
    assert schedules[0] == schedules[1] == {"id": schedules[0]["id"], "rounds": 2, "jobs": 2, "repeated": False}
    assert [manifest.path for manifest in made] == [job.out for job in jobs]
    assert all(manifest.observed["results"]["kinds"]["choice"]["queries"] >= 6 for manifest in made)


def test_a_disturbed_run_is_measured_again_once(
    sleeper: Sleeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = iter([["other processes used 50% of the processor"], [], []])  # a, b, a again
    monkeypatch.setattr(measure, "disturbances", lambda *_: next(said))
    data = write_data(tmp_path / "data", kinds=("choice",))
    jobs = [Job("sleeper", None, data, tmp_path / name) for name in "ab"]
    made = bench_all(jobs, min_seconds=1e-3, warmup=0)
    results = [manifest.observed["results"] for manifest in made]
    assert [found["schedule"]["repeated"] for found in results] == [True, False]
    assert [found["kinds"]["choice"]["disturbances"] for found in results] == [[], []]
    assert "used 50% of the processor; it is measured again" in capsys.readouterr().err


def test_times_beside_a_busy_process_are_not_comparable(
    sleeper: Sleeper, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "data", kinds=("choice",))
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        made = bench(model="sleeper", data=data, out=tmp_path / "out", min_seconds=1.0)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    found = made.observed["results"]
    assert "other processes used" in found["kinds"]["choice"]["disturbances"][0] and found["schedule"]["repeated"]
    assert found["kinds"]["choice"]["conditions"]["others_s"] > 0.5
    assert "not comparable: other processes used" in capsys.readouterr().err


def test_stops_at_max_queries(sleeper: Sleeper, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path / "data")
    manifest = bench(model="sleeper", data=data, out=tmp_path / "out", min_seconds=60, max_queries=4, warmup=0)
    kinds = manifest.observed["results"]["kinds"]
    assert {kind: found["queries"] for kind, found in kinds.items()} == {"choice": 4, "scene": 4}
    assert kinds["choice"]["first_query_s"] is None and kinds["choice"]["latency"]["p90"] is None
    assert "bench sleeper choice: 4 queries, too few for a median" in capsys.readouterr().err


def test_at_least_enough_for_a_median(sleeper: Sleeper, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", kinds=("choice",))
    manifest = bench(model="sleeper", data=data, out=tmp_path / "out", min_seconds=1e-6)
    found = manifest.observed["results"]["kinds"]["choice"]
    assert found["queries"] == 5 and found["latency"]["p50"] > 0 and found["latency"]["p90"] is None


def test_every_picture_once_before_any_twice(tmp_path: Path) -> None:
    samples = read_samples(write_data(tmp_path / "data", pictures=6), "test")
    chosen = choose(samples, seed=3)
    assert set(chosen) == {"choice", "scene"} and len(chosen["choice"]) == 12
    assert len({sample.image for sample in chosen["choice"][:6]}) == 6
    assert chosen == choose(samples[::-1], seed=3) != choose(samples, seed=4)


def test_a_failing_model_leaves_nothing(sleeper: Sleeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_data(tmp_path / "data")

    def fail(*_: object) -> list[Answer]:
        raise RuntimeError("no")

    monkeypatch.setattr(sleeper, "answer", fail)
    with pytest.raises(RuntimeError):
        bench(model="sleeper", data=data, out=tmp_path / "out", min_seconds=0.02)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"engine": "abacus"}, "engine 'abacus' is not here"),
        ({"weights": "heavy"}, "weights 'heavy' are not known"),
        ({"min_seconds": 0}, "min_seconds is 0"),
        ({"min_seconds": float("nan")}, "min_seconds is nan"),
        ({"max_queries": 0}, "max_queries is 0"),
        ({"warmup": -1}, "warmup is -1"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_bad_parameters(sleeper: Sleeper, tmp_path: Path, more: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        bench(model="sleeper", data=write_data(tmp_path / "data"), out=tmp_path / "out", **more)
    assert not (tmp_path / "out").exists() and sleeper.asked == []


def test_no_questions_to_time(sleeper: Sleeper, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no choice and no scene"):
        bench(model="sleeper", data=write_data(tmp_path / "data", kinds=("open",)), out=tmp_path / "out")


def test_an_edited_dataset_is_not_benched(tmp_path: Path) -> None:
    with artifact.writing(tmp_path / "d", "dataset") as draft:
        write_data(draft.path / "in")
        for entry in list((draft.path / "in").iterdir()):
            entry.rename(draft.path / entry.name)
        (draft.path / "in").rmdir()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "d" / "images" / "0.png")
    with pytest.raises(InputError, match="changed since"):
        bench(model="majority", data=tmp_path / "d", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_baselines_are_not_timed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a baseline"):
        bench(model="majority", data=write_data(tmp_path / "data"), out=tmp_path / "out")


def test_random_weights_need_a_network(sleeper: Sleeper, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights here to replace"):
        bench(model="sleeper", data=write_data(tmp_path / "data"), out=tmp_path / "out", weights="random")


def test_peak_memory_sees_what_a_model_takes(tmp_path: Path) -> None:
    """A model that fills 64 MB while it answers raises the peak by about that."""
    from deckbench.bench import memory

    class Hungry(Sleeper):
        def answer(self, image: Image.Image, questions: Sequence[Question], blank: bool = False) -> list[Answer]:
            block = bytearray(64 << 20)
            block[:: 1 << 12] = b"\1" * len(block[:: 1 << 12])
            return super().answer(image, questions, blank)

    if not memory.reset_peak():
        pytest.skip("the peak cannot be started anew on this system")
    samples = choose(read_samples(write_data(tmp_path / "data"), "test"), 0)
    before = memory.peak_bytes()
    loaded = Loaded(Hungry(), "cpu", 0.0, memory.status_bytes("VmRSS"), True)
    found = take_turn(loaded, "hungry", samples, Limits(0.01, 2, 0, 1, {"choice": 1, "scene": 8}), 0)
    assert found.memory["peak_bytes"] - before > 50 << 20


@pytest.mark.parametrize("ref", published())
def test_published_sizes_with_random_weights(ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(ref, tmp_path, monkeypatch)
    data = write_data(tmp_path / "data", pictures=1, kinds=("choice",))
    asked: dict[str, Any] = {"model": ref, "data": data, "weights": "random", "min_seconds": 1e-6, "warmup": 0}
    made = bench(**asked, out=tmp_path / "out")
    model, results = made.content["inputs"]["model"], made.observed["results"]
    assert (model["name"], model["weights"], model["tokenizer"]) == (ref, "random", "stand-in")
    assert made.content["params"]["weights"] == results["weights"] == "random"
    assert results["parameters"] > 10_000 and results["kinds"]["choice"]["latency"]["p50"] > 0
    assert bench(**asked, out=tmp_path / "again").content_hash == made.content_hash
    with pytest.raises(InputError, match="random weights take no adapter"):
        bench(**asked, out=tmp_path / "adapted", adapter=tmp_path / "adapter")
    with pytest.raises(InputError, match="its sizes alone are"):
        bench(**asked | {"weights": "checkpoint"}, out=tmp_path / "real")


def test_a_checkpoint_with_random_weights(tmp_path: Path) -> None:
    make_small().save(tmp_path / "small")
    data = write_data(tmp_path / "data", pictures=1, kinds=("choice",))
    made = bench(
        model=str(tmp_path / "small"), data=data, out=tmp_path / "out", weights="random", min_seconds=1e-6, warmup=0
    )
    model = made.content["inputs"]["model"]
    assert model["weights"] == "random" and model["tokenizer"] != "stand-in"
    assert made.observed["results"]["parameters"] == sum(p.numel() for p in make_small().module.parameters())
