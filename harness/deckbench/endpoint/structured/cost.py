"""What calls will cost, as an estimate, and a limit that is kept."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deckbench.endpoint.spec import EndpointSpec
from deckbench.endpoint.structured.calls import Call, Calls
from deckbench.endpoint.structured.request import Request, fields_of, key_of
from deckbench.errors import InputError, OutsideError
from deckbench.picture import PictureError, inspect_picture

CHARACTERS = 4.0  # of Latin text in a token, about; a character of Chinese is about one token
MESSAGE = 8  # tokens around each message, about
PIXELS = 750.0  # in a token of an image, about: 28 x 28 of Qwen-VL, 750 of Claude
IMAGE = 85  # tokens of an image, at least
HALF = 0.5  # the Batch API's price
UNKNOWN = CHARACTERS  # tokens in against the estimate, at most, where nothing is known: a token a byte
MARGIN = 1.2  # over the largest that was seen


@dataclass(frozen=True)
class Estimate:
    """What a run costs if every first answer passes. An estimate: from lengths of texts and sizes of images.

    requests: in all; cached: of them, those whose first call is paid already. tokens_out, cost: at most, every answer
    as long as it may be. cost: None without prices.
    """

    requests: int
    cached: int
    tokens_in: int
    tokens_out: int
    cost: float | None
    currency: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def line(self) -> str:
        """For people."""
        cost = "" if self.cost is None else f", at most {self.cost:.4f} {self.currency}"
        cached = f" ({self.cached} of {self.requests} are paid already)" if self.cached else ""
        return (
            f"estimate: {self.requests - self.cached} calls{cached}, about {self.tokens_in} tokens in,"
            f" at most {self.tokens_out} out{cost}; rejected answers are asked for again on top"
        )


def text_tokens(text: str) -> int:
    """Tokens of a text, about."""
    latin = sum(mark.isascii() for mark in text)
    return math.ceil(latin / CHARACTERS + (len(text) - latin))


def image_tokens(request: Request, spec: EndpointSpec) -> int:
    """Tokens of a request's image, about. Raises InputError for an image that cannot be read."""
    if request.image is None:
        return 0
    try:
        facts = inspect_picture(request.image)
    except PictureError as error:
        raise InputError(str(error), request.image, "replace the image") from error
    scale = min(1.0, (spec.max_side or math.inf) / max(facts.width, facts.height))
    return max(IMAGE, math.ceil(facts.width * facts.height * scale * scale / PIXELS))


def tokens_of(request: Request, messages: Sequence[dict[str, Any]], spec: EndpointSpec) -> int:
    """Tokens of a call's messages, about."""
    texts = 0
    for message in messages:
        content = message["content"]
        parts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        texts += MESSAGE + sum(text_tokens(part) for part in parts)
    return texts + image_tokens(request, spec)


def estimate(
    requests: Sequence[Request], spec: EndpointSpec, calls: Calls | None = None, *, batch: bool = False
) -> Estimate:
    """What the first calls of all requests will cost. Raises InputError for an image that cannot be read."""
    paid = {} if calls is None else calls.by_key
    left = [request for request in requests if not paid or key_of(request, (), request.max_tokens, spec) not in paid]
    tokens_in = sum(tokens_of(one, fields_of(one, (), 0, spec, None, frozenset())["messages"], spec) for one in left)
    tokens_out = sum(request.max_tokens + spec.thinking_tokens for request in left)
    cost = None
    if spec.price_in is not None and spec.price_out is not None:
        cost = (tokens_in * spec.price_in + tokens_out * spec.price_out) / 1e6 * (HALF if batch else 1.0)
    return Estimate(len(requests), len(requests) - len(left), tokens_in, tokens_out, cost, spec.currency)


class Budget:
    """A limit on what all calls of a file cost. It belongs to one event loop.

    Before each call the most it can cost is set aside: its tokens in, as estimated and corrected by what the server has
    counted so far, and all the tokens out that it may have. The first call, of which nothing is known, goes alone.
    most: None for no limit.
    """

    def __init__(self, spec: EndpointSpec, most: float | None, calls: Calls, *, batch: bool = False) -> None:
        if most is not None and not (spec.price_in or spec.price_out):
            fix = "give price_in and price_out, for a million tokens, in the endpoint's file"
            raise InputError("a limit on the cost needs prices", "--max-cost", fix)
        if most is not None and not (math.isfinite(most) and most > 0):
            raise InputError(f"the limit is {most}", "--max-cost", "give an amount above 0")
        self.spec, self.most = spec, most
        self.price = HALF if batch else 1.0
        self.spent = calls.spent(spec)
        self.aside, self.open = 0.0, 0
        self.ratio, self.longest = 0.0, 0  # tokens in against the estimate; tokens out
        self._changed = asyncio.Condition()
        for call in calls.by_key.values():
            self._learn(call)

    def bound(self, tokens_in: int, max_tokens: int) -> float:
        """The most that a call can cost. tokens_in: as estimated. max_tokens: of the answer."""
        tokens_out = max(max_tokens + self.spec.thinking_tokens, self.longest)
        price_in, price_out = self.spec.price_in or 0.0, self.spec.price_out or 0.0
        ratio = self.ratio * MARGIN if self.ratio else UNKNOWN
        return (tokens_in * ratio * price_in + tokens_out * price_out) / 1e6 * self.price

    def fits(self, amount: float) -> bool:
        return self.most is None or self.spent + self.aside + amount <= self.most * (1 + 1e-12)

    async def reserve(self, tokens_in: int, max_tokens: int) -> float:
        """Set aside the most that a call can cost; waits for open calls where it may fit after them.

        Raises:
            OutsideError: it does not fit.
        """
        async with self._changed:
            while not self.fits(self.bound(tokens_in, max_tokens)):
                if not self.open:
                    raise self.used_up(self.bound(tokens_in, max_tokens))
                await self._changed.wait()
            amount = self.bound(tokens_in, max_tokens)
            self.aside, self.open = self.aside + amount, self.open + 1
            return amount

    async def settle(self, amount: float, call: Call | None) -> None:
        """Give back what was set aside; a call that was answered has its real cost."""
        async with self._changed:
            self.open -= 1
            self.aside = self.aside - amount if self.open else 0.0
            if call is not None:
                self.paid(call)
            self._changed.notify_all()

    def paid(self, call: Call) -> None:
        """A call was answered."""
        self.spent += call.cost(self.spec)
        self._learn(call)

    def used_up(self, amount: float) -> OutsideError:
        """The error where a call of this cost does not fit."""
        what = (
            f"the next call may cost {amount:.6f} {self.spec.currency}, and {self.spent:.6f} of {self.most:g} are spent"
        )
        return OutsideError(what, "--max-cost", "raise --max-cost, then rerun to resume; what is answered is kept")

    def _learn(self, call: Call) -> None:
        if call.tokens_in is not None:
            self.ratio = max(self.ratio, call.tokens_in / max(1, call.guess_in))
        self.longest = max(self.longest, call.tokens_out or 0)
