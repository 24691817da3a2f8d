"""An httpx transport over httpcore that dials only what the guard allows."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache, partial
from typing import cast

import httpcore
import httpx

from atproto_oauth_asgi.errors import (
    BadAnswer,
    ConfigurationError,
    FetchError,
    Unreachable,
)
from atproto_oauth_asgi.net_apps import AppCaller
from atproto_oauth_asgi.net_guard import Allowance, Guard, GuardedBackend
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.net_pool import Pool, to_its_end
from atproto_oauth_asgi.net_shares import Shares

_HTTPCORE_ERRORS = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    OSError,
)


# RFC 9110 §5.5
_HEADER_VALUE = re.compile(rb"(?:[\x21-\xff](?:[\t\x20-\xff]*[\x21-\xff])?)?")
# Bytes that may be read until the headers are complete: headers, interim answers (1xx) without
# number, and what of the body came along with them.
_MAX_HEADERS = 262_144
# Chunks of a body after which other tasks get a turn.
_FAIR_PARTS = 64
# How httpcore and h11 say that the server went away before its answer was complete.
_CLOSED = re.compile("disconnected|closed connection")


class Departure:
    """Is the moment a request leaves: what is awaited before it, and whether it has come."""

    __slots__ = ("_before", "error", "left")

    def __init__(self, before: Callable[[], Awaitable[None]] | None = None) -> None:
        self._before = before
        #: Whether any byte of the request may have left this process.
        self.left = False
        #: What `before` raised, so that it is passed on unchanged.
        self.error: BaseException | None = None

    async def leave(self) -> None:
        """Await `before`; when it raises, nothing leaves."""
        if self._before is not None:
            try:
                await self._before()
            except BaseException as exc:
                self.error = exc
                raise
        self.left = True


class GuardedTransport(httpx.AsyncBaseTransport):
    """Sends requests to hosts that the guard allows, or to the policy's apps in process.

    Follows no redirect, repeats nothing, reads no environment variable. An answer must be encoded
    as the request allowed: with `Accept-Encoding: identity`, not at all. For each wait of a
    response's headers the request's read timeout is a total, so a server that drips header bytes
    gains nothing.

    Raises:
        AddressRefused: The URL or an address behind it is not allowed; nothing was sent.
        Unreachable: No connection, or it broke; `sent` says whether bytes may have left.
        BadAnswer: What came is not HTTP, or is encoded in a way that was not asked for.
    """

    def __init__(
        self,
        policy: NetPolicy,
        guard: Guard,
        apps: AppCaller,
        *,
        max_connections: int,
        max_idle: int,
        idle_seconds: float,
    ) -> None:
        self._policy = policy
        self._guard = guard
        self._apps = apps
        self._limits = (max_connections, max_idle, idle_seconds)
        self._shares = Shares(max_connections)
        self._direct: Pool | None = None
        self._proxied: Pool | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request for `httpx.AsyncClient`."""
        return await self.send(request, Departure())

    async def send(self, request: httpx.Request, departure: Departure) -> httpx.Response:
        """Send one request; `departure` tells when, even if this call is cancelled."""
        host = request.url.raw_host.decode("ascii")
        if not all(_HEADER_VALUE.fullmatch(value) for _, value in request.headers.raw):
            # Checked here because h11 and httpcore would quote and log the value, maybe a token.
            message = "The request has a header that HTTP does not allow, so it was not sent."
            raise Unreachable(message, host=host)
        app = self._apps.app_for(request.url)
        if app is not None:
            await departure.leave()
            response = await self._apps.call(app, request)
        else:
            self._guard.check_url(request.url)
            response = await self._send_out(request, departure)
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        asked = request.headers.get("accept-encoding", "identity").strip().lower()
        if encoding not in ("", "identity") and asked == "identity":
            await response.aclose()
            message = "The answer is compressed although that was not asked for."
            raise BadAnswer(message, host=host, http_status=response.status_code)
        if response.has_redirect_location and not _is_address(request.url, response):
            await response.aclose()
            message = f"The answer of {host!r} redirects to what is no address."
            raise BadAnswer(message, host=host, http_status=response.status_code)
        return response

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in (self._direct, self._proxied):
            if pool is not None:
                await pool.aclose()

    async def _send_out(self, request: httpx.Request, departure: Departure) -> httpx.Response:
        host = request.url.raw_host.decode("ascii")
        seconds = _timeout(request, "read")
        timer = asyncio.timeout(None)
        allowance = Allowance()
        outer = request.extensions.get("trace")

        async def trace(event: str, info: dict[str, object]) -> None:
            if event == "http11.send_request_headers.started":
                if cast("httpcore.Request", info["request"]).method == b"CONNECT":
                    await self._guard.check_tunnel(host)
                else:
                    timer.reschedule(None)
                    await departure.leave()
            elif event == "http11.receive_response_headers.started":
                allowance.left = _MAX_HEADERS
                if seconds is not None:
                    timer.reschedule(asyncio.get_running_loop().time() + seconds)
            if outer is not None:
                await outer(event, info)

        url = request.url
        outgoing = httpcore.Request(
            method=request.method,
            url=httpcore.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions={**request.extensions, "trace": trace},
        )
        free = await self._share(request)
        try:
            async with timer:
                with allowance.in_force():
                    incoming = await self._pool_for(host).handle_async_request(outgoing)
        except BaseException as exc:
            free()
            if exc is departure.error or not isinstance(exc, _HTTPCORE_ERRORS):
                raise
            raise _typed(exc, host, sent=departure.left) from _quotable(exc)
        return httpx.Response(
            incoming.status,
            headers=incoming.headers,
            stream=_Body(incoming, host, free),
            extensions=incoming.extensions,  # pyright: ignore - httpcore leaves it untyped
        )

    async def _share(self, request: httpx.Request) -> Callable[[], None]:
        """Wait for a connection that the server may have; return what gives it back."""
        host = request.url.raw_host.decode("ascii")
        origin = f"{request.url.scheme}://{host}:{request.url.port}"
        try:
            async with asyncio.timeout(_timeout(request, "pool")):
                await self._shares.take(origin)
        except TimeoutError as exc:
            message = f"Too many requests wait for the server {host!r}; try again in a moment."
            raise Unreachable(message, host=host) from exc
        return partial(self._shares.give, origin)

    def _pool_for(self, host: str) -> Pool:
        # Built late: loading the authorities takes 20 ms, and nobody may ever need them.
        if self._policy.egress_proxy is not None and not self._guard.is_loopback_peer(host):
            if self._proxied is None:
                self._proxied = self._make_pool(_parse_proxy(self._policy))
            return self._proxied
        if self._direct is None:
            self._direct = self._make_pool(None)
        return self._direct

    def _make_pool(self, proxy: httpcore.Proxy | None) -> Pool:
        most, idle, seconds = self._limits
        return Pool(
            ssl_context=ssl_context(self._policy.ca_file),
            proxy=proxy,
            max_connections=most,
            max_keepalive_connections=idle,
            keepalive_expiry=seconds,
            network_backend=GuardedBackend(self._guard.addresses if proxy is None else _as_named),
        )


