"""DeckBench: which vision-language model can be trusted to watch an Opentrons OT-2 and say "stop"?"""

__version__ = "0.1.0"
