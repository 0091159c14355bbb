"""Question banks and scene texts that a model writes, checked against labels."""

from deckbench.annotate.run import annotate, preview
from deckbench.annotate.shards import merge

__all__ = ["annotate", "merge", "preview"]
