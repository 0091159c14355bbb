"""Question banks and scene texts that a model writes, checked against labels."""

from deckbench.annotate.files import merge
from deckbench.annotate.run import annotate, preview

__all__ = ["annotate", "merge", "preview"]
