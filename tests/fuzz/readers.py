"""The readers, each with good input to break. `READERS[name](folder)` makes the input below `folder`."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.protocol.texts import OURS
from tests.record import fake, forge

TASKS = Path(__file__).resolve().parents[2] / "tasks"
PROTOCOLS = Path(__file__).resolve().parents[1] / "protocol" / "data"


@dataclass(frozen=True)
class Target:
    """A file to break and how it is read.

    sealed: the artifact whose hashes are made again, so that the reader gets past them. refusals: what the reader may
    raise besides a DeckBenchError. packed: the file holds these bytes in gzip.
    """

    file: Path
    read: Callable[[], Any]
    sealed: Path | None = None
    refusals: tuple[type[Exception], ...] = ()
    packed: bool = False
    suffix: str = field(default="")

    def good(self) -> bytes:
        """The bytes to break."""
        data = self.file.read_bytes()
        return gzip.decompress(data) if self.packed else data

    def write(self, data: bytes) -> None:
        """Put `data` in place, and make the hashes of its artifact fit."""
        self.file.write_bytes(gzip.compress(data, 1) if self.packed else data)
        if self.sealed is None or self.file.name == artifact.MANIFEST:
            return
        record = self.sealed / "record.json"
        if self.packed:
            value = json.loads(record.read_text(encoding="utf-8"))
            record.write_text(json.dumps({**value, "samples": hashlib.sha256(data).hexdigest()}), encoding="utf-8")
        seal(self.sealed)
        if record.is_file():
            with contextlib.suppress(Exception):  # a record that is no JSON, or no record
                forge.seal(self.sealed)


def seal(folder: Path) -> None:
    """Make the hashes in an artifact's manifest fit its files again."""
    place = folder / artifact.MANIFEST
    manifest = json.loads(place.read_text(encoding="utf-8"))
    manifest["content"]["files"] = artifact.list_files(folder)
    manifest["content_hash"] = artifact.hash_json(manifest["content"])
    place.write_text(json.dumps(manifest), encoding="utf-8")


Makers = dict[str, Callable[[Path], Target]]


def small_pool(folder: Path) -> Path:
    from deckbench.pool.synth import synth_pool

    out = folder / "pool"
    synth_pool(out, frames=3, size=(320, 180), seed=3, workers=1)
    return out


def scan(pool: Path) -> None:
    """Read a pool; its errors are one message, as for every verb."""
    from deckbench.yolo.read import read_pool

    read_pool(pool, workers=1)


CHECKS_HEADER = "frame,step,phase,check,check_zh,expected,verdict,anomaly,region,caption\n"
CHECKS_ROW = "load,pre,Is a plate in slot 1?,有板吗,A plate.,anomaly,missing,0 0 0.5 0.5;0.1 0.1 1 1,No plate.\n"


def pool_file(name: str) -> Callable[[Path], Target]:
    def make(folder: Path) -> Target:
        pool = small_pool(folder)
        file = sorted((pool / "labels").iterdir())[0] if name == "labels" else pool / name
        if name == "notes.json":
            (pool / "dataset.yaml").unlink()
            (pool / "frames.csv").unlink()
            names = (pool / "obj.names").read_text().split()
            (pool / "obj.names").unlink()
            listed = [{"id": number, "name": name} for number, name in enumerate(names)]
            file.write_text(json.dumps({"categories": listed, "info": {"year": 2026}}))
        if name == "checks.csv":
            frame = sorted((pool / "images").iterdir())[0].name
            file.write_text(f"{CHECKS_HEADER}{frame},{CHECKS_ROW}", encoding="utf-8")
        return Target(file, lambda: scan(pool))

    return make


def built(folder: Path) -> tuple[Path, Path]:
    """A pool and a dataset of it."""
    from deckbench.build import build_dataset

    pool = small_pool(folder)
    build_dataset("ot2-guided@1", pool=pool, out=folder / "data", split="test-only", workers=1)
    return pool, folder / "data"


def dataset_file(name: str) -> Callable[[Path], Target]:
    def make(folder: Path) -> Target:
        from deckbench import gold
        from deckbench.dataset import dataset_hash, read_samples

        _, data = built(folder)

        def read() -> None:
            dataset_hash(data)
            read_samples(data, "test")
            gold.read_tasks(data)
            gold.read_labels(data)

        return Target(data / name, read, sealed=data)

    return make


