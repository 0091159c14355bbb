"""Steps in a container of the Docker daemon on this machine."""
