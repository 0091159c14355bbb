"""Pool -> dataset. `build_dataset`, `mix` and `import_old` are the step's commands; `audit` checks what they made.

All are loaded on first use: worker processes import only `deckbench.build.pictures`, and start at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deckbench.build.dataset import build_dataset
    from deckbench.build.importing.run import import_old
    from deckbench.build.mix import mix as mix_datasets

__all__ = ["build_dataset", "import_old", "mix_datasets"]


def __getattr__(name: str) -> Any:
    if name == "build_dataset":
        from deckbench.build.dataset import build_dataset

        return build_dataset
    if name == "import_old":
        from deckbench.build.importing.run import import_old

        return import_old
    if name == "mix_datasets":
        from deckbench.build.mix import mix

        return mix
    raise AttributeError(name)
