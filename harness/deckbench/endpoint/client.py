"""The client of a server: one request a question, several frames at once, retries where they can help."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from deckbench.answer import Answer, Question, Unanswered
from deckbench.endpoint.faults import Again, Refused, Stop, fault_of, field_named
from deckbench.endpoint.reply import Reply, read_reply
from deckbench.endpoint.spec import KEY, EndpointSpec, Server
from deckbench.endpoint.text import whole
from deckbench.errors import OutsideError
from deckbench.progress import say

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
BACKOFF_S, LONGEST_S = 1.0, 60.0  # the wait doubles from the one to the other
PATIENCE_S = 600.0  # a server that wants to be left alone for longer is come back to another day
RATE_LIMITED = 60  # waits for one question's rate limit
IN_A_ROW = 3  # so many questions without an answer one after the other are the server's fault, not theirs
BLANK = (123, 117, 104)  # what most vision towers turn into zeros: CLIP's mean colour
PROBABILITIES = ("logprobs", "top_logprobs")  # one is of no use without the other


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
        self.lost = self.refused = 0  # in a row
        self.quiet_until = 0.0

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
            self.probing = {}
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
        if question.kind in self.settled:
            return await self._ask_now(url, question)
        async with self.probing.setdefault(question.kind, asyncio.Lock()):
            if question.kind not in self.settled:
                return await self._ask_now(url, question)
        return await self._ask_now(url, question)

    async def _ask_now(self, url: str, question: Question) -> Answer | Unanswered:
        dropped = set(self.dropped)
        tries = requests = limits = 0
        while True:
            await self._wait_for_quiet()
            requests += 1
            began = time.perf_counter()
            try:
                fields = self._fields(url, question, dropped)
                reply = read_reply(await self._post(fields), letters="logprobs" in fields)
            except Again as fault:
                tries, limits = tries + (not fault.limited), limits + fault.limited
                if tries >= self.spec.tries or limits >= RATE_LIMITED:
                    return self._lost(fault, requests)
                await self._pause(fault, tries + limits)
                continue
            except Refused as fault:
                return self._refused(fault)
            except _Drop as drop:
                dropped.add(drop.name)
                continue
            return self._answered(question, reply, dropped, requests, time.perf_counter() - began)

    def _answered(self, question: Question, reply: Reply, dropped: set[str], tries: int, took: float) -> Answer:
        self.settled.add(question.kind)
        self.lost = self.refused = 0
        for name in sorted(dropped - self.dropped):
            say(f"{self.name}: the server refuses the field {name!r}; it is left out from here on")
        self.dropped |= dropped
        facts = {
            "strange": reply.strange,
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
            raise Stop(f"every question is refused: {fault}", "fix what it names, then run again")
        return Unanswered(self._scrub(f"refused: {fault}"))

    async def _pause(self, fault: Again, times: int) -> None:
        wait = fault.wait_s
        if wait is not None and wait > PATIENCE_S:
            raise Stop(f"{fault} (come back in {wait:.0f} s)", "run again then; what is answered is kept")
        if wait is None:
            wait = min(LONGEST_S, BACKOFF_S * 2.0 ** min(times - 1, 10))
        wait *= 1 + random.random() / 4  # so that what failed together does not come back together
        if fault.limited:
            self.quiet_until = max(self.quiet_until, time.monotonic() + wait)
        await asyncio.sleep(wait)

    async def _wait_for_quiet(self) -> None:
        while (left := self.quiet_until - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def _fields(self, url: str, question: Question, dropped: set[str]) -> dict[str, Any]:
        """The request's fields beside model and messages: greedy, bounded, with probabilities for a choice."""
        picture = {"type": "image_url", "image_url": {"url": url}}
        content = [picture, {"type": "text", "text": whole(question.text)}]
        fields: dict[str, Any] = {"messages": [{"role": "user", "content": content}], "temperature": 0}
        fields |= self.spec.extra
        limit = "max_completion_tokens" if "max_tokens" in dropped else "max_tokens"
        fields[limit] = question.max_new_tokens + self.spec.thinking_tokens
        if question.kind == "choice" and self.spec.logprobs and PROBABILITIES[0] not in dropped:
            fields |= {"logprobs": True, "top_logprobs": self.spec.top_logprobs}
        return {name: value for name, value in fields.items() if name not in dropped or name == limit}

    async def _post(self, fields: Mapping[str, Any]) -> bytes:
        """The body of a 200. Raises Again, Refused, Stop, or _Drop when a field is refused that can be left out."""
        import openai

        if self.client is None:
            self.client = openai.AsyncOpenAI(
                api_key=self.server.key or "none",
                base_url=self.server.address,
                max_retries=0,
                timeout=self.spec.timeout_s + 5,
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
            body = body_of(error)
            optional = [name for name in (*PROBABILITIES, "temperature", "max_tokens") if name in rest]
            if error.status_code in {400, 422} and (name := field_named(body, optional)):
                raise _Drop(PROBABILITIES[0] if name in PROBABILITIES else name) from None
            key_name = self.spec.key_env or (KEY if self.spec.base_url is None else "key_env in the endpoint's file")
            raise fault_of(error.status_code, body, error.response.headers, key_name) from None
        except openai.APIConnectionError as error:
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
        return str(error.response.text)


def data_url(image: Image, spec: EndpointSpec, blank: bool) -> str:
    """The picture as a data URL; blank: as large, of one colour."""
    from PIL import Image as Pictures

    if blank:
        image = Pictures.new("RGB", image.size, BLANK)
    if spec.max_side is not None and max(image.size) > spec.max_side:
        scale = spec.max_side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Pictures.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if spec.picture == "jpeg":
        image.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        image.save(buffer, "PNG", compress_level=3)
    return f"data:image/{spec.picture};base64,{base64.b64encode(buffer.getvalue()).decode()}"
