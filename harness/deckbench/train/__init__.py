"""LoRA fine-tuning: datasets to adapters; crash-safe and resumable."""

from deckbench.train.step import train, train_in_ranks

__all__ = ["train", "train_in_ranks"]
