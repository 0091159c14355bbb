"""Run a suite: every step in order, each skipped when its output is already there.

A step's folder name ends in its key: a hash of the step's parameters and of its inputs' content. So a changed suite
makes new folders beside the old ones, an unchanged one finds all done, and a broken run goes on where it stopped.
"""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deckbench import __version__, artifact
from deckbench.errors import InputError
from deckbench.progress import say
from deckbench.suite import BenchSpec, DataSpec, Suite, TrainSpec, load_suite, split_weight

BASE = "base"
UNKNOWN = "unknown"
# The machine of a model behind a server, as a record has it.
SERVER = {
    "device": "server",
    "cpu": "a server",
    **dict.fromkeys(("architecture", "capability", "os"), UNKNOWN),
    **dict.fromkeys(("cores", "threads"), 0),
}


@dataclass(frozen=True)
class Made:
    """One finished step: where it lies and its identity."""

    path: Path
    content_hash: str


@dataclass
class Run:
    """What one run of a suite has made so far. Folders lie under `work`."""

    suite: Suite
    ref: str
    file: Path
    work: Path
    pools: dict[str, Made] = field(default_factory=dict)
    data: dict[str, Made] = field(default_factory=dict)
    adapters: dict[tuple[str, str], Made] = field(default_factory=dict)
    audits: dict[str, dict[str, Any]] = field(default_factory=dict)
    identities: dict[str, Any] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)

    def identity(self, ref: str) -> Any:
        """`identity_of`, once a run: hashing the weights of a large model takes minutes."""
        if ref not in self.identities:
            self.identities[ref] = identity_of(ref)
        return self.identities[ref]

    def step(self, room: str, name: str, key: dict[str, Any], make: Callable[[Path], Any]) -> Made:
        """The folder of a step, made if it is not there. `key` holds all that decides its content."""
        path = self.place(room, name, key)
        if not (path / artifact.MANIFEST).is_file():
            began = time.monotonic()
            say(f"{room} {name} ...")
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)
            say(f"{room} {name}: {time.monotonic() - began:.1f} s")
            self.made.append(f"{room}/{name}")
        return Made(path, artifact.read(path).content_hash)

    def place(self, room: str, name: str, key: dict[str, Any]) -> Path:
        """Where a step's output lies."""
        digest = artifact.hash_json({"room": room, "version": __version__, **key})
        return self.work / room / f"{name.replace('+', '_').replace(':', '-').replace('/', '-')}-{digest[:8]}"


@dataclass(frozen=True)
class Target:
    """One row of the leaderboard: a model (or baseline) at a curriculum, on one test set."""

    ref: str
    curriculum: str | None
    data: str
    condition: str

    @property
    def label(self) -> str:
        """`tiny-glm4v:S1+S2:S3`, what `--only` takes."""
        return f"{self.ref}:{self.curriculum or 'baseline'}:{self.data}"


def targets_of(suite: Suite) -> list[Target]:
    """All rows a suite asks for, in its order."""
    rows: list[tuple[str, str | None]] = [
        (model.ref, curriculum) for model in suite.models for curriculum in model.curricula
    ]
    rows += [(baseline, None) for baseline in suite.baselines]
    return [Target(ref, curriculum, t.data, t.condition) for ref, curriculum in rows for t in suite.tests]


