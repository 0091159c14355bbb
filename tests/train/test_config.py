from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deckbench.errors import InputError
from deckbench.train.config import TrainConfig, config_of, named_configs, read_source, settle


def load_config(path: Path | None, overrides: dict[str, Any]) -> TrainConfig:
    return settle(read_source(path), overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rnak: 8\n", "rnak: unknown field; did you mean 'rank'?"),
        ("\nrank: eight\n", "rank: Input should be a valid integer"),
        ("rank: 2.5\n", "rank: Input should be a valid integer"),
        ("lr: -0.1\n", "lr: Input should be greater than 0"),
        ("lr: .nan\n", "lr: Input should be a finite number"),
        ("batch: 0\n", "batch: Input should be greater than or equal to 1"),
        ("dropout: 1\n", "dropout: Input should be less than 1"),
        ("vision: frozen\n", "vision: Input should be 'train' or 'absent'"),
        ("schedule: step\n", "schedule: Input should be"),
        ("epochs: 2\nmax_steps: 10\n", "give epochs or max_steps, not both"),
        ("rank: [8\n", "not valid YAML"),
        ("- rank\n", "a map of fields is expected"),
        ("max_seconds: 100\n", "max_seconds: unknown field"),
    ],
)
def test_broken_config_is_named_with_its_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(path, {})
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("rank: 8\n# comment\nlr: fast\n")
    with pytest.raises(InputError, match=r"c\.yaml:3: lr"):
        load_config(path, {})


@pytest.mark.parametrize("overrides", [{"lr": "fast"}, {"unknown": 1}, {"batch": -3}])
def test_broken_overrides(overrides: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^--set"):
        load_config(None, overrides)


def test_overrides_go_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("rank: 8\nepochs: 5\nlr: 0.1\n")
    config = load_config(path, {"lr": "1e-3", "max_steps": 7})
    assert (config.rank, config.lr, config.max_steps) == (8, 1e-3, 7)
    assert "epochs" not in config.content()
    assert load_config(path, {"rank": None}).rank == TrainConfig.model_validate({}).rank


def test_missing_config_lists_the_packaged_ones() -> None:
    with pytest.raises(InputError, match="no such config"):
        load_config(Path("nowhere.yaml"), {})


@pytest.mark.parametrize("name", named_configs())
def test_packaged_configs_are_valid(name: str) -> None:
    assert isinstance(load_config(Path(name), {}), TrainConfig)


def test_how_it_is_carried_out_is_not_what_it_is() -> None:
    one, other = (load_config(None, {"workers": w, "threads": w + 1, "cache_mb": w}) for w in (0, 3))
    assert one.content() == other.content()


def test_steps_cover_the_passes() -> None:
    config = load_config(None, {"epochs": 2, "batch": 4, "accumulate": 2})
    assert config.steps(8) == 2
    assert config.steps(9) == 3
    assert load_config(None, {"max_steps": 5}).steps(1000) == 5


@pytest.mark.parametrize(
    ("kind", "width", "config"),
    [
        ("chatglm", 4096, "glm4v-9b"),
        ("phi3_v", 3072, "phi3-vision"),
        ("chatglm", 160, None),
        ("llava", 4096, None),
    ],
)
def test_a_model_brings_its_config(tmp_path: Path, kind: str, width: int, config: str | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "hidden_size": width}))
    assert config_of(str(tmp_path)) == (None if config is None else Path(config))
    assert config_of("tiny-phi3v") == Path("tiny-phi3v")
    assert config_of("nothing") is config_of("majority") is None  # loading says what is wrong with them
