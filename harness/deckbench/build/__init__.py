"""Pool -> dataset. `build_dataset` and `mix` are the step's two commands; `audit` checks what they made.

Both are loaded on first use: worker processes import only `deckbench.build.pictures`, and start at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deckbench.build.dataset import build_dataset
    from deckbench.build.mix import mix as mix_datasets

__all__ = ["build_dataset", "mix_datasets"]


def __getattr__(name: str) -> Any:
    if name == "build_dataset":
        from deckbench.build.dataset import build_dataset

        return build_dataset
    if name == "mix_datasets":
        from deckbench.build.mix import mix

        return mix
    raise AttributeError(name)
