"""Tests of steps in containers of the local daemon."""
