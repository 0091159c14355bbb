"""What a model is to the steps, and what a family declares about its models. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from deckbench.answer import MAX_NEW_TOKENS, Answer, Question, Unanswered
from deckbench.dataset import Sample
from deckbench.picture import open_picture

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor


class Model(Protocol):
    """Anything that answers questions about frames. Subclass it: what has a body here is the default.

    name: how results call it. family: `FamilySpec.name`. concurrency: pictures that may be asked about at once from
    several threads, 0 for a model that computes in this process. omits_unanswered: a question without an answer is
    left out of the predictions instead of failing the run.
    """

    name: str
    family: str
    concurrency: int = 0
    omits_unanswered: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the answers, as plain JSON values: hashes and settings, never a path."""
        ...

    @property
    def device(self) -> torch.device | None:
        """Where the network is; None for a model without a network in this process."""
        return None

    @property
    def parameters(self) -> int | None:
        """How many weights the network has; None for a model without a network in this process."""
        return None

    def answer(self, image: Image, questions: Sequence[Question], blank: bool = False) -> list[Answer]:
        """Greedy answers to a group of questions about one frame, in order.

        Args:
            image: the frame, any mode and size.
            questions: at least one.
            blank: the frame's pixels are blanked, its tokens stay.

        Raises:
            InputError: the model does not take these questions.
            OutsideError: a server gave no answer to one of them.
        """
        ...

    def answer_samples(self, samples: Sequence[Sample], blank: bool = False) -> list[Answer | Unanswered]:
        """One answer per sample, in order; all samples are about one picture. What `infer` calls."""
        questions = [Question(sample.question, sample.kind, MAX_NEW_TOKENS[sample.kind]) for sample in samples]
        return list(self.answer(open_picture(samples[0].image), questions, blank))

    def account(
        self, facts: Sequence[Mapping[str, Any]], tokens: Sequence[tuple[int, int]]
    ) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """(part of a run's content, part of what was observed); None for a model that computes in this process.

        facts: of every answer. tokens: (in, out) of every answer whose tokens were counted.
        """
        return None

    def resume(self) -> None:
        """Told before a run goes on that has answers already: a server that refuses the rest is not at fault."""
        return None

    def close(self) -> None:
        """Release connections; the next question opens them again."""
        return None


class Trainable(Model, Protocol):
    """A model whose weights are here: what `train`, `merge` and `bench --weights random` need.

    module: the torch network; `module(**collate(items))` returns a loss. caches_features: the features of a frozen
    vision encoder can be computed apart (`vision_inputs`, `collate_text`, `module.encode_image`) and kept.
    fused_names: official names of linear layers -> what they are called in `module`. adapter: content hash of the
    adapter merged in. merged_tensors: names of the module's tensors it changed. random_init: how the weights were
    drawn when they are random numbers that no file holds.
    """

    module: Any
    caches_features: bool = False
    fused_names: Mapping[str, tuple[str, ...]]
    adapter: str | None
    merged_tensors: frozenset[str]
    random_init: str | None

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def stated_dtype(self) -> torch.dtype | None:
        """The dtype that the checkpoint's config states."""
        ...

    @property
    def base_hash(self) -> str:
        """One hash of config, tokenizer and weights, adapters not counted."""
        ...

    def lora_targets(self, vision: bool) -> str:
        """The full-match pattern of the linear layers that get adapters; with `vision`, the encoder's as well."""
        ...

    def collate(self, items: Sequence[tuple[Image, Sequence[tuple[str, str]]]]) -> dict[str, Tensor]:
        """A training batch on the CPU: frames with their (question, answer) pairs, labels on the answers."""
        ...

    def shrink(self, image: Image) -> Image:
        """The frame as far as it can be reduced once and for all, before it is cached; unchanged by default."""
        return image

    def vision_inputs(self, image: Image) -> tuple[dict[str, Tensor], int]:
        """What `module.encode_image` takes of one frame, on the CPU, and how many features it makes of it."""
        ...

    def collate_text(self, items: Sequence[tuple[int, Sequence[tuple[str, str]]]]) -> dict[str, Tensor]:
        """`collate` without the pixels. items: number of features of each frame, and its pairs."""
        ...

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        ...

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write a checkpoint folder that this family loads."""
        ...

    def save_merged(self, folder: Path, layout: str = "official") -> None:
        """Write the folder this model was loaded from, the merged adapter's sums in it. layout: of `LAYOUTS`."""
        ...


@dataclass(frozen=True)
class Reference:
    """A model reference, resolved.

    text: as given, without `blind:`. name: how results call it. folder: of the checkpoint, None for a family without
    checkpoints. options: what stands behind `?`. has_weights: False where only the published sizes are here.
    """

    family: FamilySpec
    text: str
    name: str
    folder: Path | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    has_weights: bool = True

    @property
    def checkpoint(self) -> Path:
        """The checkpoint folder of a family that has one."""
        assert self.folder is not None
        return self.folder


Case = Callable[["Any", "Image", str, Mapping[str, "Tensor"], bool], dict[str, Any]]


@dataclass(frozen=True)
class FamilySpec:
    """One family of models: `SPEC` in `models/<family>/family.py`, where heavy imports stand inside functions.

    A family is recognised by a prefix of the reference (`prefixes`: `endpoint:`, or `rule` for `rule` and `rule:X`),
    or by a checkpoint folder's `model_type`; `fallback` takes the folders that no other family claims.

    name: the folder's name. serves: what containers.toml's `serves` calls it. known: form of reference -> one line,
    for `models ls`. identity, load: of a resolved reference; `load` gets device and dtype as `load_model` does.
    packaged: name -> checkpoint folder in the package. published: name -> folder with the config of a published
    model, for its sizes. options: option behind `?` -> whether its value is right.
    engines: what can execute its models; none for a baseline, which answers samples of a dataset and takes no frames.
    trainable: `load` returns a `Trainable`.
    caches_features: as `Trainable.caches_features`. train_configs: the config's `hidden_size` -> packaged training
    config. path_in: the file or folder that the part of a reference behind its prefix names, or None.
    skeleton: a published model on torch's meta device. probe_heads: what `models pretrain` needs (a module, see
    `pretrain.ProbeHeads`). check_case: compares one reference case, for `models check`.
    """

    name: str
    serves: str
    known: Mapping[str, str]
    identity: Callable[[Reference], dict[str, Any]]
    load: Callable[[Reference, str, str], Model]
    prefixes: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    fallback: bool = False
    packaged: Mapping[str, Path] = field(default_factory=dict)
    published: Mapping[str, Path] = field(default_factory=dict)
    options: Mapping[str, Callable[[str], bool]] = field(default_factory=dict)
    engines: tuple[str, ...] = ("torch",)
    trainable: bool = False
    caches_features: bool = False
    train_configs: Mapping[int, str] = field(default_factory=dict)
    path_in: Callable[[str], Path | None] = lambda _: None
    skeleton: Callable[[Reference], Trainable] | None = None
    probe_heads: Callable[[], Any] | None = None
    check_case: Case | None = None
