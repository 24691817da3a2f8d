"""The only way out: every request to another server passes here.

A stranger chooses the host of nearly all of them (a handle's, a did:web's, a PDS, an
authorization server), so each is guarded against server-side request forgery and bounded in time
and size (`atproto OAuth: Security Concerns`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from http.cookiejar import CookieJar
from math import isfinite
from types import MappingProxyType
from typing import cast
from urllib.parse import urlencode

import httpx

from atproto_oauth_asgi.errors import BadAnswer, Unreachable
from atproto_oauth_asgi.net_answer import Answer, collect
from atproto_oauth_asgi.net_apps import AppCaller
from atproto_oauth_asgi.net_dns import Resolver
from atproto_oauth_asgi.net_guard import Guard
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.net_transport import Departure, GuardedTransport

__all__ = ["USER_AGENT", "Answer", "Net", "NetPolicy"]

USER_AGENT = "atproto-oauth-asgi/0.1.0"
_HEADERS: Mapping[str, str] = MappingProxyType(
    {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
)
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# httpx takes longer for every request the more idle connections its pool holds.
_MAX_IDLE = 20
# Less than the 5 s after which uvicorn and Node close an idle connection: a request that meets the
# closing gets no answer, and nobody knows whether it was processed.
_IDLE_SECONDS = 4.0
_MAX_CONNECTIONS = 500
# For the look-up and TCP, and again for TLS, however long the deadline is.
_CONNECT_SECONDS = 10.0
# For a connection that may be used, where others use as many as there are.
_POOL_SECONDS = 10.0
# Seconds for PDS calls; reading is also the total for the headers. Answers may be streams.
_CLIENT_TIMEOUT = httpx.Timeout(connect=_CONNECT_SECONDS, read=30.0, write=30.0, pool=5.0)


class Net:
    """Opens connections to other servers, guarded, within deadlines. One per event loop.

    With `policy.egress_proxy` all but loopback requests go through that HTTP proxy (CONNECT, TLS
    end to end). The spelling of the target, its port, and the addresses it has *here* are judged
    for each new tunnel; the proxy looks the name up again, so refusing private addresses is then
    the proxy's duty too, and the only check where this machine has no DNS.

    Args:
        policy: What may be opened.
        idle_seconds: How long a connection of `post_form` may have been idle and still be used.
    """

    def __init__(self, policy: NetPolicy | None = None, *, idle_seconds: float = 2.0) -> None:
        #: What may be opened.
        self.policy = NetPolicy() if policy is None else policy
        self._resolver = Resolver(self.policy)
        self._guard = Guard(self.policy, self._resolver)
        self._apps = AppCaller(self.policy.apps)
        self._reads = self._transport(max_idle=_MAX_IDLE, idle_seconds=_IDLE_SECONDS)
        self._posts = self._transport(max_idle=_MAX_IDLE, idle_seconds=idle_seconds)
        self._single_posts = self._transport(max_idle=0, idle_seconds=0.0)
        #: For PDS calls, with streaming: no redirects, no cookies (the jar would be shared by all
        #: accounts), no environment proxies, answers not compressed unless a request asks for it.
        #: Raises `AddressRefused`, `Unreachable` and `BadAnswer` in the place of httpx's errors.
        self.client = httpx.AsyncClient(
            transport=self._transport(max_idle=_MAX_IDLE, idle_seconds=_IDLE_SECONDS),
            headers=dict(_HEADERS),
            cookies=_NoCookies(),
            timeout=_CLIENT_TIMEOUT,
            follow_redirects=False,
            trust_env=False,
        )

    async def get_json(
        self,
        url: str,
        *,
        deadline: float = 10.0,
        limit: int = 524_288,
        content_types: tuple[str, ...] = ("application/json",),
    ) -> dict[str, object]:
        """Return the JSON object at a URL: status exactly 200, no redirect, one of the types.

        `deadline` is in seconds and covers everything from the look-up of the name to the last
        byte; `limit` is in bytes.

        Raises:
            AddressRefused: The URL may not be opened.
            Unreachable: The server did not answer in time.
            BadAnswer: It answered something else; `http_status` says with what status.
        """
        request = self._request("GET", url, {"Accept": ", ".join(content_types)})
        answer = await self._exchange(self._reads, request, deadline=deadline, limit=limit)
        if answer.status != HTTPStatus.OK:
            raise _bad(answer, f"has status {answer.status}, not 200")
        content_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type not in content_types:
            raise _bad(answer, f"is not of type {' or '.join(content_types)}")
        value = answer.json()
        if not isinstance(value, dict):
            raise _bad(answer, "is not a JSON object")
        return cast("dict[str, object]", value)

    async def get_text(
        self, url: str, *, deadline: float = 3.0, limit: int = 10_480, redirects: int = 3
    ) -> str:
        """Return the UTF-8 text at a URL: status 2xx, any type, after at most some redirects.

        Each hop is judged like the first and must be https. `deadline` (seconds) covers them all.

        Raises:
            AddressRefused: The URL, or one it redirects to, may not be opened.
            Unreachable: A server did not answer in time.
            BadAnswer: The status, size or encoding is wrong, or there are too many redirects.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline
        request = self._request("GET", url, {"Accept": "text/plain, */*;q=0.1"})
        answer = await self._exchange(self._reads, request, deadline=deadline, limit=limit)
        for _ in range(redirects):
            if answer.status not in _REDIRECTS:
                break
            request = self._redirected(request, answer)
            left = end - loop.time()
            answer = await self._exchange(self._reads, request, deadline=left, limit=limit)
        if not httpx.codes.is_success(answer.status):
            raise _bad(answer, f"has status {answer.status}, not 2xx")
        try:
            return answer.body.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise _bad(answer, "is not UTF-8 text") from exc

    async def post_form(
        self,
        url: str,
        form: Mapping[str, str],
        *,
        headers: Mapping[str, str] = _NO_HEADERS,
        deadline: float = 10.0,
        limit: int = 65_536,
        before_send: Callable[[], Awaitable[None]] | None = None,
    ) -> Answer:
        """Post a form once and return the answer of any status; no redirect, no repetition.

        `before_send` is awaited once, when the connection is up and right before the first byte
        of the request leaves; what it raises is passed on, and then nothing was sent. Its time
        counts towards `deadline` (seconds), which cancels it too. Such a request gets a connection
        of its own: a kept one could be closed by the server while `before_send` takes its time.
        With `deadline=inf` only connecting is bounded, and the caller keeps the time.

        Raises:
            AddressRefused: The URL may not be opened; nothing was sent.
            Unreachable: No answer in time; `sent` says whether bytes may have left.
            BadAnswer: The answer is not HTTP, compressed or larger than `limit` bytes.
        """
        request = self._request(
            "POST",
            url,
            {
                "Accept": "application/json",
                "Content-Type": "application/x-www-form-urlencoded",
                **headers,
            },
            content=urlencode(form).encode("ascii"),
        )
        return await self._exchange(
            self._posts if before_send is None else self._single_posts,
            request,
            deadline=deadline,
            limit=limit,
            departure=Departure(before_send),
        )

    async def txt(self, name: str, *, deadline: float = 3.0) -> list[bytes]:
        """Return the DNS TXT records of a name, strings of one record joined; often none.

        Raises:
            Unreachable: The name servers failed or did not answer within `deadline` seconds.
        """
        return await self._resolver.txt(name, deadline=deadline)

    async def aclose(self) -> None:
        """Close all connections and cancel what apps in process still answer."""
        await self.client.aclose()
        for transport in (self._reads, self._posts, self._single_posts):
            await transport.aclose()
        await self._apps.aclose()
        await self._resolver.aclose()

    def _transport(self, *, max_idle: int, idle_seconds: float) -> GuardedTransport:
        return GuardedTransport(
            self.policy,
            self._guard,
            self._apps,
            max_connections=_MAX_CONNECTIONS,
            max_idle=max_idle,
            idle_seconds=idle_seconds,
        )

    def _request(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None = None
    ) -> httpx.Request:
        return httpx.Request(
            method,
            self._guard.parse_url(url),
            headers={**_HEADERS, **headers},
            content=content,
            extensions={"timeout": {"connect": _CONNECT_SECONDS, "pool": _POOL_SECONDS}},
        )

    def _redirected(self, request: httpx.Request, answer: Answer) -> httpx.Request:
        location = answer.headers.get("location", "")
        try:
            url = str(request.url.join(location)) if location.isascii() else ""
        except (httpx.InvalidURL, ValueError):
            url = ""
        if not url.startswith(f"{request.url.scheme}://"):
            raise _bad(answer, "redirects to something that is not https")
        accept = request.headers["accept"]
        return self._request("GET", url, {"Accept": accept})

    async def _exchange(
        self,
        transport: GuardedTransport,
        request: httpx.Request,
        *,
        deadline: float,
        limit: int,
        departure: Departure | None = None,
    ) -> Answer:
        departure = departure or Departure()
        host = request.url.raw_host.decode("ascii")
        timer = asyncio.timeout(deadline if isfinite(deadline) else None)
        try:
            async with timer:
                response = await transport.send(request, departure)
                try:
                    body = await collect(
                        response.aiter_raw(), limit=limit, host=host, status=response.status_code
                    )
                finally:
                    await response.aclose()
        except TimeoutError as exc:
            if exc is departure.error or not timer.expired():
                raise
            message = f"The server {host!r} did not answer within {deadline:g} seconds."
            raise Unreachable(message, host=host, sent=departure.left) from exc
        return Answer(status=response.status_code, headers=response.headers, body=body, host=host)


class _NoCookies(CookieJar):
    """Keeps none, and does not even read them: that takes seconds where a server wants it to."""

    def extract_cookies(self, response: object, request: object) -> None:
        """Take no cookie."""

    def add_cookie_header(self, request: object) -> None:
        """Send none."""


def _bad(answer: Answer, what: str) -> BadAnswer:
    message = f"The answer of {answer.host!r} {what}."
    return BadAnswer(message, host=answer.host, http_status=answer.status)
