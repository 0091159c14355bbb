"""Frames and questions through a model's own processor: prompts, answers to learn, the letters' tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoProcessor

from deckbench.errors import InputError
from deckbench.models.auto.files import OFFICIAL, PROCESSOR, in_our_words
from deckbench.models.auto.network import quiet
from deckbench.models.loss import IGNORE

if TYPE_CHECKING:
    from PIL.Image import Image

VIDEO = "install deckbench with its extra: deckbench[video]"
LONGEST_SPELLING = 8  # characters of a token that is one letter, its marks for spaces included
ANSWER_TYPES = {"attention_mask": 1, "token_type_ids": 0, "mm_token_type_ids": 0}  # what an answer's tokens are in each


def load_processor(folder: Path) -> Any:
    """The processor of a folder, which makes the same pixels with and without torchvision where it can.

    Raises InputError when its files do not fit, or when it cannot do without torchvision and that is not here.
    """
    where = next(folder / name for name in (*PROCESSOR, "") if (folder / name).exists())
    given = {"local_files_only": True, "trust_remote_code": False}
    with quiet(), in_our_words("the processor cannot be loaded", where):
        try:
            processor = AutoProcessor.from_pretrained(str(folder), **given)
            if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
                raise InputError("this makes no processor of frames and text", where, OFFICIAL)
            processor.image_processor = AutoImageProcessor.from_pretrained(str(folder), backend="pil", **given)
        except (ImportError, RuntimeError, ValueError) as error:
            lines = [line.strip() for line in str(error).splitlines() if "torchvision" in line.lower()]
            if lines:
                raise InputError(f"its processor needs torchvision ({lines[0][:160]})", where, VIDEO) from error
            raise
    return processor


class Prompter:
    """Text and frames to a model's inputs, and tokens back to text.

    processor: transformers' own. model_type: of the config. stops: end tokens of the generation config. inputs: the
    names that the network takes. source: the folder, named by errors.
    """

    def __init__(
        self, processor: Any, *, model_type: str, stops: Iterable[int], inputs: Iterable[str], source: Path
    ) -> None:
        self.processor, self.tokenizer, self.source = processor, processor.tokenizer, source
        self.inputs = frozenset(inputs) - {"labels"}
        # PaliGemma reads a prompt both ways and an answer from left to right, and knows them apart by this.
        self.answer_types = ANSWER_TYPES | ({"token_type_ids": 1} if model_type == "paligemma" else {})
        self.image_token = str(getattr(processor, "image_token", "<image>"))
        with in_our_words("the chat template cannot be used", source):
            self.lead, end = self._ending()
        self.stops = frozenset(token for token in (end, self.tokenizer.eos_token_id, *stops) if token is not None)
        if not self.stops:
            raise InputError("neither tokenizer nor generation config has an end token", source, OFFICIAL)
        self.stop = min(self.stops) if end is None else end
        pad = self.tokenizer.pad_token_id
        self.pad = self.stop if pad is None else int(pad)
        if pad is None:  # else the tokenizer fills no batch; what is filled in is masked whatever it is
            self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(self.stop)

    # Text

    def spellings(self, letter: str) -> list[int]:
        """Every single token that is `letter` with or without spaces around it, in id order. Raises InputError."""
        special = set(self.tokenizer.all_special_ids)
        byte = f"<0x{ord(letter):02X}>"
        likely = {
            i
            for token, i in self.tokenizer.get_vocab().items()
            if (letter in token and len(token) <= LONGEST_SPELLING) or token == byte
        }
        found = sorted(i for i in likely - special if self.decode([i]) == letter)
        if not found:
            raise InputError(f"the tokenizer has no token for the letter {letter}", self.source, "use another model")
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids` without special tokens and without the spaces around it, which belong to the template."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text).strip()

    def _chat(self, question: str, answer: str | None = None) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if answer is not None:
            turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        made = self.processor.apply_chat_template(turns, add_generation_prompt=answer is None, tokenize=False)
        return str(made)

    def text(self, question: str) -> str:
        """The prompt: by the checkpoint's own chat template, or where it has none the image token and the question."""
        for token in (self.image_token, *self.tokenizer.all_special_tokens):
            if token in question:
                fix = "leave it out: the model would not read it as text"
                raise InputError(f"the question has the model's special token {token}", f"{question[:60]}...", fix)
        return self._chat(question) if self.processor.chat_template else f"{self.image_token}{question}"

    def _ending(self) -> tuple[str, int | None]:
        """What the template sets between prompt and answer, and the special token it sets behind the answer."""
        end = self.tokenizer.eos_token_id
        if not self.processor.chat_template:
            return "", end
        asked, whole = self._chat("What?"), self._chat("What?", "This.")
        lead, found, rest = whole.removeprefix(asked).partition("This.")
        if not whole.startswith(asked) or not found or lead.strip():
            return "", end
        ids = self._ids(rest.strip())
        return lead, ids[0] if ids and ids[0] in self.tokenizer.all_special_ids else end

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def answer_ids(self, text: str, answer: str) -> list[int]:
        """Ids of an answer to the prompt `text`, its stop token included.

        They are split as the tokenizer splits prompt and answer in one piece, where that leaves the prompt's own ids
        as they are: so the model learns the tokens it would write.
        """
        if self.processor.chat_template:
            before, whole = self._ids(text), self._ids(text + self.lead + answer)
            if whole[: len(before)] == before:
                return [*whole[len(before) :], self.stop]
        return [*self._ids(answer), self.stop]

    # Tensors

    def encode(self, images: Sequence[Image], texts: Sequence[str]) -> dict[str, Tensor]:
        """The network's inputs for prompts about one frame each, on the CPU, padded on the right.

        Raises InputError when the processor does not take them.
        """
        bos = self.tokenizer.bos_token
        # A template that writes the first token itself would otherwise get it twice.
        once = {"add_special_tokens": False} if bos and texts[0].startswith(bos) else {}
        with quiet(), in_our_words("the processor does not take this frame and question", self.source):
            made = self.processor(
                text=list(texts),
                images=[[image.convert("RGB")] for image in images],
                padding=True,
                padding_side="right",
                return_tensors="pt",
                **once,
            )
        return {name: value for name, value in made.items() if name in self.inputs}

    def with_answers(self, batch: dict[str, Tensor], answers: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """`encode`'s tensors with answers behind the prompts and `labels` on them, padded on the right anew.

        answers: the ids of each row's.
        """
        real = batch["attention_mask"].bool()
        length = max(int(row.sum()) + len(answer) for row, answer in zip(real, answers, strict=True))

        def joined(prompts: Tensor, tails: Sequence[Sequence[int]], fill: int) -> Tensor:
            rows = [[*row[mask].tolist(), *tail] for row, mask, tail in zip(prompts, real, tails, strict=True)]
            return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows], dtype=torch.int64)

        made = dict(batch)
        made["input_ids"] = joined(batch["input_ids"], answers, self.pad)
        made["labels"] = joined(torch.full_like(batch["input_ids"], IGNORE), answers, IGNORE)
        for name, value in self.answer_types.items():
            if name in batch:
                made[name] = joined(batch[name], [[value] * len(answer) for answer in answers], 0)
        return made
