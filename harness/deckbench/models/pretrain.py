"""`models pretrain tiny-glm4v`, `tiny-phi3v`: how the bases that ship in the package were made.

Pools of synthetic frames go in, a checkpoint folder in the family's official layout comes out. The base learns to name
labware and its state (`pretrain_questions`), helped by linear probes, dropped afterwards, that must name what each
image token shows: without them the image is hardly used for the first hour. The base never meets a question about
right or wrong. Two processes of one thread, gradients averaged over gloo: on two cores this beats one process of two
threads. Same pools, seed, steps and process count give the same weights.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.models import pretrain_questions
from deckbench.models.families import packaged, resolve
from deckbench.models.pretrain_questions import LABELS, RARE, RARE_KINDS, Scene, View
from deckbench.progress import say
from deckbench.resources import tasks_folder

RARE_WEIGHT = 4.0  # of a rare state in the cells' loss
MAX_REPEAT = 60  # characters; longer texts cost more than they teach
FORMS = 0.7  # part of the texts to repeat that have the form of a scene answer, by far the longest there is
TAG = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)  # of a jinja template


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the base but its pools. `frames_per_step` counts all processes together."""

    steps: int = 4000
    frames_per_step: int = 8
    boxes: int = 2
    crops: int = 1
    lr: float = 6e-4
    warmup: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    nproc: int = 2
    seed: int = 0
    save_every: int = 500
    bf16: bool = True
    cells: float = 0.5  # weight of the cells' loss beside that of the answers, at the start
    cells_end: float = 0.1  # and from the middle of the training on
    light: float = 0.15  # how far brightness and each colour are changed at most, as parts of one


class ProbeHeads(Protocol):
    """What a family tells `pretrain` (a module): how its tiny model starts, and what its image tokens show.

    `hook_features` reads image tokens at as many places as `widths` has numbers; a linear layer behind each must name
    what `token_labels` says of them.
    """

    def make_tiny(self, corpus: Sequence[str], seed: int) -> Any:
        """A tiny model with random weights and a tokenizer made from `corpus`."""
        ...

    def load(self, folder: Path, *, dtype: Any = None) -> Any:
        """The family's loader."""
        ...

    def widths(self, model: Any) -> list[int]:
        """Width of the image tokens at each place."""
        ...

    def hook_features(self, model: Any) -> list[Any]:
        """Forward hooks that collect image-token features: a list that every pass appends to."""
        ...

    def token_labels(self, model: Any, scene: Scene, view: View) -> Any:
        """What each image token of a view shows: (tokens, len(LABELS) + 1) float32, see `grid_labels`."""
        ...

    def with_labels(
        self, model: Any, features: Sequence[Any], labels: Sequence[Any], batch: dict[str, Any]
    ) -> tuple[list[Any], Any]:
        """(tokens, width) at each place, and their labels (tokens, len(LABELS) + 1) in the batch's order."""
        ...


def probe_heads(name: str) -> ProbeHeads:
    """What the family of the tiny model `name` tells. Raises InputError."""
    known = [each for each in packaged() if resolve(each).family.probe_heads is not None]
    make = resolve(name).family.probe_heads if name in known else None
    if make is None:
        raise InputError(f"{name!r} is not pretrained here", "model", f"give {' or '.join(known)}")
    found: ProbeHeads = make()
    return found


