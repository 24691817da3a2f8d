"""Test clients: Starlette's and FastAPI's `TestClient`, and httpx's own, old and new."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

T = TypeVar("T")


class Reply(Protocol):
    """Is the part of a response that the kit reads; httpx and httpx2 have classes of their own."""

    @property
    def status_code(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, by name in any case."""
        ...

    @property
    def text(self) -> str:
        """The body as text."""
        ...

    def json(self) -> Any:
        """Return the body, parsed."""
        ...


class SyncClient(Protocol):
    """Is a client such as `TestClient` or `httpx.Client`."""

    @property
    def cookies(self) -> Any:
        """The cookie jar."""
        ...

    @property
    def base_url(self) -> Any:
        """What paths are joined to."""
        ...

    def request(
        self,
        method: str,
        url: str,
        *,
        json: Any = ...,
        headers: dict[str, str] | None = ...,
        follow_redirects: bool = ...,
    ) -> Reply:
        """Send a request."""
        ...


class AsyncClient(Protocol):
    """Is a client such as `httpx.AsyncClient`."""

    @property
    def cookies(self) -> Any:
        """The cookie jar."""
        ...

    @property
    def base_url(self) -> Any:
        """What paths are joined to."""
        ...

    def request(
        self,
        method: str,
        url: str,
        *,
        json: Any = ...,
        headers: dict[str, str] | None = ...,
        follow_redirects: bool = ...,
    ) -> Awaitable[Reply]:
        """Send a request."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Is a request that a flow wants to be sent."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict[str, str])
    json: Mapping[str, object] | None = None


#: What a browser does, step by step, whatever client carries it out.
Flow = Generator[Call, Reply, T]


def is_async(client: SyncClient | AsyncClient) -> bool:
    """Say whether the client's answers are awaited."""
    return inspect.iscoroutinefunction(client.request)


def carry_out(client: SyncClient | AsyncClient, flow: Flow[T]) -> T | Awaitable[T]:
    """Carry a flow out; for an asynchronous client return what is awaited for that."""
    return _run_async(client, flow) if is_async(client) else _run(client, flow)


def _run(client: SyncClient | AsyncClient, flow: Flow[T]) -> T:
    try:
        call = next(flow)
        while True:
            try:
                reply = cast("Reply", _send(client, call))
            except BaseException as exc:  # noqa: BLE001 - the flow cleans up and raises it again
                call = flow.throw(exc)
            else:
                call = flow.send(reply)
    except StopIteration as done:
        return cast("T", done.value)


async def _run_async(client: SyncClient | AsyncClient, flow: Flow[T]) -> T:
    try:
        call = next(flow)
        while True:
            try:
                reply = await cast("Awaitable[Reply]", _send(client, call))
            except BaseException as exc:  # noqa: BLE001 - the flow cleans up and raises it again
                call = flow.throw(exc)
            else:
                call = flow.send(reply)
    except StopIteration as done:
        return cast("T", done.value)


def _send(client: SyncClient | AsyncClient, call: Call) -> Reply | Awaitable[Reply]:
    return client.request(
        call.method, call.url, json=call.json, headers=call.headers, follow_redirects=False
    )


def app_of(client: SyncClient | AsyncClient) -> object | None:
    """Return the ASGI app that a client calls in this process, if it does."""
    own: object = getattr(client, "app", None)
    if own is not None:
        return own
    return getattr(getattr(client, "_transport", None), "app", None)
