"""LoRA fine-tuning: datasets to adapters, killed and resumed without a trace."""

from deckbench.train.run import train

__all__ = ["train"]
