"""Commands killed at random moments, and two at once."""
