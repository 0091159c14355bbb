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


QUESTIONS = [f"({number}) Which color is the square?\nA. {a}\nB. {b}\nAnswer with A or B only." for number, (a, b) in
             enumerate([("red", "blue"), ("blue", "red"), ("yes", "no"), ("normal", "anomaly")] * 2)]  # fmt: skip


def test_systemone_is_the_model_in_this_process(served: tuple[Path, str], tmp_path: Path) -> None:
    """Eight questions in one request: P equal to `pipeline("decision")`, and to the logits at the prompt's end."""
    from transformers import pipeline

    from deckbench.infer import ask

    folder, address = served
    data = micro_world.make_dataset(tmp_path / "d", 1)
    given = {"model": str(folder), "base_url": address, "timeout_s": 300, "api": "systemone"}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(given))
    frame = data / "images/0.png"
    answers = ask(model=f"endpoint:{tmp_path / 'e.yaml'}", frame=frame, questions=QUESTIONS)
    decide = pipeline("decision", model=str(folder), device="cpu", dtype="float32")
    for answer, question in zip(answers, QUESTIONS, strict=True):
        stem, a, b, _ = question.splitlines()
        options = {a.removeprefix("A. "): None, b.removeprefix("B. "): None}
        asked = {"type": "choice", "instructions": stem, "criteria": options}
        made = decide({"state": "img-1", "assets": {"img-1": str(frame)}, "questions": {"q": asked}})
        there = list(made["q"]["probabilities"].values())
        assert answer.p_a is not None and answer.p_b is not None and answer.p_a + answer.p_b == pytest.approx(1)
        assert [answer.p_a, answer.p_b] == pytest.approx(there, abs=1e-4)
        assert answer.text == ("A" if there[0] > there[1] else "B")
    assert answers[0].facts is not None and answers[0].facts["tries"] == 1
    assert sum(answer.tokens_in for answer in answers) > 8 * 50 and {answer.tokens_out for answer in answers} == {0}


def test_auto_finds_systemone(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    data = micro_world.make_dataset(tmp_path / "d", 2)
    given = {"model": str(folder), "base_url": address, "timeout_s": 300, "api": "auto"}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(given))
    made = infer(model=f"endpoint:{tmp_path / 'e.yaml'}", data=data, out=tmp_path / "p.csv")
    assert made.content["endpoint"]["api"] == {"systemone": 4}
    assert {row["kind"] for _, row in csv_records(tmp_path / "p.csv")} == {"choice", "open"}


def test_structured_answers_are_asked_for_and_listed(served: tuple[Path, str], tmp_path: Path) -> None:
    """Random weights write no JSON: every try is paid, kept with its tokens, and rejected with a reason."""
    from PIL import Image

    from deckbench.endpoint.spec import find_server, read_spec
    from deckbench.endpoint.structured import answer_all, open_calls
    from tests.endpoint.test_structured import request_for

    folder, address = served
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.png")
    (tmp_path / "e.yaml").write_text(yaml.safe_dump({"model": str(folder), "base_url": address, "timeout_s": 300}))
    spec = read_spec(f"endpoint:{tmp_path / 'e.yaml'}")
    requests = [request_for(1, image=tmp_path / "a.png", max_tokens=8), request_for(2, max_tokens=8, system="")]
    with open_calls(tmp_path / "calls.jsonl") as calls:
        run = answer_all(requests, spec, find_server(spec), calls)
        assert [outcome.status for outcome in run.outcomes] == ["rejected"] * 2
        assert run.observed["calls"] == 6 and run.observed["uncounted"] == 0 and run.observed["tokens_in"] > 0
        assert answer_all(requests, spec, find_server(spec), calls).observed["paid_before"] == 2
