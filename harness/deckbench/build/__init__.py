"""Pool -> dataset. `build_dataset` and `mix` are the step's two commands; `audit` checks what they made."""

from deckbench.build.dataset import build_dataset
from deckbench.build.mix import mix

__all__ = ["build_dataset", "mix"]