def read_scenes(pools: list[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """(picture, scene) of every frame of some synthetic pools. Raises InputError where a pool has no scenes.jsonl."""
    scenes = []
    for pool in pools:
        file = pool / "scenes.jsonl"
        if not file.is_file():
            raise InputError("no scenes.jsonl: only pools made by `pool synth` can train a base", pool)
        for line in file.read_text(encoding="utf-8").splitlines():
            scene = json.loads(line)
            scenes.append((pool / f"{scene['frame']}.jpg", scene))
    return scenes


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to 2% of the peak."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def cells_weight(step: int, recipe: Recipe) -> float:
    """The cells' loss leads at first and then makes room: linear from `cells` to `cells_end` at half the steps."""
    done = min(1.0, step / max(1, recipe.steps // 2))
    return recipe.cells + (recipe.cells_end - recipe.cells) * done


def relit(image: Image.Image, rng: np.random.Generator, light: float) -> Image.Image:
    """The frame under another light: brightness, contrast and each colour scaled by at most `light`."""
    gains = (1 + rng.uniform(-light, light)) * (1 + rng.uniform(-light / 3, light / 3, size=3))
    lift = rng.uniform(-light, light) * 64
    table = np.clip(np.arange(256)[None] * gains[:, None] + lift, 0, 255).round().astype(int)
    return image.point(table.reshape(-1).tolist())


def attention_by_products(
    module: Any, query: Any, key: Any, value: Any, mask: Any = None, scaling: float | None = None, **_: Any
) -> tuple[Any, None]:
    """Attention as plain matrix products, for transformers: (batch, heads, length, width) -> lengths first.

    mask: added to the scores, where there is one. On a CPU the fused kernel's backward pass is several times slower in
    half precision.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query * (scaling or query.shape[-1] ** -0.5)) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    return (scores.softmax(dim=-1, dtype=scores.dtype) @ value).transpose(1, 2).contiguous(), None


def batches(count: int, recipe: Recipe, rank: int, start: int) -> Iterator[tuple[int, list[int]]]:
    """(step, frame indices of this rank): a pure function of seed, step and rank."""
    per_rank = recipe.frames_per_step // recipe.nproc
    per_epoch = count // recipe.frames_per_step
    for step in range(start, recipe.steps):
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng([recipe.seed, epoch]).permutation(count)
        at = place * recipe.frames_per_step + rank * per_rank
        yield step, [int(i) for i in order[at : at + per_rank]]


def parameter_groups(module: Any, recipe: Recipe) -> list[dict[str, Any]]:
    """Weight decay for matrices only; embeddings, biases, gains and learned vectors have none."""
    import torch

    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, torch.nn.Embedding)}
    matrices = [p for p in module.parameters() if p.ndim >= 2 and id(p) not in embeddings and p[0].numel() > 1]
    chosen = {id(p) for p in matrices}
    others = [p for p in module.parameters() if id(p) not in chosen]
    return [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def work(
    rank: int,
    name: str,
    scenes: list[tuple[Path, dict[str, Any]]],
    texts: list[str],
    folder: str,
    recipe: Recipe,
    port: int,
) -> None:
    """One process of the pretraining. Rank 0 logs and saves into `folder`. texts: what the base learns to repeat."""
    import torch
    import torch.distributed as dist
    from torch.nn import functional as F
    from transformers import AttentionInterface, PreTrainedModel

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # sharp attention leaves numbers that the processor is slow with
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=recipe.nproc)
    home = Path(folder)
    family = probe_heads(name)
    model = family.load(home / "start")
    module = model.module.train()
    AttentionInterface.register("products", attention_by_products)
    for part in module.modules():
        if isinstance(part, PreTrainedModel):
            part.config._attn_implementation = "products"
    half = torch.bfloat16 if recipe.bf16 else torch.float32
    torch.manual_seed(recipe.seed)
    # one reads the tower's end, where it learns fastest, and one what the language model is given
    heads = torch.nn.ModuleList(torch.nn.Linear(width, len(LABELS) + 1) for width in family.widths(model))
    for head in heads:
        torch.nn.init.zeros_(head.weight)  # says nothing to the tower before it has learned something itself
    rare = torch.tensor([float(s in RARE or k in RARE_KINDS) for k, s in LABELS] + [0.0])
    features = family.hook_features(model)
    params = [*module.parameters(), *heads.parameters()]
    groups = parameter_groups(module, recipe)
    groups.append({"params": list(heads.parameters()), "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), foreach=True)
    start = 0
    state_file = home / "state.pt"
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        module.load_state_dict(state["module"])
        heads.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        start = int(state["step"])
    forms = scene_forms()
    began, losses = time.monotonic(), []
    for step, chosen in batches(len(scenes), recipe, rank, start):
        whole, parts = [], []
        grids: tuple[list[Any], list[Any]] = ([], [])
        for index in chosen:
            path, scene = scenes[index]
            rng = np.random.default_rng([recipe.seed, step, index])
            frame = relit(Image.open(path).convert("RGB"), rng, recipe.light)
            first, *rest = pretrain_questions.views(frame, scene, rng, recipe.boxes, recipe.crops)
            text = forms[int(rng.integers(len(forms)))] if rng.random() < FORMS else some_text(texts, rng)
            again = [pretrain_questions.repeat(text)]
            whole.append((first.image, [*first.turns, *again]))
            grids[0].append(family.token_labels(model, scene, first))
            grids[1].extend(family.token_labels(model, scene, view) for view in rest)
            parts += [(view.image, view.turns) for view in rest]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        # two passes, since a whole frame's questions are three times as long as an object's: less padding
        packed = [model.collate(items) for items in (whole, parts)]
        tokens = sum(int((batch["labels"] >= 0).sum()) for batch in packed)
        total = seen = 0.0
        share = cells_weight(step, recipe)
        count = sum(len(cells) for grid in grids for cells in grid)
        for batch, grid in zip(packed, grids, strict=True):
            features.clear()
            hidden = ~batch["attention_mask"]
            batch["attention_mask"] = torch.zeros(hidden.shape, dtype=half).masked_fill(hidden, -1e4)
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
                loss = module(**batch, num_items_in_batch=tokens).loss
                tokens_seen, truth = family.with_labels(model, features, grid, batch)
                said = [head(found) for head, found in zip(heads, tokens_seen, strict=True)]
            weight = 1 + (RARE_WEIGHT - 1) * truth * rare
            cells = sum(F.binary_cross_entropy_with_logits(x.float(), truth, weight, reduction="sum") for x in said)
            cells = cells / count
            (loss + share * cells).backward()
            total += float(loss.detach())
            seen += float(cells.detach())
        flat = torch.cat([p.grad.reshape(-1) for p in params if p.grad is not None])
        dist.all_reduce(flat)
        flat /= recipe.nproc
        place = 0
        for p in params:
            if p.grad is not None:
                p.grad.copy_(flat[place : place + p.numel()].view_as(p))
                place += p.numel()
        torch.nn.utils.clip_grad_norm_(params, recipe.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append((total, seen))
        if rank == 0 and (step + 1) % 50 == 0:
            pace = (step + 1 - start) / (time.monotonic() - began)
            left = (recipe.steps - step - 1) / pace / 60
            text, cell = np.mean(losses[-50:], axis=0)
            say(f"pretrain: step {step + 1}/{recipe.steps} loss {text:.4f} cells {cell:.4f}, {left:.0f} min left")
        if rank == 0 and ((step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps):
            state = {
                "module": module.state_dict(),
                "heads": heads.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
            }
            torch.save(state, home / "state.tmp")
            (home / "state.tmp").replace(state_file)
    dist.barrier()
    dist.destroy_process_group()


def texts_of(folder: Path) -> list[str]:
    """Every string value of the task and ontology yaml files, templates without their tags: the stages' words.

    A token that the base never had to say is out of reach for the stages, since LoRA leaves the output head alone.
    """
    from deckbench.yamlfile import read_document

    def strings(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            for key in value:
                yield from strings(value[key])
        elif isinstance(value, list):
            for item in value:
                yield from strings(item)

    files = sorted(p for p in folder.rglob("*.yaml") if p.parent.name != "suites")
    found = [text for file in files for text in strings(read_document(file).root.plain())]
    found += [word for text in found for tag in TAG.findall(text) for word in re.findall(r"'([^']+)'", tag)]
    return [" ".join(TAG.sub(" ", text).split()) for text in found]


def scene_forms(count: int = 400) -> list[str]:
    """Texts in the form of the scene task's answers, whatever they say drawn by chance: form, and nothing to learn."""
    from deckbench.questions import render
    from deckbench.task import load_task

    task = load_task("ot2-scene@1")
    classes = [spec for spec in task.ontology.classes.values() if spec.scene]
    forms = []
    rng = np.random.default_rng(count)
    for question in task.bank.questions:
        if question.kind != "scene" or question.answer is None:
            continue
        for _ in range(count):
            seen = [classes[int(i)] for i in rng.permutation(len(classes))[: int(rng.integers(1, 4))]]
            wrong = [classes[int(i)].name.get("en") for i in rng.permutation(len(classes))[: int(rng.integers(3))]]
            nouns = task.ontology.nouns
            parts = [{"noun": nouns[c.nouns[0]].get("en"), "states": [(c.state or c.name).get("en")]} for c in seen]
            verdict = list(question.options.values())[int(rng.integers(2))].get("en")
            forms.append(render(question.answer.get("en"), {"parts": parts, "wrong": wrong, "verdict": verdict}))
    return forms


def some_text(texts: Sequence[str], rng: np.random.Generator) -> str:
    """One to four of the texts as one, since a word behind another has a token of its own."""
    joint = (" ", ", ", ". ", ": ")[int(rng.integers(4))]
    text = texts[int(rng.integers(len(texts)))]
    for _ in range(int(rng.integers(4))):
        longer = joint.join((text, texts[int(rng.integers(len(texts)))]))
        text = longer if len(longer) <= MAX_REPEAT else text
    return text


def corpus_of(scenes: list[tuple[Path, dict[str, Any]]], frames: int = 400) -> list[str]:
    """What the tokenizer is made from: the tasks' texts, and what the base is asked about some frames."""
    blank = Image.new("RGB", (704, 396))
    texts = texts_of(tasks_folder()) * 20
    for index, (_, scene) in enumerate(scenes[:frames]):
        for view in pretrain_questions.views(blank, scene, np.random.default_rng([1, index])):
            texts += [text for turn in view.turns for text in turn]
    return texts


def pretrain(
    name: str, pools: list[Path], *, out: Path, recipe: Recipe | None = None, init: Path | None = None
) -> None:
    """Train a tiny model to name what it sees; writes a checkpoint folder (bfloat16 weights) at `out`.

    name: a packaged tiny model. init: a base to start from instead of random weights; it uses the image already, and
    the cells' loss never leads. An interrupted run, called again, resumes from its last state in `<out>.partial`.
    """
    import torch
    import torch.multiprocessing as mp

    family = probe_heads(name)
    recipe = recipe or Recipe()
    if init is not None:
        recipe = replace(recipe, cells=recipe.cells_end)
    artifact.check_free(out)
    scenes = read_scenes(pools)
    home = out.with_name(f"{out.name}.partial")
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "start").is_dir():
        start = family.load(init, dtype=torch.float32) if init else family.make_tiny(corpus_of(scenes), recipe.seed)
        start.save(home / "start")
    port = 20000 + os.getpid() % 20000
    texts = sorted({text for text in texts_of(tasks_folder()) if 0 < len(text) <= MAX_REPEAT})
    mp.spawn(work, args=(name, scenes, texts, str(home), recipe, port), nprocs=recipe.nproc)
    model = family.load(home / "start")
    model.module.load_state_dict(torch.load(home / "state.pt", weights_only=True)["module"])
    model.module.to(torch.bfloat16)
    inputs = {f"pool{i}": artifact.read(pool, "pool").content_hash for i, pool in enumerate(pools)}
    with artifact.writing(out, "model", inputs=inputs, params=asdict(recipe), seed=recipe.seed) as draft:
        model.save(draft.path)
    shutil.rmtree(home)
