"""What every request to a server shares: one event loop, its pace, and what its failures mean for the questions."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from deckbench.answer import Unanswered
from deckbench.endpoint.faults import SEES, Again, Missing, NotAnswered, Refused, Stop, fault_of, lacks_vision
from deckbench.endpoint.picture import blank_url
from deckbench.endpoint.spec import KEY, EndpointSpec, Server
from deckbench.endpoint.text import without_key
from deckbench.endpoint.transport import LARGEST, PER_TOKEN, open_client, warnings_of
from deckbench.errors import OutsideError
from deckbench.progress import say

T = TypeVar("T")
THINKING_FIX = "raise `thinking_tokens` in the endpoint's file if the model thinks before it answers, then run again"
LONGEST_TEXT = 1 << 16  # bytes of an error that is no JSON
BACKOFF_S, LONGEST_S = 1.0, 60.0  # the wait doubles from the one to the other
PATIENCE_S = 600.0  # a server that wants to be left alone for longer, at once or in all, is come back to another day
RATE_LIMITED = 60  # waits for one request's rate limit
IN_A_ROW = 3  # so many requests without an answer one after the other are the server's fault, not theirs
SAID_FROM_S, SAID_EVERY_S = 2.0, 30.0  # a wait as long as the one is said, but not more often than the other


class Drop(Exception):
    """A field the server does not take."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)


@dataclass
class Attempts:
    """What a question, or a group of them, has taken so far. waited_s: for a rate limit."""

    requests: int = 0
    failed: int = 0
    limited: int = 0
    waited_s: float = 0.0

    def another(self, fault: Again, tries: int) -> bool:
        """Count a request that failed; whether it may be sent again."""
        self.failed, self.limited = self.failed + (not fault.limited), self.limited + fault.limited
        return self.failed < tries and self.limited < RATE_LIMITED


