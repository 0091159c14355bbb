"""tiny-phi3v: the Phi-3-vision architecture at a size that trains and answers on two CPU cores."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import torch

from deckbench.models.init import fill, grid_waves
from deckbench.models.phi3v import tokenizer
from deckbench.models.phi3v.config import PREPROCESSOR, json_bytes, parse_config, parse_preprocessor
from deckbench.models.phi3v.model import Phi3v
from deckbench.models.phi3v.network import Phi3vModule
from deckbench.models.phi3v.tiny_vocab import vocabulary_files

NAME = "tiny-phi3v"
VOCABULARY = 1500  # text tokens; the embedding is padded to a multiple of 32 behind the specials
PREPROCESSING = {
    "image_processor_type": "Phi3VImageProcessor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "num_crops": 6,  # a frame of 16:9 gets 3 x 2 tiles
    "processor_class": "Phi3VProcessor",
}


def tiny_config(tokens: int, over: int, **sizes: Any) -> dict[str, Any]:
    """config.json of the tiny model, official keys and the tower's sizes under `img_processor.clip`.

    tokens: of the vocabulary, specials included. over: id of <|endoftext|>. sizes: overrides (the tower's inside
    `clip`).
    """
    clip = {
        "hidden_act": "quick_gelu",
        "hidden_size": 128,
        "image_size": 128,
        "intermediate_size": 512,
        "layer_norm_eps": 1e-05,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,  # the last one is never run, as in the published model
        "patch_size": 16,
        **sizes.pop("clip", {}),
    }
    config: dict[str, Any] = {
        "model_type": "phi3_v",
        "architectures": ["Phi3VForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "embd_layer": {
            "embedding_cls": "image",
            "hd_transform_order": "sub_glb",
            "projection_cls": "mlp",
            "use_hd_transform": True,
            "with_learnable_separator": True,
        },
        "embd_pdrop": 0.0,
        "eos_token_id": over,
        "hidden_act": "silu",
        "hidden_size": 160,
        "img_processor": {
            "clip": clip,
            "image_dim_out": clip["hidden_size"],
            "model_name": NAME,
            "name": "clip_vision_model",
            "num_img_tokens": (clip["image_size"] // clip["patch_size"] // 2) ** 2,
        },
        "intermediate_size": 448,
        "max_position_embeddings": 8192,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "original_max_position_embeddings": 2048,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": math.ceil(tokens / 32) * 32,
        **sizes,
    }
    pairs = config["hidden_size"] // config["num_attention_heads"] // 2
    # The slower a pair turns, the more it is stretched beyond the trained length, up to their ratio.
    stretch = config["max_position_embeddings"] / config["original_max_position_embeddings"]
    long = [round(stretch ** (number / max(1, pairs - 1)), 6) for number in range(pairs)]
    return {**config, "rope_scaling": {"type": "su", "short_factor": [1.0] * pairs, "long_factor": long}}


def initialise(module: Phi3vModule, seed: int) -> None:
    """Fill a module's weights, a pure function of seed and sizes.

    The vision positions start as waves over rows and columns, since random ones take most of the training to find
    places.
    """
    generator = torch.Generator().manual_seed(seed)
    config, vision = module.phi3v_config, module.vision
    depths = {"o_proj": config.num_hidden_layers, "down_proj": config.num_hidden_layers}
    depths |= {"out_proj": config.vision.num_hidden_layers, "fc2": config.vision.num_hidden_layers}
    fill(module, generator, depths)
    embeddings = vision.img_processor.vision_model.embeddings
    side = config.vision.image_size // config.vision.patch_size
    with torch.no_grad():
        embeddings.position_embedding.weight[1:] += grid_waves(side, config.vision.hidden_size)
        embeddings.class_embedding.normal_(0.0, 0.02, generator=generator)
        vision.glb_GN.normal_(0.0, 0.5, generator=generator)
        vision.sub_GN.normal_(0.0, 0.5, generator=generator)
        module.language.lm_head.weight.normal_(0.0, 0.02, generator=generator)


def make_tiny(
    corpus: Iterable[str], seed: int = 0, *, vocabulary: int = VOCABULARY, num_crops: int | None = None, **sizes: Any
) -> Phi3v:
    """A model with a vocabulary trained on `corpus` (at most `vocabulary` text tokens) and random weights.

    num_crops: most tiles of a frame. sizes: overrides for `tiny_config`. Float32 on the CPU.
    """
    files = vocabulary_files(corpus, vocabulary)
    read = tokenizer.parse_tokenizer(json.loads(files[tokenizer.MODEL]), tokenizer.MODEL)
    preprocessor = parse_preprocessor(PREPROCESSING, PREPROCESSOR, num_crops)
    files[PREPROCESSOR] = json_bytes(preprocessor.raw)
    config = parse_config(tiny_config(read.largest + 1, read.special["<|endoftext|>"], **sizes), NAME)
    with torch.random.fork_rng(devices=[]):  # building draws numbers that `initialise` replaces
        module = Phi3vModule(config)
    initialise(module, seed)
    module.eval()
    return Phi3v(module, config, preprocessor, read, name=NAME, small_files=files)
