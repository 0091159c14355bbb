"""The client of a server: questions about a frame as chat completions or as typed decisions, several frames at once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deckbench.answer import Answer, Question, Unanswered
from deckbench.endpoint.caller import THINKING_FIX, Attempts, Caller, Drop
from deckbench.endpoint.decider import Decider
from deckbench.endpoint.faults import (
    PROBABILITIES,
    Again,
    ErrorReply,
    Missing,
    NotAnswered,
    Refused,
    Stop,
    field_refused,
)
from deckbench.endpoint.picture import blank_url, data_url
from deckbench.endpoint.reply import Reply, read_reply
from deckbench.endpoint.spec import EndpointSpec, Server
from deckbench.endpoint.text import whole
from deckbench.endpoint.typed import Typed, typed
from deckbench.progress import say

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["THINKING_FIX", "Client"]
TRIAL = Question("Is this image of one color?", "open", 16)
EMPTY_IN_A_ROW = 8  # so many empty answers, and none with a word in it: the model says nothing at all
WITHOUT_REASON = frozenset({400, 403, 422, 501})  # with these a server may mean a field without naming it
NO_CHAT = "the server has no chat completions for this model, and open and scene questions need them"
NO_OPTIONS = "the question names no two options, and a decision is made between options"


class Client(Caller):
    """A server that answers questions about frames. name: of the model, for messages."""

    def __init__(self, spec: EndpointSpec, server: Server, name: str) -> None:
        super().__init__(spec, server, name)
        self.decider = Decider(self)
        self.dropped: set[str] = set()  # fields the server refuses
        self.empty = 0  # in a row
        self.has_chat = True

    def answer(self, image: Image, questions: Sequence[Question], *, blank: bool = False) -> list[Answer | Unanswered]:
        """Answers to all questions about a frame, in order.

        Choice questions go together where the server takes typed decisions. The others are asked one after the other,
        so that a server that keeps the frame's part of a prompt can use it again.
        blank: a frame of the same size in one colour is sent.

        Raises:
            OutsideError: no question will be answered until something is fixed.
        """
        url = data_url(image, self.spec, blank)
        return self.run(self._ask_all(url, questions))

    async def _ask_all(self, url: str, questions: Sequence[Question]) -> list[Answer | Unanswered]:
        together: dict[int, Typed] = {}
        if any(question.kind == "choice" for question in questions) and await self.decider.serves():
            decisions = {i: typed(question, f"q{i + 1}") for i, question in enumerate(questions)}
            together = {i: decision for i, decision in decisions.items() if decision is not None}
        given: dict[int, Answer | Unanswered] = {}
        if together:
            given = dict(zip(together, await self.decider.ask(url, list(together.values())), strict=True))
        for i, question in enumerate(questions):
            if i not in given:
                given[i] = await self._ask(url, question)
        return [given[i] for i in range(len(questions))]

    async def _ask(self, url: str, question: Question) -> Answer | Unanswered:
        if not self.has_chat:
            return Unanswered(NO_OPTIONS if question.kind == "choice" else NO_CHAT)
        return await self.in_turn(question.kind, lambda: self._ask_now(url, question))

    async def _ask_now(self, url: str, question: Question) -> Answer | Unanswered:
        dropped, attempts = set(self.dropped), Attempts()

        async def reply_to(url: str | None) -> Reply:
            return await self._reply(self._fields(url, question, {PROBABILITIES[0]}))

        async def trial() -> Reply:
            return await self._reply(self._fields(blank_url(self.spec), TRIAL, dropped | {PROBABILITIES[0]}))

        while True:
            began = await self.begin(attempts)
            fields = self._fields(url, question, dropped)
            try:
                reply = await self._reply(fields)
            except Again as fault:
                if not attempts.another(fault, self.spec.tries):
                    return await self.give_up(fault, attempts.requests, trial)
                if attempts.failed == 2 and fault.status == 500:
                    await self.check_vision(fault, reply_to)
                await self.pause(fault, attempts)
                continue
            except Refused as fault:
                if fault.status in WITHOUT_REASON and not (
                    fault.filtered or fault.fix or question.kind in self.settled
                ):
                    await self.check_vision(fault, reply_to)
                    if PROBABILITIES[0] in fields:  # kept as dropped only where the question is answered without it
                        dropped.add(PROBABILITIES[0])
                        continue
                return self.turned_down(fault)
            except NotAnswered as fault:
                return self.without_words(fault)
            except Missing:
                self.has_chat = False
                say(f"{self.name}: {NO_CHAT}; they stay unanswered")
                return Unanswered(NO_OPTIONS if question.kind == "choice" else NO_CHAT)
            except Drop as drop:
                dropped.add(drop.name)
                continue
            return self._answered(question, reply, dropped, attempts.requests, time.perf_counter() - began)

    async def _reply(self, fields: Mapping[str, Any]) -> Reply:
        """What the server answers. Raises Again, Refused, NotAnswered, Missing, Stop, Drop."""
        body = await self._post(fields)
        try:
            return read_reply(body, letters=PROBABILITIES[0] in fields)
        except ErrorReply as error:
            raise self._fault(error.status, error.body, {}, fields) from None

    async def _post(self, fields: Mapping[str, Any]) -> bytes:
        """The body of a 200. Raises as `_reply`, and InputError for a proxy that cannot be used."""
        rest = {name: value for name, value in fields.items() if name != "messages"}
        return await self.send(
            lambda client: client.chat.completions.with_raw_response.create(
                model=self.spec.model, messages=fields["messages"], extra_body=rest
            ),
            lambda status, body, headers: self._fault(status, body, headers, rest),
        )

    def _fault(self, status: int, body: Any, headers: Mapping[str, str], fields: Mapping[str, Any]) -> Exception:
        """As `fault`; Drop for an optional field that it refuses, Missing where it decides and has no chat."""
        optional = [name for name in (*PROBABILITIES, "temperature", "max_tokens") if name in fields]
        if name := field_refused(status, body, optional):
            return Drop(PROBABILITIES[0] if name in PROBABILITIES else name)
        if status in {404, 405} and self.decider.api is not None:
            return Missing()
        return self.fault(status, body, headers)

    def _answered(self, question: Question, reply: Reply, dropped: set[str], tries: int, took: float) -> Answer:
        self.succeed(question.kind)
        self.spoke = self.spoke or bool(reply.text.strip())
        self.empty += not self.spoke
        if self.empty >= EMPTY_IN_A_ROW:
            raise Stop(f"all {self.empty} answers are empty", THINKING_FIX)
        for name in sorted(dropped - self.dropped):
            say(f"{self.name}: the server refuses the field {name!r}; it is left out from here on")
        self.dropped |= dropped
        facts = {
            "strange": reply.strange,
            "kind": question.kind,
            "raw": self.scrub(reply.raw, answer=True),
            "stripped": list(reply.stripped),
            "ended": self.scrub(reply.ended),
            "empty": not reply.text.strip(),
            "dropped": sorted(dropped),
            "tries": tries,
            "cut": reply.cut,
            "model": self.scrub(reply.model),
            "fingerprint": self.scrub(reply.fingerprint),
            "address": self.server.address,
            "answer_s": round(took, 6),
        }
        return Answer(
            text=self.scrub(reply.text, answer=True),
            p_a=reply.p_a,
            p_b=reply.p_b,
            tokens_in=reply.tokens_in or 0,
            tokens_out=reply.tokens_out or 0,
            seconds={},  # a server does not say what its stages took, and the way there is none of them
            counted=reply.tokens_in is not None and reply.tokens_out is not None,
            facts=facts,
        )

    def _fields(self, url: str | None, question: Question, dropped: set[str]) -> dict[str, Any]:
        """A request's fields beside the model: greedy, bounded, probabilities for a choice. url: None for no image."""
        picture = {"type": "image_url", "image_url": {"url": url}}
        text = {"type": "text", "text": whole(question.text)}
        content = [picture, text] if url is not None else text["text"]
        fields: dict[str, Any] = {"messages": [{"role": "user", "content": content}], "temperature": 0}
        fields |= self.spec.extra
        limit = "max_completion_tokens" if "max_tokens" in dropped else "max_tokens"
        fields[limit] = question.max_new_tokens + self.spec.thinking_tokens
        if question.kind == "choice" and self.spec.logprobs and PROBABILITIES[0] not in dropped:
            fields |= {"logprobs": True, "top_logprobs": self.spec.top_logprobs}
        return {name: value for name, value in fields.items() if name not in dropped or name == limit}
