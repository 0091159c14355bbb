"""What goes wrong between here and a server, by what helps: ask again, leave this question, or stop."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from deckbench.endpoint.text import all_text, short

AGAIN = frozenset({408, 409, 425, 429})  # and every 5xx but 501
REFUSED = frozenset({400, 403, 413, 414, 415, 422, 451, 501})  # this question or picture; others may be answered
# No field is dropped for these: they are about the key, the account or the moment.
NOT_ABOUT_FIELDS = frozenset({401, 402, 407, 408, 409, 413, 414, 425, 429, 502, 503, 504, 529})
QUOTA = re.compile(r"insufficient[_ ](quota|balance|funds|credit)|billing|exceeded your current quota", re.IGNORECASE)
# A filter took the answer away, in the words of the providers (OpenAI, Azure, Gemini, Anthropic, Bedrock, Zhipu ...):
# as the reason for which an answer ended, and in the text of an error, where "refused" may be a connection.
FILTER = re.compile(
    r"filter|safe|sensitive|recitation|prohibit|refus|block|spii|moderat|toxic|guardrail|policy|violat|flagged|censor"
    r"|inappropriate|armor|inspection|harm|copyright|敏感|违规|安全",
    re.IGNORECASE,
)
FILTER_TEXT = re.compile(
    r"content.?filter|filtered|safety|content.?policy|usage.?polic|polic(?:y|ies).{0,12}violat|violat.{0,20}polic|flagged"
    r"|moderation|guardrail|prohibited.?content|sensitive|recitation|blocklist|unsafe|inappropriate|model.?armor"
    r"|data.?inspection|敏感|违规|安全",
    re.IGNORECASE,
)
# A model that takes no images says so about images in general; `Client._check_vision` settles what is in doubt.
PICTURE = r"(?:images?|image_url|pictures?|vision|visual|multi-?modal\w*|mmproj)"
NO = (
    r"(?:not (?:\w+ ){0,2}?(?:support|enabl|implement)\w*|n't (?:support|accept|take)|unsupported|no support"
    r"|unknown variant|at most 0|not loaded|not a)"
)
NO_VISION = re.compile(
    rf"{PICTURE}\b.{{0,60}}?\b{NO}|{NO}.{{0,40}}?\b{PICTURE}|\bmmproj\b|text[- ]only|only (?:supports?|accepts?) text"
    r"|missing data required for image|content.{0,40}(?:must be|should be|expected) (?:an? )?(?:valid )?string"
    r"|expected `text`|no endpoints found that support image|images need a model",
    re.IGNORECASE,
)
# An image that cannot be read, or not in this form, says nothing about the others.
THIS_PICTURE = re.compile(
    r"format|mime|too (?:large|big|small|long|many)|exceed|size|pixel|dimension|corrupt|decod|invalid (?:image|base64)"
    r"|valid image|resolution|download|fetch|moderat|flagged|reject|polic|prohibit|safety|sensitive|violat",
    re.IGNORECASE,
)
TOO_LARGE = re.compile(
    r"(?:image|picture|payload|body|request|entity|content|file).{0,40}(?:too (?:large|big)|exceed|over the limit)"
    r"|too large|maximum (?:size|image)",
    re.IGNORECASE,
)
TOO_MUCH = re.compile(
    r"too (?:large|big|long|high|many|great)|exceed|at most|maximum|max(?:imum)? (?:value|allowed)|less than|<=|between"
    r"|greater than|range|context|larger than|up to|limit|\bvalues?\b",
    re.IGNORECASE,
)
NOT_TAKEN = re.compile(
    r"unsupported|not (?:\w+ )?(?:support|permit|allow|recogni|accept|avail|enabl|implement|known|valid)\w*"
    r"|n't (?:support|accept|take)|unrecogni[sz]ed|unknown|unexpected|extra (?:inputs?|fields?)|deprecated|disabled"
    r"|does not exist|no such|use ['\"`]?max_completion_tokens",
    re.IGNORECASE,
)
PARAMETERS = re.compile(r"(?:requested|these|given|some|provided) parameters", re.IGNORECASE)
PROBABILITIES = ("logprobs", "top_logprobs")  # one is of no use without the other
SMALLER = "set `picture: jpeg` or `max_side: 1024` in the endpoint's file, then run again"
SEES = "serve the model with its vision part (llama.cpp: --mmproj), or name a model that takes images"

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "秒": 1.0, "分": 60.0, "小": 3600.0}
UNIT = r"(?:ms|milliseconds?|hours?|h|minutes?|mins?|m|seconds?|secs?|s|days?|d|秒|分钟|分|小时)"
PART = rf"(\d{{1,9}}(?:\.\d{{1,9}})?)\s*({UNIT})(?![A-Za-z])"
DURATION = rf"(?:\d{{1,9}}(?:\.\d{{1,9}})?\s*{UNIT}\s*(?:and\s+|,\s*)?)+"
WAIT_TEXTS = (
    re.compile(
        rf"(?:again|retry|reset|wait|back|available|delay)[^\d]{{0,40}}?({DURATION})(?![A-Za-z])", re.IGNORECASE
    ),
    re.compile(r"(\d{1,9}(?:\.\d+)?\s*(?:秒|分钟|小时))\s*(?:后|之后|再)"),
    re.compile(r"estimated_time['\"]?\s*[:=]\s*(\d{1,9}(?:\.\d+)?)"),
    re.compile(r"retry[-_ ]?after(?:[-_ ]?seconds)?['\"]?\s*[:=]?\s*(\d{1,9}(?:\.\d+)?)(?![\d.]*\s*[A-Za-z\d])", re.I),
)


class Again(Exception):
    """Asking again may help. wait_s: how long the server wants to be left alone. limited: a rate limit.

    status: HTTP's, where that is the fault.
    """

    def __init__(
        self,
        text: str,
        *,
        wait_s: float | None = None,
        limited: bool = False,
        lost: bool = False,
        status: int | None = None,
    ) -> None:
        super().__init__(text)
        self.wait_s, self.limited, self.lost, self.status = wait_s, limited, lost, status


class Strange(Again):
    """A whole reply of another form than that of the API, or one that is not to be believed."""


class Refused(Exception):
    """This request will never succeed; it says nothing about the model. fix: what may help. status: as for Again."""

    def __init__(self, text: str, fix: str = "", *, status: int | None = None, filtered: bool = False) -> None:
        super().__init__(text)
        self.fix, self.status, self.filtered = fix, status, filtered


class NotAnswered(Exception):
    """A whole reply in which the model has said nothing, because its tokens went elsewhere."""


class Missing(Exception):
    """The server has no such API."""


class ErrorReply(Exception):
    """A reply with status 200 that holds an error. status: the HTTP status that it states, 0 for none."""

    def __init__(self, body: Any, status: int) -> None:
        super().__init__(short(body))
        self.body, self.status = body, status


class Stop(Exception):
    """No request will succeed until somebody fixes something. fix: what."""

    def __init__(self, text: str, fix: str) -> None:
        super().__init__(text)
        self.fix = fix


def fault_of(status: int, body: Any, headers: Mapping[str, str], key_name: str) -> Again | Refused | Stop:
    """The fault behind an HTTP status, or (status 0) behind an error in an answer. body: JSON, or text."""
    error = body.get("error") if isinstance(body, dict) else None
    said = f"HTTP {status}" if status else "an error instead of an answer"
    text = f"{said}: {short(error or body or 'no reason given')}"
    everything = all_text(body)
    if 300 <= status < 400:
        return moved(status, headers)
    if status in {402, 403, 429, 0} and QUOTA.search(everything):
        return Stop(text, "the account's quota is used up: raise it, then rerun to resume")
    if status in AGAIN or (status >= 500 and status != 501) or status == 0:
        if status == 0 and FILTER_TEXT.search(everything):
            return Refused(text, status=status, filtered=True)
        limited = status == 429 or (status == 0 and "rate limit" in everything.lower())
        wait = wait_of(headers, everything)
        wait = reset_of(headers) if wait is None and limited else wait
        return Again(text, wait_s=wait, limited=limited, status=status)
    if status in REFUSED:
        fix = SMALLER if status == 413 or TOO_LARGE.search(everything) else ""
        text = f"{text} ({SMALLER.partition(',')[0]})" if fix else text
        return Refused(text, fix, status=status, filtered=FILTER_TEXT.search(everything) is not None)
    if status == 401:
        return Stop(text, f"set {key_name} to a key this server takes, then rerun to resume")
    if status == 404:
        return Stop(text, "check the model's name and the address (it mostly ends in /v1), then rerun to resume")
    return Stop(text, "fix it at the server, then rerun to resume")


def moved(status: int, headers: Mapping[str, str]) -> Stop:
    """A redirect that is not followed: images and key go to the server that was named, and to no other."""
    try:
        there = urlsplit(headers.get("location", ""))
        place = f"{there.scheme}://{there.netloc.rpartition('@')[2]}" if there.netloc else "another address"
    except ValueError:
        place = "another address"
    text = f"HTTP {status}: the server sends requests on to {short(place)}, which is not followed"
    return Stop(text, "if you trust that address, name it as base_url, then rerun to resume")


def lacks_vision(body: Any) -> str:
    """What an error says about a model that takes no images at all; empty where it says no such thing."""
    text = all_text(body)
    blind = "image_url is only supported" in text or (NO_VISION.search(text) and not THIS_PICTURE.search(text))
    return short(body.get("error") or body if isinstance(body, dict) else body) if blind else ""


def wait_of(headers: Mapping[str, str], text: str = "") -> float | None:
    """Seconds until the server wants to be asked again, from its headers, else its words; None when it does not say."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
            return float(value) / unit
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    except (ValueError, TypeError, IndexError, OverflowError):
        pass
    for pattern in WAIT_TEXTS:
        if found := pattern.search(text):
            parts = re.findall(PART, found[1], re.IGNORECASE)
            return sum(float(number) * unit_of(name) for number, name in parts) if parts else float(found[1])
    return None


