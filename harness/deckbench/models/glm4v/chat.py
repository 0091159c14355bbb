"""A loaded GLM-4V: answers groups of questions about a frame, makes training batches, saves itself."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deckbench.errors import InputError
from deckbench.models import files, pack
from deckbench.models.chat import GENERATION, QUESTIONS_AT_ONCE, OfficialChat
from deckbench.models.generate import Generated, answers, check_lengths, greedy, prefill, wait
from deckbench.models.glm4v import preprocess, prompt, weights
from deckbench.models.glm4v.config import CONFIG, GLM4V, TOKENIZER, Glm4vConfig, read_config, read_json
from deckbench.models.glm4v.model import Glm4vModule
from deckbench.models.glm4v.tokenizer import Tokenizer, read_tokenizer
from deckbench.models.interface import Answer, Question
from deckbench.models.weights import Entry, stated_dtype

if TYPE_CHECKING:
    from PIL.Image import Image

LANGUAGE_LINEARS = r"language\.model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate_up_proj|down_proj))"
# The official names of the language model's linear layers, which the tower uses too.
FUSED = {
    "query_key_value": ("q_proj", "k_proj", "v_proj"),
    "dense": ("o_proj",),
    "dense_h_to_4h": ("gate_up_proj",),
    "dense_4h_to_h": ("down_proj",),
}
VISION_LINEARS = (
    r"vision\.transformer\.layers\.\d+\.(attention\.(query_key_value|dense)|mlp\.fc[12])"
    r"|vision\.linear_proj\.(linear_proj|gate_proj|dense_h_to_4h|dense_4h_to_h)"
)


class Glm4v(OfficialChat):
    """GLM-4V behind DeckBench's model interface."""

    family, checkpoint = GLM4V.name, GLM4V
    fused = FUSED
    module: Glm4vModule
    config: Glm4vConfig

    def __init__(self, module: Glm4vModule, config: Glm4vConfig, tokenizer: Tokenizer, **named: Any) -> None:
        super().__init__(module, config, tokenizer, **named)
        self.prefix = prompt.make_prefix(tokenizer, config)

    def official_state(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        return weights.official_state(self.module, self.config, dtype)

    def entries(self) -> dict[str, Entry]:
        return weights.entries(self.config, self.module.state_dict())

    def describe(self, weights: Any) -> dict[str, Any]:
        small = {name: self.files[name] for name in TOKENIZER}
        return files.identity(self.name, GLM4V, self.config.raw, small, weights)

    # Asking

    def answer(self, image: Image, questions: Sequence[Question], blank: bool = False) -> list[Answer]:
        """Greedy answers to a group of questions about one frame.

        The frame and the shared part of the prompt are computed once; every question is a branch of its own and gets
        what it would get alone (float rounding aside). `blank` zeroes the pixel tensor after preprocessing.
        """
        start = time.perf_counter()
        pixels = torch.from_numpy(preprocess.pixels(image, self.config.vision.image_size))[None].to(self.device)
        if blank:
            pixels = torch.zeros_like(pixels)
        preprocessed = time.perf_counter()
        branches = [prompt.question_ids(self.tokenizer, question.text) for question in questions]
        tokens_in = [len(self.prefix.ids) + len(ids) for ids in branches]
        check_lengths(questions, tokens_in, self.config.seq_length, self.name)
        seconds: dict[str, float] = {"preprocess": preprocessed - start}
        generated = self.generate(pixels, branches, [question.max_new_tokens for question in questions], seconds)
        decode = self.tokenizer.decode
        return answers(questions, tokens_in, generated, letters=self.letters, decode=decode, seconds=seconds)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def generate(
        self,
        pixels: Tensor,
        branches: Sequence[Sequence[int]],
        limits: Sequence[int],
        seconds: dict[str, float] | None = None,
    ) -> list[Generated]:
        """Greedy continuation of each branch behind the frame's prefix.

        pixels: (1, 3, size, size). branches: question ids. limits: most new tokens of each (at least 1). Stops at any
        of the config's end tokens. seconds: gets the wall times of `vision` and `prefill` (prefix and questions).
        """
        was_training = self.module.training
        self.module.eval()
        try:
            begin = time.perf_counter()
            features = self.module.vision(pixels.to(self.dtype))
            wait(self.device)
            seen = time.perf_counter()
            ids = torch.tensor([self.prefix.ids], device=self.device)
            shared = prefill(self.module.language, self.prefix, self.module.embed(ids, features))
            generated: list[Generated] = []
            prefill_s = time.perf_counter() - seen
            for at in range(0, len(branches), QUESTIONS_AT_ONCE):
                chunk = slice(at, at + QUESTIONS_AT_ONCE)
                made, chunk_s = greedy(
                    self.module.language,
                    copy.deepcopy(shared),
                    self.prefix,
                    branches[chunk],
                    limits[chunk],
                    pad_id=self.config.pad_token_id,
                    stops=self.config.eos_token_id,
                )
                generated += made
                prefill_s += chunk_s
        finally:
            self.module.train(was_training)
        if seconds is not None:
            seconds |= {"vision": seen - begin, "prefill": prefill_s}
        return generated

    # Training

    def collate(self, items: Sequence[tuple[Image, Sequence[tuple[str, str]]]]) -> dict[str, Tensor]:
        """A training batch on the CPU for `module(**batch)`.

        Each frame comes with its (question, answer) pairs, packed behind one shared prefix as branches that do not
        see each other, at the very ids and positions `answer` uses. Short frames share a row. Labels: the answer and
        its stop token. A frame that already has the model's size is not resized.
        """
        looks = [self.look(image) for image, _ in items]
        text = self.collate_text([(count, pairs) for (_, count), (_, pairs) in zip(looks, items, strict=True)])
        return {**pack.joined([seen for seen, _ in looks]), **text}

    def look(self, image: Image) -> tuple[dict[str, Tensor], int]:
        """What `module.see` takes of one frame, on the CPU, and how many features it will make of it."""
        pixels = preprocess.pixels(image, self.config.vision.image_size)
        return {"pixel_values": torch.from_numpy(pixels)[None]}, self.config.vision.tokens + 2

    def collate_text(self, items: Sequence[tuple[int, Sequence[tuple[str, str]]]]) -> dict[str, Tensor]:
        """`collate` without the pixels. items: number of features of each frame, and its pairs."""
        pictures = [
            pack.Picture(
                self.prefix,
                index,
                [
                    pack.Branch(
                        prompt.question_ids(self.tokenizer, question), prompt.answer_ids(self.tokenizer, answer)
                    )
                    for question, answer in pairs
                ],
            )
            for index, (_, pairs) in enumerate(items)
        ]
        rows = pack.fill_rows([picture.length for picture in pictures])
        return pack.pack([[pictures[i] for i in row] for row in rows], self.config.pad_token_id)

    def shrink(self, image: Image) -> Image:
        """The frame at the network's size: all of it that is looked at, so a cache need keep no more."""
        return preprocess.shrink(image, self.config.vision.image_size)

    def lora_targets(self, vision: bool) -> str:
        """The full-match pattern of the linear layers that get adapters: all of the language model's, and with
        `vision` all of the tower's and the projector's. Embeddings and output head never."""
        return f"{LANGUAGE_LINEARS}|{VISION_LINEARS}" if vision else LANGUAGE_LINEARS


def check_ids(config: Glm4vConfig, tokenizer: Tokenizer, where: Path) -> None:
    """Refuse a config and a tokenizer that do not belong together. Raises InputError."""
    fix = "config.json and the tokenizer files must come from one checkpoint"
    for key, name in (("boi_token_id", prompt.IMAGE[0]), ("eoi_token_id", prompt.IMAGE[2])):
        if config.raw[key] != tokenizer.special[name]:
            what = f"{key!r} is not the tokenizer's id of {name} ({tokenizer.special[name]})"
            raise InputError(what, where, fix)
    most = max(*tokenizer.bytes_of, *tokenizer.special.values())
    if most >= config.padded_vocab_size:
        what = f"the tokenizer has ids up to {most}, 'padded_vocab_size' is {config.padded_vocab_size}"
        raise InputError(what, where, fix)


def load_glm4v(
    folder: Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu", name: str | None = None
) -> Glm4v:
    """Load an official checkpoint folder.

    dtype None takes the one that the config states. name: how results call it (default: the folder's name). Raises
    InputError with file and key or tensor for anything missing, misshaped or damaged; no code from the folder is run.
    """
    folder = Path(folder)
    config = read_config(folder)
    tokenizer, small_files = read_tokenizer(folder)
    check_ids(config, tokenizer, folder / CONFIG)
    if (folder / GENERATION).is_file():
        read_json(folder / GENERATION)
        small_files[GENERATION] = (folder / GENERATION).read_bytes()
    device = torch.device(device)
    with torch.device("meta"):
        module = Glm4vModule(config)
    state = weights.load_state(folder, config, module.state_dict(), dtype or stated_dtype(config.raw), device)
    module.load_state_dict(state, strict=True, assign=True)
    module.fill_buffers(device)
    module.eval()
    return Glm4v(module, config, tokenizer, name=name or folder.resolve().name, small_files=small_files, source=folder)
