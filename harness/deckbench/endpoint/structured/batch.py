"""The Batch API of OpenAI: many calls in a file, answered within 24 hours at half the price; resumed after a kill.

A batch is named in the file of calls before it is created, and the name travels in its metadata: whoever comes back
finds it by its id or, if the process died before that was known, by its name among the account's batches.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import IO, Any

from deckbench.artifact import canonical, hash_json
from deckbench.endpoint import caller
from deckbench.endpoint.caller import LONGEST_S, PATIENCE_S, body_of
from deckbench.endpoint.faults import Again, ErrorReply, Refused, Stop, fault_of, field_refused
from deckbench.endpoint.picture import data_url
from deckbench.endpoint.spec import KEY, EndpointSpec, Server
from deckbench.endpoint.structured.calls import Call, Calls, Said, read_said
from deckbench.endpoint.structured.cost import Budget, tokens_of
from deckbench.endpoint.structured.live import SCHEMA, SCRUBBED, call_of
from deckbench.endpoint.structured.request import Outcome, Request, fields_of
from deckbench.endpoint.structured.run import TRIES, Next, Run, account, follow
from deckbench.endpoint.text import short, without_key
from deckbench.endpoint.transport import open_client, warnings_of
from deckbench.errors import OutsideError
from deckbench.picture import open_picture
from deckbench.progress import say

ROUTE = "/v1/chat/completions"
LABEL = "deckbench"  # of the name, in a batch's metadata
MOST_REQUESTS, MOST_BYTES = 10_000, 100 << 20  # of one batch; OpenAI takes 50,000 and 200 MB
LARGEST = 512 << 20  # bytes of a batch's answers
LISTED = 1000  # batches that are looked through for a name
POLL_S = (5.0, 60.0)  # the first wait, and the longest
SAID_EVERY_S = 300.0
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
OPTIONAL = (SCHEMA, "temperature", "max_tokens")  # fields that a server may refuse
UNSAID = {one.name: None for one in fields(Said)}
NO_ROUTE = "this server may have no Batch API: run without --batch"
GONE = "ask the server and account that the batch was sent to; if it is gone, name another file of calls, and pay again"
FIX = "rerun to resume; what is answered is kept"


@dataclass
class State:
    """What is known while batches run. refused, failed: key -> why there is no answer; failed ones are asked again."""

    spec: EndpointSpec
    server: Server
    calls: Calls
    budget: Budget
    client: Any
    dropped: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)  # how often a key was sent

    def scrub(self, text: str, *, answer: bool = False) -> str:
        """As `Caller.scrub`."""
        return text if text == self.spec.model else without_key(text, self.server.key, answer=answer)


def answer_by_batch(
    requests: Sequence[Request],
    spec: EndpointSpec,
    server: Server,
    calls: Calls,
    *,
    tries: int = TRIES,
    max_cost: float | None = None,
) -> Run:
    """As `run.answer_all`, by the Batch API. A rejected answer is asked for again in the next batch.

    Raises:
        InputError: an image cannot be read, or a limit on the cost without prices.
        OutsideError: the server fails for good, or the next calls may exceed max_cost; what was answered is kept.
    """
    for line in warnings_of(server):
        say(f"{spec.label}: {line}")
    try:
        return asyncio.run(_run(requests, spec, server, calls, tries, max_cost))
    except Stop as stop:
        raise OutsideError(without_key(str(stop), server.key), server.address, stop.fix) from None
    except (Again, Refused) as fault:
        raise OutsideError(without_key(str(fault), server.key), server.address, FIX) from None


async def _run(
    requests: Sequence[Request],
    spec: EndpointSpec,
    server: Server,
    calls: Calls,
    tries: int,
    max_cost: float | None,
) -> Run:
    import openai

    http = open_client(server, LARGEST)
    client = openai.AsyncOpenAI(
        api_key=server.key or "none", base_url=server.address, max_retries=0, timeout=spec.timeout_s, http_client=http
    )
    budget = Budget(spec, max_cost, calls, batch=True)
    state = State(spec, server, calls, budget, client)
    state.dropped.update(*(batch.get("dropped", ()) for batch in calls.batches.values()))
    try:
        while True:
            for batch in calls.open_batches():
                await collect(state, batch)
            todo = pending(state, requests, tries)
            if not todo:
                break
            await submit(state, todo)
    finally:
        await client.close()
    outcomes = tuple(outcome_of(state, request, tries) for request in requests)
    observed = {"batches": sorted(batch.get("id", "") for batch in calls.batches.values())}
    return Run(outcomes, {**observed, "dropped": sorted(state.dropped), **account(outcomes, calls, spec)})


def pending(state: State, requests: Sequence[Request], tries: int) -> dict[str, tuple[Request, Next]]:
    """Key -> the request and call that is still to be made."""
    todo = {}
    for request in requests:
        step = follow(request, state.spec, state.calls, tries)
        if not isinstance(step, Next) or step.key in state.refused:
            continue
        if step.key in state.failed and state.times.get(step.key, 0) >= tries:
            continue
        todo[step.key] = (request, step)
    return todo


def outcome_of(state: State, request: Request, tries: int) -> Outcome:
    step = follow(request, state.spec, state.calls, tries)
    if isinstance(step, Outcome):
        return step
    if step.key in state.refused:
        return Outcome(request, "refused", None, (state.refused[step.key],))
    return Outcome(request, "unanswered", None, (state.failed.get(step.key, "no answer in the batch"),))


# Sending


async def submit(state: State, todo: dict[str, tuple[Request, Next]]) -> None:
    """One batch of what is to be asked, as much as fits into it and into the budget."""
    with tempfile.TemporaryFile() as file:
        keys = write_requests(state, todo, file)
        name = f"{hash_json(list(keys))[:16]}-{len(state.calls.batches)}"
        upload = (f"{name}.jsonl", file, "application/jsonl")

        async def send() -> Any:
            file.seek(0)
            return await state.client.files.create(file=upload, purpose="batch")

        made = await attempt(state, send)
    state.calls.note_batch({"name": name, "state": "creating", "keys": keys, "dropped": sorted(state.dropped)})
    await create(state, name, made.id)


async def create(state: State, name: str, file: str) -> None:
    """Create a batch once, whatever becomes of the answer that says so. file: the id of its calls."""

    async def send() -> Any:
        sent.append(True)
        if len(sent) > 1:
            found = await find(state, name)
            if found is not None:
                return found
        return await state.client.batches.create(
            input_file_id=file,
            endpoint=ROUTE,
            completion_window="24h",
            metadata={LABEL: name},
        )

    sent: list[bool] = []
    try:
        made = await attempt(state, send)
    except (Refused, Stop):
        if len(sent) == 1:  # it was never created
            close(state, name)
        raise
    state.calls.note_batch({"name": name, "state": "submitted", "id": made.id})
    count = len(state.calls.batches[name]["keys"])
    say(f"{state.spec.label}: batch {made.id} with {count} calls; this command may be stopped, and resumes")


def close(state: State, name: str) -> None:
    """Note that a batch has nothing more to give."""
    state.calls.note_batch({"name": name, "state": "collected", "keys": {}})


def write_requests(state: State, todo: dict[str, tuple[Request, Next]], file: IO[bytes]) -> dict[str, dict[str, Any]]:
    """Write the calls of a batch; returns key -> the call without what will be said: enough to keep any answer.

    Raises OutsideError where the budget has no room for the first.
    """
    keys: dict[str, dict[str, Any]] = {}
    amount = 0.0
    size = 0
    for key, (request, step) in todo.items():
        url = None if request.image is None else data_url(open_picture(request.image), state.spec, blank=False)
        fields = fields_of(request, step.turns, step.max_tokens, state.spec, url, state.dropped)
        guess = tokens_of(request, fields["messages"], state.spec)
        amount += state.budget.bound(guess, step.max_tokens)
        line = canonical(
            {"custom_id": key, "method": "POST", "url": ROUTE, "body": {"model": state.spec.model, **fields}}
        )
        if not state.budget.fits(amount):
            if not keys:
                raise state.budget.used_up(amount)
            break
        if keys and (len(keys) >= MOST_REQUESTS or size + len(line) >= MOST_BYTES):
            break
        file.write(line + b"\n")
        size += len(line) + 1
        call = asdict(call_of(request, key, state.spec, fields, step.max_tokens, guess, UNSAID, batch=True))
        keys[key] = {name: value for name, value in call.items() if name not in UNSAID}
        state.times[key] = state.times.get(key, 0) + 1
    return keys


# Collecting


async def collect(state: State, batch: dict[str, Any]) -> None:
    """Wait for a batch, and keep each of its answers, also those that this run does not ask for."""
    name = batch["name"]
    if batch["state"] == "creating":  # the process ended before the batch's id was known
        found = await attempt(state, lambda: find(state, name), GONE)
        if found is None:
            close(state, name)
            return
        state.calls.note_batch({"name": name, "state": "submitted", "id": found.id})
    made = await wait_for(state, batch["id"])
    for file in (made.output_file_id, made.error_file_id):
        if file:
            content = await attempt(state, partial(state.client.files.content, file), GONE)
            for key, status, body in answers(content.content):
                asked = batch["keys"].get(key)
                if isinstance(asked, dict) and key not in state.calls.by_key:
                    keep(state, asked, status, body, set(batch["dropped"]))
    if made.status == "failed":
        errors = [error.message for error in (made.errors.data if made.errors else None) or () if error.message]
        close(state, name)
        what = f"the batch {made.id} failed: {short('; '.join(errors) or 'no reason given')}"
        raise Stop(what, "fix what it names at the server, then rerun to resume")
    for key in batch["keys"]:
        if key not in state.calls.by_key and key not in state.refused:
            state.failed.setdefault(key, f"the batch {made.id} ended ({made.status}) without its answer")
    close(state, name)


async def wait_for(state: State, batch_id: str) -> Any:
    """The batch when it has ended."""
    wait, said = POLL_S[0], -SAID_EVERY_S
    waited = 0.0
    while True:
        made = await attempt(state, lambda: state.client.batches.retrieve(batch_id), GONE)
        if made.status in ENDED:
            return made
        if waited - said >= SAID_EVERY_S:
            said = waited
            counts = made.request_counts
            done = f", {counts.completed} of {counts.total}" if counts is not None else ""
            say(f"{state.spec.label}: batch {batch_id}: {state.scrub(short(made.status))}{done}")
        await asyncio.sleep(wait)
        waited += wait
        wait = min(POLL_S[1], 1.5 * wait)


async def find(state: State, name: str) -> Any:
    """The batch of this name on the server; None where there is none."""
    seen = 0
    async for made in state.client.batches.list(limit=100):
        if (made.metadata or {}).get(LABEL) == name:
            return made
        seen += 1
        if seen >= LISTED:
            break
    return None


def answers(content: bytes) -> Iterator[tuple[str, int, Any]]:
    """(custom_id, status, body) of each line of a batch's output or error file; a line that is none is left out."""
    for line in content.split(b"\n"):
        try:
            data = json.loads(line)
            response = data.get("response") or {}
            error = data.get("error")
            status = int(response.get("status_code") or 0)
            yield str(data["custom_id"]), status, response.get("body") if not error else {"error": error}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue


