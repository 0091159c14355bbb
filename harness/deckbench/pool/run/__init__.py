"""Frames of a real robot run, its log and its protocol analysis -> a pool with checks."""

from deckbench.pool.run.write import pool_from_run

__all__ = ["pool_from_run"]
