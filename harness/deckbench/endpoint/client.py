"""The client of a server: one request a question, several frames at once, retries where they can help."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from deckbench.answer import Answer, Question, Unanswered
from deckbench.endpoint.faults import (
    PROBABILITIES,
    SEES,
    Again,
    ErrorReply,
    NotAnswered,
    Refused,
    Stop,
    fault_of,
    field_refused,
    lacks_vision,
)
from deckbench.endpoint.picture import blank_url, data_url
from deckbench.endpoint.reply import Reply, read_reply
from deckbench.endpoint.spec import KEY, EndpointSpec, Server
from deckbench.endpoint.text import whole
from deckbench.endpoint.transport import LARGEST, PER_TOKEN, open_client, warnings_of
from deckbench.errors import OutsideError
from deckbench.progress import say

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
THINKING_FIX = "raise `thinking_tokens` in the endpoint's file if the model thinks before it answers, then run again"
LONGEST_TEXT = 1 << 16  # bytes of an error that is no JSON
BACKOFF_S, LONGEST_S = 1.0, 60.0  # the wait doubles from the one to the other
PATIENCE_S = 600.0  # a server that wants to be left alone for longer, at once or in all, is come back to another day
RATE_LIMITED = 60  # waits for one question's rate limit
IN_A_ROW = 3  # so many questions without an answer one after the other are the server's fault, not theirs
EMPTY_IN_A_ROW = 8  # so many empty answers, and none with a word in it: the model says nothing at all
SAID_FROM_S, SAID_EVERY_S = 2.0, 30.0  # a wait as long as the one is said, but not more often than the other
WITHOUT_REASON = frozenset({400, 403, 422, 501})  # with these a server may mean a field without naming it


class Client:
    """One server. Answers may be asked for from several threads; requests share one event loop.

    name: of the model, for messages. What one request learns spares the others: fields the server refuses, and how
    long it wants to be left alone.
    """

    def __init__(self, spec: EndpointSpec, server: Server, name: str) -> None:
        self.spec, self.server, self.name = spec, server, name
        self.lock = threading.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.client: Any = None
        self.dropped: set[str] = set()
        self.settled: set[str] = set()  # kinds of question that were answered: the way to ask them is known
        self.probing: dict[str, asyncio.Lock] = {}
        self.lost = self.refused = self.silent = self.empty = 0  # in a row
        self.spoke = False  # whether any answer had a word in it
        self.looked = False  # whether it was found out if the server takes images at all
        self.quiet_until = self.said_at = 0.0
        self.stopped: Stop | None = None  # why nothing is asked any more

    # From threads

    def answer(self, image: Image, questions: Sequence[Question], *, blank: bool = False) -> list[Answer | Unanswered]:
        """Answers to all questions about a frame, in order.

        They are asked one after the other, so that a server that keeps the frame's part of a prompt can use it again.
        blank: a frame of the same size in one colour is sent.

        Raises:
            OutsideError: no question will be answered until something is fixed.
        """
        url = data_url(image, self.spec, blank)

        async def ask_all() -> list[Answer | Unanswered]:
            return [await self._ask(url, question) for question in questions]

        try:
            return self._run(ask_all())
        except Stop as stop:
            raise OutsideError(self._scrub(str(stop)), self.server.address, stop.fix) from None

    def close(self) -> None:
        """Give up what is being asked. The next question opens everything anew."""
        with self.lock:
            loop, self.loop, client, self.client = self.loop, None, self.client, None
            self.probing, self.stopped = {}, None
        if loop is not None:
            loop.call_soon_threadsafe(_wind_up, loop, client)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        with self.lock:
            if self.loop is None:
                self.loop = asyncio.new_event_loop()
                # A daemon: a request that hangs must not keep the program from ending.
                threading.Thread(target=_live, args=(self.loop,), name="endpoint", daemon=True).start()
            future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    # On the loop

    async def _ask(self, url: str, question: Question) -> Answer | Unanswered:
        """The first question of each kind goes alone: the fields it has to drop are then known to all others."""
        try:
            if question.kind in self.settled:
                return await self._ask_now(url, question)
            async with self.probing.setdefault(question.kind, asyncio.Lock()):
                if question.kind not in self.settled:
                    return await self._ask_now(url, question)
            return await self._ask_now(url, question)
        except Stop as stop:
            self.stopped = self.stopped or stop
            raise

    async def _ask_now(self, url: str, question: Question) -> Answer | Unanswered:
        if self.stopped is not None:  # another picture's question has found out
            raise self.stopped
        dropped = set(self.dropped)
        tries = requests = limits = 0
        waited = 0.0  # for a rate limit
        while True:
            await self._wait_for_quiet()
            requests += 1
            began = time.perf_counter()
            fields = self._fields(url, question, dropped)
            try:
                reply = await self._reply(fields)
            except Again as fault:
                tries, limits = tries + (not fault.limited), limits + fault.limited
                if tries >= self.spec.tries or limits >= RATE_LIMITED:
                    return self._lost(fault, requests)
                if tries == 2 and fault.status == 500:
                    await self._check_vision(fault, question)
                waited += await self._pause(fault, tries + limits, waited)
                continue
            except Refused as fault:
                if fault.status in WITHOUT_REASON and not (
                    fault.filtered or fault.fix or question.kind in self.settled
                ):
                    await self._check_vision(fault, question)
                    if PROBABILITIES[0] in fields:  # kept as dropped only where the question is answered without it
                        dropped.add(PROBABILITIES[0])
                        continue
                return self._refused(fault)
            except NotAnswered as fault:
                return self._not_answered(fault)
            except _Drop as drop:
                dropped.add(drop.name)
                continue
            return self._answered(question, reply, dropped, requests, time.perf_counter() - began)

    async def _reply(self, fields: Mapping[str, Any]) -> Reply:
        """What the server answers. Raises Again, Refused, NotAnswered, Stop, or _Drop for a field that it refuses."""
        body = await self._post(fields)
        try:
            return read_reply(body, letters=PROBABILITIES[0] in fields)
        except ErrorReply as error:
            raise self._fault(error.status, error.body, {}, fields) from None

    def _fault(self, status: int, body: Any, headers: Mapping[str, str], fields: Mapping[str, Any]) -> Exception:
        """The fault behind an error of the server. status: HTTP's, 0 for an error in an answer that states none."""
        optional = [name for name in (*PROBABILITIES, "temperature", "max_tokens") if name in fields]
        if name := field_refused(status, body, optional):
            return _Drop(PROBABILITIES[0] if name in PROBABILITIES else name)
        if not self.settled and status not in {401, 402, 429} and (said := lacks_vision(body)):
            return Stop(f"the model takes no images: {said}", SEES)
        key_name = self.spec.key_env or (KEY if self.spec.base_url is None else "key_env in the endpoint's file")
        return fault_of(status, body, headers, key_name)

    async def _check_vision(self, fault: Again | Refused, question: Question) -> None:
        """Raises Stop where the server answers text alone and fails with every image, in whatever words: once."""
        if self.looked or self.settled:
            return
        self.looked = True
        for url in (None, blank_url(self.spec)):
            try:
                await self._reply(self._fields(url, question, {PROBABILITIES[0]}))
            except NotAnswered:
                continue
            except (Again, Refused, Stop, _Drop) as failure:
                if url is not None and getattr(failure, "status", None) == fault.status:
                    raise Stop(f"the server answers text, and no question with an image: {fault}", SEES) from None
                return

    def _answered(self, question: Question, reply: Reply, dropped: set[str], tries: int, took: float) -> Answer:
        self.settled.add(question.kind)
        self.lost = self.refused = self.silent = 0
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
            "raw": self._scrub(reply.raw, 8),
            "stripped": list(reply.stripped),
            "ended": reply.ended,
            "empty": not reply.text.strip(),
            "dropped": sorted(dropped),
            "tries": tries,
            "cut": reply.cut,
            "model": self._scrub(reply.model, 8),
            "fingerprint": self._scrub(reply.fingerprint, 8),
            "address": self.server.address,
            "answer_s": round(took, 6),
        }
        return Answer(
            text=self._scrub(reply.text, 8),
            p_a=reply.p_a,
            p_b=reply.p_b,
            tokens_in=reply.tokens_in or 0,
            tokens_out=reply.tokens_out or 0,
            seconds={},  # a server does not say what its stages took, and the way there is none of them
            counted=reply.tokens_in is not None and reply.tokens_out is not None,
            facts=facts,
        )

    def _lost(self, fault: Again, requests: int) -> Unanswered:
        """Every try failed. Raises Stop when that is not this question's fault."""
        self.lost += 1
        text = f"no answer in {requests} requests; the last: {fault}"
        if fault.lost or self.lost >= IN_A_ROW:
            raise Stop(text, "run again when the server answers; what is answered is kept")
        return Unanswered(self._scrub(text))

    def _refused(self, fault: Refused) -> Unanswered:
        """Raises Stop when the server has refused all so far: that is nothing about these pictures."""
        self.lost, self.refused = 0, self.refused + 1
        if not self.settled and self.refused >= IN_A_ROW and self.spec.unanswered == "stop":
            raise Stop(f"every question is refused: {fault}", fault.fix or "fix what it names, then run again")
        return Unanswered(self._scrub(f"refused: {fault}"), refused=True)

    def _not_answered(self, fault: NotAnswered) -> Unanswered:
        """Raises Stop where the model has said nothing to all questions so far."""
        self.lost, self.silent = 0, self.silent + 1
        if not self.spoke and self.silent >= IN_A_ROW:
            raise Stop(f"no question is answered: {fault}", THINKING_FIX)
        return Unanswered(str(fault))

    async def _pause(self, fault: Again, times: int, waited: float) -> float:
        """Wait before asking again; returns for how long, if for a rate limit. waited: so far, for that."""
        wait = fault.wait_s
        if wait is not None and wait > PATIENCE_S:
            raise Stop(f"{fault} (come back in {wait:.0f} s)", "run again then; what is answered is kept")
        if wait is None:
            wait = min(LONGEST_S, BACKOFF_S * 2.0 ** min(times - 1, 10))
        if fault.limited and waited + wait > PATIENCE_S:
            raise Stop(f"{fault} (for {waited:.0f} s now)", "run again later; what is answered is kept")
        wait *= 1 + random.random() / 4  # so that what failed together does not come back together
        now = time.monotonic()
        if (wait >= SAID_FROM_S or fault.limited) and (not self.said_at or now - self.said_at >= SAID_EVERY_S):
            self.said_at = now
            say(self._scrub(f"{self.name}: {fault}; asking again in {wait:.0f} s"))
        if fault.limited:
            self.quiet_until = max(self.quiet_until, now + wait)
        await asyncio.sleep(wait)
        return wait if fault.limited else 0.0

    async def _wait_for_quiet(self) -> None:
        while (left := self.quiet_until - time.monotonic()) > 0:
            await asyncio.sleep(left)

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

    async def _post(self, fields: Mapping[str, Any]) -> bytes:
        """The body of a 200. Raises as `_reply`, and InputError for a proxy that cannot be used."""
        import openai

        if self.client is None:
            for line in warnings_of(self.server):
                say(f"{self.name}: {line}")
            largest = LARGEST + PER_TOKEN * self.spec.thinking_tokens
            self.client = openai.AsyncOpenAI(
                api_key=self.server.key or "none",
                base_url=self.server.address,
                max_retries=0,
                timeout=self.spec.timeout_s + 5,
                http_client=open_client(self.server, largest),
            )
        create = self.client.chat.completions.with_raw_response.create
        rest = {name: value for name, value in fields.items() if name != "messages"}
        try:
            # openai's own timeout starts anew with every byte; this one is for the whole answer.
            raw = await asyncio.wait_for(
                create(model=self.spec.model, messages=fields["messages"], extra_body=rest), self.spec.timeout_s
            )
            return bytes(raw.content)
        except (asyncio.TimeoutError, openai.APITimeoutError):
            raise Again(f"no whole answer within {self.spec.timeout_s:g} s") from None
        except openai.APIStatusError as error:
            raise self._fault(error.status_code, body_of(error), error.response.headers, rest) from None
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, Again):  # our own, from `open_client`
                raise error.__cause__ from None
            cause = type(error.__cause__).__name__
            raise Again(f"the connection failed ({cause})", lost=cause == "ConnectError") from None
        except openai.OpenAIError as error:
            raise Again(f"openai: {type(error).__name__}") from None

    def _scrub(self, text: str, least: int = 1) -> str:
        """`text` without the key, which a server may have sent back. least: length of a key that is looked for: short
        ones are placeholders such as EMPTY, which an answer may hold as a word."""
        key = self.server.key
        return text.replace(key, "***") if key and len(key) >= least else text


class _Drop(Exception):
    """A field the server does not take."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)


def _live(loop: asyncio.AbstractEventLoop) -> None:
    """A loop's life: until it is stopped."""
    try:
        loop.run_forever()
    finally:
        loop.close()


def _wind_up(loop: asyncio.AbstractEventLoop, client: Any) -> None:
    """Cancel everything on `loop`, close its connections and stop it."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()

    async def end() -> None:
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            if client is not None:
                await client.close()
        finally:
            loop.stop()

    loop.create_task(end())


def body_of(error: Any) -> Any:
    """What came with an HTTP error: JSON where it is, else text."""
    try:
        return json.loads(error.response.content)
    except (ValueError, RecursionError):
        return error.response.content[:LONGEST_TEXT].decode("utf-8", "replace")