def keep(state: State, asked: dict[str, Any], status: int, body: Any, dropped: set[str]) -> None:
    """Keep one answer, or why there is none. asked: the call without what was said. dropped: fields it had not."""
    key = asked["key"]
    if status == 200:
        try:
            said = vars(read_said(canonical(body)))
        except ErrorReply as error:
            status, body = error.status, error.body
        except (Again, TypeError, ValueError) as broken:
            state.failed[key] = state.scrub(str(broken))
            return
        else:
            said |= {name: state.scrub(said[name], answer=answer) for name, answer in SCRUBBED.items()}
            call = Call(**asked, **said)
            state.calls.add(call)
            state.budget.paid(call)
            state.failed.pop(key, None)
            return
    for name in OPTIONAL:
        if name not in dropped and field_refused(status, body, [name]):
            state.dropped.add(name)
            state.failed[key] = f"the server refuses the field {name!r}"
            state.times[key] = 0
            return
    fault = fault_of(status, body, {}, state.spec.key_env or KEY)
    if isinstance(fault, Refused):
        state.refused[key] = state.scrub(f"refused: {fault}")
    else:
        state.failed[key] = state.scrub(str(fault))


async def attempt(state: State, send: Callable[[], Awaitable[Any]], missing: str = NO_ROUTE) -> Any:
    """What a route answers, tried again where that may help. missing: fix for 404. Raises Again, Refused or Stop."""
    import openai

    tried = 0
    while True:
        tried += 1
        found: Again | Refused | Stop
        try:
            return await send()
        except openai.APIStatusError as error:
            found = fault_of(error.status_code, body_of(error), error.response.headers, state.spec.key_env or KEY)
            if error.status_code == 404:
                found = Stop(str(found), missing)
        except openai.APIConnectionError as error:
            found = Again(f"the connection failed ({type(error.__cause__).__name__})")
        except openai.OpenAIError as error:
            found = Again(f"openai: {type(error).__name__}")
        wait = getattr(found, "wait_s", None)
        wait = min(LONGEST_S, caller.BACKOFF_S * 2.0 ** (tried - 1)) if wait is None else wait
        if not isinstance(found, Again) or tried >= state.spec.tries or wait > PATIENCE_S:
            raise found
        await asyncio.sleep(wait)
