"""Many texts from one server: validated, asked again with the reasons, each call kept before it is used."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deckbench.answer import Unanswered
from deckbench.endpoint.faults import Stop
from deckbench.endpoint.spec import EndpointSpec, Server, identity_of
from deckbench.endpoint.structured.answer import NoAnswer, read_answer
from deckbench.endpoint.structured.calls import Calls
from deckbench.endpoint.structured.cost import Budget
from deckbench.endpoint.structured.live import Writer
from deckbench.endpoint.structured.pace import Pace
from deckbench.endpoint.structured.request import Outcome, Request, Turn, key_of
from deckbench.errors import DeckBenchError, OutsideError
from deckbench.progress import track

TRIES = 3  # answers to one request
LONGER = 4  # times the limit of an answer, at most, where it was cut off
CUT = "it was cut off after {} tokens: answer more briefly"


@dataclass(frozen=True)
class Run:
    """outcomes: in the order of the requests. observed: what was seen of the server and what it cost."""

    outcomes: tuple[Outcome, ...]
    observed: dict[str, Any]


@dataclass(frozen=True)
class Next:
    """The next call that a request needs."""

    turns: tuple[Turn, ...]
    max_tokens: int
    key: str


def follow(request: Request, spec: EndpointSpec, calls: Calls, tries: int) -> Outcome | Next:
    """How far the calls that are kept answer a request: its outcome, or the next call to make."""
    turns: tuple[Turn, ...] = ()
    max_tokens = request.max_tokens
    keys: list[str] = []
    while True:
        key = key_of(request, turns, max_tokens, spec)
        call = calls.by_key.get(key)
        if call is None:
            return Next(turns, max_tokens, key)
        keys.append(key)
        if call.outcome == "refused":
            return Outcome(request, "refused", None, (call.reason,), tuple(keys))
        try:
            value = read_answer(call.text, request.answer)
            reasons = tuple(request.check(value))
            if not reasons:
                return Outcome(request, "answered", value, (), tuple(keys))
        except NoAnswer as fault:
            reasons = fault.reasons
            if call.outcome in {"cut", "silent"}:
                reasons = (call.reason or CUT.format(call.max_tokens),)
                max_tokens = min(2 * max_tokens, LONGER * request.max_tokens)
        if len(keys) >= tries:
            return Outcome(request, "rejected", None, reasons, tuple(keys))
        turns = (*turns, (call.text, reasons))


def answer_all(
    requests: Sequence[Request],
    spec: EndpointSpec,
    server: Server,
    calls: Calls,
    *,
    tries: int = TRIES,
    max_cost: float | None = None,
    what: str = "writing",
) -> Run:
    """The answers to all requests. What the file of calls holds is not asked, or paid, again.

    Args:
        requests: ids are unique.
        spec: the endpoint's settings; at most `concurrency` requests are open at once, fewer where the server says
            that it is too many.
        server: where requests go.
        calls: the open file of calls.
        tries: answers to one request; each rejected one is shown to the model with the reasons.
        max_cost: for all calls in the file, in the currency of the prices.
        what: for the progress line.

    Returns:
        One outcome a request, in order.

    Raises:
        InputError: an image cannot be read, or a limit on the cost without prices.
        OutsideError: the server fails for good, the next call may exceed max_cost, or a batch of the same file is open;
            what was answered is kept.
    """
    budget = Budget(spec, max_cost, calls)
    found: dict[int, Outcome] = {}
    left = list[int]()
    for number, request in enumerate(requests):
        step = follow(request, spec, calls, tries)
        if isinstance(step, Outcome):
            found[number] = step
        else:
            left.append(number)
    observed: dict[str, Any] = {"paid_before": len(requests) - len(left)}
    if left:
        refuse_open_batches(calls)
        writer = Writer(spec, server, str(identity_of(spec)["name"]))
        done: queue.SimpleQueue[tuple[int, Outcome] | BaseException | None] = queue.SimpleQueue()
        pace = Pace(spec.concurrency)
        work = _work(writer, requests, iter(left), calls, budget, pace, tries, done)
        with _running(writer, work, done) as answered:
            for number, outcome in track(answered, what, total=len(left)):
                found[number] = outcome
        observed |= {
            "failed_requests": writer.failed,
            "rate_limits": writer.rate_limits,
            "concurrency": {"lowest": pace.lowest, "highest": pace.highest, "at_the_end": round(pace.limit, 3)},
            "dropped": sorted(writer.dropped),
        }
    outcomes = tuple(found[number] for number in range(len(requests)))
    return Run(outcomes, {**observed, **account(outcomes, calls, spec)})


def refuse_open_batches(calls: Calls) -> None:
    """Raises OutsideError where a batch is not collected: its calls may be paid already, and no limit counts them."""
    for batch in calls.open_batches():
        what = f"the batch {batch.get('id', batch['name'])} with {len(batch['keys'])} calls is not collected yet"
        fix = "rerun with --batch, which collects it and resumes; or name another file of calls, and pay again"
        raise OutsideError(what, calls.path, fix)


def replay(
    requests: Sequence[Request], spec: EndpointSpec, calls: Calls, *, tries: int = TRIES
) -> list[Outcome | None]:
    """What the file of calls alone says to each request; None where calls are missing. Nothing is asked."""
    steps = [follow(request, spec, calls, tries) for request in requests]
    return [step if isinstance(step, Outcome) else None for step in steps]


def account(outcomes: Sequence[Outcome], calls: Calls, spec: EndpointSpec) -> dict[str, Any]:
    """What the calls behind outcomes were and cost."""
    used = [calls.by_key[key] for key in dict.fromkeys(key for outcome in outcomes for key in outcome.calls)]
    counted = [call for call in used if call.tokens_in is not None and call.tokens_out is not None]
    facts: dict[str, Any] = {
        "calls": len(used),
        "tokens_in": sum(call.tokens_in or 0 for call in used),
        "tokens_out": sum(call.tokens_out or 0 for call in used),
        "uncounted": len(used) - len(counted),
        "models": sorted({call.served for call in used} - {""}),
        "fingerprints": sorted({call.fingerprint for call in used} - {""}),
        "cut": sum(call.outcome == "cut" for call in used),
    }
    if spec.price_in is not None:
        facts |= {"cost": round(sum(call.cost(spec) for call in used), 6), "currency": spec.currency}
    return facts


async def _work(
    writer: Writer,
    requests: Sequence[Request],
    left: Iterator[int],
    calls: Calls,
    budget: Budget,
    pace: Pace,
    tries: int,
    done: queue.SimpleQueue[tuple[int, Outcome] | BaseException | None],
) -> None:
    """All requests that are left, several at once. After a failure for good, open calls are still kept."""
    failures: list[DeckBenchError | Stop] = []
    guards: dict[str, asyncio.Lock] = {}

    async def settle(request: Request) -> Outcome:
        keys: list[str] = []
        while True:
            step = follow(request, writer.spec, calls, tries)
            if isinstance(step, Outcome):
                return step
            async with guards.setdefault(step.key, asyncio.Lock()):
                if step.key not in calls.by_key:  # an equal request may have asked meanwhile
                    call = await writer.write(request, step.turns, step.max_tokens, step.key, pace, budget)
                    if isinstance(call, Unanswered):
                        status = "refused" if call.refused else "unanswered"
                        return Outcome(request, status, None, (call.reason,), tuple(keys))  # type: ignore[arg-type]
                    calls.add(call)
            guards.pop(step.key, None)
            keys.append(step.key)

    async def work() -> None:
        for number in left:
            if failures:
                return
            try:
                done.put((number, await settle(requests[number])))
            except (Stop, DeckBenchError) as failure:
                failures.append(failure)
                writer.stopped = failure if isinstance(failure, Stop) else writer.stopped

    await asyncio.gather(*(work() for _ in range(writer.spec.concurrency)))
    if failures:
        raise failures[0]


@contextmanager
def _running(writer: Writer, work: Any, done: queue.SimpleQueue[Any]) -> Iterator[Iterator[tuple[int, Outcome]]]:
    """Run `work` on the writer's loop; yields what it puts into `done`. Leaving the block early gives up open calls."""

    def run() -> None:
        try:
            writer.run(work)
            done.put(None)
        except BaseException as failure:
            done.put(failure)

    def answered() -> Iterator[tuple[int, Outcome]]:
        while (item := done.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    threading.Thread(target=run, name="structured", daemon=True).start()
    try:
        yield answered()
    finally:
        writer.close()
