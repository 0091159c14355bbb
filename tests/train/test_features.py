"""Features of frozen vision, kept on disk: the same adapter, no picture opened twice, nothing wrong ever read."""

from __future__ import annotations

import errno
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from deckbench.errors import InputError, OutsideError
from deckbench.train import features, train
from deckbench.train.config import TrainConfig
from deckbench.train.features import Store
from tests.train import micro_world

Go = Callable[..., str]
FAMILIES = ("glm4v", "phi3v")
# Shared among processes, a picture in two steps of one batch, and pictures opened elsewhere: all in one run.
SHARED = {"processes": 2, "batch": 5, "accumulate": 2, "workers": 1, "max_steps": 6}


@pytest.fixture(scope="session")
def models(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"glm4v": model, "phi3v": micro_world.make_phi(tmp_path_factory.mktemp("models") / "phi")}


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The squares in three shapes, so that Phi-3's frames take different numbers of features."""
    place = micro_world.make_dataset(tmp_path_factory.mktemp("data") / "shapes")
    for number, size in ((1, (64, 16)), (4, (36, 64))):
        path = place / f"images/{number}.png"
        Image.open(path).resize(size).save(path)
    return place


@pytest.fixture
def go(models: dict[str, Path], shapes: Path, tmp_path: Path) -> Go:
    """train() of a family with frozen vision; the adapter's content hash. `cached`: features are kept in `cache`."""

    def call(family: str, *, cached: bool, resume: bool = False, data: Path = shapes, **settings: Any) -> str:
        out = tmp_path / f"{family} out"
        settings = {**micro_world.SETTINGS, "vision": "absent", **settings}
        if cached:
            settings["feature_cache"] = tmp_path / "cache"
        made = train(model=str(models[family]), data=data, out=out, overrides=settings, resume=resume)
        shutil.rmtree(out)
        return made.content_hash

    return call


