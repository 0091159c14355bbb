"""A loaded GLM-4V: answers groups of questions about a frame, makes training batches, saves itself."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.models.glm.modeling_glm import GlmRotaryEmbedding

from deckbench import artifact
from deckbench.models.answer import Answer, Question
from deckbench.models.glm4v import pack, preprocess, prompt, weights
from deckbench.models.glm4v.config import CONFIG, Glm4vConfig, read_config, read_json
from deckbench.models.glm4v.model import Glm4vModule
from deckbench.models.glm4v.tokenizer import Tokenizer, read_tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

GENERATION = "generation_config.json"
QUESTIONS_AT_ONCE = 64  # branches decoded together; bounds the memory of the expanded cache
LANGUAGE_LINEARS = r"language\.model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate_up_proj|down_proj))"
VISION_LINEARS = (
    r"vision\.transformer\.layers\.\d+\.(attention\.(query_key_value|dense)|mlp\.fc[12])"
    r"|vision\.linear_proj\.(linear_proj|gate_proj|dense_h_to_4h|dense_4h_to_h)"
)


@dataclass(frozen=True)
class Generated:
    """ids: greedy tokens without the stop token. first: logits at the answer's first position, float32.
    steps: forward passes that made it, the stop token's included. decode_s: wall time from the first token on."""

    ids: list[int]
    first: Tensor
    steps: int
    decode_s: float


