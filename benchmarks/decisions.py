"""Questions a second of `transformers serve`: eight choice questions about a frame as chat, and as one request.

    python benchmarks/decisions.py --frames 12 --rounds 3
    python benchmarks/decisions.py --width 256 --layers 6 --side 224
    python benchmarks/decisions.py --model FOLDER

The same server, model, frames and questions for all, in turn, in one run: `chat` (eight requests, with an answer's
usual limit of tokens, and with a limit of one token), `systemone` (one request). Without --model it makes a LLaVA with
random weights, which never ends an answer by itself: the second figure for chat is the fair one. The larger the model,
the less is saved: transformers computes a prompt for each question in both. Needs `transformers[serving]`.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE / "harness"), str(HERE)]

from deckbench.answer import MAX_NEW_TOKENS, Answer, Question, Unanswered  # noqa: E402
from deckbench.endpoint.client import Client  # noqa: E402
from deckbench.endpoint.spec import EndpointSpec, Server  # noqa: E402

STEMS = ("Is the tip straight?", "Is the rack full?", "Is a lid open?", "Is the deck clean?")
OPTIONS = (("yes", "no"), ("no", "yes"))


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, int]]:
    """(address, process) of a server that is up."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from transformers.cli.transformers import main; main()"
    words = ["serve", str(folder), "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
        run = subprocess.Popen([sys.executable, "-c", code, *words], env=environ, stdout=log, stderr=log)
        try:
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                        break
                except OSError:
                    if run.poll() is not None:
                        log.seek(0)
                        raise SystemExit(log.read().decode()[-2000:]) from None
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1", run.pid
        finally:
            run.terminate()
            run.wait(30)


def questions(limit: int) -> list[Question]:
    """Eight choice questions in the tasks' words."""
    text = "{stem}\nA. {a}\nB. {b}\nAnswer with A or B only."
    return [Question(text.format(stem=stem, a=a, b=b), "choice", limit) for stem in STEMS for a, b in OPTIONS]


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far: they hold on a busy machine as well."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rate(
    client: Client, frames: Sequence[Image.Image], asked: Sequence[Question], pid: int
) -> tuple[float, float, float | None]:
    """(questions a second, questions a CPU second of the server, P(A) of the first answer); all must be answered."""
    answers = list[Answer | Unanswered]()
    began, before = time.perf_counter(), cpu_s(pid)
    for frame in frames:
        answers += client.answer(frame, asked)
    took, used = time.perf_counter() - began, cpu_s(pid) - before
    if left := [answer for answer in answers if isinstance(answer, Unanswered)]:
        raise SystemExit(f"{len(left)} questions got no answer: {left[0].reason}")
    assert isinstance(answers[0], Answer)
    return len(answers) / took, len(answers) / used, answers[0].p_a


def main() -> None:
    """Run the ways in turn; print questions a second of each, and the ratios of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder that `transformers serve` takes")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=32, help="of the language model that is made")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--side", type=int, default=28, help="of its frames, in pixels; a multiple of 14")
    given = parser.parse_args()
    colours = [(40 * n % 256, 90, 255 - 20 * n % 256) for n in range(given.frames)]
    frames = [Image.new("RGB", (704, 396), colour) for colour in colours]
    with tempfile.TemporaryDirectory() as home:
        if given.model is None:
            from tests.endpoint import tiny_llava

            given.model = tiny_llava.make(Path(home) / "llava", width=given.width, layers=given.layers, side=given.side)
        ways = {
            "chat": ("chat", questions(MAX_NEW_TOKENS["choice"])),
            "chat, one token": ("chat", questions(1)),
            "systemone": ("systemone", questions(1)),
        }
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        with serving(given.model.resolve()) as (address, pid):
            clients = {}
            for api in ("chat", "systemone"):
                spec = EndpointSpec(model=str(given.model.resolve()), base_url=address, api=api, timeout_s=600)  # type: ignore[arg-type]
                clients[api] = Client(spec, Server(address, None), api)
                rate(clients[api], frames[:1], questions(1), pid)  # loads the model
            for number in range(given.rounds):
                for name, (api, asked) in ways.items():
                    wall, cpu, p_a = rate(clients[api], frames, asked, pid)
                    rates[name].append((wall, cpu))
                    shown = "" if p_a is None else f", P(A) of the first {p_a:.6f}"
                    print(
                        f"round {number + 1}: {name}: {wall:.2f} questions/s, {cpu:.2f} a CPU second{shown}", flush=True
                    )
            for client in clients.values():
                client.close()
    for number, unit in enumerate(("second", "CPU second of the server")):
        medians = {name: statistics.median(pair[number] for pair in found) for name, found in rates.items()}
        for name in ("chat", "chat, one token"):
            ratio = medians["systemone"] / medians[name]
            print(f"systemone / {name}, questions a {unit}: {ratio:.2f}")


if __name__ == "__main__":
    main()