def lab_rows(folder: Path) -> Target:
    """A lab's own JSONL: other keys allowed, no manifest."""
    from deckbench.dataset import read_samples

    _, data = built(folder)
    (data / artifact.MANIFEST).unlink()
    return Target(data / "test.jsonl", lambda: read_samples(data, "test"))


def questions_table(folder: Path) -> Target:
    from deckbench.dataset import read_file

    shutil.copy(sorted((small_pool(folder) / "images").iterdir())[0], folder / "x.jpg")
    file = folder / "questions.csv"
    file.write_text("image,question,answer,id,kind\nx.jpg,is it?,A,1,choice\nx.jpg,what?,a tip,2,open\n")
    return Target(file, lambda: read_file(file))


def old_files(folder: Path) -> Target:
    from deckbench.build import import_old

    old = folder / "old"
    (old / "S1").mkdir(parents=True)
    shutil.copy(sorted((small_pool(folder) / "images").iterdir())[0], old / "x.jpg")
    file = old / "S1" / "train.json"
    turns = [{"from": "human", "value": "<image>\nis it?"}, {"from": "gpt", "value": "yes"}]
    file.write_text(json.dumps([{"id": "1", "image": "x.jpg", "conversations": turns}] * 3))
    out = folder / "out"

    def read() -> None:
        try:
            import_old(old, out=out, split="train-only")
        finally:
            shutil.rmtree(out, ignore_errors=True)

    return Target(file, read)


def split_file(name: str) -> Callable[[Path], Target]:
    def make(folder: Path) -> Target:
        from deckbench.split import read_or_split, write_split
        from deckbench.yolo.read import read_pool

        pool = read_pool(small_pool(folder), workers=1)
        write_split(pool, "test-only", 0, folder / "split")
        return Target(folder / "split" / name, lambda: read_or_split(pool, str(folder / "split"), 0), folder / "split")

    return make


def yaml_file(source: str, read: Callable[[Path], Any]) -> Callable[[Path], Target]:
    def make(folder: Path) -> Target:
        file = folder / "some.yaml"
        if (TASKS / source).is_file():
            shutil.copy(TASKS / source, file)
        else:
            file.write_text(source)
        return Target(file, lambda: read(file))

    return make


def read_suite(file: Path) -> None:
    from deckbench.suite import load_suite

    load_suite(str(file))


def read_ontology(file: Path) -> None:
    from deckbench.ontology import load_ontology

    load_ontology(file)


def read_bank(file: Path) -> None:
    from deckbench.questions import load_bank

    load_bank(file)


def read_training(file: Path) -> None:
    from deckbench.train.config import read_source, settle

    settle(read_source(file), {})


def read_endpoint(file: Path) -> None:
    from deckbench.endpoint.spec import find_server, read_spec

    find_server(read_spec(f"endpoint:{file}"), {})


def task_file(folder: Path) -> Target:
    from deckbench.task import load_task

    task = folder / "task"
    shutil.copytree(TASKS / "ot2-guided" / "v1", task)
    return Target(task / "task.yaml", lambda: load_task(str(task)))


def answers_file(name: str) -> Callable[[Path], Target]:
    """Predictions and what lies beside them, as `score` reads them."""

    def make(folder: Path) -> Target:
        from deckbench.record.scores import read_score, read_scored, scored_path
        from deckbench.score import score

        data = fake.dataset(folder / "data", n=12)
        predictions = fake.predictions(folder / "p.csv", data)
        scores = fake.score(predictions, data)
        if name == "p.manifest.json":
            content = {"kind": "predictions", "inputs": {"model": {"name": "m"}}, "params": {"split": "test"}}
            content["files"] = {"predictions.csv": {"sha256": artifact.hash_file(predictions)}}
            manifest = {"schema": 1, "content": content, "content_hash": artifact.hash_json(content), "observed": {}}
            (folder / name).write_text(json.dumps(manifest))
        target = {"score.json": scores, "scored.csv": scored_path(scores)}.get(name, folder / name)

        def read() -> None:
            if target.name in ("p.csv", "p.manifest.json"):
                score(predictions, data=data)
            else:
                read_score(scores)
                read_scored(scores)

        return Target(target, read)

    return make


