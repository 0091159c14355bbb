"""config.json and preprocessor_config.json of a checkpoint as checked dataclasses."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from deckbench.errors import InputError
from deckbench.models import files
from deckbench.models.files import Family

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
MODEL_TYPE = "phi3_v"
OFFICIAL = "give the folder of a Phi-3-vision checkpoint in the official layout"
PHI3V = Family("phi3v", "Phi-3-vision", OFFICIAL)
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
number = partial(files.number, family=PHI3V)
unknown_keys = partial(files.unknown_keys, family=PHI3V)
read_json = partial(files.read_json, family=PHI3V)

# The checkpoint's config names its tower and says nothing of its sizes: these are the sizes of the tower named.
CLIP: dict[str, dict[str, Any]] = {
    "openai/clip-vit-large-patch14-336": {
        "hidden_act": "quick_gelu",
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "layer_norm_eps": 1e-05,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
    }
}
# Settings of the original code that have a second branch nobody publishes weights for: only this value is implemented.
FIXED: dict[str, Any] = {"embd_pdrop": 0.0, "hidden_act": "silu", "resid_pdrop": 0.0, "tie_word_embeddings": False}
EMBEDDING: dict[str, Any] = {
    "embedding_cls": "image",
    "hd_transform_order": "sub_glb",
    "projection_cls": "mlp",
    "use_hd_transform": True,
    "with_learnable_separator": True,
}
TOWER: dict[str, Any] = {"layer_idx": -2, "name": "clip_vision_model", "type_feature": "patch"}
PREPROCESSOR_FIXED: dict[str, Any] = {"image_processor_type": "Phi3VImageProcessor", "do_convert_rgb": True}
ROPE_TYPES = ("su", "longrope")
# Keys that do not change what is computed here (kernel choices of the original code, remote code, bookkeeping).
IGNORED = frozenset(
    [
        "architectures",
        "attn_implementation",
        "auto_map",
        "bos_token_id",
        "dtype",
        "initializer_range",
        "pad_token_id",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    ]
)
PREPROCESSOR_IGNORED = frozenset(["auto_map", "processor_class", "num_img_tokens"])


@dataclass(frozen=True)
class VisionConfig:
    """The CLIP tower's sizes. A frame is cut into tiles of image_size x image_size pixels."""

    hidden_size: int
    image_size: int
    intermediate_size: int
    num_attention_heads: int
    num_hidden_layers: int
    patch_size: int
    layer_norm_eps: float
    hidden_act: str = "quick_gelu"

    @property
    def grid(self) -> int:
        """Tokens along one side of a tile: 2 x 2 patches are merged into one."""
        return self.image_size // self.patch_size // 2


@dataclass(frozen=True)
class Preprocessor:
    """How a frame becomes tiles: most tiles of one frame (the overview not counted), mean and deviation by channel."""

    num_crops: int
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Phi3vConfig:
    """The whole model's sizes. `raw` is config.json as read, written back unchanged by `save`.

    short_factor, long_factor: divisors of the rotation frequencies for sequences of at most
    original_max_position_embeddings tokens, and for longer ones.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    max_position_embeddings: int
    original_max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    attention_dropout: float
    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    eos_token_id: tuple[int, ...]
    vision: VisionConfig
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


def section(data: Mapping[str, Any], key: str, where: str | Path) -> dict[str, Any]:
    """The object under `key`. Raises InputError when there is none."""
    if not isinstance(data.get(key), dict):
        raise InputError(f"the key {key!r} is missing or not an object", where, OFFICIAL)
    return dict(data[key])


def fixed(data: Mapping[str, Any], wanted: Mapping[str, Any], where: str | Path, scope: str = "") -> None:
    """Refuse another value than the one that is implemented; an absent key has it."""
    for key, value in wanted.items():
        if data.get(key, value) != value:
            raise InputError(f"{scope}{key!r} = {data[key]!r} is not supported (only {value!r})", where, OFFICIAL)


def factors(data: Mapping[str, Any], key: str, count: int, where: str | Path) -> tuple[float, ...]:
    """One list of rope_scaling: a divisor for each pair of a head's numbers."""
    values = data.get(key)
    if not isinstance(values, list) or len(values) != count:
        raise InputError(f"rope_scaling.{key!r} must be a list of {count} numbers", where, OFFICIAL)
    return tuple(number({key: value}, key, where, float, scope="rope_scaling.") for value in values)


