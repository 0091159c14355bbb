"""All choice questions of a frame in one request, split where the server has a limit, asked again in part."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from deckbench.answer import Answer, Unanswered
from deckbench.endpoint import decisions, systemone
from deckbench.endpoint.caller import Attempts, Caller
from deckbench.endpoint.faults import TOO_LARGE, Again, Missing, Refused, Stop, Strange
from deckbench.endpoint.picture import blank_url
from deckbench.endpoint.reply import parsed, status_in
from deckbench.endpoint.text import all_text
from deckbench.endpoint.typed import Decided, Decisions, Typed
from deckbench.progress import say

APIS: dict[str, Any] = {"decisions": decisions, "systemone": systemone}
SHOWN = 2000  # characters of an answer that the transcript keeps
FORMLESS = 3  # so many replies of another form to a trial question: the server has no such API
TRIAL = Typed("q1", "Is this image of one color?", ("yes", "no"))
BOUND = (
    r"(?:at most|max(?:imum)?(?: \w+)?(?: of| is|:)?|limit(?:ed)?(?: of| is| to|:)?|up to|no more than|<=|between 1 and"
    r"|1\s*[-–])"
)
# The most questions that a server takes, in an error about more.
MOST = re.compile(
    rf"questions?\b.{{0,60}}?{BOUND}\s*(\d{{1,4}})\b|{BOUND}\s*(\d{{1,4}})\s+(?:questions?|decisions?|items?|entries)\b",
    re.IGNORECASE,
)


class TooMany(Exception):
    """A request with more questions than the server takes."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most


