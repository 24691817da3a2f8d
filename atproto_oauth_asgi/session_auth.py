"""Authenticated requests to the PDS: token, proof, nonce and refresh (RFC 9449 §7)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from http import HTTPStatus
from typing import cast

import httpx

from atproto_oauth_asgi.dpop import dpop_error, origin_of, target_uri
from atproto_oauth_asgi.errors import (
    AddressRefused,
    FetchError,
    RefreshFailed,
    RequestError,
    Unreachable,
)
from atproto_oauth_asgi.live import LiveSession
from atproto_oauth_asgi.upkeep import Upkeep

#: A cheap call that every PDS answers to a session.
_PRIMER = "/xrpc/com.atproto.server.getSession"
# Bytes, and seconds, that are read of an answer that is asked again anyway.
_CHALLENGE_LIMIT = 65_536
CHALLENGE_SECONDS = 5.0


class _Challenge(httpx.AsyncByteStream):
    """Is what is read of an answer that is asked again anyway, so that httpx gets on with it.

    It ends quietly after some bytes and some seconds, whatever the PDS does, and is empty where
    it would have to be decompressed: a few bytes can stand for many.
    """

    def __init__(self, response: httpx.Response) -> None:
        self._stream = cast("httpx.AsyncByteStream", response.stream)
        encoding = response.headers.get("content-encoding", "identity").lower()
        self._left = _CHALLENGE_LIMIT if encoding == "identity" else 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        end = asyncio.get_running_loop().time() + CHALLENGE_SECONDS
        chunks = aiter(self._stream)
        while self._left > 0:
            try:
                async with asyncio.timeout_at(end):
                    chunk = await anext(chunks)
            except (StopAsyncIteration, TimeoutError, FetchError, httpx.TransportError):
                return
            self._left -= len(chunk)
            yield chunk

    async def aclose(self) -> None:
        """Close the body underneath."""
        await self._stream.aclose()


class SessionAuth(httpx.Auth):
    """Authenticates the requests of any `httpx.AsyncClient` with a session's tokens.

    It adds the token and a DPoP proof, answers the PDS's nonce and `invalid_token` challenges,
    and takes part in the session's refresh. It speaks to the session's own PDS only; another
    origin raises `AddressRefused`. A body that cannot be sent twice is preceded by one cheap call,
    so that it meets neither challenge.
    """

    def __init__(
        self, live: LiveSession, upkeep: Upkeep, prepare: Callable[[RequestError], None] | None
    ) -> None:
        self._live = live
        self._upkeep = upkeep
        self._prepare = prepare

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """Refuse: a refresh needs an event loop."""
        msg = f"session.auth needs an httpx.AsyncClient to call {_host(request.url)!r}."
        raise RuntimeError(msg)

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Authenticate one request, and send it again where that helps."""
        live = self._live
        self._upkeep.check_loop()
        self._check(request)
        request.extensions[_OURS] = self
        replayable = isinstance(request.stream, httpx.ByteStream)
        steps = [(request, replayable)]
        if not replayable:
            await self._ready(replayable=True)
            primer = httpx.Request("GET", live.pds + _PRIMER, extensions=dict(request.extensions))
            steps.insert(0, (primer, True))
        for target, again in steps:
            told: set[str] = set()
            # The request, once more with a nonce, with the server's time, with a new token; and
            # where that leads to another PDS, with its nonce and its time.
            for _ in range(6):
                await self._ready(replayable=again)
                self._check(target)
                version, pds, nonce = live.version, live.pds, self._sign(target)
                with live.calls.one(replayable=again):
                    response = yield target
                if target is not request:
                    # httpx reads it to its end before the request proper goes out.
                    response.stream = _Challenge(response)
                if _redirected(response) or origin_of(response.url) != pds:
                    # A client that follows redirects: this is not what the PDS answered to the
                    # request, and whoever was on the way has seen its proof.
                    msg = "The PDS redirected; give session.auth a client that follows none."
                    raise AddressRefused(msg, host=_host(response.url))
                given = live.nonces.learn(pds, response.headers)
                if response.status_code not in _CHALLENGES or not again:
                    break
                error = dpop_error(response.headers)
                if response.status_code == HTTPStatus.BAD_REQUEST and given != nonce:
                    error = error or await _error(response)
                # The same nonce again would be refused again, for ever (RFC 9449 §8).
                if error == "use_dpop_nonce" and given in {None, nonce}:
                    break
                if error is None or error in told:
                    break
                if not await self._mend(error, response, version, pds):
                    break
                # Another server has asked for nothing yet.
                told = {*told, error} if live.pds == pds else {"invalid_token"}
                response.stream = _Challenge(response)

    async def _ready(self, *, replayable: bool) -> None:
        try:
            await self._upkeep.ready(self._live, replayable=replayable)
        except RequestError as exc:
            self._answerable(exc)
            raise

    async def _mend(self, error: str, response: httpx.Response, version: int, pds: str) -> bool:
        """Do what a refusal asks for; say whether the same request may succeed now."""
        match error:
            case "use_dpop_nonce":
                return True
            case "invalid_dpop_proof":
                return self._live.nonces.clocks.learn(pds, response.headers)
            case "invalid_token":
                return await self._renew(version)
            case _:
                return False

    async def _renew(self, version: int) -> bool:
        try:
            return await self._upkeep.renew(self._live, version)
        except RequestError as exc:
            self._answerable(exc)
            raise

    def _answerable(self, error: RequestError) -> None:
        # Unhandled in the app, it is answered as if an accessor had raised it.
        if self._prepare is not None:
            self._prepare(error)

    def _check(self, request: httpx.Request) -> None:
        live = self._live
        if origin_of(request.url) == live.pds:
            return
        # The account moved to another PDS of the same authorization server meanwhile.
        if FOLLOWS in request.extensions:
            request.url = httpx.URL(live.pds).copy_with(raw_path=request.url.raw_path)
            request.headers["Host"] = request.url.netloc.decode("ascii")
            return
        if request.extensions.get(_OURS) is self:
            msg = "The account has just moved to another server; try again."
            raise RefreshFailed(msg)
        host = _host(request.url)
        msg = f"This session's tokens go to {live.pds} only, never to {host!r}."
        raise AddressRefused(msg, host=host)

    def _sign(self, request: httpx.Request) -> str | None:
        """Put token and proof on a request; return the nonce that is in it."""
        live = self._live
        nonce = live.nonces.get(live.pds)
        request.headers["Authorization"] = f"DPoP {live.tokens.access_token}"
        request.headers["DPoP"] = live.key.proof(
            request.method,
            target_uri(request.url),
            nonce=nonce,
            ath=live.ath,
            skew=live.nonces.clocks.offset(live.pds),
        )
        return nonce