def reset_of(headers: Mapping[str, str]) -> float | None:
    """Seconds until a rate limit ends, from the headers that count limits: the shortest, as any may be the one."""
    waits = []
    for name in ("x-ratelimit-reset-requests", "x-ratelimit-reset-tokens", "x-ratelimit-reset", "ratelimit-reset"):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"\d{1,13}(\.\d{1,9})?", value):
            seconds = float(value)
            seconds = seconds / 1000 if seconds > 1e11 else seconds  # milliseconds since 1970
            waits.append(max(0.0, seconds - time.time()) if seconds > 1e9 else seconds)
        elif re.fullmatch(DURATION, value, re.IGNORECASE):
            waits.append(sum(float(n) * unit_of(unit) for n, unit in re.findall(PART, value, re.IGNORECASE)))
    return min(waits, default=None)


def unit_of(name: str) -> float:
    """Seconds of a unit of time."""
    name = name.lower()
    return UNITS["ms"] if name.startswith(("ms", "milli")) else UNITS[name[0]]


def field_refused(status: int, body: Any, fields: Sequence[str]) -> str | None:
    """Which of the request's optional fields a server does not take, by its error's `param` or its text.

    max_tokens only where the server says that it does not know the field: a value that is too large is no such thing.
    """
    if status in NOT_ABOUT_FIELDS:
        return None
    error = body.get("error") if isinstance(body, dict) else None
    param = error.get("param") if isinstance(error, dict) else None
    text = all_text(body)
    for found in (param if isinstance(param, str) else "", text):
        for name in fields:
            if not names(found, name):
                continue
            if name == "max_tokens" and (not NOT_TAKEN.search(text) or is_value_fault(text)):
                continue
            return name
    if PARAMETERS.search(text) and PROBABILITIES[0] in fields:  # some field, and this is what servers do without
        return PROBABILITIES[0]
    return None


def is_value_fault(text: str) -> bool:
    """Whether an error is about a limit's value: `use max_completion_tokens` says that it is about the field."""
    return bool(TOO_MUCH.search(text)) and "max_completion_tokens" not in text


def names(text: str, field: str) -> bool:
    """Whether a text names a field; probabilities in any spelling: `logProbs`, `log_probs`, `log probabilities`."""
    if field in PROBABILITIES:
        return re.search(r"log[-_ ]?prob(?:s|abilit|\b)", text, re.IGNORECASE) is not None
    return re.search(rf"(?<![A-Za-z0-9_]){re.escape(field)}(?![A-Za-z0-9_])", text) is not None
