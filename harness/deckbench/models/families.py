"""Which families of models there are, and which of them a reference means. A family is a folder with a `family.py`."""

from __future__ import annotations

import importlib
from pathlib import Path

import deckbench.models
from deckbench.errors import InputError
from deckbench.models.files import Family, read_json
from deckbench.models.interface import FamilySpec, Reference

BLIND = "blind:"
CONFIG = "config.json"
FOLDER = "give the folder of a vision-language model: GLM-4V or Phi-3-vision as published, or saved by transformers"


def families() -> dict[str, FamilySpec]:
    """Every family by name: of checkpoints, the fallback, of prefixes. Imports no model code."""
    names = {file.parent.name for place in deckbench.models.__path__ for file in Path(place).glob("*/family.py")}
    found: list[FamilySpec] = [
        importlib.import_module(f"deckbench.models.{name}.family").SPEC for name in sorted(names)
    ]
    return {spec.name: spec for spec in sorted(found, key=lambda spec: (bool(spec.prefixes), spec.fallback))}


def packaged() -> dict[str, Path]:
    """Name -> checkpoint folder of every model that ships in the package."""
    return {name: folder for spec in families().values() for name, folder in spec.packaged.items()}


def published() -> dict[str, Path]:
    """Name -> folder with the config of every published model whose sizes are known here, its weights not."""
    return {name: folder for spec in families().values() for name, folder in spec.published.items()}


def known_models() -> dict[str, str]:
    """Name or form of reference -> one line on it."""
    last = {f"{BLIND}MODEL": "the same model, its frames blanked: what the question alone gives away"}
    return {form: line for spec in families().values() for form, line in spec.known.items()} | last


def prefixed(ref: str) -> FamilySpec | None:
    """The family that claims a reference by its prefix."""
    for spec in families().values():
        for prefix in spec.prefixes:
            if ref.startswith(prefix if prefix.endswith(":") else f"{prefix}:") or ref == prefix:
                return spec
    return None


def without_weights(ref: str) -> bool:
    """Whether this is a published model, its options given or not, and no folder of that name."""
    name = ref.partition("?")[0]
    return name in published() and not Path(name).is_dir()


def family_of(folder: Path) -> FamilySpec:
    """The family of a checkpoint folder, by its config's `model_type`.

    Raises:
        InputError: there is no such config.
    """
    config = read_json(folder / CONFIG, family=Family("", "", FOLDER))
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str):
        raise InputError(f"'model_type' is {kind!r}, not the name of a model", folder / CONFIG, FOLDER)
    return next(spec for spec in families().values() if kind in spec.model_types or spec.fallback)


def resolve(ref: str) -> Reference:
    """The family, folder and options behind a reference without `blind:`; nothing is loaded.

    Raises:
        InputError: nothing of that name is known, or the family does not take the options.
    """
    spec = prefixed(ref)
    if spec is not None:
        return Reference(spec, ref, ref)
    plain, mark, option = ref.rpartition("?")
    if not mark or Path(ref).is_dir():
        return _checkpoint(ref)
    key, _, value = option.partition("=")
    taken = {key: (spec, check) for spec in families().values() for key, check in spec.options.items()}
    if key not in taken or not taken[key][1](value):
        raise InputError(f"{option!r} is not an option of a model", ref, "write FOLDER?num_crops=4")
    found = _checkpoint(plain)
    if key not in found.family.options:
        raise InputError(f"{key} is an option of {taken[key][0].serves} models only", ref, f"remove ?{option}")
    options = {key: value}
    return Reference(found.family, ref, f"{found.name}?{option}", found.folder, options, found.has_weights)


def _checkpoint(ref: str) -> Reference:
    """A packaged or published model, or a checkpoint folder, without options."""
    folders = packaged()
    if ref in folders:
        return Reference(family_of(folders[ref]), ref, ref, folders[ref])
    if without_weights(ref):
        folder = published()[ref]
        return Reference(family_of(folder), ref, ref, folder, has_weights=False)
    folder = Path(ref)
    if not folder.is_dir():
        known = ", ".join(
            [*folders, *(form for spec in families().values() for form in spec.prefixes), BLIND + "MODEL"]
        )
        sizes = f"{', '.join(published())} where no weights are needed"
        raise InputError(
            "no such model or folder", ref, f"known names: {known}, and {sizes}; or give a checkpoint folder"
        )
    return Reference(family_of(folder), ref, folder.resolve().name, folder)


def served_as(ref: str) -> str:
    """What `serves` in containers.toml calls a model.

    Raises:
        InputError: the reference leads nowhere.
    """
    found = resolve(ref.removeprefix(BLIND))
    return found.text if found.text in found.family.packaged else found.family.serves


def split_path(ref: str) -> tuple[str, Path | None, str]:
    """`blind:models/a?num_crops=4` -> ("blind:", models/a, "?num_crops=4"); None: it names no file."""
    if ref.startswith(BLIND):
        before, path, after = split_path(ref.removeprefix(BLIND))
        return BLIND + before, path, after
    spec = prefixed(ref)
    if spec is not None:
        name, _, place = ref.partition(":")
        path = spec.path_in(place)
        return (ref, None, "") if path is None else (f"{name}:", path, "")
    if ref in packaged() or without_weights(ref):
        return ref, None, ""
    if Path(ref).exists():
        return "", Path(ref), ""
    folder, mark, option = ref.rpartition("?")
    return ("", Path(folder), mark + option) if mark and Path(folder).is_dir() else (ref, None, "")


def trainable(ref: str) -> bool:
    """Whether the weights behind a reference can be trained, merged and replaced here. Raises InputError."""
    return not ref.startswith(BLIND) and resolve(ref).family.trainable
