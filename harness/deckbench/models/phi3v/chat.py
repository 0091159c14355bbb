"""A loaded Phi-3-vision: answers groups of questions about a frame, makes training batches, saves itself."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deckbench.errors import InputError
from deckbench.models import pack
from deckbench.models.chat import GENERATION, QUESTIONS_AT_ONCE, OfficialChat
from deckbench.models.generate import Generated, answers, check_lengths, greedy, prefill, wait
from deckbench.models.interface import Answer, Question
from deckbench.models.phi3v import preprocess, prompt, weights
from deckbench.models.phi3v.config import (
    CONFIG,
    OFFICIAL,
    PHI3V,
    PREPROCESSOR,
    Phi3vConfig,
    Preprocessor,
    json_bytes,
    parse_config,
    read_json,
    read_preprocessor,
)
from deckbench.models.phi3v.files import identity
from deckbench.models.phi3v.model import Phi3vModule
from deckbench.models.phi3v.tokenizer import Tokenizer, read_tokenizer
from deckbench.models.weights import Entry, stated_dtype

if TYPE_CHECKING:
    from PIL.Image import Image

CACHE_BYTES = 4 << 30  # of the copies of the prefix's keys and values: without grouped heads they are large
LANGUAGE_LINEARS = r"language\.model\.layers\.\d+\.(self_attn\.(qkv_proj|o_proj)|mlp\.(gate_up_proj|down_proj))"


class Phi3v(OfficialChat):
    """Phi-3-vision behind DeckBench's model interface. stops: end tokens beside the config's and the prompt's own."""

    family, checkpoint = PHI3V.name, PHI3V
    module: Phi3vModule
    config: Phi3vConfig

    def __init__(
        self,
        module: Phi3vModule,
        config: Phi3vConfig,
        preprocessor: Preprocessor,
        tokenizer: Tokenizer,
        *,
        stops: Sequence[int] = (),
        **named: Any,
    ) -> None:
        super().__init__(module, config, tokenizer, **named)
        self.preprocessor = preprocessor
        ends = (tokenizer.special[token] for token in (prompt.END, prompt.OVER))
        self.stops = frozenset([*config.eos_token_id, *stops, *ends])

    def official_state(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        return weights.official_state(self.module, dtype)

    def entries(self) -> dict[str, Entry]:
        return weights.entries(self.module.state_dict())

    def describe(self, weights: Any) -> dict[str, Any]:
        return identity(self.name, self.config.raw, self.preprocessor, self.files, weights)

    # Asking

    def tiles(self, image: Image) -> tuple[Tensor, tuple[int, int]]:
        """A frame's tiles on the CPU, (1 + rows * columns, 3, size, size) float32, and (rows, columns)."""
        pixels, grid = preprocess.tiles(image, self.preprocessor, self.config.vision.image_size)
        return torch.from_numpy(pixels), grid

    def prefix(self, grid: tuple[int, int]) -> pack.Prefix:
        """What all questions about a frame of (rows, columns) tiles share."""
        return prompt.make_prefix(self.tokenizer, preprocess.image_tokens(*grid, self.config.vision.grid))

    def answer(self, image: Image, questions: Sequence[Question], blank: bool = False) -> list[Answer]:
        """Greedy answers to a group of questions about one frame.

        The frame and the shared part of the prompt are computed once; every question is a branch of its own and gets
        what it would get alone (float rounding aside). `blank` zeroes the pixel tensor after preprocessing.
        """
        start = time.perf_counter()
        pixels, grid = self.tiles(image)
        pixels = pixels.to(self.device)
        if blank:
            pixels = torch.zeros_like(pixels)
        seconds: dict[str, float] = {"preprocess": time.perf_counter() - start}
        branches = [prompt.question_ids(self.tokenizer, question.text) for question in questions]
        before = len(self.prefix(grid).ids)
        tokens_in = [before + len(ids) for ids in branches]
        check_lengths(questions, tokens_in, self.config.max_position_embeddings, self.name)
        limits = [question.max_new_tokens for question in questions]
        generated = self.generate(pixels, grid, branches, limits, seconds)
        decode = self.tokenizer.decode
        return answers(questions, tokens_in, generated, letters=self.letters, decode=decode, seconds=seconds)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def generate(
        self,
        pixels: Tensor,
        grid: tuple[int, int],
        branches: Sequence[Sequence[int]],
        limits: Sequence[int],
        seconds: dict[str, float] | None = None,
    ) -> list[Generated]:
        """Greedy continuation of each branch behind the frame's prefix.

        pixels: (1 + rows * columns, 3, size, size). grid: (rows, columns). branches: question ids. limits: most new
        tokens of each (at least 1). seconds: gets the wall times of `vision` and `prefill` (prefix and questions).

        Beyond the trained length all of a sequence is rotated otherwise, its prefix too. So a branch that grows
        past it is computed anew there, and no prefix or batch holds both kinds.
        """
        was_training = self.module.training
        self.module.eval()
        try:
            begin = time.perf_counter()
            features = self.module.vision(pixels.to(self.dtype), [grid])[0]
            wait(self.device)
            seen = time.perf_counter()
            prefix, trained = self.prefix(grid), self.config.original_max_position_embeddings
            embedded = self.module.embed(torch.tensor([prefix.ids], device=self.device), features)
            # The token chosen at the last trained position is the last one of the short kind.
            room = [trained + 1 - len(prefix.ids) - len(branch) for branch in branches]
            short = [i for i, left in enumerate(room) if left > 0]
            cut = [min(limits[i], room[i]) for i in short]
            made, prefill_s = self._behind(prefix, embedded, [branches[i] for i in short], cut, long=False)
            done = dict(zip(short, made, strict=True))
            left = {i: limits[i] - (len(done[i].ids) if i in done else 0) for i in range(len(branches))}
            # One that stopped has a step more than tokens.
            grown = [i for i in left if i not in done or (left[i] > 0 and done[i].steps == len(done[i].ids))]
            going_on = [[*branches[i], *(done[i].ids if i in done else ())] for i in grown]
            more, again_s = self._behind(prefix, embedded, going_on, [left[i] for i in grown], long=True)
            for i, tail in zip(grown, more, strict=True):
                head = done.get(i)
                done[i] = tail if head is None else joined(head, tail)
        finally:
            self.module.train(was_training)
        if seconds is not None:
            seconds |= {"vision": seen - begin, "prefill": prefill_s + again_s}
        return [done[i] for i in range(len(branches))]

    def _behind(
        self,
        prefix: pack.Prefix,
        embedded: Tensor,
        branches: Sequence[Sequence[int]],
        limits: Sequence[int],
        *,
        long: bool,
    ) -> tuple[list[Generated], float]:
        """Greedy answers of branches that are all beyond the trained length, or all within; seconds of prefill."""
        if not branches:
            return [], 0.0
        generated: list[Generated] = []
        start = time.perf_counter()
        with self.module.rope.length(long):
            shared = prefill(self.module.language, prefix, embedded)
            prefill_s = time.perf_counter() - start
            together = self._at_once(len(prefix.ids))
            for at in range(0, len(branches), together):
                chunk = slice(at, at + together)
                made, chunk_s = greedy(
                    self.module.language,
                    copy.deepcopy(shared),
                    prefix,
                    branches[chunk],
                    limits[chunk],
                    pad_id=self.tokenizer.special[prompt.OVER],
                    stops=self.stops,
                )
                generated += made
                prefill_s += chunk_s
        return generated, prefill_s

    def _at_once(self, length: int) -> int:
        """How many copies of a prefix's keys and values fit into memory; a pure function of sizes."""
        config = self.config
        numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * length
        return max(1, min(QUESTIONS_AT_ONCE, CACHE_BYTES // (numbers * int(self.dtype.itemsize))))

    # Training

    def collate(self, items: Sequence[tuple[Image, Sequence[tuple[str, str]]]]) -> dict[str, Tensor]:
        """A training batch on the CPU for `module(**batch)`.

        Each frame comes with its (question, answer) pairs, packed behind one shared prefix as branches that do not
        see each other, at the very ids and positions `answer` uses. Short frames share a row. Questions beyond the
        trained length get a prefix of their own, in rows of their own. Labels: the answer and its stop token. A frame
        that `shrink` has seen is not resized.
        """
        looks = [self.look(image) for image, _ in items]
        text = self.collate_text([(count, pairs) for (_, count), (_, pairs) in zip(looks, items, strict=True)])
        return {**pack.joined([seen for seen, _ in looks]), **text}

    def look(self, image: Image) -> tuple[dict[str, Tensor], int]:
        """What `module.see` takes of one frame, on the CPU, and how many features it will make of it."""
        pixels, grid = self.tiles(image)
        count = preprocess.image_tokens(*grid, self.config.vision.grid)
        return {"pixel_values": pixels, "grids": torch.tensor([grid], dtype=torch.int64)}, count

    def collate_text(self, items: Sequence[tuple[int, Sequence[tuple[str, str]]]]) -> dict[str, Tensor]:
        """`collate` without the pixels. items: number of features of each frame, and its pairs."""
        trained = self.config.original_max_position_embeddings
        pictures: dict[bool, list[pack.Picture]] = {False: [], True: []}
        for index, (features, pairs) in enumerate(items):
            prefix = prompt.make_prefix(self.tokenizer, features)
            kinds: dict[bool, list[pack.Branch]] = {False: [], True: []}
            for question, answer in pairs:
                branch = pack.Branch(
                    prompt.question_ids(self.tokenizer, question), prompt.answer_ids(self.tokenizer, answer)
                )
                length = len(prefix.ids) + len(branch.question) + len(branch.answer)
                if length > self.config.max_position_embeddings:
                    what = f"a sample takes {length} tokens; {self.name} reads {self.config.max_position_embeddings}"
                    raise InputError(what, f"{question[:60]}...", "shorten the question or leave the sample out")
                kinds[length > trained].append(branch)
            for long, branches in kinds.items():
                if branches:
                    pictures[long].append(pack.Picture(prefix, index, branches))
        rows: list[list[pack.Picture]] = []
        lengths: list[bool] = []
        for long, of_kind in pictures.items():
            if of_kind:
                filled = pack.fill_rows([picture.length for picture in of_kind])
                rows += [[of_kind[i] for i in row] for row in filled]
                lengths += [long] * len(filled)
        packed = pack.pack(rows, self.tokenizer.special[prompt.OVER])
        return {"long": torch.tensor(lengths)[:, None], **packed}

    def shrink(self, image: Image) -> Image:
        """The frame scaled and padded to the network's tiles: all that is looked at, so a cache need keep no more."""
        return preprocess.shrink(image, self.preprocessor.num_crops, self.config.vision.image_size)

    def lora_targets(self, vision: bool) -> str:
        """The full-match pattern of the linear layers that get adapters: all of the language model's, and with
        `vision` all that are run of the tower's and the projector's. Embeddings and output head never."""
        if not vision:
            return LANGUAGE_LINEARS
        run = "|".join(str(layer) for layer in range(self.config.vision.num_hidden_layers - 1))
        tower = rf"vision\.img_processor\.vision_model\.encoder\.layers\.({run})\.(self_attn\.\w+_proj|mlp\.fc[12])"
        return rf"{LANGUAGE_LINEARS}|{tower}|vision\.img_projection\.[02]"


def joined(head: Generated, tail: Generated) -> Generated:
    """One answer made in two parts."""
    return Generated(head.ids + tail.ids, head.first, head.steps + tail.steps, head.decode_s + tail.decode_s)


def check_ids(config: Phi3vConfig, tokenizer: Tokenizer, where: Path) -> None:
    """Refuse a config and a tokenizer that do not belong together. Raises InputError."""
    if tokenizer.largest >= config.vocab_size:
        what = f"the tokenizer has ids up to {tokenizer.largest}, 'vocab_size' is {config.vocab_size}"
        raise InputError(what, where, "config.json and the tokenizer files must come from one checkpoint")


def read_stops(folder: Path) -> list[int]:
    """The end tokens of generation_config.json, where there is one. Raises InputError."""
    if not (folder / GENERATION).is_file():
        return []
    data = read_json(folder / GENERATION)
    stops = data.get("eos_token_id", []) if isinstance(data, dict) else None
    stops = [stops] if isinstance(stops, int) else stops
    if not isinstance(stops, list) or not all(isinstance(i, int) for i in stops):
        raise InputError("the key 'eos_token_id' must be a token id or a list of them", folder / GENERATION, OFFICIAL)
    return stops


def load_phi3v(
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    name: str | None = None,
    num_crops: int | None = None,
) -> Phi3v:
    """Load an official checkpoint folder.

    dtype None takes the one that the config states. name: how results call it (default: the folder's name). num_crops:
    most tiles of a frame, in place of the checkpoint's own number. Raises InputError with file and key or tensor for
    anything missing, misshaped or damaged; no code from the folder is run.
    """
    folder = Path(folder)
    raw = read_json(folder / CONFIG)
    parse_config(raw, folder / CONFIG)
    config = parse_config(raw, folder / CONFIG, weights.vision_shapes(folder))
    preprocessor = read_preprocessor(folder, num_crops)
    tokenizer, small_files = read_tokenizer(folder)
    check_ids(config, tokenizer, folder / CONFIG)
    own = (folder / PREPROCESSOR).read_bytes()
    small_files[PREPROCESSOR] = own if num_crops is None else json_bytes(preprocessor.raw)
    stops = read_stops(folder)
    if (folder / GENERATION).is_file():
        small_files[GENERATION] = (folder / GENERATION).read_bytes()
    device = torch.device(device)
    with torch.device("meta"):
        module = Phi3vModule(config)
    state = weights.load_state(folder, module.state_dict(), dtype or stated_dtype(raw), device)
    module.load_state_dict(state, strict=True, assign=True)
    module.fill_buffers(device)
    module.eval()
    return Phi3v(
        module,
        config,
        preprocessor,
        tokenizer,
        name=name or folder.resolve().name,
        small_files=small_files,
        stops=stops,
        source=folder,
    )