def calibration_file(folder: Path) -> Target:
    """What `calibrate` writes, as `score` reads it; with its hash made again, so that the content is looked at."""
    from deckbench.calibrate import calibrate
    from deckbench.record.calibration import read_calibration
    from tests.calibrate.calibrate_helpers import world

    data, val, _ = world(folder, temperatures={"verdict": 2.0}, n=12)
    made, sealed = folder / "calibration.json", folder / "sealed.json"
    calibrate(val, data=data, out=made)

    def read() -> None:
        sealed.write_bytes(made.read_bytes())
        with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
            value = json.loads(made.read_bytes())
            value["content_hash"] = artifact.hash_json(value["content"])
            sealed.write_text(json.dumps(value))
        read_calibration(sealed)

    return Target(made, read)


def record_file(name: str) -> Callable[[Path], Target]:
    def make(folder: Path) -> Target:
        from deckbench.record.read import read_record, read_samples
        from deckbench.report import report

        record = fake.record(folder / "records", folder / "work", n=12)

        def read() -> None:
            read_samples(read_record(record))
            report(folder / "records", out=folder / "site", check=True)

        return Target(record / name, read, record, packed=name.endswith(".gz"), suffix=".csv" if "csv" in name else "")

    return make


def reply(folder: Path) -> Target:
    from deckbench.endpoint.faults import Again, ErrorReply, NotAnswered, Refused
    from deckbench.endpoint.reply import read_reply

    file = folder / "reply.json"
    tops = [{"token": " B", "logprob": -0.2}, {"token": "A", "logprob": -1.7}]
    body = {
        "id": "1",
        "object": "chat.completion",
        "model": "m",
        "usage": {"prompt_tokens": 9, "completion_tokens": 1},
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "<think>x</think>B"},
                "logprobs": {"content": [{"token": "B", "logprob": -0.2, "top_logprobs": tops}]},
            }
        ],
    }
    file.write_text(json.dumps(body))
    refusals = (Again, ErrorReply, NotAnswered, Refused)
    return Target(file, lambda: read_reply(file.read_bytes(), letters=True), refusals=refusals)


def adapter_file(name: str) -> Callable[[Path], Target]:
    def make(folder: Path) -> Target:
        import torch
        from safetensors.torch import load_file, save_file

        from deckbench.train.lora import CONFIG, WEIGHTS, read_adapter

        out = folder / "adapter"
        config = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "q|v", "peft_type": "LORA"}
        with artifact.writing(out, "adapter", inputs={"base": {"name": "m", "family": "f", "hash": "0" * 64}}) as draft:
            (draft.path / CONFIG).write_text(json.dumps(config))
            save_file({"a": torch.zeros(4, 4), "b": torch.ones(2)}, draft.path / WEIGHTS)

        def read() -> None:
            from safetensors import SafetensorError

            read_adapter(out)
            try:
                load_file(out / WEIGHTS)
            except SafetensorError as error:  # what `load_weights` makes of it
                raise InputError(str(error)[:200]) from error

        return Target(out / name, read, out)

    return make


def lock_file(name: str) -> Callable[[Path], Target]:
    def make(folder: Path) -> Target:
        from deckbench.containers.lock import expand, read_wheels
        from deckbench.containers.spec import containers_folder, load_images

        shutil.copytree(containers_folder(), folder / "containers")

        def read() -> None:
            image = load_images(folder / "containers")["x86-cpu"]
            read_wheels(image)
            expand(image)

        def read_named() -> None:
            try:
                read()
            except KeyError as error:  # `image_named` says so
                raise InputError("unknown image") from error

        return Target(folder / "containers" / name, read_named)

    return make


def analysis_file(folder: Path) -> Target:
    """A protocol analysis, read, folded and put into words."""
    from deckbench.protocol.make import make_steps

    file = folder / "analysis.json"
    file.write_bytes(gzip.decompress((PROTOCOLS / "lids_and_places.json.gz").read_bytes()))
    return Target(file, lambda: make_steps(file, out=folder / "steps.json"))


