"""This machine and others: hardware, ssh, the docker daemon, the Jetson."""
