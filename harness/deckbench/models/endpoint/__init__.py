"""Models behind an OpenAI-compatible server: `endpoint:NAME`, or `endpoint:FILE.yaml` with settings."""