def run_log(folder: Path) -> Target:
    """A run log, joined with its analysis, every moment of it asked for."""
    from deckbench.pool.run.log import follow, read_run
    from deckbench.pool.run.timeline import Timeline
    from deckbench.protocol import fold, read_analysis
    from tests.pool.run.simulate import START, log_of

    analysis = read_analysis(PROTOCOLS / "lids_and_places.json.gz")
    file = folder / "run.json"
    file.write_text(json.dumps(log_of(analysis)[0]), encoding="utf-8")

    def read() -> None:
        log = read_run(str(file))
        timeline = Timeline(follow(log, analysis), fold(analysis))
        for second in range(0, 200, 5):
            timeline.place(START.timestamp() + second, 0.5)
        json.dumps(list(log.raw), indent=1)

    return Target(file, read)


def frame_times(folder: Path) -> Target:
    """Times of frames in a csv."""
    from PIL import Image

    from deckbench.pool.run.times import read_shots

    (folder / "frames").mkdir()
    for name in "abcd":
        Image.new("RGB", (16, 16)).save(folder / "frames" / f"{name}.png")
    file = folder / "times.csv"
    rows = "".join(f"{name}.png,2026-11-30T14:46:1{number}.25+08:00\n" for number, name in enumerate("abcd"))
    file.write_text(f"frame,time\n{rows}", encoding="utf-8")
    return Target(file, lambda: read_shots(folder / "frames", times=None, table=file, zone="Asia/Shanghai"))


def read_texts(file: Path) -> None:
    from deckbench.protocol.texts import load_texts

    load_texts(file)


SUITE = "suites/smoke.yaml"
TRAINING = "epochs: 2\nlr: 1e-3\nbatch: 4\nrank: 8\nalpha: 16\ntargets: [q_proj, v_proj]\n"
ENDPOINT = "model: m\nbase_url: http://127.0.0.1:9/v1\nconcurrency: 4\npicture: jpeg\ntimeout_s: 10\n"
READERS: Makers = {
    "labels": pool_file("labels"),
    "dataset-yaml": pool_file("dataset.yaml"),
    "frames-csv": pool_file("frames.csv"),
    "checks-csv": pool_file("checks.csv"),
    "pool-without-yaml": pool_file("notes.json"),
    "ontology": yaml_file("ontology/ot2.yaml", read_ontology),
    "questions": yaml_file("ot2-guided/v1/questions.yaml", read_bank),
    "task": task_file,
    "suite": yaml_file(SUITE, read_suite),
    "training": yaml_file(TRAINING, read_training),
    "endpoint": yaml_file(ENDPOINT, read_endpoint),
    "dataset-rows": dataset_file("test.jsonl"),
    "lab-rows": lab_rows,
    "questions-csv": questions_table,
    "old-files": old_files,
    "samples-csv": dataset_file("samples.csv"),
    "gold-labels": dataset_file("labels.jsonl"),
    "gold-tasks": dataset_file("tasks.json"),
    "dataset-manifest": dataset_file(artifact.MANIFEST),
    "split": split_file("split.csv"),
    "split-manifest": split_file(artifact.MANIFEST),
    "predictions": answers_file("p.csv"),
    "predictions-manifest": answers_file("p.manifest.json"),
    "score": answers_file("score.json"),
    "scored": answers_file("scored.csv"),
    "calibration": calibration_file,
    "record": record_file("record.json"),
    "record-samples": record_file("samples.csv.gz"),
    "record-manifest": record_file(artifact.MANIFEST),
    "reply": reply,
    "adapter-config": adapter_file("adapter_config.json"),
    "adapter-weights": adapter_file("adapter_model.safetensors"),
    "analysis": analysis_file,
    "run-log": run_log,
    "frame-times": frame_times,
    "check-texts": yaml_file(str(OURS), read_texts),
    "container-images": lock_file("containers.toml"),
    "container-wheels": lock_file("x86-cpu/requirements.lock"),
    "container-wanted": lock_file("x86-cpu/requirements.in"),
}
NEED_TORCH = frozenset({"adapter-config", "adapter-weights"})
