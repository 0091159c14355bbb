"""A loaded transformers model: answers groups of questions about a frame, makes training batches, saves itself."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from deckbench.answer import Answer, Question
from deckbench.errors import InputError
from deckbench.models import files
from deckbench.models.auto.decision_files import decision_files
from deckbench.models.auto.files import AUTO, Settings, read_settings, read_small
from deckbench.models.auto.network import encode_once, language_linears, load_config, load_network
from deckbench.models.auto.prompt import Prompter, load_processor
from deckbench.models.generate import Generated, answers, check_lengths, wait
from deckbench.models.vision_language import VisionLanguageModel

GREY = (127, 127, 127)  # no pixel of it is 0 after preprocessing, which some models take for padding


class FirstLogits(LogitsProcessor):  # type: ignore[misc]
    """A logits processor that changes nothing: it keeps the first position's logits and when they were there."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.logits, self.at = device, torch.empty(0), 0.0

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        if not self.at:
            wait(self.device)
            self.logits, self.at = scores[0].float().cpu(), time.perf_counter()
        return scores


class Auto(VisionLanguageModel):
    """A transformers model behind DeckBench's model interface. module: the network, under transformers' own names."""

    family, checkpoint = AUTO.name, AUTO
    config: Settings
    tokenizer: Prompter

    def __init__(self, module: Any, config: Settings, tokenizer: Prompter, **named: Any) -> None:
        super().__init__(module, config, tokenizer, **named)
        self.linears = language_linears(module)
        self.most = getattr(module.config.get_text_config(), "max_position_embeddings", None) or 1 << 62
        # The checkpoint's own may sample or punish repetition; its end tokens are in the prompter's.
        module.generation_config = GenerationConfig(eos_token_id=sorted(tokenizer.stops), pad_token_id=tokenizer.pad)

    def official_state(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        state = remove_tied_weights_from_state_dict(self.module.state_dict(), self.module)
        state = revert_weight_conversion(self.module, state)
        return {
            name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous().clone()
            for name, tensor in state.items()
        }

    def save_merged(self, folder: Path, layout: str = "official") -> None:
        """As `save`: the names in such a folder are transformers' own, the only ones there are. Raises InputError."""
        if layout != "official":
            fix = "remove --layout: the names are transformers' own"
            raise InputError(f"{self.name} has no {layout} layout", "--layout", fix)
        self.save(folder)
        for name, data in decision_files(self.tokenizer).items():  # what a base had was for its own prompt
            (folder / name).write_bytes(data)

    def describe(self, weights: Any) -> dict[str, Any]:
        return files.identity(self.name, AUTO, self.config.raw, self.files, weights)

    # Asking

    def answer(self, image: Image.Image, questions: Sequence[Question], blank: bool = False) -> list[Answer]:
        """Greedy answers to a group of questions about one frame.

        The frame's features are computed once; the questions are answered one at a time. `blank` asks about a grey
        frame of the same size, so that the prompt has as many tokens.
        """
        start = time.perf_counter()
        if blank:
            image = Image.new("RGB", image.size, GREY)
        asked = [self.tokenizer.encode([image], [self.tokenizer.text(question.text)]) for question in questions]
        seconds = {"preprocess": time.perf_counter() - start}
        tokens_in = [int(inputs["input_ids"].shape[1]) for inputs in asked]
        check_lengths(questions, tokens_in, self.most, self.name)
        generated = self.generate(asked, [question.max_new_tokens for question in questions], seconds)
        decode = self.tokenizer.decode
        return answers(questions, tokens_in, generated, letters=self.letters, decode=decode, seconds=seconds)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def generate(
        self, asked: Sequence[dict[str, Tensor]], limits: Sequence[int], seconds: dict[str, float] | None = None
    ) -> list[Generated]:
        """Greedy continuation of each prompt, all about one frame.

        asked: of `Prompter.encode`, one row each. limits: most new tokens of each (at least 1). seconds: gets the wall
        times of `vision` and `prefill` (of all prompts).
        """
        was_training, device = self.module.training, self.device
        self.module.eval()
        done, prefill_s = [], 0.0
        try:
            with encode_once(self.module, device) as vision:
                for inputs, limit in zip(asked, limits, strict=True):
                    start, first = time.perf_counter(), FirstLogits(device)
                    given = {name: self.to_device(value) for name, value in inputs.items()}
                    ids = self.module.generate(
                        **given, max_new_tokens=limit, do_sample=False, logits_processor=LogitsProcessorList([first])
                    )
                    made = ids[0, inputs["input_ids"].shape[1] :].tolist()
                    prefill_s += first.at - start
                    text = made[:-1] if made[-1] in self.tokenizer.stops else made
                    done.append(Generated(text, first.logits, len(made), time.perf_counter() - first.at))
        finally:
            self.module.train(was_training)
        if seconds is not None:
            seconds |= {"vision": vision[0], "prefill": prefill_s - vision[0]}
        return done

    def to_device(self, value: Tensor) -> Tensor:
        """An input where the network is, in its dtype if it is floating point."""
        return value.to(self.device, self.dtype if value.is_floating_point() else None)

    # Training

    def collate(self, items: Sequence[tuple[Image.Image, Sequence[tuple[str, str]]]]) -> dict[str, Tensor]:
        """A training batch on the CPU for `module(**batch)`: a row for each question, with its frame.

        items: frames with their (question, answer) pairs. The prompt's ids are those `answer` uses. Labels: the answer
        and its stop token. Raises InputError for a sample longer than the model reads.
        """
        rows = [(image, question, answer) for image, pairs in items for question, answer in pairs]
        texts = [self.tokenizer.text(question) for _, question, _ in rows]
        learned = [self.tokenizer.answer_ids(text, row[2]) for text, row in zip(texts, rows, strict=True)]
        batch = self.tokenizer.with_answers(self.tokenizer.encode([row[0] for row in rows], texts), learned)
        longest = batch["input_ids"].shape[1]
        if longest > self.most:
            what = f"a sample takes {longest} tokens; {self.name} reads {self.most}"
            raise InputError(what, None, "shorten the questions or leave the sample out")
        return batch

    def lora_targets(self, vision: bool) -> str:
        """The full-match pattern of the linear layers that get adapters: all in the language model's blocks.

        With and without `vision`: no rule of ours knows which of a tower's layers are run. Raises InputError for a
        model without such blocks.
        """
        if self.linears is None:
            raise InputError("the language model has no `layers` to put LoRA on", self.name, "train another model")
        return self.linears


def load_auto(
    folder: Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu", name: str | None = None
) -> Auto:
    """Load a folder saved by transformers.

    dtype None keeps the stored one. name: how results call it (default: the folder's name). Raises InputError with
    file and tensor for anything missing, misshaped or damaged; no code from the folder is run.
    """
    folder = Path(folder)
    # Predictions are made in forked processes, where the tokenizers' threads do not live on.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    settings, small_files = read_settings(folder), read_small(folder)
    parsed = load_config(folder)
    processor = load_processor(folder)
    network = load_network(folder, parsed, dtype, torch.device(device))
    stops = network.generation_config.eos_token_id
    prompter = Prompter(
        processor,
        model_type=str(settings.raw["model_type"]),
        stops=stops if isinstance(stops, list) else [] if stops is None else [stops],
        inputs=inspect.signature(network.forward).parameters,
        source=folder,
    )
    return Auto(
        network,
        settings,
        prompter,
        name=name or folder.resolve().name,
        small_files=small_files,
        source=folder,
    )
