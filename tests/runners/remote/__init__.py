"""Tests of steps in containers behind ssh."""