class _Body(httpx.AsyncByteStream):
    def __init__(self, incoming: httpcore.Response, host: str, free: Callable[[], None]) -> None:
        self._incoming = incoming
        self._host = host
        self._free: Callable[[], None] | None = free

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = 0
        try:
            async for chunk in self._incoming.aiter_stream():
                yield chunk
                parts += 1
                if not parts % _FAIR_PARTS:
                    # Thousands of tiny chunks may lie in one buffer, and none of them waits.
                    await asyncio.sleep(0)
        except _HTTPCORE_ERRORS as exc:
            raise _typed(exc, self._host, sent=True) from _quotable(exc)

    async def aclose(self) -> None:
        try:
            await to_its_end(self._incoming.aclose())
        finally:
            free, self._free = self._free, None
            if free is not None:
                free()


@cache
def ssl_context(ca_file: str | None) -> ssl.SSLContext:
    """Return the TLS settings that trust the usual authorities and those in `ca_file`.

    One is made for each file and process.

    Raises:
        ConfigurationError: The file cannot be read or holds no certificate.
    """
    context = httpx.create_ssl_context(trust_env=False)
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as exc:
            message = f"CA_FILE names {ca_file!r}, which is not a readable file of certificates."
            raise ConfigurationError(message) from exc
    return context


def _parse_proxy(policy: NetPolicy) -> httpcore.Proxy:
    message = "EGRESS_PROXY is not the URL of an HTTP proxy: write it as http://host:port."
    try:
        url = httpx.URL(policy.egress_proxy or "")
    except httpx.InvalidURL:
        raise ConfigurationError(message) from None  # the URL may hold a password
    if url.scheme not in ("http", "https") or not url.raw_host:
        raise ConfigurationError(message)
    return httpcore.Proxy(
        url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=b"/"),
        auth=(url.username, url.password) if url.userinfo else None,
        ssl_context=ssl_context(policy.ca_file) if url.scheme == "https" else None,
    )


async def _as_named(host: str) -> list[str]:
    # The proxy's own host is the operator's choice, not a stranger's.
    return [host]


def _timeout(request: httpx.Request, name: str) -> float | None:
    timeouts = cast("dict[str, float | None]", request.extensions.get("timeout", {}))
    return timeouts.get(name)


def _is_address(url: httpx.URL, response: httpx.Response) -> bool:
    # httpx reads it although no redirect is followed, and raises whatever its parsers do.
    try:
        target = httpx.URL(response.headers["location"])
        return bool(url.join(target).host and (target.host or not target.scheme))
    except (httpx.InvalidURL, ValueError):
        return False


def _quotable(exc: Exception) -> Exception | None:
    # A protocol error quotes the bytes that came: a server may repeat what it was sent.
    return None if isinstance(exc, httpcore.RemoteProtocolError) else exc


def _typed(exc: Exception, host: str, *, sent: bool) -> FetchError:
    if isinstance(exc, httpcore.RemoteProtocolError) and not _CLOSED.search(str(exc)):
        return BadAnswer(f"The answer of {host!r} is not HTTP/1.1, or has no end.", host=host)
    what = "closed the connection" if sent else "cannot be connected to"
    if isinstance(exc, httpcore.TimeoutException | TimeoutError):
        what = "did not answer in time"
    elif isinstance(exc, httpcore.ProxyError):
        what = "was refused by EGRESS_PROXY"
    elif any(isinstance(arg, ssl.SSLCertVerificationError) for arg in exc.args):
        what = "has no valid certificate for that name (CA_FILE can name a private authority)"
    return Unreachable(f"The server {host!r} {what}.", host=host, sent=sent)
