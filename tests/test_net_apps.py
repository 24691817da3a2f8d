from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from atproto_oauth_asgi.errors import AddressRefused, BadAnswer, Unreachable
from atproto_oauth_asgi.net import NetPolicy
from tests.net_server import opened

pytestmark = pytest.mark.anyio

ORIGIN = "https://a.example.com"


def redirecting(locations: dict[str, str]) -> ASGIApp:
    """Redirect the paths of a table, answer all others with their path."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        location = locations.get(scope["path"])
        response: Response = PlainTextResponse(scope["path"])
        if location is not None:
            response = Response(status_code=302)
            response.raw_headers.append((b"location", location.encode("latin-1")))
        await response(scope, receive, send)

    return app


# Redirects of get_text


@pytest.mark.spec("A8", "P1")
@pytest.mark.parametrize(
    "location",
    [
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://localhost/",
        "https://[::1]/",
        "https://intranet/",
        "https://other.example.com:8443/",
        "https://user@other.example.com/",
        "//127.0.0.1/",
        "//2130706433/",
        "https://private.example.com/",
        "https://[",
    ],
)
async def test_each_hop_of_a_redirect_is_guarded(location: str) -> None:
    async def private(host: str) -> list[str]:
        return ["192.168.0.1"]

    policy = NetPolicy(apps={ORIGIN: redirecting({"/": location})}, resolve_host=private)
    async with opened(policy) as net:
        with pytest.raises(AddressRefused):
            await net.get_text(f"{ORIGIN}/")


@pytest.mark.spec("A8")
@pytest.mark.parametrize(
    "location",
    [
        "http://a.example.com/",
        "HTTP://a.example.com/",
        "ftp://a/",
        "javascript:x",
        "https://a:b/",
        "/\xe9",
    ],
)
async def test_a_redirect_to_something_else_than_https_is_refused(location: str) -> None:
    plain = redirecting({})
    policy = NetPolicy(apps={ORIGIN: redirecting({"/": location}), "http://a.example.com": plain})
    async with opened(policy) as net:
        with pytest.raises(BadAnswer, match=r"https|no address"):
            await net.get_text(f"{ORIGIN}/")


@pytest.mark.spec("A8")
async def test_a_few_redirects_are_followed() -> None:
    other = "https://b.example.com"
    hops = {"/": "/1", "/1": f"{other}/2", "/2": f"{ORIGIN}/3", "/3": "/4"}
    policy = NetPolicy(apps={ORIGIN: redirecting(hops), other: redirecting(hops)})
    async with opened(policy) as net:
        assert await net.get_text(f"{ORIGIN}/1") == "/4"
        with pytest.raises(BadAnswer) as caught:
            await net.get_text(f"{ORIGIN}/")

        assert caught.value.http_status == 302


@pytest.mark.spec("A8", "A10")
async def test_the_deadline_covers_all_redirects() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.15)
        await RedirectResponse("/")(scope, receive, send)

    async with opened(NetPolicy(apps={ORIGIN: slow})) as net:
        with pytest.raises(Unreachable):
            await net.get_text(ORIGIN, deadline=0.3, redirects=1000)


@pytest.mark.spec("A7", "A10")
async def test_text_needs_a_good_status_and_utf8_and_no_type() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        code = int(scope["path"][1:])
        body = b"\xff" if code == 206 else b"did:plc:x\n"
        await Response(body, code, media_type="text/html")(scope, receive, send)

    async with opened(NetPolicy(apps={ORIGIN: app})) as net:
        assert await net.get_text(f"{ORIGIN}/200") == "did:plc:x\n"
        assert await net.get_text(f"{ORIGIN}/203") == "did:plc:x\n"
        for code in (206, 404, 500):
            with pytest.raises(BadAnswer) as caught:
                await net.get_text(f"{ORIGIN}/{code}")
            assert caught.value.http_status == code


# Apps in process


async def test_an_origin_is_matched_exactly() -> None:
    async def nowhere(host: str) -> list[str]:
        raise OSError(host)

    policy = NetPolicy(
        apps={ORIGIN: redirecting({}), "http://127.0.0.1:8000": redirecting({})},
        resolve_host=nowhere,
        ports=None,
    )
    async with opened(policy) as net:
        for url in (
            f"{ORIGIN}/x",
            f"{ORIGIN}:443/x",
            "https://A.example.com/x",
            "http://127.0.0.1:8000/x",
        ):
            assert await net.get_text(url) == "/x"
        for url in (
            f"{ORIGIN}:8443/x",
            "http://a.example.com/x",
            "http://127.0.0.1:8001/x",
            "https://b.a.example.com/",
        ):
            with pytest.raises((AddressRefused, Unreachable)):
                await net.get_text(url)


async def test_an_app_sees_the_request_as_sent() -> None:
    seen: list[tuple[str, str, bytes, str | None]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        target = f"{scope['raw_path'].decode()}?{scope['query_string'].decode()}"
        seen.append((request.method, target, await request.body(), request.headers.get("dpop")))
        await Response(b"ok")(scope, receive, send)

    async with opened(NetPolicy(apps={ORIGIN: app})) as net:
        await net.post_form(f"{ORIGIN}/a%20b?c=%41", {"d": "e"}, headers={"DPoP": "f"})

    assert seen == [("POST", "/a%20b?c=%41", b"d=e", "f")]


async def test_an_app_streams_both_ways() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await StreamingResponse(Request(scope, receive).stream())(scope, receive, send)

    turns: asyncio.Queue[bytes] = asyncio.Queue()

    async def upload() -> AsyncIterator[bytes]:
        while chunk := await turns.get():
            yield chunk

    async with opened(NetPolicy(apps={ORIGIN: echo})) as net:
        turns.put_nowait(b"0")
        async with net.client.stream("POST", ORIGIN, content=upload()) as response:
            chunks = response.aiter_raw()
            for text in (b"0", b"1", b"2"):
                assert await anext(chunks) == text
                turns.put_nowait(str(int(text) + 1).encode())
            turns.put_nowait(b"")
            assert [chunk async for chunk in chunks] == [b"3"]


async def test_what_before_send_raises_keeps_the_app_from_being_asked() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    async def before_send() -> None:
        raise KeyError

    async with opened(NetPolicy(apps={ORIGIN: app})) as net:
        with pytest.raises(KeyError):
            await net.post_form(ORIGIN, {}, before_send=before_send)


async def test_an_app_that_raises_is_a_broken_connection() -> None:
    error = RuntimeError("killed")

    async def early(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise error

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    for app, cause in ((early, error), (late, error), (silent, None)):
        async with opened(NetPolicy(apps={ORIGIN: app})) as net:
            for call in (net.post_form(ORIGIN, {}), net.client.get(ORIGIN)):
                with pytest.raises(Unreachable) as caught:
                    await call

                assert caught.value.sent
                assert cause is caught.value.__cause__


async def test_an_app_goes_on_when_its_client_goes_away_and_is_told() -> None:
    asked = asyncio.Event()
    messages: list[str] = []
    done = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.set()
        while not messages or messages[-1] != "http.disconnect":
            messages.append((await receive())["type"])
        with pytest.raises(OSError, match="went away"):
            await send({"type": "http.response.start", "status": 200, "headers": []})
        done.set()

    async with opened(NetPolicy(apps={ORIGIN: app})) as net:
        task = asyncio.create_task(net.post_form(ORIGIN, {"a": "b"}))
        async with asyncio.timeout(5):
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await done.wait()


async def test_closing_ends_apps_that_do_not_answer() -> None:
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with opened(NetPolicy(apps={ORIGIN: app})) as net:
        with pytest.raises(Unreachable) as caught:
            await net.post_form(ORIGIN, {}, deadline=0.05)
        assert caught.value.sent

    assert ended.is_set()


async def test_the_answer_of_an_app_is_bounded_too() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def forever() -> AsyncIterator[bytes]:
            while True:
                yield b" " * 1000

        await StreamingResponse(forever())(scope, receive, send)

    async with opened(NetPolicy(apps={ORIGIN: app})) as net:
        with pytest.raises(BadAnswer, match="larger"):
            await net.get_text(ORIGIN)


async def test_a_head_request_has_no_body() -> None:
    async with opened(NetPolicy(apps={ORIGIN: redirecting({})})) as net:
        response: httpx.Response = await net.client.head(f"{ORIGIN}/x")

        assert (response.status_code, response.content) == (200, b"")
