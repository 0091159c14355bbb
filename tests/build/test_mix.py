"""`mix`: several datasets become one; nothing leaks, nothing collides."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from deckbench import artifact
from deckbench.build.dataset import build_dataset
from deckbench.build.mix import mix
from deckbench.dataset import read_samples
from deckbench.errors import InputError


@pytest.fixture(scope="session")
def parts(hand_pool: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("parts")
    for name, task, split in (
        ("S1", "ot2-concept@1", "pool"),
        ("S2", "ot2-guided@1", "pool"),
        ("S3", "ot2-scene@1", "pool"),
        ("S3-all", "ot2-scene@1", "test-only"),
    ):
        build_dataset(task, pool=hand_pool, out=folder / name, split=split, seed=5, workers=1)
    return {name: folder / name for name in ("S1", "S2", "S3", "S3-all")}


def table(dataset: Path) -> pd.DataFrame:
    return pd.read_csv(dataset / "samples.csv", dtype=str, keep_default_na=False)


def test_a_mix_holds_its_parts(parts: dict[str, Path], tmp_path: Path) -> None:
    mix([(parts["S2"], 1.0), (parts["S1"], 0.5)], out=tmp_path / "mix", seed=3)
    rows, first, second = table(tmp_path / "mix"), table(parts["S2"]), table(parts["S1"])
    assert set(first["id"]) <= set(rows["id"])
    replayed = rows[rows["stage"] == "S1"]
    for split in ("val", "test"):
        assert (replayed["split"] == split).sum() == (second["split"] == split).sum()
    before, after = (len(set(t[t["split"] == "train"]["image"])) for t in (second, replayed))
    assert after == round(before / 2)
    # all the questions of a kept picture come along
    kept = second[second["image"].isin(replayed["image"])]
    assert set(kept["id"]) == set(replayed["id"])
    for split in ("train", "val", "test"):
        assert len(read_samples(tmp_path / "mix", split)) == (rows["split"] == split).sum()


def test_a_mix_is_the_same_again(parts: dict[str, Path], tmp_path: Path) -> None:
    wish = [(parts["S2"], 1.0), (parts["S1"], 0.4)]
    hashes = {mix(wish, out=tmp_path / name, seed=seed).content_hash for name, seed in (("a", 1), ("b", 1))}
    assert len(hashes) == 1
    assert mix(wish, out=tmp_path / "c", seed=2).content_hash not in hashes


def test_a_dataset_is_never_mixed_with_itself(parts: dict[str, Path], hand_pool: Path, tmp_path: Path) -> None:
    """Its questions would be asked twice: by name, as a copy, built with other letters, or inside another mix."""
    shutil.copytree(parts["S2"], tmp_path / "copy")
    mix([(parts["S2"], 1.0), (parts["S1"], 0.5)], out=tmp_path / "mixed")
    for other in ("copy", "mixed"):
        with pytest.raises(InputError, match="asked twice"):
            mix([(parts["S2"], 0.5), (tmp_path / other, 0.5)], out=tmp_path / "mix")
    for name, seed in (("S3-5", 5), ("S3-6", 6)):  # the same images; A and B may be swapped
        build_dataset("ot2-scene@1", pool=hand_pool, out=tmp_path / name, split="pool", seed=seed, workers=1)
    with pytest.raises(InputError, match=r"the sample \S+ \(frame images/s\d+f\d\) is \S+ of .*asked twice"):
        mix([(tmp_path / "S3-5", 1.0), (tmp_path / "S3-6", 1.0)], out=tmp_path / "mix")
    assert not (tmp_path / "mix").exists()


def test_an_edited_dataset_is_not_mixed(parts: dict[str, Path], tmp_path: Path) -> None:
    for name in ("samples.csv", "test.jsonl"):
        shutil.rmtree(tmp_path / "edited", ignore_errors=True)
        shutil.copytree(parts["S2"], tmp_path / "edited")
        file = tmp_path / "edited" / name
        file.write_text(file.read_text(encoding="utf-8").replace("yes", "no"), encoding="utf-8")
        with pytest.raises(InputError, match="changed since"):
            mix([(tmp_path / "edited", 1.0)], out=tmp_path / "mix")
    assert not (tmp_path / "mix").exists()


def test_val_of_one_part_is_never_test_of_another(parts: dict[str, Path], hand_pool: Path, tmp_path: Path) -> None:
    """Also where groups are named otherwise: the images are the same."""
    pool = tmp_path / "pool"
    shutil.copytree(hand_pool, pool)
    frames = (pool / "frames.csv").read_text()
    yaml = (pool / "dataset.yaml").read_text()
    (pool / "dataset.yaml").write_text(yaml.replace("val: val.txt", "val: test.txt").replace("test: test", "test: val"))
    for renamed in (False, True):
        (pool / "frames.csv").write_text(frames.replace(",s0", ",t0") if renamed else frames)
        build_dataset("ot2-scene@1", pool=pool, out=tmp_path / f"S3-{renamed}", split="pool", seed=5, workers=1)
        with pytest.raises(InputError, match=r"is in (val|test) here and in (test|val) of"):
            mix([(tmp_path / f"S3-{renamed}", 1.0), (parts["S3"], 1.0)], out=tmp_path / "mix")


def test_a_mix_of_mixes_keeps_every_picture_and_id(hand_pool: Path, parts: dict[str, Path], tmp_path: Path) -> None:
    # The same frames with boxes drawn otherwise: same names, other pictures.
    for seed in (6, 7):
        build_dataset("ot2-guided@1", pool=hand_pool, out=tmp_path / f"S2-{seed}", split="pool", seed=seed, workers=1)
    mix([(parts["S2"], 1.0), (tmp_path / "S2-6", 1.0)], out=tmp_path / "two")
    wish = [tmp_path / "two", tmp_path / "S2-7"]
    mix([(part, 1.0) for part in wish], out=tmp_path / "three")
    rows = table(tmp_path / "three")
    assert rows["id"].is_unique

    def seen(dataset: Path) -> Counter[tuple[str, str]]:
        found = table(dataset)
        hashes = {image: artifact.hash_file(dataset / image) for image in set(found["image"])}
        return Counter((text, hashes[image]) for text, image in zip(found["question"], found["image"], strict=True))

    assert seen(tmp_path / "three") == seen(wish[0]) + seen(wish[1])


def test_twins_of_two_parts_stay_apart(parts: dict[str, Path], tmp_path: Path) -> None:
    mix([(parts["S2"], 1.0), (parts["S1"], 1.0)], out=tmp_path / "mix")
    rows = table(tmp_path / "mix")
    assert (rows[rows["twin"] != ""].groupby("twin")["task"].nunique() == 1).all()
    assert set(rows[rows["kind"] == "open"]["twin"]) == {""}


def test_a_group_on_both_sides_is_refused(parts: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the group 's0[0-5]' is in test here and in train of"):
        mix([(parts["S2"], 1.0), (parts["S3-all"], 1.0)], out=tmp_path / "mix")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("weight", [0.0, -1.0, 1.5, float("nan"), float("inf")])
def test_wrong_weights_are_refused(parts: dict[str, Path], tmp_path: Path, weight: float) -> None:
    with pytest.raises(InputError, match="weight"):
        mix([(parts["S2"], weight)], out=tmp_path / "mix")
    assert list(tmp_path.iterdir()) == []


def test_only_datasets_can_be_mixed(parts: dict[str, Path], hand_pool: Path, tmp_path: Path) -> None:
    with artifact.writing(tmp_path / "other", "adapter") as draft:
        (draft.path / "x").write_text("x")
    for path, expected in (
        (hand_pool, "no manifest.json"),
        (tmp_path / "absent", "not found"),
        (tmp_path / "other", "this is an adapter"),
    ):
        with pytest.raises(InputError, match=expected):
            mix([(parts["S2"], 1.0), (path, 1.0)], out=tmp_path / "mix")
    with pytest.raises(InputError, match="nothing to mix"):
        mix([], out=tmp_path / "mix")
    assert not (tmp_path / "mix").exists()


def test_a_table_that_points_outside_is_refused(parts: dict[str, Path], tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    shutil.copytree(parts["S2"], evil)
    rows = table(evil)
    rows.loc[0, "image"] = "images/../../secret.jpg"
    rows.to_csv(evil / "samples.csv", index=False)
    manifest = json.loads((evil / "manifest.json").read_text())
    manifest["content"]["files"] = artifact.list_files(evil)
    manifest["content_hash"] = artifact.hash_json(manifest["content"])
    (evil / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="leaves the folder"):
        mix([(evil, 1.0)], out=tmp_path / "mix")
    assert not (tmp_path / "mix").exists()