class Caller:
    """One server. It may be used from several threads; requests share one event loop.

    name: of the model, for messages. What one request learns spares the others: how long the server wants to be left
    alone, and that nothing more is to be asked (`stopped`).
    """

    def __init__(self, spec: EndpointSpec, server: Server, name: str) -> None:
        self.spec, self.server, self.name = spec, server, name
        self.lock = threading.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.client: Any = None
        self.settled: set[str] = set()  # kinds of question that were answered: the way to ask them is known
        self.probing: dict[str, asyncio.Lock] = {}
        self.lost = self.refused = self.silent = 0  # in a row
        self.spoke = False  # whether any answer had a word in it
        self.proven = False  # whether it has answered in an earlier run
        self.looked = False  # whether it was found out if the server takes images at all
        self.quiet_until = self.said_at = 0.0
        self.stopped: Stop | None = None  # why nothing is asked any more

    # From threads

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, done on the loop. Raises OutsideError where nothing will be answered any more."""
        with self.lock:
            if self.loop is None:
                self.loop = asyncio.new_event_loop()
                # A daemon: a request that hangs must not keep the program from ending.
                threading.Thread(target=_live, args=(self.loop,), name="endpoint", daemon=True).start()
            future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except Stop as stop:
            raise OutsideError(self.scrub(str(stop)), self.server.address, stop.fix) from None
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Give up what is being asked. The next question opens everything anew."""
        with self.lock:
            loop, self.loop, client, self.client = self.loop, None, self.client, None
            self.probing, self.stopped = {}, None
        if loop is not None:
            loop.call_soon_threadsafe(_wind_up, loop, client)

    # On the loop

    async def in_turn(self, kind: str, ask: Callable[[], Awaitable[T]]) -> T:
        """`ask`. The first of each kind goes alone: what it finds out about the server is then known to all others."""
        try:
            if kind in self.settled:
                return await ask()
            async with self.probing.setdefault(kind, asyncio.Lock()):
                if kind not in self.settled:
                    return await ask()
            return await ask()
        except Stop as stop:
            self.stopped = self.stopped or stop
            raise

    async def begin(self, attempts: Attempts) -> float:
        """Wait until the server may be asked; the time at which a request begins. Raises Stop where it may not."""
        if self.stopped is not None:  # another frame's question has found out
            raise self.stopped
        while (left := self.quiet_until - time.monotonic()) > 0:
            await asyncio.sleep(left)
        attempts.requests += 1
        return time.perf_counter()

    async def pause(self, fault: Again, attempts: Attempts) -> None:
        """Wait before asking again. Raises Stop where that would take too long."""
        wait = fault.wait_s
        if wait is not None and wait > PATIENCE_S:
            raise Stop(f"{fault} (come back in {wait:.0f} s)", "run again then; what is answered is kept")
        if wait is None:
            wait = min(LONGEST_S, BACKOFF_S * 2.0 ** min(attempts.failed + attempts.limited - 1, 10))
        if fault.limited and attempts.waited_s + wait > PATIENCE_S:
            raise Stop(f"{fault} (for {attempts.waited_s:.0f} s now)", "run again later; what is answered is kept")
        wait *= 1 + random.random() / 4  # so that what failed together does not come back together
        now = time.monotonic()
        if (wait >= SAID_FROM_S or fault.limited) and (not self.said_at or now - self.said_at >= SAID_EVERY_S):
            self.said_at = now
            say(self.scrub(f"{self.name}: {fault}; asking again in {wait:.0f} s"))
        if fault.limited:
            self.quiet_until = max(self.quiet_until, now + wait)
            attempts.waited_s += wait
        await asyncio.sleep(wait)

    async def check_vision(self, fault: Again | Refused, reply: Callable[[str | None], Awaitable[Any]]) -> None:
        """Raises Stop where the server answers text alone and fails with every image, in whatever words: once.

        reply: asks about the image behind a URL, or (None) without one.
        """
        if self.looked or self.settled:
            return
        self.looked = True
        for url in (None, blank_url(self.spec)):
            try:
                await reply(url)
            except NotAnswered:
                continue
            except (Again, Refused, Missing, Stop, Drop) as failure:
                if url is not None and getattr(failure, "status", None) == fault.status:
                    raise Stop(f"the server answers text, and no question with an image: {fault}", SEES) from None
                return

    # What became of a question

    def succeed(self, kind: str) -> None:
        """A question of this kind is answered."""
        self.settled.add(kind)
        self.lost = self.refused = self.silent = 0

    async def give_up(
        self, fault: Again, requests: int, trial: Callable[[], Awaitable[Any]] | None = None
    ) -> Unanswered:
        """Every try failed. Raises Stop when that is not this question's fault.

        trial: asks something that nothing is known against. What an earlier run left open may come in a row, and is no
        sign of a server that is down.
        """
        self.lost += 1
        text = f"no answer in {requests} requests; the last: {fault}"
        if fault.lost or (self.lost >= IN_A_ROW and not (self.proven and trial and await self._answers(trial))):
            raise Stop(text, "run again when the server answers; what is answered is kept")
        return Unanswered(self.scrub(text))

    async def _answers(self, trial: Callable[[], Awaitable[Any]]) -> bool:
        """Whether the server answers now."""
        attempts = Attempts()
        while True:
            await self.begin(attempts)
            try:
                await trial()
            except NotAnswered:
                pass
            except Again as fault:
                if fault.lost or not attempts.another(fault, self.spec.tries):
                    return False
                await self.pause(fault, attempts)
                continue
            except (Refused, Missing, Drop):
                return False
            self.lost = 0
            return True

    def turned_down(self, fault: Refused) -> Unanswered:
        """Raises Stop when the server has refused all so far: that is nothing about these images."""
        self.lost, self.refused = 0, self.refused + 1
        known = self.settled or self.proven
        if not known and self.refused >= IN_A_ROW and self.spec.unanswered == "stop":
            raise Stop(f"every question is refused: {fault}", fault.fix or "fix what it names, then run again")
        return Unanswered(self.scrub(f"refused: {fault}"), refused=True)

    def without_words(self, fault: NotAnswered) -> Unanswered:
        """Raises Stop where the model has said nothing to all questions so far."""
        self.lost, self.silent = 0, self.silent + 1
        if not (self.spoke or self.proven) and self.silent >= IN_A_ROW:
            raise Stop(f"no question is answered: {fault}", THINKING_FIX)
        return Unanswered(str(fault))

    def fault(self, status: int, body: Any, headers: Mapping[str, str]) -> Exception:
        """The fault behind an error of the server. status: HTTP's, 0 for an error in an answer that states none."""
        if not self.settled and status not in {401, 402, 429} and (said := lacks_vision(body)):
            return Stop(f"the model takes no images: {said}", SEES)
        key_name = self.spec.key_env or (KEY if self.spec.base_url is None else "key_env in the endpoint's file")
        return fault_of(status, body, headers, key_name)

    # The way

    async def send(
        self,
        call: Callable[[Any], Awaitable[Any]],
        fault: Callable[[int, Any, Mapping[str, str]], Exception],
    ) -> bytes:
        """The body of a 200.

        Args:
            call: makes the request, given openai's client; returns what has its body as `content`.
            fault: the exception behind an HTTP error, as `self.fault`.

        Raises:
            Again, Refused, Stop, Drop: as `fault` says.
            InputError: the proxy cannot be used.
        """
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
        try:
            # openai's own timeout starts anew with every byte; this one is for the whole answer.
            raw = await asyncio.wait_for(call(self.client), self.spec.timeout_s)
            return bytes(raw.content)
        except (asyncio.TimeoutError, openai.APITimeoutError):
            raise Again(f"no whole answer within {self.spec.timeout_s:g} s") from None
        except openai.APIStatusError as error:
            raise fault(error.status_code, body_of(error), error.response.headers) from None
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, Again):  # our own, from `open_client`
                raise error.__cause__ from None
            cause = type(error.__cause__).__name__
            raise Again(f"the connection failed ({cause})", lost=cause == "ConnectError") from None
        except openai.OpenAIError as error:
            raise Again(f"openai: {type(error).__name__}") from None

    def scrub(self, text: str, *, answer: bool = False) -> str:
        """As `without_key`; the model's name as the user wrote it stays."""
        return text if text == self.spec.model else without_key(text, self.server.key, answer=answer)


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
