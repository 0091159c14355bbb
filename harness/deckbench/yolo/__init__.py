"""A YOLO pool as a format: its yaml, its pictures and labels, frames.csv."""
