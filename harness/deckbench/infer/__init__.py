"""Samples to predictions: resumable, sharded, one frame encoded once for all its questions."""

from deckbench.infer.ask import ask
from deckbench.infer.predict import infer

__all__ = ["ask", "infer"]