class Decider:
    """Typed decisions of one server. api: by which they are asked; None for a server that is only asked in chat.

    most: questions of one request, smaller once the server has said so.
    """

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.api: str | None = None if caller.spec.api == "chat" else caller.spec.api
        self.most = APIS[self.api].MOST if self.api in APIS else 0

    async def serves(self) -> bool:
        """Whether choice questions are decisions for this server; with `api: auto` it is tried once."""
        if self.api != "auto":
            return self.api is not None

        async def find() -> None:
            if self.api == "auto":
                self.api = await self._found()
                self.most = APIS[self.api].MOST if self.api is not None else 0

        await self.caller.in_turn("api", find)
        return self.api is not None

    async def _found(self) -> str | None:
        """The first API by which the server decides a trial question about a blank image. None: chat."""
        url = blank_url(self.caller.spec)
        for api in APIS:
            attempts = Attempts()
            while True:
                await self.caller.begin(attempts)
                try:
                    if isinstance((await self._reply(api, url, [TRIAL])).outcomes[0], Decided):
                        say(f"{self.caller.name}: choice questions go together to {APIS[api].PATH}")
                        return api
                    break
                except Again as fault:
                    more = attempts.another(fault, self.caller.spec.tries)
                    if isinstance(fault, Strange) and attempts.failed >= FORMLESS:
                        break
                    if not more and fault.status:
                        break
                    if fault.lost or not more:
                        raise Stop(f"no answer: {fault}", "run again when the server answers") from None
                    await self.caller.pause(fault, attempts)
                except (Missing, Refused):
                    break
        say(f"{self.caller.name}: the server takes no typed decisions; every question is a chat completion")
        return None

    async def ask(self, url: str, questions: Sequence[Typed]) -> list[Answer | Unanswered]:
        """What became of each question about the image behind `url`, in order. Raises Stop."""
        given = await self.caller.in_turn("decision", partial(self._parts, url, questions, len(questions)))
        return [given[question.name] for question in questions]

    async def _group(self, url: str, group: Sequence[Typed]) -> dict[str, Answer | Unanswered]:
        """One request, and as many more as its failures ask for. What is answered is never asked again."""
        caller, attempts = self.caller, Attempts()
        assert self.api is not None
        api, left = self.api, list(group)
        given: dict[str, Answer | Unanswered] = {}
        counted = 0  # requests that answers already stand for

        async def reply_to(url: str | None) -> Decisions:
            return await self._reply(api, url, left[:1])

        async def trial() -> Decisions:
            return await self._reply(api, blank_url(caller.spec), [TRIAL])

        while left:
            began = await caller.begin(attempts)
            try:
                reply = await self._reply(api, url, left)
            except Again as fault:
                if not attempts.another(fault, caller.spec.tries):
                    lost = await caller.give_up(fault, attempts.requests, trial)
                    return given | dict.fromkeys(names(left), lost)
                if attempts.failed == 2 and fault.status == 500:
                    await caller.check_vision(fault, reply_to)
                await caller.pause(fault, attempts)
                continue
            except TooMany as limit:
                self.most = min(self.most, limit.most)
                say(f"{caller.name}: the server takes {self.most} questions in a request")
                return given | await self._parts(url, left, self.most)
            except Refused as fault:
                if not (fault.filtered or fault.fix):
                    await caller.check_vision(fault, reply_to)
                if len(left) > 1 and fault.status != 413 and not TOO_LARGE.search(str(fault)):
                    return given | await self._halves(url, left)
                return given | dict.fromkeys(names(left), caller.turned_down(fault))
            except Missing:
                what = f"the server has no {APIS[api].PATH}"
                raise Stop(what, "check the model's name and the address, or set `api: auto` or `api: chat`") from None
            took = time.perf_counter() - began
            good = [
                (question, found)
                for question, found in zip(left, reply.outcomes, strict=True)
                if isinstance(found, Decided)
            ]
            if good:
                caller.succeed("decision")
                given |= self._answered(good, reply, attempts.requests - counted, took)
                counted = attempts.requests
            refused = {
                q.name: found for q, found in zip(left, reply.outcomes, strict=True) if isinstance(found, Refused)
            }
            given |= self._declined(refused, some=bool(good))
            again = [found for found in reply.outcomes if isinstance(found, Again)]
            left = [question for question in left if question.name not in given]
            if again:
                if not attempts.another(again[0], caller.spec.tries):
                    text = f"no answer in {attempts.requests} requests; the last: {again[0]}"
                    if given:
                        return given | dict.fromkeys(names(left), Unanswered(caller.scrub(text)))
                    lost = await caller.give_up(again[0], attempts.requests, trial)
                    return dict.fromkeys(names(left), lost)
                await caller.pause(again[0], attempts)
        return given

    def _declined(self, refused: Mapping[str, Refused], *, some: bool) -> dict[str, Unanswered]:
        """What the model declines to answer; that is nothing about the server where `some` others are answered."""
        if not refused:
            return {}
        if not some:
            self.caller.turned_down(next(iter(refused.values())))
        return {name: Unanswered(f"refused: {fault}", refused=True) for name, fault in refused.items()}

    async def _parts(self, url: str, left: Sequence[Typed], size: int) -> dict[str, Answer | Unanswered]:
        """Requests of `size` questions, or of fewer where a limit was found on the way."""
        given: dict[str, Answer | Unanswered] = {}
        while left:
            group, left = left[: min(size, self.most)], left[min(size, self.most) :]
            given |= await self._group(url, group)
        return given

    async def _halves(self, url: str, left: Sequence[Typed]) -> dict[str, Answer | Unanswered]:
        """A refused request again in halves: what the server means may be one question, or their number."""
        size = (len(left) + 1) // 2
        given = await self._parts(url, left, size)
        if all(isinstance(answer, Answer) for answer in given.values()):  # it was their number
            self.most = min(self.most, size)
        return given

    async def _reply(self, api: str, url: str | None, questions: Sequence[Typed]) -> Decisions:
        """What the server answers. Raises Again, Refused, Missing, Stop, or TooMany."""
        caller, module = self.caller, APIS[api]

        def fault(status: int, body: Any, headers: Mapping[str, str]) -> Exception:
            if status in {404, 405}:
                return Missing()
            if status in {400, 413, 422} and (most := stated_limit(all_text(body), len(questions))):
                return TooMany(most)
            return caller.fault(status, body, headers)

        fields = module.fields(url, questions)
        body = await caller.send(
            lambda client: module.call(client, caller.spec.model, fields, dict(caller.spec.extra)), fault
        )
        try:
            data = parsed(body, once=True)
            if data.get("error") and "answers" not in data:
                raise fault(status_in(data["error"]), {"error": data["error"]}, {})
            found: Decisions = module.read(data, questions)
        except Again as why:
            raise why if why.status is not None else Strange(str(why)) from None
        return found

    def _answered(
        self, good: Sequence[tuple[Typed, Decided]], reply: Decisions, requests: int, took: float
    ) -> dict[str, Answer | Unanswered]:
        """The answers of one request, which share its tokens and its time; the first of them stands for it."""
        caller = self.caller
        made: dict[str, Answer | Unanswered] = {}
        tokens_in, tokens_out = parts_of(reply.tokens_in, len(good)), parts_of(reply.tokens_out, len(good))
        for number, (question, found) in enumerate(good):
            facts: dict[str, Any] = {
                "strange": "",
                "kind": "choice",
                "api": self.api,
                "raw": caller.scrub(found.raw, answer=True)[:SHOWN],
                "stripped": [],
                "ended": "",
                "empty": False,
                "dropped": [],
                "tries": 0 if number else requests,
                "cut": False,
                "model": caller.scrub(reply.model),
                "fingerprint": "",
                "address": caller.server.address,
                "answer_s": round(took, 6),
            }
            made[question.name] = Answer(
                text=found.letter,
                p_a=found.p_a,
                p_b=found.p_b,
                tokens_in=tokens_in[number],
                tokens_out=tokens_out[number],
                seconds={},
                counted=reply.tokens_in is not None and reply.tokens_out is not None,
                facts=facts,
            )
        caller.spoke = True
        return made


def names(questions: Sequence[Typed]) -> list[str]:
    """Their names, in order."""
    return [question.name for question in questions]


def parts_of(tokens: int | None, number: int) -> list[int]:
    """A count in `number` whole parts that differ by one at most."""
    whole, rest = divmod(tokens or 0, number)
    return [whole + (i < rest) for i in range(number)]


def stated_limit(text: str, asked: int) -> int | None:
    """The most questions that an error about `asked` of them allows; None where it is about something else."""
    for found in MOST.finditer(text):
        if 1 <= (most := int(found[1] or found[2])) < asked:
            return most
    return None