def parse_vision(data: Mapping[str, Any], shapes: Mapping[str, int], where: str | Path) -> VisionConfig:
    """The `img_processor` object. A tower that is none of the published ones gives its sizes under `clip`.

    shapes: sizes found in the weights that the config does not hold.
    """
    scope = "img_processor."
    fixed(data, TOWER, where, scope)
    known = {*TOWER, "model_name", "image_dim_out", "num_img_tokens", "clip"}
    unknown_keys(data, known, where, scope)
    if "clip" in data:
        sizes = section(data, "clip", where)
        unknown_keys(sizes, set(VisionConfig.__dataclass_fields__), where, f"{scope}clip.")
    elif data.get("model_name") in CLIP:
        sizes = {**CLIP[data["model_name"]], **shapes}
    else:
        raise InputError(
            f"{scope}'model_name' must be one of {', '.join(CLIP)}, not {data.get('model_name')!r}", where, OFFICIAL
        )
    ints = ("hidden_size", "image_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "patch_size")
    values: dict[str, Any] = {key: number(sizes, key, where, int, scope=f"{scope}clip.") for key in ints}
    values["layer_norm_eps"] = number(sizes, "layer_norm_eps", where, float, scope=f"{scope}clip.")
    fixed(sizes, {"hidden_act": "quick_gelu"}, where, f"{scope}clip.")
    vision = VisionConfig(**values)
    if vision.image_size % (2 * vision.patch_size):
        what = f"{scope}clip.'image_size' must be a multiple of twice the 'patch_size'"
        raise InputError(what, where, OFFICIAL)
    if vision.hidden_size % vision.num_attention_heads:
        raise InputError(f"{scope}clip.'hidden_size' must be a multiple of 'num_attention_heads'", where, OFFICIAL)
    if vision.num_hidden_layers < 2:
        raise InputError(f"{scope}clip.'num_hidden_layers' must be at least 2", where, OFFICIAL)
    for key, wanted in (("image_dim_out", vision.hidden_size), ("num_img_tokens", vision.grid**2)):
        if data.get(key) != wanted:
            raise InputError(f"{scope}{key!r} must be {wanted}, not {data.get(key)!r}", where, OFFICIAL)
    return vision


def parse_config(data: Any, where: str | Path, shapes: Mapping[str, int] | None = None) -> Phi3vConfig:
    """Check config.json's content. Raises InputError naming the file and the key.

    shapes: the tower's sizes as its weights have them (`vision_shapes`); without, those of the tower that is named.
    """
    if not isinstance(data, dict):
        raise InputError("the config is not a JSON object", where, OFFICIAL)
    if data.get("model_type") != MODEL_TYPE:
        raise InputError(f"'model_type' must be {MODEL_TYPE!r}, not {data.get('model_type')!r}", where, OFFICIAL)
    ints = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    lengths = ("vocab_size", "max_position_embeddings", "original_max_position_embeddings")
    values: dict[str, Any] = {key: number(data, key, where, int) for key in (*ints, *lengths)}
    values |= {key: number(data, key, where, float) for key in ("rms_norm_eps", "rope_theta")}
    values["attention_dropout"] = number(
        {"attention_dropout": 0.0, **data}, "attention_dropout", where, float, least=-1
    )
    eos = data.get("eos_token_id")
    eos = [eos] if isinstance(eos, int) else eos
    if not isinstance(eos, list) or not eos or not all(isinstance(i, int) and i >= 0 for i in eos):
        raise InputError("the key 'eos_token_id' must be a token id or a list of them", where, OFFICIAL)
    values["eos_token_id"] = tuple(eos)
    fixed(data, FIXED, where)
    window = data.get("sliding_window")
    if window is not None and number(data, "sliding_window", where, int) < values["original_max_position_embeddings"]:
        raise InputError("'sliding_window' below the trained length is not supported", where, OFFICIAL)
    known = {*values, *FIXED, *IGNORED, "model_type", "sliding_window", "embd_layer", "img_processor", "rope_scaling"}
    unknown_keys(data, known, where)
    if values["hidden_size"] % values["num_attention_heads"]:
        raise InputError("'hidden_size' must be a multiple of 'num_attention_heads'", where, OFFICIAL)
    if values["num_attention_heads"] % values["num_key_value_heads"]:
        raise InputError("'num_attention_heads' must be a multiple of 'num_key_value_heads'", where, OFFICIAL)
    width = values["hidden_size"] // values["num_attention_heads"]
    if width % 2:
        raise InputError("the width of a head must be even (it is rotated in pairs)", where, OFFICIAL)
    if values["max_position_embeddings"] < values["original_max_position_embeddings"]:
        raise InputError("'max_position_embeddings' is below the trained length", where, OFFICIAL)
    rope = section(data, "rope_scaling", where)
    unknown_keys(rope, {"type", "short_factor", "long_factor"}, where, "rope_scaling.")
    if rope.get("type") not in ROPE_TYPES:
        raise InputError(f"rope_scaling.'type' must be one of {', '.join(ROPE_TYPES)}", where, OFFICIAL)
    values |= {key: factors(rope, key, width // 2, where) for key in ("short_factor", "long_factor")}
    embedding = section(data, "embd_layer", where)
    for key, wanted in EMBEDDING.items():
        if embedding.get(key) != wanted:
            what = f"embd_layer.{key!r} = {embedding.get(key)!r} is not supported (only {wanted!r})"
            raise InputError(what, where, OFFICIAL)
    unknown_keys(embedding, set(EMBEDDING), where, "embd_layer.")
    vision = parse_vision(section(data, "img_processor", where), shapes or {}, where)
    return Phi3vConfig(**values, vision=vision, raw=data)


def parse_preprocessor(data: Any, where: str | Path, num_crops: int | None = None) -> Preprocessor:
    """Check preprocessor_config.json's content. num_crops: takes the place of the file's own number."""
    if not isinstance(data, dict):
        raise InputError("the config is not a JSON object", where, OFFICIAL)
    if num_crops is not None:
        if num_crops < 1:
            raise InputError(f"num_crops is {num_crops}", "num_crops", "give a number from 1")
        data = {**data, "num_crops": num_crops}
    fixed(data, PREPROCESSOR_FIXED, where)
    known = {*PREPROCESSOR_FIXED, *PREPROCESSOR_IGNORED, "num_crops", "image_mean", "image_std"}
    unknown_keys(data, known, where)
    colours = {}
    for key, least in (("image_mean", -math.inf), ("image_std", 0.0)):
        values = data.get(key)
        if not isinstance(values, list) or len(values) != 3:
            raise InputError(f"the key {key!r} must be a list of 3 numbers", where, OFFICIAL)
        colours[key] = tuple(number({key: value}, key, where, float, least=least) for value in values)
    return Preprocessor(number(data, "num_crops", where, int), **colours, raw=data)


def read_preprocessor(folder: Path, num_crops: int | None = None) -> Preprocessor:
    """Read and check `folder`/preprocessor_config.json."""
    return parse_preprocessor(read_json(folder / PREPROCESSOR), folder / PREPROCESSOR, num_crops)


def json_bytes(data: Mapping[str, Any]) -> bytes:
    """A config file's bytes."""
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