def run_suite(ref: str, *, work: Path | None = None, only: str | None = None) -> dict[str, Any]:
    """Run the suite `ref` (a yaml or an embedded name) in `work`; returns {page, records, made, seconds}.

    only: the label of one row; nothing else is made, no latency is measured and the page has that row alone. Raises
    InputError where the suite or a pool is wrong, OutsideError where the disk fails; run again to go on.
    """
    suite, file = load_suite(ref)
    run = Run(suite, ref, file, (work or Path("work") / suite.name).resolve())
    began = time.monotonic()
    targets = [target for target in targets_of(suite) if only in (None, target.label)]
    if not targets:
        known = ", ".join(target.label for target in targets_of(suite))
        raise InputError(f"the suite has no row {only!r}", "--only", f"one of: {known}")
    chains = {(t.ref, name) for t in targets if t.curriculum for name in needed(suite, [t.curriculum])}
    for name in data_needed(suite, targets, {name for _, name in chains}):
        make_pool(run, suite.data[name].pool)
        run.data[name] = make_data(run, name, suite.data[name])
        if suite.data[name].audit and suite.data[name].split != "test-only":
            run.audits[name] = make_audit(run, name)
    for model in suite.models:
        for curriculum, spec in suite.train.items():
            if (model.ref, curriculum) in chains:
                settings = {**spec.config, **model.config.get(curriculum, {})}
                run.adapters[model.ref, curriculum] = make_adapter(run, model.ref, curriculum, spec, settings)
    records = []
    timings: dict[tuple[str, str], dict[str, Any]] = {}
    for target in targets:
        who = (target.ref, target.curriculum or "")
        if suite.bench and not is_served(target.ref) and only is None and target.curriculum and who not in timings:
            timings[who] = make_bench(run, *who, run.adapters.get(who), suite.bench)
        records.append(make_record(run, target, run.adapters.get(who), timings.get(who, {})))
    page = make_site(run, records)
    return {
        "page": page.as_uri(),
        "records": [str(record) for record in records],
        "made": run.made,
        "seconds": round(time.monotonic() - began, 3),
    }


def data_needed(suite: Suite, targets: list[Target], curricula: set[str]) -> list[str]:
    """The datasets some rows stand on, in the suite's order. Raises InputError as `learned_part` does."""
    names = {target.data for target in targets}
    names |= {name for target in targets if (name := learned_part(suite, target)) is not None}
    names |= {split_weight(text)[0] for curriculum in curricula for text in suite.train[curriculum].data}
    if suite.bench:
        names |= {name for name in suite.bench.data if any(target.curriculum for target in targets)}
    return [name for name in suite.data if name in names]


def needed(suite: Suite, curricula: list[str]) -> list[str]:
    """The trainings that some curricula stand on, earlier ones first."""
    wanted = set()
    for name in curricula:
        step: str | None = name if name != BASE else None
        while step is not None:
            wanted.add(step)
            step = suite.train[step].init
    return [name for name in suite.train if name in wanted]


def make_pool(run: Run, name: str) -> None:
    """Render a pool, or take one from disk."""
    spec = run.suite.pools[name]
    if name in run.pools:
        return
    if spec.path is not None:
        from deckbench.yolo.read import read_pool

        path = (run.file.parent / spec.path).resolve()
        run.pools[name] = Made(path, read_pool(path).content_hash)
    if spec.synth is not None:
        from deckbench.pool.synth import synth_pool

        values = spec.synth.model_dump()
        run.pools[name] = run.step("pools", name, values, lambda out: synth_pool(out, **values))


def make_data(run: Run, name: str, spec: DataSpec) -> Made:
    """Build one dataset."""
    from deckbench.build import build_dataset
    from deckbench.task import load_task

    pool = run.pools[spec.pool]
    beside: dict[str, Any] = {"ontology": beside_file(run, spec.ontology), "qa": beside_file(run, spec.qa)}
    key = {
        "pool": pool.content_hash,
        "task": load_task(spec.task, options=spec.options, **beside).content_hash,
        "split": spec.split,
        "lang": spec.lang,
        "options": spec.options,
        "seed": run.suite.seed,
    }

    def make(out: Path) -> None:
        build_dataset(
            spec.task,
            pool=pool.path,
            out=out,
            lang=spec.lang,
            split=spec.split,
            seed=run.suite.seed,
            options=spec.options,
            **beside,
        )

    return run.step("data", name, key, make)


def beside_file(run: Run, relative: str | None) -> Path | None:
    """A file the suite names, relative to the suite file."""
    return run.file.parent / relative if relative else None


