"""Greedy answers to a group of questions behind one shared prefix, for any language model of transformers."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from deckbench.answer import Answer, Question
from deckbench.errors import InputError
from deckbench.models import pack


@dataclass(frozen=True)
class Generated:
    """ids: greedy tokens without the stop token. first: logits at the answer's first position, float32.
    steps: forward passes that made it, the stop token's included. decode_s: wall time from the first token on."""

    ids: list[int]
    first: Tensor
    steps: int
    decode_s: float


def wait(device: torch.device) -> None:
    """Return when the device has done what it was given, so that a clock reads true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def cache_argument(language: Any, cache: Any) -> dict[str, Any]:
    """The cache under the name that this transformers takes: `cache` since 5.24, `past_key_values` before."""
    named = "cache" in inspect.signature(language.model.forward).parameters
    return {"cache" if named else "past_key_values": cache}


def prefill(language: Any, prefix: pack.Prefix, embedded: Tensor) -> Any:
    """The cache of the shared prefix, one row. embedded: (1, length, width)."""
    cache = DynamicCache(config=language.config)
    alone = torch.zeros(embedded.shape[:2], dtype=torch.int64, device=embedded.device)
    language.model(
        inputs_embeds=embedded,
        attention_mask=pack.branch_mask(alone, alone),
        position_ids=torch.tensor([prefix.positions], device=embedded.device),
        **cache_argument(language, cache),
        use_cache=True,
    )
    wait(embedded.device)
    return cache


def greedy(
    language: Any,
    cache: Any,
    prefix: pack.Prefix,
    branches: Sequence[Sequence[int]],
    limits: Sequence[int],
    *,
    pad_id: int,
    stops: Collection[int],
) -> tuple[list[Generated], float]:
    """Greedy answers behind `cache`, and the questions' prefill time in seconds.

    language: a transformers causal model (sdpa). cache: of `prefix`, one row; used up here. branches: question ids,
    none empty. limits: most new tokens of each (at least 1). stops: the end tokens.
    """
    start = time.perf_counter()
    device = language.lm_head.weight.device
    rows, width = len(branches), max(len(branch) for branch in branches)
    cache.batch_repeat_interleave(rows)
    lengths = torch.tensor([len(branch) for branch in branches], device=device)
    tokens = torch.tensor([[*branch, *[pad_id] * (width - len(branch))] for branch in branches], device=device)
    places = torch.arange(width, device=device)
    real = places < lengths[:, None]
    branch_of = torch.where(real, 1, pack.PADDING)
    before = branch_of.new_full((rows, len(prefix.ids)), pack.SHARED)
    seen = torch.cat((before, branch_of), dim=1)
    cached = cache_argument(language, cache)
    hidden = language.model(
        input_ids=tokens,
        attention_mask=pack.branch_mask(seen.clamp(max=0), seen)[:, :, len(prefix.ids) :],
        position_ids=torch.where(real, prefix.next_position + places, 0),
        **cached,
        use_cache=True,
    ).last_hidden_state
    last = hidden[torch.arange(rows, device=device), lengths - 1]
    logits = language.lm_head(last).float()
    first = logits.cpu()
    wait(device)
    prefilled = time.perf_counter()
    made: list[list[int]] = [[] for _ in branches]
    steps, ended_s = [0] * rows, [0.0] * rows
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
            position_ids=(prefix.next_position + lengths)[:, None],
            **cached,
            use_cache=True,
        ).last_hidden_state
        lengths = lengths + 1
        logits = language.lm_head(hidden[:, -1]).float()
    done = [Generated(*parts) for parts in zip(made, first, steps, ended_s, strict=True)]
    return done, prefilled - start


def check_lengths(questions: Sequence[Question], tokens_in: Sequence[int], most: int, name: str) -> None:
    """Raises InputError when a question and its answer are longer than the model `name` reads (`most` tokens)."""
    for question, length in zip(questions, tokens_in, strict=True):
        if length + question.max_new_tokens > most:
            what = f"a question and its answer take {length + question.max_new_tokens} tokens; {name} reads {most}"
            raise InputError(what, f"{question.text[:60]}...", "shorten the question")


def answers(
    questions: Sequence[Question],
    tokens_in: Sequence[int],
    generated: Sequence[Generated],
    *,
    letters: Mapping[str, Sequence[int]],
    decode: Callable[[Sequence[int]], str],
    seconds: Mapping[str, float],
) -> list[Answer]:
    """What was generated as answers. letters: ids of the spellings of A and B. seconds: of the frame's stages.

    Raises InputError when the logits are no numbers, which a training that diverged leaves behind.
    """
    first_token = sum(seconds[stage] for stage in ("preprocess", "vision", "prefill"))
    done = []
    for question, length, made in zip(questions, tokens_in, generated, strict=True):
        if not made.first.max().isfinite():
            fix = "train the adapter again with a lower lr, or fetch the model's files again"
            raise InputError("the model's output is not a number: its weights are broken", question.text[:60], fix)
        p_a = p_b = None
        if question.kind == "choice":
            shares = made.first.softmax(dim=-1)
            p_a, p_b = (float(shares[list(letters[letter])].sum()) for letter in "AB")
        times = {**seconds, "first_token": first_token, "decode": made.decode_s}
        done.append(Answer(decode(made.ids), p_a, p_b, length, made.steps, times))
    return done
