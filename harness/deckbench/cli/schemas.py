"""JSON Schemas of the files that DeckBench reads, made from the very models that read them.

A schema says what a file may hold field by field. The reader checks more: that names in it exist, that fields fit
together. It is also milder in small things, such as a number in quotes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from deckbench.errors import InputError

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class Kind:
    """A kind of file. model: `module:class` of its pydantic model. table: the file is a map of names to such things.

    beside: fields that the reader adds and no file holds.
    """

    about: str
    model: str
    table: bool = False
    beside: Collection[str] = ()


KINDS = {
    "suite": Kind("a suite: models x curricula x tasks x pools (yaml)", "deckbench.suite:Suite"),
    "task": Kind("task.yaml of a task", "deckbench.task:TaskSpec"),
    "questions": Kind("questions.yaml of a task: its question bank", "deckbench.questions:Bank"),
    "scene-text": Kind("one line of scenes.jsonl, which `deckbench annotate` writes", "deckbench.scenetexts:SceneText"),
    "prompt": Kind("a prompt of `deckbench annotate` (yaml)", "deckbench.endpoint.structured.prompt:PromptFile"),
    "ontology": Kind("what the classes of a pool mean (yaml)", "deckbench.ontology:Ontology"),
    "sample": Kind("one line of a JSONL that `deckbench build` made", "deckbench.dataset:OurRow"),
    "messages": Kind("one line of a JSONL from elsewhere", "deckbench.dataset:Row"),
    "train": Kind("settings of a training (yaml)", "deckbench.train.config:TrainConfig"),
    "endpoint": Kind("a model behind a server (yaml)", "deckbench.endpoint.spec:EndpointSpec"),
    "score": Kind("score.json", "deckbench.record.metrics_schema:Metrics"),
    "calibration": Kind("what `deckbench calibrate` writes", "deckbench.record.calibration:CalibrationFile"),
    "judged": Kind("what a judge said of predictions (FILE.judge.json)", "deckbench.record.judged:Judged"),
    "record": Kind("record.json of a record", "deckbench.record.schema:Record"),
    "observed": Kind("`observed` in the manifest of a record", "deckbench.record.schema:Observed"),
    "steps": Kind("the file that `deckbench steps` writes", "deckbench.protocol.stepsfile:StepsFile"),
    "texts": Kind("templates of the texts for `deckbench steps` (yaml)", "deckbench.protocol.texts:Texts"),
    "image": Kind(
        "containers.toml: the container images",
        "deckbench.containers.spec:Image",
        table=True,
        beside=("name", "folder"),
    ),
}


def schema_of(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one of KINDS. Raises InputError for another name."""
    if name not in KINDS:
        raise InputError(f"there is no schema {name!r}", "schema", f"one of: {', '.join(KINDS)}")
    kind = KINDS[name]
    module, _, model = kind.model.partition(":")
    schema: dict[str, Any] = getattr(import_module(module), model).model_json_schema(by_alias=True)
    for field in kind.beside:
        del schema["properties"][field]
        schema["required"] = [required for required in schema["required"] if required != field]
    if kind.table:
        parts = {"$defs": schema.pop("$defs", {})}
        schema = {"type": "object", "additionalProperties": schema, **parts}
    return {"$schema": DIALECT, "title": kind.about, **{key: schema[key] for key in schema if key != "title"}}