class Glm4v:
    """GLM-4V behind DeckBench's model interface.

    module: the torch network (peft may wrap it; adapters put into it are used by `answer` too).
    files: the checkpoint's small files by name, written back unchanged by `save`.
    """

    family = "glm4v"

    def __init__(
        self,
        module: Glm4vModule,
        config: Glm4vConfig,
        tokenizer: Tokenizer,
        *,
        name: str,
        files: Mapping[str, bytes],
        source: Path | None = None,
        adapter: str | None = None,
    ) -> None:
        self.module, self.config, self.tokenizer = module, config, tokenizer
        self.name, self.files, self.source, self.adapter = name, dict(files), source, adapter
        self.prefix = prompt.make_prefix(tokenizer, config)
        self.letters = {letter: tokenizer.spellings(letter) for letter in "AB"}

    @property
    def device(self) -> torch.device:
        return self.module.vision.boi.device

    @property
    def dtype(self) -> torch.dtype:
        return self.module.vision.boi.dtype

    @cached_property
    def base_hash(self) -> str:
        """Hash of config, tokenizer and weights of the base, whatever its folder is called."""
        return artifact.hash_json({key: value for key, value in self._base.items() if key not in {"name", "family"}})

    @cached_property
    def _base(self) -> dict[str, Any]:
        if self.source is not None:
            found = weights.weight_files(self.source)
            paths = {found} if isinstance(found, Path) else set(found.values())
            tensors: Any = {path.name: artifact.hash_file(path) for path in sorted(paths)}
        else:
            import hashlib

            digest = hashlib.sha256()
            for name, tensor in weights.official_state(self.module, self.config).items():
                digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
                digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
            tensors = {"memory": digest.hexdigest()}
        return {
            "family": self.family,
            "name": self.name,
            "config": artifact.hash_json(self.config.raw),
            "tokenizer": self.tokenizer_hash,
            "weights": tensors,
        }

    @property
    def tokenizer_hash(self) -> str:
        import hashlib

        return artifact.hash_json(
            {name: hashlib.sha256(data).hexdigest() for name, data in sorted(self.files.items()) if "token" in name}
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What was computed with: hashes of config, tokenizer, weights and adapter; never a path."""
        return {**self._base, "hash": self.base_hash, "adapter": self.adapter}

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
        limits = [question.max_new_tokens for question in questions]
        seconds: dict[str, float] = {"preprocess": preprocessed - start}
        generated = self.generate(pixels, branches, limits, seconds)
        seconds["first_token"] = sum(seconds[stage] for stage in ("preprocess", "vision", "prefill"))
        answers = []
        for question, ids, made in zip(questions, branches, generated, strict=True):
            p_a = p_b = None
            if question.kind == "choice":
                shares = made.first.softmax(dim=-1)
                p_a, p_b = (float(shares[self.letters[letter]].sum()) for letter in "AB")
            answers.append(
                Answer(
                    text=self.tokenizer.decode(made.ids),
                    p_a=p_a,
                    p_b=p_b,
                    tokens_in=len(self.prefix.ids) + len(ids),
                    tokens_out=made.steps,
                    seconds={**seconds, "decode": made.decode_s},
                )
            )
        return answers

    @torch.inference_mode()
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
            self._wait()
            seen = time.perf_counter()
            generated: list[Generated] = []
            prefill = 0.0
            for at in range(0, len(branches), QUESTIONS_AT_ONCE):
                chunk = slice(at, at + QUESTIONS_AT_ONCE)
                made, chunk_prefill = self._generate_chunk(features, branches[chunk], limits[chunk])
                generated += made
                prefill += chunk_prefill
        finally:
            self.module.train(was_training)
        if seconds is not None:
            seconds |= {"vision": seen - begin, "prefill": prefill}
        return generated

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _generate_chunk(
        self, features: Tensor, branches: Sequence[Sequence[int]], limits: Sequence[int]
    ) -> tuple[list[Generated], float]:
        start = time.perf_counter()
        device, language = self.device, self.module.language
        cache = DynamicCache(config=language.config)
        ids = torch.tensor([self.prefix.ids], device=device)
        shared = torch.zeros_like(ids)
        language.model(
            inputs_embeds=self.module.embed(ids, features),
            attention_mask=pack.branch_mask(shared, shared),
            position_ids=torch.tensor([self.prefix.positions], device=device),
            past_key_values=cache,
            use_cache=True,
        )
        rows, width = len(branches), max(len(branch) for branch in branches)
        cache.batch_repeat_interleave(rows)
        pad = self.config.pad_token_id
        lengths = torch.tensor([len(branch) for branch in branches], device=device)
        tokens = torch.tensor([[*branch, *[pad] * (width - len(branch))] for branch in branches], device=device)
        places = torch.arange(width, device=device)
        real = places < lengths[:, None]
        branch_of = torch.where(real, 1, pack.PADDING)
        seen = torch.cat((shared.expand(rows, -1), branch_of), dim=1)
        hidden = language.model(
            input_ids=tokens,
            attention_mask=pack.branch_mask(torch.where(seen < 0, seen, 0), seen)[:, :, shared.shape[1] :],
            position_ids=torch.where(real, self.prefix.next_position + places, 0),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        last = hidden[torch.arange(rows, device=device), lengths - 1]
        logits = language.lm_head(last).float()
        first = logits.cpu()
        self._wait()
        prefilled = time.perf_counter()
        made: list[list[int]] = [[] for _ in branches]
        steps, ended_s = [0] * rows, [0.0] * rows
        stops = set(self.config.eos_token_id)
        alive = list(range(rows))  # the branch of each row still in the batch
        visible = seen != pack.PADDING
        while alive:
            chosen = logits.argmax(dim=-1).tolist()
            keep = []
            for row, branch in enumerate(alive):
                steps[branch] += 1
                if chosen[row] not in stops:
                    made[branch].append(chosen[row])
                    if steps[branch] < limits[branch]:
                        keep.append(row)
                        continue
                ended_s[branch] = time.perf_counter() - prefilled
            if not keep:
                break
            if len(keep) < len(alive):
                index = torch.tensor(keep, device=device)
                cache.batch_select_indices(index)
                visible, lengths = visible[index], lengths[index]
                alive = [alive[row] for row in keep]
            visible = torch.cat((visible, visible.new_ones(len(alive), 1)), dim=1)
            hidden = language.model(
                input_ids=torch.tensor([[chosen[row]] for row in keep], device=device),
                attention_mask=visible[:, None, None, :],
                position_ids=(self.prefix.next_position + lengths)[:, None],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            lengths = lengths + 1
            logits = language.lm_head(hidden[:, -1]).float()
        done = [Generated(*parts) for parts in zip(made, first, steps, ended_s, strict=True)]
        return done, prefilled - start

    # Training

    def collate(self, items: Sequence[tuple[Image, Sequence[tuple[str, str]]]]) -> dict[str, Tensor]:
        """A training batch on the CPU for `module(**batch)`.

        Each frame comes with its (question, answer) pairs, packed behind one shared prefix as branches that do not
        see each other, at the very ids and positions `answer` uses. Short frames share a row. Labels: the answer and
        its stop token. A frame that already has the model's size is not resized.
        """
        pictures = [
            pack.Picture(
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
        rows = pack.fill_rows([picture.length(self.prefix) for picture in pictures])
        pixels = preprocess.batch([image for image, _ in items], self.config.vision.image_size)
        return {
            "pixel_values": torch.from_numpy(pixels),
            **pack.pack(self.prefix, [[pictures[i] for i in row] for row in rows], self.config.pad_token_id),
        }

    def lora_targets(self, vision: bool) -> str:
        """The full-match pattern of the linear layers that get adapters: all of the language model's, and with
        `vision` all of the tower's and the projector's. Embeddings and output head never."""
        return f"{LANGUAGE_LINEARS}|{VISION_LINEARS}" if vision else LANGUAGE_LINEARS

    # Files

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write an official checkpoint folder: weights, config, generation config, tokenizer (its image size kept).

        Weights are written in `dtype`, or as they are. A folder loaded and saved in its own dtype is equal tensor
        by tensor.
        """
        folder.mkdir(parents=True, exist_ok=True)
        weights.save_weights(self.module, self.config, folder, dtype)
        kind = str(dtype or self.dtype).removeprefix("torch.")
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        raw = {**self.config.raw, "torch_dtype": kind}
        (folder / CONFIG).write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def assert_targets(module: torch.nn.Module, pattern: str) -> list[str]:
    """Names of the module's linear layers that `pattern` matches in full, as peft reads it."""
    return [
        name
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.Linear) and re.fullmatch(pattern, name)
    ]


def load_glm4v(
    folder: Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu", name: str | None = None
) -> Glm4v:
    """Load an official checkpoint folder.

    dtype None keeps the stored one. name: how results call it (default: the folder's name). Raises InputError with
    file and key or tensor for anything missing, misshaped or damaged; no code from the folder is run.
    """
    folder = Path(folder)
    config = read_config(folder)
    tokenizer, files = read_tokenizer(folder)
    if (folder / GENERATION).is_file():
        read_json(folder / GENERATION)
        files[GENERATION] = (folder / GENERATION).read_bytes()
    device = torch.device(device)
    with torch.device("meta"):
        module = Glm4vModule(config)
    state = weights.load_state(folder, config, module.state_dict(), dtype, device)
    module.load_state_dict(state, strict=True, assign=True)
    # Built without memory above; the rotation frequencies are no weights and are computed here.
    module.language.model.rotary_emb = GlmRotaryEmbedding(module.language.config).to(device)
    module.eval()
    return Glm4v(module, config, tokenizer, name=name or folder.resolve().name, files=files, source=folder)
