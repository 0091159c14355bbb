"""A server that others wrote: `transformers serve` with a tiny LLaVA."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deckbench.csvfile import csv_records
from deckbench.infer import infer
from tests.endpoint import tiny_llava
from tests.train import micro_world

pytestmark = pytest.mark.slow
NEEDED = ("fastapi", "uvicorn", "openai")
missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
if missing:
    pytest.skip(f"`transformers serve` needs {', '.join(missing)} (transformers[serving])", allow_module_level=True)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """(model folder, address) of a server that is up."""
    folder = tiny_llava.make(tmp_path_factory.mktemp("served") / "tiny-llava")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (folder.parent / "log").open("w+")
    code = "from transformers.cli.transformers import main; main()"
    words = ["serve", str(folder), "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    run = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except OSError:
                log.seek(0)
                assert run.poll() is None and time.monotonic() < deadline, log.read()[-3000:]
                time.sleep(0.5)
        yield folder, f"http://127.0.0.1:{port}/v1"
    finally:
        run.terminate()
        run.wait(30)
        log.close()


def test_predictions_are_complete(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    data = micro_world.make_dataset(tmp_path / "d", 3)
    (tmp_path / "e.yaml").write_text(
        yaml.safe_dump({"model": str(folder), "base_url": address, "timeout_s": 300, "concurrency": 2})
    )
    made = infer(model=f"endpoint:{tmp_path / 'e.yaml'}", data=data, out=tmp_path / "p.csv")
    rows = [row for _, row in csv_records(tmp_path / "p.csv")]
    assert [row["id"] for row in rows] == [f"{n}-{kind}" for n in range(3) for kind in ("red", "blue", "open")]
    for row in rows:
        assert int(row["tokens_in"]) > len(row["question"]) and 1 <= int(row["tokens_out"]) <= 32
    assert {row["p_a"] + row["p_b"] for row in rows} == {""}  # it takes the field and serves none
    assert made.content["endpoint"]["unanswered"] == []
    assert made.content["inputs"]["model"]["name"] == "endpoint:tiny-llava"
    again = infer(model=f"endpoint:{tmp_path / 'e.yaml'}", data=data, out=tmp_path / "again.csv")
    assert again.content_hash == made.content_hash
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "p.csv").read_bytes()


def test_the_picture_is_looked_at(served: tuple[Path, str], tmp_path: Path) -> None:
    """Greedy answers on random weights are the model's own: the same as without a server."""
    import torch
    from PIL import Image
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    folder, address = served
    from deckbench.infer import ask

    data = micro_world.make_dataset(tmp_path / "d", 1)
    (tmp_path / "e.yaml").write_text(yaml.safe_dump({"model": str(folder), "base_url": address, "timeout_s": 300}))
    ref = f"endpoint:{tmp_path / 'e.yaml'}"
    given = ask(model=ref, frame=data / "images/0.png", questions=["Describe."])[0]
    processor = AutoProcessor.from_pretrained(folder)
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    picture = {"type": "image", "image": Image.open(data / "images/0.png").convert("RGB")}
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [picture, {"type": "text", "text": "Describe."}]}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        tokenize=True,
    )
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=128, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert given.text == processor.decode(ids, skip_special_tokens=True)
    assert given.tokens_in == inputs["input_ids"].shape[1]
