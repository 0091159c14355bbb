"""The checkpoint's config.json as a checked dataclass: no number of the model is written down in code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from deckbench.errors import InputError
from deckbench.models import files
from deckbench.models.files import Family

CONFIG = "config.json"
MODEL_TYPE = "chatglm"
OFFICIAL = "give the folder of a GLM-4V checkpoint in the official layout"
GLM4V = Family("glm4v", "GLM-4V", OFFICIAL)
TOKENIZER = ("tokenizer.model", "tokenizer_config.json")
number = partial(files.number, family=GLM4V)
unknown_keys = partial(files.unknown_keys, family=GLM4V)
read_json = partial(files.read_json, family=GLM4V)

# Settings of the original code that have a second branch nobody publishes weights for: only this value is implemented.
FIXED: dict[str, Any] = {
    "add_bias_linear": False,
    "apply_residual_connection_post_layernorm": False,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "original_rope": True,
    "post_layer_norm": True,
    "pre_seq_len": None,
    "rmsnorm": True,
    "tie_word_embeddings": False,
}
# Keys that do not change what is computed here (kernel choices of the original code, remote code, bookkeeping).
IGNORED = frozenset(
    [
        "apply_query_key_layer_scaling",
        "architectures",
        "attention_softmax_in_fp32",
        "attn_implementation",
        "auto_map",
        "bias_dropout_fusion",
        "classifier_dropout",
        "dtype",
        "num_labels",
        "prefix_projection",
        "quantization_bit",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "vocab_size",
    ]
)


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower's sizes, named as in the checkpoint."""

    image_size: int
    patch_size: int
    in_channels: int
    hidden_size: int
    num_hidden_layers: int
    num_heads: int
    intermediate_size: int
    hidden_act: str
    layer_norm_eps: float
    num_positions: int
    scaling_factor: float
    dropout_prob: float = 0.0

    @property
    def grid(self) -> int:
        """Patches along one side of the picture."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Image tokens that reach the language model, begin and end of image not counted."""
        return (self.grid // 2) ** 2


@dataclass(frozen=True)
class Glm4vConfig:
    """The whole model's sizes and ids. `raw` is config.json as read, written back unchanged by `save`."""

    hidden_size: int
    ffn_hidden_size: int
    num_layers: int
    num_attention_heads: int
    kv_channels: int
    multi_query_group_num: int
    padded_vocab_size: int
    seq_length: int
    layernorm_epsilon: float
    add_qkv_bias: bool
    rope_ratio: float
    attention_dropout: float
    eos_token_id: tuple[int, ...]
    pad_token_id: int
    boi_token_id: int
    eoi_token_id: int
    vision: VisionConfig
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


def parse_vision(data: Any, where: str | Path) -> VisionConfig:
    """The `vision_config` object. Raises InputError naming the key."""
    scope = "vision_config."
    if not isinstance(data, dict):
        raise InputError("the key 'vision_config' is missing or not an object", where, OFFICIAL)
    ints = ("image_size", "patch_size", "in_channels", "hidden_size", "num_hidden_layers", "num_heads")
    values = {key: number(data, key, where, int, scope=scope) for key in (*ints, "intermediate_size", "num_positions")}
    values |= {key: number(data, key, where, float, scope=scope) for key in ("layer_norm_eps", "scaling_factor")}
    values["hidden_act"] = data.get("hidden_act")
    unknown_keys(data, set(values) | {"dropout_prob"}, where, scope)
    if values["hidden_act"] != "gelu":
        raise InputError(f"{scope}'hidden_act' must be 'gelu', not {values['hidden_act']!r}", where, OFFICIAL)
    if data.get("dropout_prob", 0.0) != 0.0:
        raise InputError(f"{scope}'dropout_prob' other than 0 is not supported", where, "set it to 0.0")
    vision = VisionConfig(**values)
    if vision.image_size % vision.patch_size or vision.grid < 2:
        raise InputError(f"{scope}'image_size' must be a multiple of 'patch_size', at least twice it", where, OFFICIAL)
    if vision.num_positions != vision.grid**2 + 1:
        raise InputError(f"{scope}'num_positions' must be {vision.grid**2 + 1} (patches and one more)", where, OFFICIAL)
    if vision.in_channels != 3:
        raise InputError(f"{scope}'in_channels' must be 3", where, OFFICIAL)
    if vision.hidden_size % vision.num_heads:
        raise InputError(f"{scope}'hidden_size' must be a multiple of 'num_heads'", where, OFFICIAL)
    return vision


def parse_config(data: Any, where: str | Path) -> Glm4vConfig:
    """Check config.json's content. Raises InputError naming the file and the key."""
    if not isinstance(data, dict):
        raise InputError("the config is not a JSON object", where, OFFICIAL)
    if data.get("model_type") != MODEL_TYPE:
        raise InputError(f"'model_type' must be {MODEL_TYPE!r}, not {data.get('model_type')!r}", where, OFFICIAL)
    ints = ("hidden_size", "ffn_hidden_size", "num_layers", "num_attention_heads", "kv_channels", "padded_vocab_size")
    values: dict[str, Any] = {key: number(data, key, where, int) for key in (*ints, "seq_length")}
    values["layernorm_epsilon"] = number(data, "layernorm_epsilon", where, float)
    values["rope_ratio"] = number({"rope_ratio": 1, **data}, "rope_ratio", where, float)
    values["attention_dropout"] = number(
        {"attention_dropout": 0.0, **data}, "attention_dropout", where, float, least=-1
    )
    values |= {key: number(data, key, where, int, least=-1) for key in ("pad_token_id", "boi_token_id", "eoi_token_id")}
    for key in ("add_qkv_bias", "multi_query_attention"):
        if not isinstance(data.get(key), bool):
            raise InputError(f"the key {key!r} is missing or not true or false", where, OFFICIAL)
    values["add_qkv_bias"] = data["add_qkv_bias"]
    groups = number(data, "multi_query_group_num", where, int) if data["multi_query_attention"] else None
    values["multi_query_group_num"] = groups or values["num_attention_heads"]
    eos = data.get("eos_token_id")
    eos = [eos] if isinstance(eos, int) else eos
    if not isinstance(eos, list) or not eos or not all(isinstance(i, int) and i >= 0 for i in eos):
        raise InputError("the key 'eos_token_id' must be a token id or a list of them", where, OFFICIAL)
    values["eos_token_id"] = tuple(eos)
    for key, wanted in FIXED.items():
        if data.get(key, wanted) != wanted:
            raise InputError(f"{key!r} = {data[key]!r} is not supported (only {wanted!r})", where, OFFICIAL)
    known = set(values) | set(FIXED) | IGNORED | {"model_type", "multi_query_attention", "vision_config"}
    unknown_keys(data, known, where)
    for key in ("pad_token_id", "boi_token_id", "eoi_token_id"):
        if values[key] >= values["padded_vocab_size"]:
            raise InputError(f"{key!r} lies outside the vocabulary of {values['padded_vocab_size']}", where, OFFICIAL)
    if values["num_attention_heads"] % values["multi_query_group_num"]:
        raise InputError("'num_attention_heads' must be a multiple of 'multi_query_group_num'", where, OFFICIAL)
    if values["kv_channels"] % 4:
        raise InputError("'kv_channels' must be a multiple of 4 (half of it is rotated, in pairs)", where, OFFICIAL)
    return Glm4vConfig(**values, vision=parse_vision(data.get("vision_config"), where), raw=data)


def read_config(folder: Path) -> Glm4vConfig:
    """Read and check `folder`/config.json."""
    return parse_config(read_json(folder / CONFIG), folder / CONFIG)
