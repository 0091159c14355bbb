"""Steps in a container of a Docker daemon behind ssh."""
