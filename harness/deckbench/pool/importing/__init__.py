"""`pool import`: data sets of others, read from their own files, as pools with checks. One module a set: `formats/`."""
