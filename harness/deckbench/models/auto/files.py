"""What a folder saved by transformers is, read from its files alone, and which of them DeckBench takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.errors import DeckBenchError, InputError
from deckbench.models import files
from deckbench.models.vision_language import CONFIG, GENERATION

OFFICIAL = "give a folder saved by transformers: config.json, safetensors, tokenizer and processor files"
AUTO = files.Family("auto", "this model", OFFICIAL)
PROCESSOR = ("preprocessor_config.json", "processor_config.json")
TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
# Settings and prompt of decisions; the last two come with a head that lies beside the weights of a chat model.
HEADS = ("decision_config.json", "judge_config.json")
DECISION = ("decision.json", "decision_template.jinja", "calibration.json", *HEADS)
SMALL = (
    *PROCESSOR,
    *TOKENIZER,
    GENERATION,
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    *DECISION,
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
)
ADAPTER = "adapter_config.json"
SAID = 200  # characters of another library's message: some hold whole files


@dataclass(frozen=True)
class Settings:
    """config.json without the dtypes, which are those of the weights and written anew by `save`."""

    raw: dict[str, Any]


@contextmanager
def in_our_words(what: str, where: Path, fix: str = OFFICIAL) -> Iterator[None]:
    """Raises InputError for whatever fails within: on damaged files transformers fails with any kind of exception."""
    try:
        yield
    except DeckBenchError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{what} ({said[:SAID]})", where, fix) from error


def without_types(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A config without its dtypes, those of its parts included."""
    kept = {key: value for key, value in raw.items() if key not in ("dtype", "torch_dtype") or isinstance(value, int)}
    return {key: without_types(value) if isinstance(value, dict) else value for key, value in kept.items()}


def read_settings(folder: Path) -> Settings:
    """config.json. Raises InputError when it is missing, damaged, or of no image-text model that transformers knows."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

    where = folder / CONFIG
    raw = files.read_json(where, family=AUTO)
    kind = raw.get("model_type")
    if kind not in CONFIG_MAPPING_NAMES and "auto_map" in raw:
        what = f"'model_type' is {kind!r}, which transformers does not know; it brings its own code, which is never run"
        raise InputError(what, where, "use a release of transformers that has this model, or another model")
    if kind not in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES and not has_decision_head(folder):
        what = f"'model_type' is {kind!r}; known are chatglm, phi3_v and the image-text models of transformers"
        raise InputError(what, where, "give the folder of a vision-language model")
    if (folder / ADAPTER).is_file():
        raise InputError("an adapter lies in the model's folder", folder / ADAPTER, "give it with --adapter")
    return Settings(without_types(raw))


def read_small(folder: Path) -> dict[str, bytes]:
    """The bytes of the processor's, tokenizer's and generation's files.

    Raises InputError when there is no processor or tokenizer, or a JSON file is damaged.
    """
    found = {name: (folder / name).read_bytes() for name in SMALL if (folder / name).is_file()}
    for needed in (PROCESSOR, TOKENIZER):
        if not any(name in found for name in needed):
            raise InputError(f"the checkpoint has none of {', '.join(needed)}", folder / needed[0], OFFICIAL)
    for name in found:
        if name.endswith(".json"):
            files.read_json(folder / name, family=AUTO)
    return found


def has_decision_head(folder: Path) -> bool:
    """Whether transformers has a decision model for a folder: its own kind, or a head beside a chat model's weights."""
    from transformers.models.auto import modeling_auto

    kinds = getattr(modeling_auto, "MODEL_FOR_DECISION_MAPPING_NAMES", {})  # since 5.24
    kind = files.read_json(folder / CONFIG, family=AUTO).get("model_type")
    own = kind in kinds and kind not in modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    own = own and kind not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return own or (kind in kinds and any((folder / name).is_file() for name in HEADS))


def folder_identity(folder: Path, name: str) -> dict[str, Any]:
    """`files.identity` of a folder, without loading it. Raises InputError for a broken folder."""
    weights = files.weight_hashes(folder, AUTO)
    if has_decision_head(folder):  # the head, and an adapter that it is read with
        beside = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.safetensors")}
        weights |= {name: artifact.hash_file(beside[name]) for name in sorted(beside.keys() - weights.keys())}
    return files.identity(name, AUTO, read_settings(folder).raw, read_small(folder), weights)
