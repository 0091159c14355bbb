"""How bytes come from a server: bounded, from no other host than the one named, past no proxy without a word."""

from __future__ import annotations

import ipaddress
import os
import socket
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from deckbench.endpoint.faults import Again
from deckbench.endpoint.spec import Server
from deckbench.errors import InputError

LARGEST = 8 << 20  # bytes of an answer, unpacked; JSON of that size takes at most some 200 MB to read
PER_TOKEN = 2 << 10  # more for each token of thinking: its 20 probabilities take some 1.6 kB
REDIRECTS = 3
UNPACKED_AT_ONCE = 1 << 20
PROXY_FIX = "set the variables HTTP_PROXY, HTTPS_PROXY and ALL_PROXY to http://HOST:PORT, or unset them"


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


def resolves_here(host: str) -> bool:
    """Whether a host's name means this machine, as /etc/hosts may have it."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(is_loopback(address) for address in found)


def proxy_of(address: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """The proxy that the environment names for an address; None where requests go directly, as to this machine."""
    parts = urlsplit(address)
    host = (parts.hostname or "").lower()
    # As for curl, urllib and httpx: lower case wins; HTTP_PROXY means nothing in a CGI script, where clients set it.
    known = {name.lower(): value for name, value in sorted(environ.items()) if value.strip()}
    if "REQUEST_METHOD" in environ:
        known.pop("http_proxy", None)
    proxy = known.get(f"{parts.scheme}_proxy") or known.get("all_proxy")
    if not proxy or is_loopback(host) or is_exempt(host, parts.port, known.get("no_proxy", "")):
        return None
    if resolves_here(host):
        return None
    return proxy.strip() if "://" in proxy else f"http://{proxy.strip()}"


def is_exempt(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether NO_PROXY names a host: by name, by the end of its name, by address or network."""
    for entry in (part.strip().lower() for part in no_proxy.split(",")):
        if entry == "*":
            return True
        name, colon, last = entry.rpartition(":")
        if colon and last.isdecimal() and ":" not in name:
            if int(last) != port:
                continue
            entry = name
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False):
                return True
        except ValueError:
            domain = entry.removeprefix("*").lstrip(".")
            if domain and (host == domain or host.endswith(f".{domain}")):
                return True
    return False


def warnings_of(server: Server, environ: Mapping[str, str] = os.environ) -> list[str]:
    """What a user should know of the way to a server, a line each. No line holds a key or a password."""
    parts, found = urlsplit(server.address), []
    proxy = proxy_of(server.address, environ)
    if proxy is not None:
        via = urlsplit(proxy)
        where = f"{via.hostname or 'a proxy'}{f':{via.port}' if via.port else ''}"
        what = "images, questions and the key" if server.key else "images and questions"
        clear = ", in clear text" if parts.scheme == "http" else ""
        found.append(f"{what} for {parts.hostname} go through the proxy {where}{clear}; NO_PROXY exempts a host")
    if parts.scheme == "http" and server.key and not is_loopback(parts.hostname or ""):
        found.append(f"the key goes to {parts.hostname} in clear text: the address is http, not https")
    return found


def open_client(server: Server, largest: int = LARGEST, environ: Mapping[str, str] = os.environ) -> Any:
    """The HTTP client for a server: follows no redirect to another host, reads answers of at most `largest` bytes.

    Raises InputError for a proxy in the environment that cannot be used.
    """
    import openai

    class Bounded(openai.DefaultAsyncHttpxClient):  # type: ignore[misc, valid-type]
        """Reads every answer whole, errors too: openai itself reads those without a limit."""

        async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
            for _ in range(REDIRECTS):
                response = await super().send(request, stream=True, **options)
                try:
                    there = response.next_request
                    if response.status_code not in {307, 308} or there is None or not same_host(request, there):
                        body = await read_bounded(response, largest)
                        dropped = {"content-encoding", "content-length", "transfer-encoding"}
                        kept = [(name, value) for name, value in response.headers.items() if name not in dropped]
                        return type(response)(response.status_code, headers=kept, content=body, request=request)
                finally:
                    await response.aclose()
                request = there
            raise Again("the server sends a request round in circles")

    proxy = proxy_of(server.address, environ)
    host = urlsplit(server.address).hostname or ""
    host = f"[{host}]" if ":" in host else host
    way: dict[str, Any] = {"mounts": {f"all://{host}": None}} if proxy is None else {"proxy": proxy}
    try:
        return Bounded(follow_redirects=False, headers={"Accept-Encoding": "gzip, deflate"}, **way)
    except (ImportError, ValueError) as error:
        text = str(error) if isinstance(error, ImportError) else "its address is not like http://HOST:PORT"
        raise InputError(f"the proxy cannot be used: {text}", "the environment", PROXY_FIX) from None
    except Exception as error:  # httpx' InvalidURL is no ValueError
        if type(error).__name__ != "InvalidURL":
            raise
        raise InputError("the proxy's address cannot be read", "the environment", PROXY_FIX) from None


def same_host(one: Any, other: Any) -> bool:
    """Whether two requests go to the same scheme, host and port."""
    return all(getattr(one.url, part) == getattr(other.url, part) for part in ("scheme", "host", "port"))


async def read_bounded(response: Any, largest: int) -> bytes:
    """The body of a response that is being streamed, unpacked. Raises Again where it is longer than `largest`."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower() or "identity"
    if encoding not in {"identity", "gzip", "x-gzip", "deflate"}:
        raise Again(f"the answer is compressed in a way that was not asked for ({encoding[:40]!r})")
    pieces, size = list[bytes](), 0
    unpack = None if encoding == "identity" else Unpacker(encoding)
    async for chunk in response.aiter_raw():
        while chunk:
            piece, chunk = (chunk, b"") if unpack is None else unpack(chunk)
            pieces.append(piece)
            size += len(piece)
            if size > largest:
                raise Again(f"the answer is longer than {largest >> 20} MiB, so it was not read to its end")
    return b"".join(pieces)


class Unpacker:
    """gzip or deflate, a bounded piece at a time."""

    def __init__(self, encoding: str) -> None:
        self.raw = encoding == "deflate"  # with a zlib header, as the standard says, or without, as some servers do
        self.stream = zlib.decompressobj(zlib.MAX_WBITS | (0 if self.raw else 16))
        self.first = True

    def __call__(self, data: bytes) -> tuple[bytes, bytes]:
        """(a piece, what is left of the data). Raises Again for what is not compressed as stated."""
        try:
            piece = self.stream.decompress(data, UNPACKED_AT_ONCE)
        except zlib.error:
            if not (self.raw and self.first):
                raise Again("the compressed answer is damaged") from None
            self.first, self.stream = False, zlib.decompressobj(-zlib.MAX_WBITS)
            return self(data)
        self.first = False
        return piece, self.stream.unconsumed_tail
