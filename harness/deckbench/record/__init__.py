"""Records: the only schema of scores; written, read, recomputed from their samples."""
