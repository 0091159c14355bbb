"""Phi-3-vision: transformers' CLIP tower and Phi-3, with the HD transform, read from official checkpoint folders."""
