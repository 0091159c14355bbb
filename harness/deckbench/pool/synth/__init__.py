"""The synthetic OT-2 pool: labelled frames of a robot deck, rendered from the vendor's own dimensions."""

from deckbench.pool.synth.write import protocol_file, synth_pool

__all__ = ["protocol_file", "synth_pool"]
