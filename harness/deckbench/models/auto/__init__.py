"""Any image-text model that transformers itself can load, out of a folder saved by it; nothing of the folder is run."""
