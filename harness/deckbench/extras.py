"""Optional packages: which extra of DeckBench brings each, and the one message where it is missing."""

from __future__ import annotations

from importlib import util

from deckbench.errors import InputError

# Name of the import -> extra. What is not here comes with DeckBench itself.
EXTRAS = {
    "accelerate": "train",
    "cryptography": "sign",
    "deepspeed": "deepspeed",
    "docker": "containers",
    "matplotlib": "plots",
    "openai": "endpoint",
    "packaging": "containers",
    "peft": "models",
    "requests": "containers",
    "safetensors": "models",
    "securesystemslib": "sign",
    "tensorboard": "train",
    "tiktoken": "models",
    "tokenizers": "models",
    "torch": "models",
    "torchvision": "video",
    "transformers": "models",
    "uv": "containers",
}


def is_installed(package: str) -> bool:
    """Whether a package can be found; it is not imported."""
    try:
        return util.find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):  # ValueError: somebody has put None in its place
        return False


def install_command(extra: str) -> str:
    """The pip command that installs an extra."""
    isolation = "--no-build-isolation " if extra == "deepspeed" else ""
    return f"pip install {isolation}'deckbench[{extra}]'"


def missing(package: str, user: str, extra: str | None = None) -> InputError:
    """The error where `user`, such as a verb, needs a package that is not installed. extra: default, the package's."""
    what = f"{user} needs the Python package {package}, which is not installed"
    return InputError(what, None, install_command(extra or EXTRAS[package]))


def require(package: str, user: str, extra: str | None = None) -> None:
    """Raises InputError where a package is not installed."""
    if not is_installed(package):
        raise missing(package, user, extra)
