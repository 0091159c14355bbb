"""Text that a model writes: structured answers, validated, each call paid once; live, or by the Batch API."""

from deckbench.endpoint.structured.calls import Call, Calls, open_calls, transcript
from deckbench.endpoint.structured.cost import Estimate, estimate
from deckbench.endpoint.structured.request import Outcome, Request
from deckbench.endpoint.structured.run import Run, answer_all, replay

__all__ = [
    "Call",
    "Calls",
    "Estimate",
    "Outcome",
    "Request",
    "Run",
    "answer_all",
    "estimate",
    "open_calls",
    "replay",
    "transcript",
]
