"""LoRA fine-tuning: datasets to adapters, killed and resumed without a trace."""

from deckbench.train.run import train, train_in_ranks

__all__ = ["train", "train_in_ranks"]
