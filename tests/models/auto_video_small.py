"""Random checkpoints of the models whose processors need torchvision. The networks alone are built without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from tests.models.auto_small import IMAGE, LANGUAGE, VISION, make_tokenizer, marked, sharpen

PATCHES = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 8,
    "out_hidden_size": 48,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}
MARKS = {
    "qwen2_5_vl": ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_end|>"),
    "glm4v": (
        "<|image|>",
        "<|video|>",
        "<|begin_of_image|>",
        "<|end_of_image|>",
        "<|begin_of_video|>",
        "<|end_of_video|>",
        "<|user|>",
    ),
    "smolvlm": (
        IMAGE,
        "<video>",
        "<fake_token_around_image>",
        "<end_of_utterance>",
        "<global-img>",
        *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)),
    ),
    "phi4_multimodal": ("<|image|>", "<|audio|>", "<|end|>"),
}
IMAGES = {"qwen2_5_vl": "<|image_pad|>", "glm4v": "<|image|>", "smolvlm": IMAGE, "phi4_multimodal": "<|image|>"}
KINDS = sorted(MARKS)


def tokenizer_of(kind: str) -> Any:
    named = {"image_token": "<|image|>", "audio_token": "<|audio|>"} if kind == "phi4_multimodal" else {}
    return make_tokenizer(MARKS[kind], **named)


def network_of(kind: str, tokenizer: Any) -> Any:
    number = tokenizer.convert_tokens_to_ids
    text = {**LANGUAGE, "vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "qwen2_5_vl":
        config: Any = transformers.Qwen2_5_VLConfig(
            vision_config={**PATCHES, "window_size": 32, "fullatt_block_indexes": [1]},
            text_config={**text, "rope_parameters": dict(ROPE)},
            image_token_id=number("<|image_pad|>"),
            video_token_id=number("<|video_pad|>"),
            vision_start_token_id=number("<|vision_start|>"),
            vision_end_token_id=number("<|vision_end|>"),
        )
    elif kind == "glm4v":
        config = transformers.Glm4vConfig(
            vision_config={**PATCHES, "image_size": 32},
            text_config={**text, "rope_parameters": dict(ROPE)},
            image_token_id=number("<|image|>"),
            video_token_id=number("<|video|>"),
            image_start_token_id=number("<|begin_of_image|>"),
            image_end_token_id=number("<|end_of_image|>"),
            video_start_token_id=number("<|begin_of_video|>"),
            video_end_token_id=number("<|end_of_video|>"),
        )
    elif kind == "smolvlm":
        config = transformers.SmolVLMConfig(
            vision_config={**VISION, "num_hidden_layers": 2},
            text_config={**text, "model_type": "llama"},
            image_token_id=number(IMAGE),
            scale_factor=2,
        )
    else:
        config = transformers.Phi4MultimodalConfig(
            **text,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            vision_config={
                **VISION,
                "num_hidden_layers": 2,
                "crop_size": 32,
                "image_token_id": number("<|image|>"),
            },
            audio_config={
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_blocks": 1,
                "num_attention_heads": 2,
                "ext_pw_out_channel": 32,
                "depthwise_separable_out_channel": 32,
                "nemo_conv_channels": 32,
                "audio_token_id": number("<|audio|>"),
            },
        )
    return sharpen(transformers.AutoModelForMultimodalLM.from_config(config), number(IMAGES[kind]))


class NoVideo:
    """In the place of a video processor, all that needs torchvision in three of the four. It is asked for nothing."""

    model_input_names: tuple[str, ...] = ()
    num_frames = fps = merge_size = 1
    size: dict[str, int] = {}  # noqa: RUF012


def processor_of(kind: str, tokenizer: Any, video: Any = None) -> Any:
    """Needs torchvision, but for the kinds with a video processor when one is given."""
    sizes: dict[str, Any]
    if kind == "qwen2_5_vl":
        sizes = {"patch_size": 8, "min_pixels": 32 * 32, "max_pixels": 64 * 64}
        return transformers.Qwen2_5_VLProcessor(
            transformers.Qwen2VLImageProcessor(**sizes),
            tokenizer,
            video or transformers.Qwen2VLVideoProcessor(**sizes),
            chat_template=marked("<|vision_start|><|image_pad|><|vision_end|>", "<|im_end|>"),
        )
    if kind == "glm4v":
        sizes = {"patch_size": 8, "size": {"shortest_edge": 32 * 32, "longest_edge": 64 * 64 * 2}}
        return transformers.Glm4vProcessor(
            transformers.Glm4vImageProcessor(**sizes),
            tokenizer,
            video or transformers.Glm4vVideoProcessor(**sizes),
            chat_template=marked("<|begin_of_image|><|image|><|end_of_image|>", "<|user|>"),
        )
    if kind == "smolvlm":
        sizes = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
        return transformers.SmolVLMProcessor(
            transformers.SmolVLMImageProcessor(**sizes),
            tokenizer,
            video or transformers.SmolVLMVideoProcessor(**sizes),
            image_seq_len=4,
            chat_template=marked(IMAGE, "<end_of_utterance>"),
        )
    return transformers.Phi4MultimodalProcessor(
        transformers.Phi4MultimodalImageProcessor(size={"height": 32, "width": 32}, patch_size=8, dynamic_hd=4),
        transformers.Phi4MultimodalFeatureExtractor(),
        tokenizer,
        chat_template=marked("<|image|>", "<|end|>"),
    )


def save_small(kind: str, folder: Path) -> Path:
    """The checkpoint of a kind; always the same weights. Needs torchvision."""
    tokenizer = tokenizer_of(kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = network_of(kind, tokenizer)
    network.save_pretrained(folder)
    processor_of(kind, tokenizer).save_pretrained(folder)
    return folder
