"""Random LLaVA, Idefics3 and PaliGemma checkpoints of a few ten thousand weights, as transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

ASK = "Which colour is the square?\nA. {a}\nB. {b}\nAnswer with A or B only."
CORPUS = [ASK.format(a="red", b="blue"), "Describe. a red square. a blue square. USER: ASSISTANT: User: Assistant:"] * 4
IMAGE = "<image>"
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
LANGUAGE = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
TURN = (
    "{{% for m in messages %}}{{{{ m['role'].{case}() + ':' }}}}"
    "{{% for c in m['content'] %}}{{% if c['type'] == 'image' %}}{{{{ '{image}' }}}}"
    "{{% else %}}{{{{ ' ' + c['text'] }}}}{{% endif %}}{{% endfor %}}{{{{ {end} }}}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}{{{{ '{header}' }}}}{{% endif %}}"
)
LLAVA = TURN.format(case="upper", image=IMAGE, end="'</s>' if m['role'] == 'assistant' else ' '", header="ASSISTANT:")


def marked(image: str, end: str) -> str:
    """A chat template that writes <s> itself and sets `end` behind every turn."""
    return "<s>" + TURN.format(case="capitalize", image=image, end=rf"'{end}\n'", header="Assistant:")


def make_tokenizer(extra: tuple[str, ...], **named: str) -> Any:
    """A byte-level tokenizer of 350 tokens with <pad>, <s>, </s> and `extra`, which writes <s> itself.

    named: attributes of the tokenizer by which some processors ask for their tokens.
    """
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", *extra]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    plain.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=350, special_tokens=special, initial_alphabet=alphabet)
    )
    plain.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(extra),
        **({"model_specific_special_tokens": named} if named else {}),
        padding_side="left",  # as published: what we make is padded on the right whatever it is
    )


def sharpen(network: Any, image: int) -> Any:
    """The head of a fresh model is nearly flat; a steeper one gives the comparisons something to see.

    image: the token that no trained model writes, and that stands for a frame when it is read again.
    """
    with torch.no_grad():
        network.lm_head.weight.mul_(20)
        network.lm_head.weight[image] = 0.0
        for name, weight in network.named_parameters():
            if any(part in name for part in ("connector", "multi_modal_projector", "o_proj", "down_proj")):
                weight.mul_(20)  # so that frame and context are seen beside a token's own embedding
    return network.eval()


def llava() -> tuple[Any, Any]:
    tokenizer = make_tokenizer((IMAGE,))
    pictures = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = transformers.LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=LLAVA,
        num_additional_image_tokens=1,
    )
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(num_hidden_layers=3, projection_dim=32, **VISION),
        text_config=transformers.LlamaConfig(vocab_size=len(tokenizer), **LANGUAGE),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
    )
    return sharpen(
        transformers.LlavaForConditionalGeneration(config), tokenizer.convert_tokens_to_ids(IMAGE)
    ), processor


def idefics3() -> tuple[Any, Any]:
    cells = tuple(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2))
    extra = ("<fake_token_around_image>", IMAGE, "<end_of_utterance>", "<global-img>", *cells)
    tokenizer = make_tokenizer(extra)
    pictures = transformers.Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = transformers.Idefics3Processor(
        pictures, tokenizer, image_seq_len=4, chat_template=marked(IMAGE, "<end_of_utterance>")
    )
    config = transformers.Idefics3Config(
        vision_config=transformers.Idefics3VisionConfig(num_hidden_layers=2, **VISION).to_dict(),
        text_config=transformers.LlamaConfig(vocab_size=len(tokenizer), pad_token_id=0, **LANGUAGE).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        scale_factor=2,
    )
    return sharpen(
        transformers.Idefics3ForConditionalGeneration(config), tokenizer.convert_tokens_to_ids(IMAGE)
    ), processor


def paligemma() -> tuple[Any, Any]:
    tokenizer = make_tokenizer((IMAGE,))
    pictures = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    pictures.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(pictures, tokenizer)  # adds its 1,152 tokens of places
    config = transformers.PaliGemmaConfig(
        vision_config=transformers.SiglipVisionConfig(num_hidden_layers=2, vision_use_head=False, **VISION).to_dict(),
        text_config=transformers.GemmaConfig(vocab_size=len(tokenizer), head_dim=12, **LANGUAGE).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        projection_dim=LANGUAGE["hidden_size"],
        hidden_size=LANGUAGE["hidden_size"],
    )
    return sharpen(
        transformers.PaliGemmaForConditionalGeneration(config), tokenizer.convert_tokens_to_ids(IMAGE)
    ), processor


MAKE = {"llava": llava, "idefics3": idefics3, "paligemma": paligemma}


def save_small(kind: str, folder: Path) -> Path:
    """The checkpoint of a kind; always the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, processor = MAKE[kind]()
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
