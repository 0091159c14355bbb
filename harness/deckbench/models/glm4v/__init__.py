"""GLM-4V: transformers' GLM language model with the EVA2-CLIP vision tower, read from official checkpoint folders."""