def kept(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, opening or encoding any picture is an error."""

    def refuse(*_: Any) -> Any:
        raise InputError("a picture was looked at")

    def call() -> None:
        monkeypatch.setattr(features, "open_picture", refuse)
        monkeypatch.setattr(features, "encode", refuse)

    return call


BF16 = {"precision": "bf16", "gradient_checkpointing": True}


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        *((family, {}) for family in FAMILIES),
        ("glm4v", SHARED),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("glm4v", BF16), ("phi3v", SHARED), ("phi3v", BF16))
        ),
    ],
)
def test_the_adapter_is_the_same_and_a_hit_opens_no_picture(
    go: Go, blind: Callable[[], None], tmp_path: Path, family: str, settings: dict[str, Any]
) -> None:
    without = go(family, cached=False, **settings)
    assert go(family, cached=True, **settings) == without
    files = kept(tmp_path)
    assert len(files) == 10 and all(path.suffix == ".safetensors" for path in files)
    blind()
    assert go(family, cached=True, **settings) == without
    assert go(family, cached=True, **settings, cache_mb=0) == without
    with pytest.raises(InputError, match="looked at"):
        go(family, cached=False, **settings)


def test_phi_sees_frames_of_several_lengths_and_some_twice(models: dict[str, Path], shapes: Path) -> None:
    """What the test above stands on."""
    from deckbench.models.load import load_model
    from deckbench.picture import open_picture
    from deckbench.train.data import training_items

    phi = load_model(str(models["phi3v"]))
    items = training_items(shapes)
    batch = phi.collate([(open_picture(item.image), list(item.pairs)) for item in items])
    assert len({tuple(grid) for grid in batch["grids"].tolist()}) > 1
    assert len(batch["pixel_index"]) > len(items)


@pytest.mark.parametrize("family", FAMILIES)
def test_vision_takes_a_frame_a_call_without_gradients(go: Go, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool, bool]] = []
    real = features.encode

    def watched(module: Any, given: Any) -> torch.Tensor:
        found = []
        hook = module.vision.register_forward_hook(lambda part, _, made: found.append((part.training, made)))
        made = real(module, given)
        hook.remove()
        seen.append((len(found) == 1, found[0][0], made.requires_grad))
        return made

    monkeypatch.setattr(features, "encode", watched)
    go(family, cached=False, max_steps=2)
    assert seen == [(True, False, False)] * 12  # two steps of four frames, and the loss after the last one


def test_damaged_features_are_made_again(go: Go, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = go("glm4v", cached=True)
    short, changed, empty, moved, foreign, *rest = kept(tmp_path)
    good = {path: path.read_bytes() for path in kept(tmp_path)}
    short.write_bytes(good[short][:-100])
    flipped = bytearray(good[changed])
    flipped[-9] ^= 1
    changed.write_bytes(flipped)
    empty.write_bytes(b"")
    moved.write_bytes(good[rest[0]])
    foreign.write_bytes(good[foreign].replace(b'"seal"', b'"veal"'))
    assert go("glm4v", cached=True) == whole
    said = capsys.readouterr().err
    for path in (short, changed, empty, moved, foreign):
        assert f"{path}: these features are damaged and are made again" in said
    assert {path: path.read_bytes() for path in kept(tmp_path)} == good


def test_what_decides_the_features_is_in_their_name(
    go: Go, models: dict[str, Path], shapes: Path, tmp_path: Path
) -> None:
    go("glm4v", cached=True, max_steps=3)
    assert len(kept(tmp_path)) == 10
    other = shutil.copytree(shapes, tmp_path / "other")
    image = Image.open(other / "images/7.png")
    image.putpixel((1, 1), (1, 2, 3))
    image.save(other / "images/7.png")
    go("glm4v", cached=True, max_steps=3, data=other)
    assert len(kept(tmp_path)) == 11  # the nine others lie elsewhere and are the same pictures
    go("glm4v", cached=True, max_steps=3, precision="bf16")
    assert len(kept(tmp_path)) == 21
    models["glm4v"] = micro_world.make_model(tmp_path / "m/micro", seed=1)
    go("glm4v", cached=True, max_steps=3)
    assert len(kept(tmp_path)) == 31
    models["glm4v"] = micro_world.make_model(tmp_path / "n/renamed", seed=1)
    go("glm4v", cached=True, max_steps=3)
    assert len(kept(tmp_path)) == 31


def test_killed_while_it_is_filled(go: Go, tmp_path: Path) -> None:
    whole = go("glm4v", cached=False)

    def work() -> None:
        micro_world.kill_at(Store, "put", 6)
        go("glm4v", cached=True)

    assert micro_world.in_child(work) == -9
    assert len(kept(tmp_path)) == 5
    assert go("glm4v", cached=True, resume=True) == whole
    assert len(kept(tmp_path)) == 10


@pytest.mark.parametrize("settings", [{}, SHARED])
def test_a_full_disk(go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    """With helpers it is a helper's disk that is full, and its words arrive."""
    whole = go("glm4v", cached=False, **settings)
    put = Store.put

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def filling(self: Store, *given: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if not settings or multiprocessing.current_process().name.startswith("helper"):
                patch.setattr(Path, "replace", full)
            put(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", filling)
        with pytest.raises(OutsideError, match="No space left") as caught:
            go("glm4v", cached=True, **settings)
    assert "feature_cache" in str(caught.value.fix)
    assert all(path.suffix == ".safetensors" for path in kept(tmp_path))
    assert settings or not kept(tmp_path)
    assert go("glm4v", cached=True, **settings, resume=True) == whole


def test_memory_is_bounded(tmp_path: Path) -> None:
    store = Store(tmp_path, {}, 100)
    made = {name: torch.full((2, 5), float(number)) for number, name in enumerate("abc")}  # 40 bytes each
    for name, tensor in made.items():
        store.put(name, tensor)
    for name in "abcab":
        found = store.get(name)
        assert found is not None and torch.equal(found, made[name])
    assert store.recent.held == 80
    assert store.get("d") is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_bit_is_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    made = torch.randn(7, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    made[0, 0], made[0, 1], made[1, 0] = float("nan"), float("-inf"), -0.0
    Store(tmp_path, {}, 0).put("key", made.T)
    found = Store(tmp_path, {}, 0).get("key")
    assert found is not None and found.dtype == dtype
    assert torch.equal(found.view(torch.uint8), made.T.contiguous().view(torch.uint8))


def test_refused_where_features_cannot_be_kept(models: dict[str, Path], shapes: Path, tmp_path: Path) -> None:
    def call(config: str, **overrides: Any) -> InputError:
        (tmp_path / "c.yaml").write_text(config)
        with pytest.raises(InputError) as caught:
            train(
                model=str(models["glm4v"]),
                data=shapes,
                out=tmp_path / "out",
                config=tmp_path / "c.yaml",
                overrides=overrides,
            )
        assert not list(tmp_path.glob("out*"))
        return caught.value

    trained = call(f"rank: 2\nfeature_cache: {tmp_path / 'cache'}\n")
    assert trained.where == f"{tmp_path / 'c.yaml'}:2" and "vision tower that is trained" in trained.what
    assert call("rank: 2\n", feature_cache=tmp_path / "cache").where == "--set"
    assert not (tmp_path / "cache").exists()
    (tmp_path / "file").touch()
    assert "is a file" in call("vision: absent\n", feature_cache=tmp_path / "file").what
    config = TrainConfig.model_validate({"vision": "absent", "feature_cache": tmp_path / "cache"})
    with pytest.raises(InputError, match="llava does not take features"):
        features.check(SimpleNamespace(name="llava", caches_features=False), config, "--set")


def test_the_place_is_no_part_of_the_identity(tmp_path: Path) -> None:
    config = TrainConfig.model_validate({"feature_cache": tmp_path})
    assert config.content() == TrainConfig().content()


def test_the_option_of_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from deckbench.cli.app import app

    told: dict[str, Any] = {}
    monkeypatch.setattr("deckbench.train.train", lambda **given: told.update(given))
    words = ["train", "--model", "tiny-glm4v", "--data", "d", "--out", "o", "--feature-cache", str(tmp_path)]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert told["overrides"] == {"feature_cache": str(tmp_path)}