def make_audit(run: Run, name: str) -> dict[str, Any]:
    """Audit a dataset once; the result is an artifact of its own."""
    from deckbench.build.audit import audit

    data = run.data[name]

    def make(out: Path) -> None:
        result = audit(data.path, seed=run.suite.seed)
        with artifact.writing(out, "audit", inputs={"dataset": data.content_hash}, seed=run.suite.seed) as draft:
            (draft.path / "audit.json").write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")

    made = run.step("audits", name, {"data": data.content_hash, "seed": run.suite.seed}, make)
    result: dict[str, Any] = json.loads((made.path / "audit.json").read_text(encoding="utf-8"))
    if not result["passed"]:
        say(f"audit {name}: FAILED; the page will say so ({made.path / 'audit.json'})")
    return result


def make_adapter(run: Run, ref: str, curriculum: str, spec: TrainSpec, settings: dict[str, Any]) -> Made:
    """Train one curriculum stage with some settings, mixing in replayed data where the suite says so."""
    from deckbench.train import train
    from deckbench.train.config import named_configs, read_source, settle

    init = run.adapters[ref, spec.init] if spec.init else None
    parts = [(run.data[name], weight) for name, weight in (split_weight(text) for text in spec.data)]
    data = parts[0][0] if len(parts) == 1 else make_mix(run, curriculum, parts)
    key = {
        "model": run.identity(ref),
        "data": data.content_hash,
        "init": init.content_hash if init else None,
        "config": settings,
        "seed": run.suite.seed,
    }

    config = Path(ref) if ref in named_configs() else None
    # Stages of a curriculum share pictures, so the features of a vision that none of them trains are made once.
    frozen = settle(read_source(config), settings).vision == "absent" and keeps_features(ref)
    kept = {"feature_cache": str(run.work / "features")} if frozen else {}

    def make(out: Path) -> None:
        train(
            model=ref,
            data=data.path,
            out=out,
            init=init.path if init else None,
            config=config,
            overrides={**settings, **kept},
            resume=out.with_name(f"{out.name}.partial").exists(),
            seed=run.suite.seed,
        )

    return run.step("adapters", f"{ref}-{curriculum}", key, make)


def keeps_features(ref: str) -> bool:
    """Whether a model's network takes features that were made before: the families of our own do."""
    from deckbench.models.load import family_of, split_ref

    return family_of(split_ref(ref)[0]) != "auto"


def make_mix(run: Run, curriculum: str, parts: list[tuple[Made, float]]) -> Made:
    """The incremental training set of a curriculum."""
    from deckbench.build.mix import mix

    key = {"parts": [[made.content_hash, weight] for made, weight in parts], "seed": run.suite.seed}
    sources = [(made.path, weight) for made, weight in parts]
    return run.step("data", f"mix-{curriculum}", key, lambda out: mix(sources, out=out, seed=run.suite.seed))


def make_bench(run: Run, ref: str, curriculum: str, adapter: Made | None, spec: BenchSpec) -> dict[str, Any]:
    """Latency of one model at one curriculum: dataset name -> measured results."""
    from deckbench.bench import bench

    results = {}
    for name in spec.data:
        data = run.data[name]
        key = {
            "model": run.identity(ref),
            "adapter": adapter.content_hash if adapter else None,
            "data": data.content_hash,
            "min_seconds": spec.min_seconds,
        }
        path = adapter.path if adapter else None

        def make(out: Path, path: Path | None = path, data: Made = data) -> None:
            bench(model=ref, adapter=path, data=data.path, engine="torch", out=out, min_seconds=spec.min_seconds)

        made = run.step("bench", f"{ref}-{curriculum}-{name}", key, make)
        results[name] = artifact.read(made.path).observed["results"]
    return results


