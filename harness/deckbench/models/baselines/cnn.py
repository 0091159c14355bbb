"""A small convolutional network trained on the asked dataset: how far does supervision of this size go?

No language model: it knows a question only as one of those of the train part, so its score is what pictures of this
size and number allow, not what a vision-language model of its size would reach.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deckbench import progress
from deckbench.answer import Answer, Unanswered
from deckbench.cores import in_threads
from deckbench.dataset import Sample
from deckbench.models.baselines.base import Learner, ask, options, say
from deckbench.picture import open_picture

if TYPE_CHECKING:
    from torch import Tensor, nn

SIZE = (112, 84)  # width, height in pixels of what it sees
WIDTHS = (16, 32, 64, 96)  # channels after each halving
EPOCHS = 25
BATCH = 32
RATE, DECAY = 3e-3, 0.05
SHIFT = 4  # pixels: an image is moved by up to so many while training
LIGHT = 0.25  # and its contrast and brightness changed by up to so much
WORDS = 4096  # hashed questions and options; the last is unknown

Asked = tuple[int, int, int, int]  # the question with each option, and each option alone, hashed


def hashed(*texts: str) -> int:
    return zlib.crc32("\0".join(texts).encode("utf-8", "backslashreplace")) % WORDS


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network, and by kind of verdict a text to answer with where no letter is asked."""

    network: nn.Module
    texts: dict[bool, str]


class Cnn(Learner):
    """Trains when the first sample is asked: the picture, and the question as a word of its own, give each option's
    probability. A scene is answered with a training text of the same verdict; open questions are not answered.

    One thread, so it is the same on every run for the same data and CPU capability. Raises InputError as `Learner`.
    """

    name = "cnn"

    @cached_property
    def learned(self) -> TrainedNetwork:
        """Raises InputError when there is no train part or a picture cannot be read."""
        asked = [sample for sample in self.train if right_of(sample) is not None]
        texts = {bool(sample.anomaly): sample.gold for sample in reversed(self.train) if sample.kind == "scene"}
        return TrainedNetwork(fit(asked, load_images(asked)), texts)

    def answer_samples(self, samples: Sequence[Sample], blank: bool = False) -> list[Answer | Unanswered]:
        """One answer per sample, in order. Raises InputError when there is no train part or a picture is damaged."""
        self.learn(samples)
        with one_thread():
            known = self.learned
            return [answer(known, sample) for sample in samples]


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread, as before afterwards."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def load_images(samples: Sequence[Sample]) -> dict[Path, np.ndarray]:
    """Picture -> uint8 (height, width, 3) of SIZE."""
    paths = list(dict.fromkeys(sample.image for sample in samples))
    made = progress.track(in_threads(small, iter(paths)), "cnn: training images", total=len(paths))
    return dict(zip(paths, made, strict=True))


def small(path: Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(open_picture(path).resize(SIZE, Image.Resampling.BOX))


def right_of(sample: Sample) -> int | None:
    """Which of a training sample's two options is right; None for what the network does not learn."""
    if sample.kind == "choice":
        return {"A": 0, "B": 1}.get(sample.gold)
    return int(sample.anomaly) if sample.kind == "scene" and sample.anomaly is not None else None


def asked_of(sample: Sample) -> Asked:
    """What the network knows of a question; a scene's options are its two verdicts."""
    first, second = options(sample) if sample.kind == "choice" else ("normal", "anomaly")
    words = ask(sample)
    return hashed(words, first), hashed(words, second), hashed(first), hashed(second)


def network() -> nn.Module:
    from torch import nn

    layers: list[nn.Module] = []
    before = 3
    for width in WIDTHS:
        layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.ReLU()]
        layers += [nn.Conv2d(width, width, 3, padding=1, groups=8), nn.GroupNorm(8, width), nn.ReLU()]
        before = width
    layers += [nn.AdaptiveAvgPool2d((3, 4)), nn.Flatten()]  # where something stands matters
    return nn.ModuleDict(
        {
            "picture": nn.Sequential(*layers, nn.Dropout(0.3), nn.LazyLinear(128), nn.ReLU()),
            "words": nn.Embedding(WORDS, 128),
            "bias": nn.Embedding(WORDS, 1),
        }
    )


def scores(net: nn.Module, images: Tensor, asked: Tensor) -> Tensor:
    """Logits (n, 2) of the two options. images: float (n, 3, h, w) in -1..1; asked: (n, 4) as `Asked`."""
    seen = net["picture"](images)  # type: ignore[index]
    words, bias = net["words"], net["bias"]  # type: ignore[index]
    both = words(asked[:, :2]) + words(asked[:, 2:])
    return (both * seen[:, None]).sum(-1) / 128**0.5 + (bias(asked[:, :2]) + bias(asked[:, 2:]))[..., 0]


def fit(samples: Sequence[Sample], images: dict[Path, np.ndarray]) -> nn.Module:
    """Train on some samples. Random numbers are drawn from a generator of its own."""
    import torch
    from torch.nn import functional

    pixels = torch.from_numpy(np.stack([*images.values()])).permute(0, 3, 1, 2)
    places = {path: number for number, path in enumerate(images)}
    picture = torch.tensor([places[sample.image] for sample in samples])
    asked = torch.tensor([asked_of(sample) for sample in samples])
    gold = torch.tensor([right_of(sample) for sample in samples])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = network()
        scores(net, prepared(pixels[:1]), asked[:1])  # sizes the lazy layer
        steps = EPOCHS * -(-len(samples) // BATCH)
        optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        net.train()
        for _ in progress.track(range(EPOCHS), "cnn: epochs", total=EPOCHS):
            for batch in torch.randperm(len(samples)).split(BATCH):
                loss = functional.cross_entropy(
                    scores(net, augmented(pixels[picture[batch]]), asked[batch]), gold[batch], label_smoothing=0.05
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        net.eval()
    return net


def prepared(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


def augmented(pixels: Tensor) -> Tensor:
    """Images moved and re-lit at random; never mirrored, for left and right may be what is checked."""
    import torch
    from torch.nn import functional

    images = functional.pad(prepared(pixels), [SHIFT] * 4, mode="replicate")
    moved = []
    for image in images:
        x, y = (int(value) for value in torch.randint(2 * SHIFT + 1, (2,)))
        moved.append(image[:, y : y + SIZE[1], x : x + SIZE[0]])
    change = 1 + LIGHT * (2 * torch.rand(2, len(moved), 1, 1, 1) - 1)
    return torch.stack(moved) * change[0] + change[1] - 1


def answer(known: TrainedNetwork, sample: Sample) -> Answer:
    import torch

    if sample.kind == "open" or (sample.kind == "scene" and len(known.texts) < 2):
        return say("")
    image = torch.from_numpy(small(sample.image).copy()).permute(2, 0, 1)[None]
    with torch.inference_mode():
        p = scores(known.network, prepared(image), torch.tensor([asked_of(sample)])).softmax(-1)[0].tolist()
    if sample.kind == "scene":
        return say(known.texts[p[1] > p[0]])
    return say("A" if p[0] >= p[1] else "B", p[0], p[1])
