"""The client of an OpenAI-compatible server: settings, requests, retries, replies, costs. Knows no models."""
