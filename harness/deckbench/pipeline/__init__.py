"""Suites, verify and bench-orin: which steps run, in which order."""
