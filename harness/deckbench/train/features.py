"""Frozen vision: every frame is encoded by itself, and what comes out can be kept on disk for the next time.

A frame's features are those of a batch of one, kept or not, so that keeping them changes no bit of the adapter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from deckbench.artifact import atomic_write, hash_file, hash_json
from deckbench.errors import InputError, OutsideError
from deckbench.machine.hardware import packages
from deckbench.picture import open_picture
from deckbench.progress import say
from deckbench.train.config import TrainConfig
from deckbench.train.data import Collate, ImageCache, LruCache, Pair

PACKAGES = ("deckbench", "torch", "transformers", "pillow", "numpy")
# One frame of a batch: what the network's `encode_image` takes and `key`, or `features`, ready; and how many those are.
Frame = tuple[dict[str, Any], int]


def check(model: Any, config: TrainConfig, where: str) -> None:
    """Raises InputError where features are to be kept and cannot be. where: file and line of the setting."""
    if config.feature_cache is None:
        return
    without = "leave feature_cache out"
    if config.vision != "absent":
        what = "the features of a vision tower that is trained change with every step and cannot be kept"
        raise InputError(what, where, f"set vision to absent, or {without}")
    if not model.caches_features:
        what = f"{model.name} does not take features that were made before; GLM-4V and Phi-3-vision do"
        raise InputError(what, where, without)
    if config.feature_cache.exists() and not config.feature_cache.is_dir():
        raise InputError("feature_cache is a file, a folder is needed", config.feature_cache, "give another place")


def decided_by(model: Any, *, autocast: bool) -> dict[str, Any]:
    """All that decides the bits of a picture's features but the picture, as plain JSON values."""
    on_gpu = model.device.type == "cuda"
    return {
        "base": model.base_hash,
        "dtype": str(model.dtype),
        "autocast": autocast,
        "device": torch.cuda.get_device_name(model.device) if on_gpu else torch.backends.cpu.get_cpu_capability(),
        "threads": None if on_gpu else torch.get_num_threads(),
        "packages": packages(PACKAGES),
    }


class Store:
    """Features on disk, a safetensors file a picture, named by the hash of all that decides them.

    Any number of processes may read and write at once. decided_by: the same for all pictures of a run. limit: bytes of
    features that are also held in memory.
    """

    def __init__(self, folder: Path, decided_by: Mapping[str, Any], limit: int) -> None:
        self.folder = folder
        self.decided_by = dict(decided_by)
        self.keys: dict[Path, str] = {}
        self.recent: LruCache[str, Tensor] = LruCache(limit)

    def key(self, picture: Path) -> str:
        """The name of a picture's features. The file's bytes are hashed once a run."""
        if picture not in self.keys:
            self.keys[picture] = hash_json({**self.decided_by, "picture": hash_file(picture)})
        return self.keys[picture]

    def place(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def get(self, key: str) -> Tensor | None:
        """The features kept under a key, on the CPU, or None. Says so where a file is damaged."""
        held = self.recent.get(key)
        if held is not None:
            return held
        found = self._read(key)
        if found is not None:
            self.recent.keep(key, found, found.nbytes)
        return found

    def _read(self, key: str) -> Tensor | None:
        try:
            # Not mapped into memory: a file that is cut short meanwhile would kill the process.
            held = load(self.place(key).read_bytes())
            if bytes(held["seal"].tolist()) == seal(key, held["features"]):
                return held["features"]
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError):
            pass
        say(f"{self.place(key)}: these features are damaged and are made again")
        return None

    def put(self, key: str, features: Tensor) -> None:
        """Keep features (places, width). Raises OutsideError when the disk fails; then nothing is left there."""
        features = features.cpu().contiguous()
        sealed = {"features": features, "seal": torch.tensor(list(seal(key, features)), dtype=torch.uint8)}
        try:
            atomic_write(self.place(key), save(sealed), flush=False)  # the seal tells a torn one
        except OutsideError as error:
            fix = "fix the disk or give another feature_cache (or none), then run again with --resume"
            raise OutsideError(error.what, error.where, fix) from error


def seal(key: str, features: Tensor) -> bytes:
    """sha256 of a key and the features' bytes: a safetensors file alone does not notice a changed number."""
    return hashlib.sha256(key.encode() + features.view(torch.uint8).numpy().tobytes()).digest()


class FrozenVision:
    """Both ends of a frame's way: `get` and `collate` where pictures are loaded, `fill` where the network is.

    model: its `vision_inputs` and `collate_text` are used, and `encode_image` of its network.
    """

    def __init__(self, model: Any, pictures: ImageCache, store: Store | None) -> None:
        self.model = model
        self.pictures = pictures
        self.store = store

    def get(self, path: Path) -> Frame:
        """A picture's features where they are kept; else its pixels. Raises InputError for a broken picture."""
        key = None
        if self.store is not None and path.is_file():
            key = self.store.key(path)
            features = self.store.get(key)
            if features is not None:
                return {"features": features}, len(features)
        seen, count = self.model.vision_inputs(self.pictures.get(path))
        return {**seen, "key": key}, count

    def collate(self, items: Sequence[tuple[Frame, list[Pair]]]) -> dict[str, Any]:
        """A batch for `module(**batch)` once `fill` has been there: `frames`, and the text's tensors."""
        text = self.model.collate_text([(count, pairs) for (_, count), pairs in items])
        return {"frames": [frame for (frame, _), _ in items], **text}

    def fill(self, module: Any, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A forward pre-hook: puts `features` in the place of `frames`. Raises OutsideError when the disk fails."""
        given = dict(given)
        if (frames := given.pop("frames", None)) is not None:
            given["features"] = [self._features(module, **frame) for frame in frames]
        return args, given

    def _features(
        self, module: Any, *, features: Tensor | None = None, key: str | None = None, **seen: Tensor
    ) -> Tensor:
        if features is None:
            features = encode(module, seen)
            if self.store is not None and key is not None:
                self.store.put(key, features)
        return features


def encode(module: Any, seen: Mapping[str, Tensor]) -> Tensor:
    """Features (places, width) of one frame, constants for autograd."""
    was_training = module.vision.training
    module.vision.eval()
    try:
        with torch.no_grad():
            return module.encode_image(**seen)[0]  # type: ignore[no-any-return]
    finally:
        module.vision.train(was_training)


def make_collate(model: Any, config: TrainConfig, *, bf16: bool) -> Collate:
    """What makes batches for this run's network, which gets a hook where its vision is frozen.

    bf16: whether the network runs under autocast.
    """
    limit = config.cache_mb << 20
    store = None
    if config.feature_cache is not None:
        store = Store(config.feature_cache, decided_by(model, autocast=bf16), limit)
    # A picture whose features are kept is not opened again.
    pictures = ImageCache(open_picture, model.shrink, limit if store is None else 0)
    if config.vision == "train" or not model.caches_features:
        return Collate(model.collate, pictures)
    vision = FrozenVision(model, pictures, store)
    # On the network itself, so that it works the same in helpers and under whatever wraps it (PEFT, autocast).
    model.module.register_forward_pre_hook(vision.fill, with_kwargs=True)
    return Collate(vision.collate, vision)
