"""One call after the other to a server: the client's retries and faults, with a structured answer."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deckbench.answer import Unanswered
from deckbench.endpoint.caller import Attempts, Drop
from deckbench.endpoint.client import WITHOUT_REASON, Client
from deckbench.endpoint.faults import Again, ErrorReply, Missing, NotAnswered, Refused, field_refused
from deckbench.endpoint.picture import data_url
from deckbench.endpoint.spec import EndpointSpec, Server
from deckbench.endpoint.structured.calls import Call, Said, read_said
from deckbench.endpoint.structured.cost import Budget, tokens_of
from deckbench.endpoint.structured.pace import Pace
from deckbench.endpoint.structured.request import SYSTEM, Request, Turn, fields_of, image_hash, without_images
from deckbench.picture import open_picture
from deckbench.progress import say

SCHEMA = "response_format"
# Chat templates of some models know no such role: "System role not supported", "Only user and assistant roles ..."
NO_SYSTEM = re.compile(r"\bsystem\b.{0,20}\b(?:role|message|prompt)|\broles? .{0,40}\buser\b", re.IGNORECASE)
INSTEAD = {SCHEMA: "the schema stands in the prompt", SYSTEM: "its text stands before the prompt"}
# Texts of a server, and whether they are the model's own words.
SCRUBBED = {"text": True, "raw": True, "reason": False, "ended": False, "served": False, "fingerprint": False}
KIND = "structured"  # of question, for the client's memory of what was answered


class Writer(Client):
    """A server that is asked for structured answers. Its coroutines run on the client's loop."""

    def __init__(self, spec: EndpointSpec, server: Server, name: str) -> None:
        super().__init__(spec, server, name)
        self.rate_limits = self.failed = 0

    async def write(
        self, request: Request, turns: Sequence[Turn], max_tokens: int, key: str, pace: Pace, budget: Budget
    ) -> Call | Unanswered:
        """One call, asked again where that may help.

        Raises:
            Stop: no request will be answered until somebody fixes something.
            OutsideError: the call may cost more than is left.
        """
        url = None if request.image is None else await asyncio.to_thread(self._url, request.image)
        attempts, dropped = Attempts(), set(self.dropped)
        while True:
            await self.begin(attempts)
            call: Call | None = None
            async with pace.slot() as era:
                fields = fields_of(request, turns, max_tokens, self.spec, url, dropped | self.dropped)
                guess = tokens_of(request, fields["messages"], self.spec)
                amount = await budget.reserve(guess, max_tokens)
                began = time.perf_counter()
                try:
                    said = read_said(await self._post(fields))
                    call = self._call(request, key, fields, max_tokens, guess, attempts.requests, began, said)
                    pace.faster()
                except ErrorReply as error:
                    fault: Exception = self._fault(error.status, error.body, {}, fields)
                except (Again, Refused, NotAnswered, Drop) as error:
                    fault = error
                finally:
                    await budget.settle(amount, call)
            if call is not None:
                self._has_answered(said, dropped)
                return call
            self.failed += 1
            if isinstance(fault, Drop):
                dropped.add(fault.name)
            elif isinstance(fault, Refused):
                if NO_SYSTEM.search(str(fault)) and request.system and SYSTEM not in dropped | self.dropped:
                    dropped.add(SYSTEM)
                    continue
                if self._may_be_the_schema(fault, fields):
                    dropped.add(SCHEMA)
                    continue
                return self.turned_down(fault)
            elif isinstance(fault, Again):
                if fault.limited:
                    self.rate_limits += 1
                    pace.slower(era)
                if not attempts.another(fault, self.spec.tries):
                    return await self.give_up(fault, attempts.requests)
                if attempts.failed == 2 and fault.status == 500 and not self.settled:
                    dropped.add(SCHEMA)
                await self.pause(fault, attempts)
            else:
                raise fault

    def _url(self, path: Path) -> str:
        return data_url(open_picture(path), self.spec, blank=False)

    def _may_be_the_schema(self, fault: Refused, fields: Mapping[str, Any]) -> bool:
        """Whether a refusal for no reason may be about the schema; it is left out for good where that helps."""
        return fault.status in WITHOUT_REASON and not (fault.filtered or fault.fix or self.settled) and SCHEMA in fields

    def _fault(self, status: int, body: Any, headers: Mapping[str, str], fields: Mapping[str, Any]) -> Exception:
        """As the client's; a server that does not take the schema is given it in the prompt."""
        if SCHEMA in fields and any(field_refused(status, body, [name]) for name in (SCHEMA, "json_schema")):
            return Drop(SCHEMA)
        fault = super()._fault(status, body, headers, fields)
        return self.fault(status, body, headers) if isinstance(fault, Missing) else fault

    def _has_answered(self, said: Said, dropped: set[str]) -> None:
        """What one answer says about the server."""
        self.settled.add(KIND)
        self.lost = self.refused = 0
        if said.outcome == "silent":
            self.without_words(NotAnswered(said.reason))  # raises Stop where the model says nothing at all
            return
        self.silent = 0
        self.spoke = self.spoke or bool(said.text.strip())
        for name in sorted(dropped - self.dropped):
            instead = INSTEAD.get(name, "it is left out")
            say(f"{self.name}: the server refuses the field {name!r}; {instead} from here on")
        self.dropped |= dropped

    def _call(
        self,
        request: Request,
        key: str,
        fields: Mapping[str, Any],
        max_tokens: int,
        guess: int,
        requests: int,
        began: float,
        said: Said,
    ) -> Call:
        facts = {**vars(said)}
        for name, answer in SCRUBBED.items():
            facts[name] = self.scrub(facts[name], answer=answer)
        return call_of(request, key, self.spec, fields, max_tokens, guess, facts, requests, time.perf_counter() - began)


def call_of(
    request: Request,
    key: str,
    spec: EndpointSpec,
    fields: Mapping[str, Any],
    max_tokens: int,
    guess: int,
    said: Mapping[str, Any],
    requests: int = 0,
    seconds: float = 0.0,
    *,
    batch: bool = False,
) -> Call:
    """A call as it is kept. said: the fields of `Said`, without the key. requests, seconds: 0 in a batch."""
    image = None if request.image is None else image_hash(request.image)
    return Call(
        key=key,
        prompt=request.prompt,
        model=spec.label,
        sent="json_schema" if SCHEMA in fields else "prompt",
        temperature=request.temperature,
        max_tokens=max_tokens,
        repeat=request.repeat,
        messages=without_images(fields["messages"], image),
        guess_in=guess,
        batch=batch,
        requests=requests,
        seconds=round(seconds, 6),
        **said,
    )
