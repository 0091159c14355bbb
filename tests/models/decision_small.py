"""A random decision model (JEV's head over a tiny LLaVA), as transformers saves it."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from tests.models.auto_small import LANGUAGE, llava

# One prompt a question, read at the token before <|mark|>.
TEMPLATE = (
    "USER:{% for part in state %}{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}"
    " {{ question.instructions }}{% for option in question.options %} {{ question.labels[loop.index0] }}. {{ option }}"
    "{% endfor %} ASSISTANT:<|mark|>"
)


def save_decision(folder: Path) -> Path:
    """The checkpoint; always the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, processor = llava()
        config = transformers.JevConfig(hidden_size=LANGUAGE["hidden_size"], text_config=network.config.to_dict())
        model = transformers.JevForDecision(config)
        model.proj.weight.data.normal_()
    model.decision_config.chat_template = TEMPLATE
    model.decision_config.temperature = {"choice": 2.0}
    model.decision_config.sanitize_control_tokens = False
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
