"""A GLM-4V so small that it trains in a second, and a handmade dataset of coloured squares."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

PROMPT = "Which colour is the square?\nA. {a}\nB. {b}\nAnswer with A or B only."
SETTINGS = {
    "max_steps": 12,
    "batch": 4,
    "save_every": 5,
    "log_every": 2,
    "rank": 4,
    "dropout": 0.1,  # so that a lost state of the random numbers shows
    "lr": 0.02,
    "threads": 1,
}


def make_model(folder: Path, seed: int = 0) -> Path:
    from deckbench.models.glm4v.tiny import make_tiny

    model = make_tiny(
        [PROMPT.format(a="red", b="blue"), "Describe. a red square. a blue square."] * 2,
        seed,
        vocabulary=300,
        hidden_size=32,
        ffn_hidden_size=48,
        num_layers=2,
        num_attention_heads=2,
        multi_query_group_num=1,
        kv_channels=16,
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_heads": 2,
            "intermediate_size": 48,
            "image_size": 32,
            "patch_size": 8,
        },
    )
    # LoRA leaves the output head alone, and a fresh one is too weak to ever be sure of a token.
    model.module.language.lm_head.weight.data.mul_(20)
    model.save(folder)
    return folder


def make_phi(folder: Path, seed: int = 0) -> Path:
    """A Phi-3-vision that small, whose trained length lies between that of `Describe.` and that of `PROMPT`."""
    from deckbench.models.phi3v.tiny import make_tiny

    model = make_tiny(
        [PROMPT.format(a="red", b="blue"), "Describe. a red square. a blue square."] * 2,
        seed,
        vocabulary=420,
        num_crops=4,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=2,
        num_hidden_layers=2,
        num_key_value_heads=1,
        original_max_position_embeddings=48,
        max_position_embeddings=512,
        clip={
            "hidden_size": 32,
            "image_size": 32,
            "intermediate_size": 48,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "patch_size": 8,
        },
    )
    model.module.language.lm_head.weight.data.mul_(20)
    model.save(folder)
    return folder


def rows_of(number: int) -> list[dict[str, Any]]:
    red = number % 2 == 0
    image = f"images/{number}.png"
    rows = []
    for a, b in (("red", "blue"), ("blue", "red")):
        user = {"role": "user", "content": PROMPT.format(a=a, b=b), "image": image}
        answer = {"role": "assistant", "content": "A" if (a == "red") == red else "B"}
        fields = {"id": f"{number}-{a}", "pair_id": str(number), "kind": "choice", "option_a": a, "option_b": b}
        rows.append({"messages": [user, answer], **fields, "anomaly": red})
    user = {"role": "user", "content": "Describe.", "image": image}
    answer = {"role": "assistant", "content": f"a {'red' if red else 'blue'} square."}
    rows.append({"messages": [user, answer], "id": f"{number}-open", "kind": "open"})
    return rows


def make_dataset(folder: Path, pictures: int = 10, splits: tuple[str, ...] = ("train", "test")) -> Path:
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(pictures):
        picture = Image.new("RGB", (64, 36), "white")
        colour = "red" if number % 2 == 0 else "blue"
        ImageDraw.Draw(picture).rectangle((8 + number, 5, 40 + number, 30), fill=colour)
        picture.save(folder / f"images/{number}.png")
        rows += rows_of(number)
    for split in splits:
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a process of its own; its exit code (-9 after SIGKILL)."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(120)
    assert child.exitcode is not None, "the child hangs"
    return child.exitcode


def kill_at(owner: Any, name: str, call: int, *, after: bool = False) -> None:
    """From now on the process dies of SIGKILL at the `call`-th call of `owner.name` (from 1), before it or after it."""
    real, count = getattr(owner, name), 0

    def counted(*given: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*given, **named)
        if count == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, counted)
