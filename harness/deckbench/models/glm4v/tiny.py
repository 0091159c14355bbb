"""tiny-glm4v: the GLM-4V architecture at a size that trains and answers on two CPU cores."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import torch

from deckbench.models.glm4v import tokenizer
from deckbench.models.glm4v.config import parse_config
from deckbench.models.glm4v.model import Glm4v
from deckbench.models.glm4v.network import Glm4vModule
from deckbench.models.glm4v.tiny_vocab import SPECIAL, vocabulary_files
from deckbench.models.init import fill, grid_waves
from deckbench.models.vision_language import GENERATION

NAME = "tiny-glm4v"
VOCABULARY = 1500  # text tokens; the embedding is padded to a multiple of 32 behind the specials


def tiny_config(text_tokens: int = VOCABULARY, **sizes: Any) -> dict[str, Any]:
    """config.json of the tiny model, official keys. `sizes` overrides (vision keys inside `vision_config`)."""
    ids = {name: text_tokens + number for number, name in enumerate(SPECIAL)}
    vision = {
        "dropout_prob": 0.0,
        "hidden_act": "gelu",
        "in_channels": 3,
        "num_hidden_layers": 3,
        "hidden_size": 160,
        "patch_size": 20,
        "num_heads": 4,
        "intermediate_size": 640,
        "layer_norm_eps": 1e-06,
        "image_size": 320,
        # The published model divides by 8 because its projector ends large; a new one starts at the right size.
        "scaling_factor": 1,
        **sizes.pop("vision_config", {}),
    }
    vision["num_positions"] = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    return {
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "ffn_hidden_size": 448,
        "fp32_residual_connection": False,
        "hidden_dropout": 0.0,
        "hidden_size": 160,
        "kv_channels": 40,
        "layernorm_epsilon": 1.5625e-07,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "num_attention_heads": 4,
        "num_layers": 3,
        "original_rope": True,
        "padded_vocab_size": math.ceil((text_tokens + len(SPECIAL)) / 32) * 32,
        "post_layer_norm": True,
        "rmsnorm": True,
        "rope_ratio": 1,
        "seq_length": 2048,
        "use_cache": True,
        "torch_dtype": "float32",
        "tie_word_embeddings": False,
        "eos_token_id": [ids["<|endoftext|>"], ids["<|user|>"], ids["<|observation|>"]],
        "pad_token_id": ids["<|endoftext|>"],
        "boi_token_id": ids["<|begin_of_image|>"],
        "eoi_token_id": ids["<|end_of_image|>"],
        "vision_config": vision,
        **sizes,
    }


def initialise(module: Glm4vModule, seed: int) -> None:
    """Fill a module's weights, a pure function of seed and sizes.

    The vision positions start as waves over rows and columns, since random ones take most of the training to find
    places.
    """
    generator = torch.Generator().manual_seed(seed)
    config, vision = module.glm4v_config, module.vision
    fill(module, generator, {"o_proj": config.num_layers, "down_proj": config.num_layers})
    with torch.no_grad():
        waves = grid_waves(config.vision.grid, config.vision.hidden_size)
        vision.patch_embedding.position_embedding.weight[1:] += waves
        vision.patch_embedding.cls_embedding.normal_(0.0, 0.02, generator=generator)
        vision.boi.normal_(0.0, 0.5, generator=generator)
        vision.eoi.normal_(0.0, 0.5, generator=generator)
        module.language.lm_head.weight.normal_(0.0, 0.02, generator=generator)


def make_tiny(corpus: Iterable[str], seed: int = 0, *, vocabulary: int = VOCABULARY, **sizes: Any) -> Glm4v:
    """A model with a vocabulary trained on `corpus` (at most `vocabulary` text tokens) and random weights.

    sizes: overrides for `tiny_config`. Float32 on the CPU.
    """
    image_size = int(sizes.get("vision_config", {}).get("image_size", 320))
    files = vocabulary_files(corpus, vocabulary, image_size)
    ranks = tokenizer.parse_ranks(files[tokenizer.MODEL], tokenizer.MODEL)
    special = tokenizer.parse_special(json.loads(files[tokenizer.CONFIG]), tokenizer.CONFIG, ranks)
    raw = tiny_config(len(ranks), **sizes)
    generation = {"do_sample": False, "eos_token_id": raw["eos_token_id"], "pad_token_id": raw["pad_token_id"]}
    files[GENERATION] = (json.dumps(generation, indent=1) + "\n").encode()
    config = parse_config(raw, "tiny-glm4v")
    with torch.random.fork_rng(devices=[]):  # building draws numbers that `initialise` replaces
        module = Glm4vModule(config)
    initialise(module, seed)
    module.eval()
    return Glm4v(module, config, tokenizer.Tokenizer(ranks, special), name=NAME, small_files=files)
