"""`decision.json` and `decision_template.jinja`, with which `pipeline("decision", model=FOLDER)` asks as we do."""

from __future__ import annotations

import json
import string
from typing import Any

from deckbench.models.auto.prompt import Prompter

SETTINGS, TEMPLATE = "decision.json", "decision_template.jinja"
# Sets `messages` to one user turn: the state (a frame, a text, or both), then the question as a task's prompt words it.
# The model's own chat template follows. A variable for every loop: Jinja's loops cannot change those outside.
TURN = """\
{%- macro text(x) %}{{ "" if x is none else x if x is string else x|tojson }}{% endmacro -%}
{%- set ns = namespace(parts=[], lines=[], zh=false, words="") -%}
{%- for source in [state, question.instructions] -%}
    {%- if source is sequence and source is not string and source is not mapping
        and source|selectattr("type", "defined")|list|length == source|length -%}
        {%- for part in source -%}
            {%- if part.type == "text" -%}
                {%- set ns.words = ns.words ~ part.text -%}
            {%- else -%}
                {%- if ns.words -%}
                    {%- set ns.parts = ns.parts + [{"type": "text", "text": ns.words}] -%}
                {%- endif -%}
                {%- set ns.words = "" -%}
                {%- set ns.parts = ns.parts + [{"type": "image"}] -%}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {%- set ns.words = ns.words ~ text(source) -%}
    {%- endif -%}
    {%- if loop.first and ns.words %}{% set ns.words = ns.words ~ "\\n" %}{% endif -%}
{%- endfor -%}
{%- for c in ns.words if "\u4e00" <= c <= "\u9fff" %}{% set ns.zh = true %}{% endfor -%}
{%- for option in question.options -%}
    {%- set about = text(question.descriptions[loop.index0]) -%}
    {%- set words = about if question.type == "score" else option ~ ": " ~ about if about else option -%}
    {%- set ns.lines = ns.lines + [question.labels[loop.index0]|trim ~ ". " ~ words] -%}
{%- endfor -%}
{%- if question.type == "noul" %}{% set ns.lines = [] %}{% endif -%}
{%- set letters = question.labels|map("trim")|list -%}
{%- set last = letters[-1] -%}
{%- set first = letters[:-1]|join("、" if ns.zh else ", ") -%}
{%- set ask = "Answer with " ~ first ~ " or " ~ last ~ " only." -%}
{%- if ns.zh %}{% set ask = "只回答 " ~ first ~ " 或 " ~ last ~ "。" %}{% endif -%}
{%- set words = ([ns.words] + ns.lines + [ask])|join("\\n") -%}
"""
CHAT = """\
{%- set messages = [{"role": "user", "content": ns.parts + [{"type": "text", "text": words}]}] -%}
"""
PLAIN = """\
{%- for part in ns.parts %}{{ IMAGE if part.type == "image" else part.text }}{% endfor -%}
{{- words -}}
"""


def decision_files(prompter: Prompter) -> dict[str, bytes]:
    """The two files for a model. Empty where its tokenizer has no single token for A and B as an answer begins.

    `labels` holds the letters as the model was taught to write them; the pipeline reads one token for each.
    """
    labels = []
    for letter in string.ascii_uppercase:
        label = label_of(prompter, letter)
        if label is None:
            break
        labels.append(label)
    if len(labels) < 2:
        return {}
    settings: dict[str, Any] = {
        "labels": {"choice": labels, "score": labels},
        "temperature": {},
        "noul_options": ["true", "false"],
        # With it transformers 5.24 takes neither LLaVA (tokens set around a template's) nor Idefics3 (its processor).
        "sanitize_control_tokens": False,
    }
    chat = prompter.processor.chat_template
    image = json.dumps(prompter.image_token)
    template = TURN + (CHAT + chat if chat else PLAIN.replace("IMAGE", image))
    return {SETTINGS: (json.dumps(settings, indent=2) + "\n").encode(), TEMPLATE: template.encode()}


def label_of(prompter: Prompter, letter: str) -> str | None:
    """What the tokenizer makes the very token of with which the answer `letter` begins; None where nothing does."""
    taught = prompter.answer_ids(prompter.text("What?"), letter)[0]
    for label in (letter, f" {letter}"):
        if prompter.tokenizer(label, add_special_tokens=False)["input_ids"] == [taught]:
            return label
    return None