#: Marks a request, in its extensions, that goes to whichever PDS the account has by then.
FOLLOWS = "atproto_oauth_asgi.follows"
_OURS = "atproto_oauth_asgi"
_CHALLENGES = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.BAD_REQUEST})


def _host(url: httpx.URL) -> str:
    # As it was written: a broken `xn--` name has no other form.
    return url.raw_host.decode("ascii")


def _redirected(response: httpx.Response) -> bool:
    # The history holds what was challenged and asked again, too.
    return any(one.has_redirect_location for one in response.history)


async def _error(response: httpx.Response) -> str | None:
    """Return `use_dpop_nonce` from a body: some servers challenge as an AS does (RFC 9449 §8).

    The body is left as it was found, however large it is.

    Raises:
        Unreachable: the body did not come to its end.
    """
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        return None
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        return None
    stream = cast("httpx.AsyncByteStream", response.stream)
    chunks = aiter(stream)
    beginning = bytearray()
    try:
        async with asyncio.timeout(CHALLENGE_SECONDS):
            while len(beginning) <= _CHALLENGE_LIMIT:
                beginning += await anext(chunks)
    except StopAsyncIteration:
        pass
    except TimeoutError as exc:
        await stream.aclose()
        host = _host(response.url)
        msg = f"The answer of {host!r} did not end within {CHALLENGE_SECONDS:g} seconds."
        raise Unreachable(msg, host=host, sent=True) from exc
    response.stream = _Begun(bytes(beginning), chunks, stream)
    return "use_dpop_nonce" if b'"use_dpop_nonce"' in beginning else None


class _Begun(httpx.AsyncByteStream):
    """Is a body of which the beginning has been read already."""

    def __init__(
        self, beginning: bytes, rest: AsyncIterator[bytes], stream: httpx.AsyncByteStream
    ) -> None:
        self._beginning = beginning
        self._rest = rest
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._beginning
        async for chunk in self._rest:
            yield chunk

    async def aclose(self) -> None:
        """Close the body underneath."""
        await self._stream.aclose()
