"""What a record says, derived from what it was made from: pure functions of manifests and suites.

The writer of a record and its checker both derive here, so that a record cannot say anything else.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from deckbench.errors import InputError
from deckbench.record.metrics_schema import Calibrated, JudgeRef
from deckbench.record.schema import BASELINES
from deckbench.suite import CURRICULUM, Suite

SAME, SHIFTED = "same distribution", "shifted"
UNKNOWN = "unknown"
BENCH_DEFAULTS = {"min_seconds": 10.0, "max_queries": 5000, "warmup": 3, "threads": None}
# The machine of a model behind a server, as a record has it.
SERVER = {
    "device": "server",
    "cpu": "a server",
    **dict.fromkeys(("architecture", "capability", "os"), UNKNOWN),
    **dict.fromkeys(("cores", "threads"), 0),
}


def part_of(split: str, condition: str) -> str:
    """`shifted` or `same distribution`: where the test frames stand to the training frames.

    A pool that is only tested on is a shift, whatever its condition is called ("another lab").
    """
    alone = split == "test-only" and condition != SAME
    return SHIFTED if alone or condition == SHIFTED else SAME


def model_facts(identity: Mapping[str, Any], curriculum: str | None, name: str | None = None) -> dict[str, Any]:
    """The model and its curriculum, from its identity in a manifest. name: how it is called, else as there."""
    name = name or str(identity.get("name") or identity.get("baseline"))
    plain = name.partition(":")[0] in BASELINES  # no language model
    baseline = plain or name.startswith("blind:")
    if not baseline:
        check_curriculum(curriculum, identity.get("adapter"))
        curriculum = curriculum or "base"
    weights = "none" if plain else "random" if identity.get("weights") == "random" else "trained"
    return {
        "model": {
            "name": name,
            "family": "baseline"
            if baseline
            else str(identity.get("family") or name.partition(":")[0].partition("?")[0]),
            "kind": "baseline" if baseline else "model",
            "weights": weights,
            "identity": flat_identity({key: value for key, value in identity.items() if key != "dtype"}),
        },
        "curriculum": None if baseline else curriculum,
    }


def check_curriculum(curriculum: str | None, adapter: object) -> None:
    """Raises InputError where there is an adapter and nothing says which stages it has been through."""
    if curriculum is None and adapter is not None:
        what = "the manifests do not say which stages this adapter has been through; a record needs them"
        raise InputError(what, "--curriculum", "give it, such as --curriculum S1+S2")
    if curriculum is not None and not CURRICULUM.fullmatch(curriculum):
        raise InputError(f"{curriculum!r} is no name of a curriculum", "--curriculum", "write it like S1+S2")


def flat_identity(value: Any) -> dict[str, str]:
    """The hashes of an identity by name, nested names joined with dots."""
    if not isinstance(value, dict):
        return {"hash": str(value)}
    found: dict[str, str] = {}
    for key, entry in value.items():
        if isinstance(entry, dict):
            found |= {f"{key}.{name}": text for name, text in flat_identity(entry).items()}
        elif entry is not None:
            found[str(key)] = str(entry)
    return found


def adapter_words(identity: Mapping[str, Any]) -> list[str]:
    """The option that names an adapter, for a model that has one."""
    return ["--adapter", "adapter"] if identity.get("adapter") else []


def suite_command(suite: Suite, source: str, label: str) -> str:
    """The command of one row of a suite; a pool that is its argument stands in it as `pools/NAME`."""
    pools = [word for name in suite.arguments for word in ("--pool", f"{name}=pools/{name}")]
    return shlex.join(["deckbench", "run", source, *pools, "--only", label])


def score_command(
    identity: Mapping[str, Any],
    name: str,
    seed: int,
    *,
    ontology: bool,
    calibration: Calibrated | None = None,
    judge: JudgeRef | None = None,
) -> str:
    """The commands of one score: two, and two before them where it has a calibration."""
    infer = ["deckbench", "infer", "--model", name, "--data", "data", "--out", "predictions.csv"]
    scoring = ["deckbench", "score", "predictions.csv", "--data", "data", "--seed", str(seed), "--out", "score.json"]
    scoring += ["--ontology", "ONTOLOGY.yaml"] if ontology else []
    scoring += judge_words(judge) if judge else []
    commands = [[*infer, *adapter_words(identity)], scoring]
    if calibration is not None:
        scoring += ["--calibration", "calibration.json", *(["--transfer"] if calibration.transferred else [])]
        data = ["--data", "val-data" if calibration.transferred else "data", "--out"]
        val = [*infer[:4], *data, "val.csv", "--split", "val", *adapter_words(identity)]
        commands = [val, ["deckbench", "calibrate", "val.csv", *data, "calibration.json"], *commands]
    return " && ".join(map(shlex.join, commands))


def judge_words(judge: JudgeRef) -> list[str]:
    """The options that ask a judge again."""
    words = ["--judge", f"endpoint:{judge.model}", "--judge-calibration", str(judge.calibration)]
    words += ["--judge-repeats", str(judge.repeats)] if judge.repeats > 1 else []
    return words if judge.swapped else [*words, "--no-judge-swap"]


def bench_command(content: Mapping[str, Any], name: str) -> str:
    """The command of a bench. content: of its manifest."""
    params, identity = content["params"], content["inputs"]["model"]
    command = ["deckbench", "bench", "--model", name, "--data", "data", "--engine", str(params.get("engine", "torch"))]
    command += ["--weights", str(params.get("weights", "checkpoint")), "--seed", str(content["seed"]), "--out", "bench"]
    command += adapter_words(identity)
    for option, default in BENCH_DEFAULTS.items():
        if params.get(option, default) != default:
            command += [f"--{option.replace('_', '-')}", str(params[option])]
    return shlex.join(command)
