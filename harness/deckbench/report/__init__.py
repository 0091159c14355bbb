"""Records -> a static site, and the gates that hold before it is published."""

from deckbench.report.site import report

__all__ = ["report"]
