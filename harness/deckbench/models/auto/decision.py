"""A transformers model with a decision head (`XxxForDecision`): probabilities of a choice's options, and no text."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from deckbench.answer import MAX_NEW_TOKENS, Answer, Question, Unanswered
from deckbench.dataset import Sample
from deckbench.endpoint.typed import Typed, typed
from deckbench.errors import InputError
from deckbench.models.auto.files import AUTO, folder_identity, in_our_words, read_settings
from deckbench.models.auto.network import quiet
from deckbench.models.auto.prompt import load_processor
from deckbench.models.files import SINGLE
from deckbench.models.generate import wait
from deckbench.models.interface import Model
from deckbench.models.vision_language import CONFIG
from deckbench.picture import open_picture

GREY = (127, 127, 127)
NO_TEXT = "a decision head writes no text: it answers choices between two options"
FIX = "ask choice questions, or use a model without a decision head"


class AutoDecision(Model):
    """A model of `AutoModelForDecision`. pipe: transformers' own pipeline, which words and reads its prompts."""

    family = AUTO.name
    omits_unanswered = True

    def __init__(self, pipe: Any, *, name: str, source: Path) -> None:
        self.pipe, self.name, self.source = pipe, name, source

    @cached_property
    def identity(self) -> dict[str, Any]:  # type: ignore[override]
        own = folder_identity(self.source, self.name)
        return {**own, "adapter": None, "dtype": str(self.pipe.model.dtype).removeprefix("torch.")}

    @property
    def device(self) -> torch.device:
        return torch.device(self.pipe.model.device)

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.pipe.model.parameters())

    def answer(self, image: Image.Image, questions: Sequence[Question], blank: bool = False) -> list[Answer]:
        """As `Model.answer`: the letter of the likelier option; p_a and p_b add up to 1, as the head gives them.

        Raises InputError for a question that is no choice between two options that differ.
        """
        asked = [typed(question, f"q{number}") for number, question in enumerate(questions)]
        if None in asked:
            raise InputError(NO_TEXT, self.name, FIX)
        return self._decide(image, [question for question in asked if question is not None], blank)

    def answer_samples(self, samples: Sequence[Sample], blank: bool = False) -> list[Answer | Unanswered]:
        """As `Model.answer_samples`; what is no choice gets no answer and is left out of the predictions."""
        questions = [
            Question(
                sample.question,
                sample.kind,
                MAX_NEW_TOKENS[sample.kind],
                (sample.option_a, sample.option_b) if sample.option_a and sample.option_b else None,
            )
            for sample in samples
        ]
        asked = [typed(question, f"q{number}") for number, question in enumerate(questions)]
        choices = [question for question in asked if question is not None]
        given = iter(self._decide(open_picture(samples[0].image), choices, blank) if choices else ())
        return [Unanswered(NO_TEXT, refused=True) if question is None else next(given) for question in asked]

    def _decide(self, image: Image.Image, questions: Sequence[Typed], blank: bool) -> list[Answer]:
        image = Image.new("RGB", image.size, GREY) if blank else image.convert("RGB")
        asked = {
            question.name: {
                "type": "choice",
                "instructions": question.instructions,
                "criteria": dict.fromkeys(question.options),
            }
            for question in questions
        }
        words = "\n".join(word for question in questions for word in (question.instructions, *question.options))
        name = next(name for number in range(1, 1 << 30) if (name := f"img-{number}") not in words)
        start = time.perf_counter()
        with quiet(), in_our_words("the model does not take this frame and question", self.source, FIX):
            inputs = self.pipe.preprocess({"state": name, "questions": asked, "assets": {name: image}})
            ready = time.perf_counter()
            answers = self.pipe.postprocess(self.pipe.forward(inputs))
            wait(self.device)
        tokens = {q.name: int(given["input_ids"].shape[-1]) for given, group in inputs["prompts"] for q in group}
        seconds = {"preprocess": ready - start, "prefill": time.perf_counter() - ready}
        seconds["first_token"] = sum(seconds.values())
        made = []
        for question in questions:
            shares = answers[question.name]["probabilities"]
            p_a, p_b = (float(shares[option]) for option in question.options)
            made.append(Answer("A" if p_a >= p_b else "B", p_a, p_b, tokens[question.name], 0, seconds))
        return made


def load_decision(
    folder: Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu", name: str | None = None
) -> AutoDecision:
    """Load a folder with a decision head; as `load_auto`, no code from it is run.

    Raises InputError for anything missing, misshaped or damaged.
    """
    from transformers import AutoConfig, DecisionConfig
    from transformers.decision.modeling_utils import DecisionMixin
    from transformers.models.auto.modeling_auto import MODEL_FOR_DECISION_MAPPING
    from transformers.pipelines.decision import DecisionPipeline

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    read_settings(folder)
    processor, here = load_processor(folder), {"local_files_only": True}
    with quiet(), in_our_words("the decision model cannot be loaded", folder / CONFIG):
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, **here)
        kind = MODEL_FOR_DECISION_MAPPING[type(config)]
        # What its own `from_pretrained` does, which cannot report what is missing in the weights.
        beside, settings = kind.checkpoint_config(str(folder), **here)
        network, report = super(DecisionMixin, kind).from_pretrained(
            str(folder),
            config=beside or config,
            dtype=dtype or "auto",
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # refused below
            output_loading_info=True,
            **here,
        )
        network.decision_config = settings or DecisionConfig.from_pretrained(str(folder), **here)
    if missing := sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}):
        what = f"the tensor {missing[0]!r} is missing or of another shape"
        raise InputError(what, folder / SINGLE, "copy the checkpoint again")
    if unknown := sorted(report["unexpected_keys"]):
        raise InputError(f"the tensor {unknown[0]!r} belongs to no part of this model", folder / SINGLE, AUTO.official)
    with quiet(), in_our_words("the decision settings cannot be read", folder):
        pipe = DecisionPipeline(
            model=network.to(device).eval(), tokenizer=processor.tokenizer, processor=processor, device=device
        )
    return AutoDecision(pipe, name=name or folder.resolve().name, source=folder)