def make_record(run: Run, target: Target, adapter: Made | None, timing: dict[str, Any]) -> Path:
    """Answers, score and record of one row; returns the record's folder."""
    from deckbench.record.write import write_record
    from deckbench.task import load_task

    suite, name, spec = run.suite, target.data, run.suite.data[target.data]
    data, pool = run.data[name], run.pools[spec.pool]
    predictions, result = answer_and_score(run, target, adapter)
    command = shlex.join(["deckbench", "run", run.ref, "--only", target.label])
    inputs = [
        {"name": "dataset", "kind": "dataset", "sha256": data.content_hash, "source": build_command(spec, suite)},
        {"name": "pool", "kind": "pool", "sha256": pool.content_hash, "source": pool_command(suite, spec.pool)},
        {"name": "suite", "kind": "suite", "sha256": artifact.hash_file(run.file), "source": run.ref},
    ]
    if adapter:
        inputs.append({"name": "adapter", "kind": "adapter", "sha256": adapter.content_hash, "source": command})
    audit = run.audits.get(name)
    baseline = target.curriculum is None
    return write_record(
        run.work / "records",
        model={
            "name": run.identity(target.ref)["name"] if is_served(target.ref) else target.ref,
            "family": "baseline" if baseline else run.identity(target.ref)["family"],
            "kind": "baseline" if baseline else "model",
            "weights": "none" if baseline and not target.ref.startswith("blind:") else "trained",
            "identity": flat({**run.identity(target.ref), "adapter": adapter.content_hash if adapter else None}),
        },
        curriculum=target.curriculum,
        task=str(artifact.read(data.path, "dataset").content["params"]["task"]),
        stage=load_task(spec.task).stage,
        pool={
            "name": spec.pool,
            "hash": pool.content_hash,
            "synthetic": bool(artifact.read(data.path, "dataset").content["params"]["synthetic"]),
            "part": part_of(spec, target.condition),
            "condition": target.condition,
            "board": suite.name,
        },
        dataset=data.content_hash,
        command=command,
        seed=suite.seed,
        inputs=inputs,
        score=result,
        predictions=predictions,
        data=data.path,
        bench=timing.get(name),
        audit={"passed": bool(audit["passed"]), "source": f"deckbench audit ({name})"} if audit else None,
        **answered_on(target.ref, predictions),
    )


def is_served(ref: str) -> bool:
    """Is this a model behind a server? It runs on a machine that is not this one, and whose times are not ours."""
    return ref.removeprefix("blind:").startswith("endpoint:")


def answered_on(ref: str, predictions: Path) -> dict[str, Any]:
    """The machine, packages and container that gave the answers, as `write_record` takes them: answers that were there
    already may stem from another device or an older environment than the one that writes the record."""
    place = predictions.with_name(f"{predictions.stem}.manifest.json")
    observed = json.loads(place.read_text(encoding="utf-8"))["observed"] if place.is_file() else {}
    return {
        "machine": SERVER if is_served(ref) else observed.get("hardware"),
        "packages": observed.get("packages"),
        "container": observed.get("container"),
    }


def part_of(spec: DataSpec, condition: str) -> str:
    """Are the frames like those of training? Not where the suite says so, nor on frames of their own by another name.

    "another lab" on a pool of which nothing was trained on is a shift too, whatever the suite calls it.
    """
    alone = spec.split == "test-only" and condition != "same distribution"
    return "shifted" if alone or condition == "shifted" else "same distribution"


def answer_and_score(run: Run, target: Target, adapter: Made | None) -> tuple[Path, dict[str, Any]]:
    """The predictions of one row and the content of their score.json; each is made once."""
    from deckbench.infer import infer
    from deckbench.score import score

    data, learned = run.data[target.data], learned_part(run.suite, target)
    key = {
        "model": run.identity(target.ref),
        "adapter": adapter.content_hash if adapter else None,
        "data": data.content_hash,
        "train": run.data[learned].content_hash if learned else None,
        "seed": run.suite.seed,
    }
    folder = run.place("answers", target.label, key)
    predictions, scores = folder / "predictions.csv", folder / "score.json"
    if not predictions.is_file():
        say(f"answers {target.label} ...")
        began = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        infer(
            model=f"{target.ref}:{run.data[learned].path}" if learned else target.ref,
            adapter=adapter.path if adapter else None,
            data=data.path,
            out=predictions,
        )
        say(f"answers {target.label}: {time.monotonic() - began:.1f} s")
        run.made.append(f"answers/{target.label}")
    if not scores.is_file():
        own = beside_file(run, run.suite.data[target.data].ontology)
        score(predictions, data=data.path, out=scores, seed=run.suite.seed, ontology=own)
    result: dict[str, Any] = json.loads(scores.read_text(encoding="utf-8"))
    return predictions, result


