"""Where a record's numbers come from: identities of models, commands of inputs, the machine that answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deckbench.predictions import PredictionFiles
from deckbench.record import provenance
from deckbench.record.facts import SERVER
from deckbench.suite import DataSpec, Suite


def identity_of(ref: str) -> Any:
    """Hashes of a model. A baseline is identified by its name, and by the hash of the labels or dataset it names."""
    from deckbench.models import baselines
    from deckbench.models.load import model_identity

    name, _, source = ref.partition(":")
    if name not in baselines.NAMES:
        return model_identity(ref)
    identity = baselines.load(ref).identity if source not in {"", "gold"} else {}
    return {"baseline": ref, **{key: value for key, value in identity.items() if key != "name"}}


def is_served(ref: str) -> bool:
    """Whether a server runs this model: on another machine, so its latency is not measured."""
    return ref.removeprefix("blind:").startswith("endpoint:")


def answered_on(ref: str, predictions: Path) -> dict[str, Any]:
    """The machine, packages and container of some predictions, as `write_record` takes them: existing predictions may
    come from another device or an older environment than the one that writes the record."""
    manifest = PredictionFiles(predictions).manifest
    observed = json.loads(manifest.read_text(encoding="utf-8"))["observed"] if manifest.is_file() else {}
    return {
        "machine": SERVER if is_served(ref) else observed.get("hardware"),
        "packages": observed.get("packages"),
        "container": observed.get("container"),
    }


def shown_path(path: str, folder: Path) -> str:
    """A path of a suite as a record shows it: never absolute. folder: the suite's."""
    if not Path(path).is_absolute():
        return path
    within = Path(path).is_relative_to(folder.resolve())
    return Path(path).relative_to(folder.resolve()).as_posix() if within else Path(path).name


def shown_model(ref: str) -> str:
    """A reference to a model as a record shows it: of an absolute path, its last part."""
    from deckbench.models.families import split_path

    before, path, after = split_path(ref)
    return f"{before}{path.name}{after}" if path is not None and path.is_absolute() else ref


def pool_command(suite: Suite, name: str, folder: Path) -> str:
    """The command that renders a synthetic pool, or the path of any other. folder: the suite's."""
    spec = suite.pools[name]
    if spec.is_argument:
        return f"--pool {name}=pools/{name}"
    if spec.synth is None:
        return shown_path(str(spec.path), folder)
    synth = spec.synth
    size = f"{synth.size[0]}x{synth.size[1]}"
    tail = (" --shifted" if synth.shifted else "") + (
        f" --protocol {shown_path(synth.protocol, folder)}" if synth.protocol else ""
    )
    return f"deckbench pool synth pools/{name} --frames {synth.frames} --size {size} --seed {synth.seed}{tail}"


def build_command(spec: DataSpec, suite: Suite, folder: Path) -> str:
    """The command that builds a dataset, for a shell in `folder`, the suite's."""
    pool = suite.pools[spec.pool].path
    return provenance.build_command(
        shown_path(spec.task, folder),
        pool=shown_path(pool, folder) if pool else f"pools/{spec.pool}",
        split=spec.split,
        seed=suite.seed,
        ontology=spec.ontology and shown_path(spec.ontology, folder),
        qa=spec.qa and shown_path(spec.qa, folder),
        options=spec.options,
        lang=spec.lang,
    )
