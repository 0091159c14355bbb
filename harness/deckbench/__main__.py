"""`python -m deckbench`, and `torchrun -m deckbench train ...`."""

from deckbench.cli import main

main()
