"""What the base is taught, and that teaching it is repeatable."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.models import pretrain_questions
from deckbench.models.families import packaged
from deckbench.models.phi3v import preprocess, probe_heads
from deckbench.models.phi3v.tiny import make_tiny
from deckbench.models.pretrain import Recipe, learning_rate, pretrain, read_scenes, scene_forms, texts_of
from deckbench.pool.synth import synth_pool
from deckbench.resources import tasks_folder

VERDICT = re.compile(r"\b(normal|anomal\w*|wrong|correct|stop)\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pools") / "deck"
    synth_pool(folder, frames=24, seed=11, workers=1, emphasis={"damaged_tip": 20.0, "missing_tip": 10.0})
    return folder


@pytest.fixture(scope="module")
def scenes(pool: Path) -> list[tuple[Path, dict[str, Any]]]:
    return read_scenes([pool])


def views(scenes: list[tuple[Path, dict[str, Any]]], index: int) -> list[pretrain_questions.View]:
    path, scene = scenes[index]
    return pretrain_questions.views(Image.open(path).convert("RGB"), scene, np.random.default_rng([1, index]), 4, 2)


def test_it_never_hears_of_right_and_wrong(scenes: list[tuple[Path, dict[str, Any]]]) -> None:
    for index in range(len(scenes)):
        for view in views(scenes, index):
            assert not [text for turn in view.turns for text in turn if VERDICT.search(text)]


def test_a_choice_names_what_is_there(scenes: list[tuple[Path, dict[str, Any]]]) -> None:
    letters = set()
    for index, (_, scene) in enumerate(scenes):
        names = {pretrain_questions.name(o["kind"], o["state"]) for o in scene["objects"]}
        for view in views(scenes, index)[1:]:
            plain = dict(view.turns)
            full = next(answer for question, answer in plain.items() if question.startswith("What is "))
            assert full in names
            for question, answer in plain.items():
                options = re.search(r"Which is .*\nA\. (.*)\nB\. (.*)\n", question)
                if options is not None:
                    assert options["AB".index(answer) + 1] == full != options["BA".index(answer) + 1]
                    letters.add(answer)
    assert letters == {"A", "B"}


def test_a_box_shows_one_state_of_tips() -> None:
    def tip(state: str, x: float) -> dict[str, Any]:
        return {"kind": "tip", "state": state, "box": [x, 0.4, x + 0.015, 0.5]}

    objects = [tip("straight", 0.30), tip("straight", 0.485), tip("bent", 0.50), {**tip("seated", 0.5), "kind": "bin"}]
    assert [pretrain_questions.clear(obj, objects) for obj in objects] == [True, False, True, True]


def test_cells_are_where_things_are(scenes: list[tuple[Path, dict[str, Any]]]) -> None:
    _, scene = scenes[0]
    view = views(scenes, 0)[0]
    grid = pretrain_questions.grid_labels(scene, view, 8, 8).reshape(8, 8, -1)
    assert grid.shape[-1] == len(pretrain_questions.LABELS) + 1 and not grid[..., -1].any()
    for obj in scene["objects"]:
        column = pretrain_questions.LABELS.index((obj["kind"], obj["state"]))
        x0, y0, x1, y1 = (min(7, int(8 * edge)) for edge in obj["box"])
        assert grid[y0 : y1 + 1, x0 : x1 + 1, column].any()


@pytest.mark.parametrize("crop", [None, (0.1, 0.2, 0.35, 0.9), (0.2, 0.5, 0.9, 0.6)], ids=["whole", "upright", "flat"])
def test_phis_cells_are_where_things_are(crop: tuple[float, float, float, float] | None) -> None:
    """Colour an object's box, and the tiles' cells that are said to show it are those whose pixels are coloured."""
    model = make_tiny(["What is in slot 3?"] * 4)
    frame = Image.new("RGB", (704, 396))
    kind, state = pretrain_questions.LABELS[0]
    obj = {"kind": kind, "state": state, "box": [0.25, 0.3, 0.6, 0.57]}
    x0, y0, x1, y1 = (edge * side for edge, side in zip(obj["box"], frame.size * 2, strict=True))
    frame.paste((255, 0, 0), (round(x0), round(y0), round(x1), round(y1)))
    region = crop or pretrain_questions.WHOLE
    cut = frame.crop(tuple(round(edge * side) for edge, side in zip(region, frame.size * 2, strict=True)))
    truth = probe_heads.token_labels(model, {"objects": [obj]}, pretrain_questions.View(cut, (), region=region))
    pixels, (rows, columns) = preprocess.tiles(cut, model.preprocessor, 128)
    grid = model.config.vision.grid
    assert len(truth) == sum(probe_heads.is_cell(rows, columns, grid)) == (rows * columns + 1) * grid**2
    assert len(probe_heads.is_cell(rows, columns, grid)) == preprocess.image_tokens(rows, columns, grid)
    # red: 1 where nothing but red is, about -0.5 where all is black, and white (padding) is not red
    red = (pixels[:, 0] > 1) & (pixels[:, 1] < 0)
    share = red.reshape(-1, grid, 32, grid, 32).mean(axis=(2, 4))
    tiles = share[1:].reshape(rows, columns, grid, grid).transpose(0, 2, 1, 3).reshape(-1)
    expected = np.concatenate((tiles, share[0].reshape(-1)))
    said = truth[:, 0]
    assert (said[expected > 0.5] == 1).all() and (said[expected < 0.1] == 0).all()
    assert 0 < said.sum() < len(said)


def test_the_stages_words_are_repeated() -> None:
    texts = texts_of(tasks_folder())
    assert not [text for text in texts if "{{" in text or "{%" in text]
    forms = scene_forms(20)
    assert {form.rsplit(" ", 1)[-1].strip(".") for form in forms} == {"anomaly", "normal"}
    assert scene_forms(20) == forms


def test_the_rate_rises_and_falls() -> None:
    recipe = Recipe(steps=100, warmup=10, lr=1.0)
    rates = [learning_rate(step, recipe) for step in range(100)]
    assert rates[9] == max(rates) == 1.0 and rates[:10] == sorted(rates[:10]) and rates[9:] == sorted(rates[9:])[::-1]


def test_only_the_tiny_models_are_taught(pool: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tiny-glm4v or tiny-phi3v"):
        pretrain("glm-4v-9b", [pool], out=tmp_path / "base")


def test_a_pool_without_scenes_teaches_nothing(pool: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    with pytest.raises(InputError, match=r"no scenes\.jsonl"):
        pretrain("tiny-glm4v", [pool, tmp_path / "real"], out=tmp_path / "base")
    assert not (tmp_path / "base").exists()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny-glm4v", "tiny-phi3v"])
def test_same_pools_same_base(model: str, pool: Path, tmp_path: Path) -> None:
    """Two processes, two runs, one from the packaged base and one from nothing: the same weights."""
    recipe = Recipe(steps=2, frames_per_step=2, save_every=1, seed=3)
    hashes = []
    for name in ("first", "again"):
        pretrain(model, [pool], out=tmp_path / name, recipe=recipe, init=packaged().get(model))
        files = artifact.read(tmp_path / name, "model").content["files"]
        hashes.append(files["model.safetensors"]["sha256"])
        assert json.loads((tmp_path / name / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert hashes[0] == hashes[1]
    assert not list(tmp_path.glob("*.partial"))
