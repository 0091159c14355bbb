"""Container images: their definitions, locks, wheels, builds and identity. Where a step runs is `runners`."""