def learned_part(suite: Suite, target: Target) -> str | None:
    """The dataset whose training part `majority` and `nearest` learn from; None for what learns nothing here.

    It is the asked one, or where that has no training part another one of its task, in its language if there is one.
    Raises InputError when no dataset of the task has a training part.
    """
    if target.curriculum is not None or target.ref not in {"majority", "nearest"}:
        return None
    asked = suite.data[target.data]
    able = [name for name, spec in suite.data.items() if spec.task == asked.task and spec.split != "test-only"]
    if target.data in able:
        return target.data
    alike = [name for name in able if suite.data[name].lang == asked.lang]
    if not able:
        what = f"the baseline {target.ref} has nothing to learn from: no dataset of {asked.task} has a training part"
        raise InputError(what, f"data {target.data}", f"add one that is split, or leave {target.ref} out of baselines")
    return (alike or able)[0]


def identity_of(ref: str) -> Any:
    """Hashes of what answers; a baseline is its name, and the hash of the labels or dataset that the name points to."""
    from deckbench.models import baselines
    from deckbench.models.load import model_identity

    name, _, place = ref.partition(":")
    if name not in baselines.NAMES:
        return model_identity(ref)
    pointed = baselines.load(ref).identity if place not in {"", "gold"} else {}
    return {"baseline": ref, **{key: value for key, value in pointed.items() if key != "name"}}


def flat(value: Any) -> dict[str, str]:
    """The hashes of an identity by name, nested names joined with dots."""
    if not isinstance(value, dict):
        return {"hash": str(value)}
    found: dict[str, str] = {}
    for key, entry in value.items():
        if isinstance(entry, dict):
            found |= {f"{key}.{name}": text for name, text in flat(entry).items()}
        elif entry is not None:
            found[str(key)] = str(entry)
    return found


def pool_command(suite: Suite, name: str) -> str:
    """How the pool is made, or where it lies."""
    spec = suite.pools[name]
    if spec.synth is None:
        return str(spec.path)
    synth = spec.synth
    size = f"{synth.size[0]}x{synth.size[1]}"
    tail = " --shifted" if synth.shifted else ""
    return f"deckbench pool synth pools/{name} --frames {synth.frames} --size {size} --seed {synth.seed}{tail}"


def build_command(spec: DataSpec, suite: Suite) -> str:
    """How the dataset is built, as it can be typed beside the suite."""
    pool = suite.pools[spec.pool].path or f"pools/{spec.pool}"
    words = ["deckbench", "build", spec.task, "--pool", pool, "--out", "data"]
    words += ["--split", spec.split, "--seed", str(suite.seed)]
    for name, value in (("ontology", spec.ontology), ("qa", spec.qa)):
        words += [f"--{name}", value] if value else []
    for key, option in spec.options.items():
        words += ["--set", f"{key}={option if isinstance(option, str) else json.dumps(option)}"]
    return shlex.join(words + (["--lang", spec.lang] if spec.lang != "en" else []))


def make_site(run: Run, records: list[Path]) -> Path:
    """The leaderboard of this run's records, freshly rendered."""
    from deckbench.report import report

    current = run.work / "current"
    shutil.rmtree(current, ignore_errors=True)
    current.mkdir(parents=True)
    for record in records:
        shutil.copytree(record, current / record.name)
    report(current, out=run.work / "site")
    return run.work / "site" / "index.html"
