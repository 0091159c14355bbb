"""How good a question bank is: see `quality`."""
