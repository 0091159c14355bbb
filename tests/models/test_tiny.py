"""The tiny model's size, start and repeatability."""

from __future__ import annotations

import multiprocessing
import resource
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image

from deckbench.answer import Question
from deckbench.errors import OutsideError
from deckbench.models.glm4v.model import Glm4v, load_glm4v
from deckbench.models.glm4v.tiny import make_tiny
from deckbench.models.init import grid_waves

CORPUS = ["What is in slot 3?\nA. white plate\nB. tip rack\nAnswer with A or B only."] * 4


@pytest.fixture(scope="module")
def tiny() -> Glm4v:
    return make_tiny(CORPUS, seed=0)


def test_it_fits_the_package(tiny: Glm4v, tmp_path: Path) -> None:
    assert sum(p.numel() for p in tiny.module.parameters()) <= 4_000_000
    tiny.save(tmp_path / "tiny", dtype=torch.bfloat16)
    assert sum(path.stat().st_size for path in (tmp_path / "tiny").iterdir()) <= 8_000_000


def test_same_seed_same_weights(tiny: Glm4v) -> None:
    again, other = make_tiny(CORPUS, seed=0), make_tiny(CORPUS, seed=1)
    assert again.base_hash == tiny.base_hash != other.base_hash


def test_building_one_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    make_tiny(CORPUS, seed=0)
    assert torch.equal(torch.rand(1), expected)


def test_it_starts_sound(tiny: Glm4v) -> None:
    """Image tokens as large as words, a loss near that of guessing, and a picture that matters."""
    frame, other = Image.new("RGB", (64, 64), (200, 30, 30)), Image.new("RGB", (64, 64), (30, 30, 200))
    batch = tiny.collate([(frame, [("What is in slot 3?", "white plate")])])
    with torch.no_grad():
        words = tiny.module.language.model.embed_tokens(batch["input_ids"]).std()
        image = tiny.module.vision(batch["pixel_values"]).std()
        loss = tiny.module(**batch).loss
    assert 0.1 < float(image / words) < 10
    assert float(loss) < 2 * torch.log(torch.tensor(float(tiny.config.padded_vocab_size)))
    answers = [tiny.answer(f, [Question("?\nA. a\nB. b", "choice", 1)])[0].p_a for f in (frame, other)]
    assert answers[0] != answers[1]


def test_a_saved_one_is_the_same_model(tiny: Glm4v, tmp_path: Path) -> None:
    tiny.save(tmp_path / "tiny")
    loaded = load_glm4v(tmp_path / "tiny")
    frame, questions = Image.new("RGB", (64, 64), (9, 99, 200)), [Question("What is in slot 3?", "choice", 4)]
    one, two = tiny.answer(frame, questions)[0], loaded.answer(frame, questions)[0]
    saved, read = tiny.module.state_dict(), loaded.module.state_dict()
    assert saved.keys() == read.keys() and all(torch.equal(saved[name], read[name]) for name in saved)
    # Where weights lie in memory may decide in which order a CPU adds: equal but for the last digits of float32.
    assert one.text == two.text and (one.p_a, one.p_b) == pytest.approx((two.p_a, two.p_b), rel=1e-5)


def test_a_full_disk_is_no_bug(tiny: Glm4v, tmp_path: Path) -> None:
    def work() -> None:
        torch.set_num_threads(1)  # the parent's threads are not there after a fork, and their pool waits for them
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        with pytest.raises(OutsideError, match="cannot write the weights"):
            tiny.save(tmp_path / "model")

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_positions_are_told_apart() -> None:
    waves = grid_waves(16, 160)
    assert waves.shape == (256, 160)
    assert torch.cdist(waves, waves).fill_diagonal_(9).min() > 0.5
    assert torch.allclose(waves[:16, :80], waves[:1, :80].expand(16, -1))  # the first row's half says the row
