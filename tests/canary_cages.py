"""Where canaries come from and where they are looked for: the functions that are listened to."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import secrets
import types
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine
from starlette.types import Message, Receive, Scope, Send

import atproto_oauth_asgi
import atproto_oauth_asgi_stores
from atproto_oauth_asgi import attempt, cookies
from atproto_oauth_asgi.dpop import DPoPKey
from atproto_oauth_asgi.errors import ATProtoOAuthError
from atproto_oauth_asgi.instrumentation import Events
from atproto_oauth_asgi.keys import ClientKeys
from atproto_oauth_asgi.middleware import ATProtoOAuthMiddleware
from atproto_oauth_asgi.net_transport import GuardedTransport
from atproto_oauth_asgi.sealing import KeyRing
from atproto_oauth_asgi.testing import authorization_requests
from atproto_oauth_asgi.testing.sessions import Sessions as NetworkSessions
from atproto_oauth_asgi.tokens import TokenResponse
from atproto_oauth_asgi.vault import Vault
from atproto_oauth_asgi_stores.memory import MemoryStore
from tests.canaries import current

#: Reprs looked at of each class: the first ones, then one in so many.
FIRST, EVERY = 20, 50

Hear = Callable[[Any], None]


def install() -> None:
    """Listen, for as long as this process lives."""
    _secrets_of_the_library()
    _secrets_of_the_network()
    _logs_and_errors()
    _pages_and_addresses()
    _databases()
    _reprs()


def _after(owner: Any, name: str, hear: Hear) -> None:
    """Let a function's result be heard."""
    original: Any = inspect.getattr_static(owner, name)
    bound = isinstance(original, classmethod)
    function: Any = getattr(original, "__func__", original)

    @functools.wraps(function)
    def heard(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        hear(result)
        return result

    setattr(owner, name, classmethod(heard) if bound else heard)


def _secrets_of_the_library() -> None:
    # Where they come from, so that it does not matter who imported them by name.
    _overhear(cookies, "token_urlsafe", {32: "cookie"})
    _overhear(attempt, "token_urlsafe", {32: "state", 48: "PKCE verifier"})
    _after(Vault, "cookies_of", _add_cookies)
    _after(DPoPKey, "generate", lambda key: _add_private("DPoP key", key._private))
    _after(ClientKeys, "assertion", lambda value: current().add("client assertion", value))
    _after(TokenResponse, "parse", _add_tokens)

    pairs = ClientKeys.__init__

    @functools.wraps(pairs)
    def with_pairs(self: Any, *args: Any, **kwargs: Any) -> None:
        pairs(self, *args, **kwargs)
        for pair in self._pairs.values():
            _add_private("client key", pair.key.private_key)

    ClientKeys.__init__ = with_pairs  # type: ignore[method-assign]

    ring = KeyRing.__init__

    @functools.wraps(ring)
    def with_keys(self: Any, keys: Any) -> None:
        ring(self, keys)
        for key in keys:
            current().add_key("sealing key", key)

    KeyRing.__init__ = with_keys  # type: ignore[method-assign]


def _add_cookies(values: tuple[str, ...]) -> None:
    for value in values:
        current().add("cookie", value)


def _add_private(kind: str, private: Any) -> None:
    number = private.private_numbers().private_value
    current().add_key(kind, number.to_bytes(32, "big"))


def _add_tokens(response: TokenResponse) -> None:
    # Also of the reference server, whose tokens nobody else tells us.
    for kind, token in (
        ("access token", response.access_token),
        ("refresh token", response.refresh_token),
    ):
        if token is not None and len(token.rpartition(".")[2]) >= 20:
            current().add(kind, token)


def _secrets_of_the_network() -> None:
    _after(NetworkSessions, "_access_token", lambda token: current().add("access token", token))
    _overhear(authorization_requests, "token_hex", {32: "code"}, prefix="cod-")


def _overhear(module: Any, name: str, kinds: Mapping[int, str], *, prefix: str = "") -> None:
    """Hear what a module takes from `secrets`, told apart by the number of bytes."""
    issue = getattr(secrets, name)

    def issued(size: int) -> str:
        value: str = issue(size)
        if size in kinds:
            current().add(kinds[size], prefix + value)
        return value

    heard = types.SimpleNamespace(**{key: getattr(secrets, key) for key in secrets.__all__})
    setattr(heard, name, issued)
    module.secrets = heard


def _logs_and_errors() -> None:
    begin: Any = Events.__init__

    @functools.wraps(begin)
    def begun(self: Any, on_event: Any = None) -> None:
        begin(self, on_event)

        def hook(event: Any) -> None:
            current().look("event", f"{event.name} {dict(event.fields)!r}")
            if on_event is not None:
                on_event(event)

        # As an app's hook: a frame more would make records name this file.
        self._on_event = hook

    Events.__init__ = begun  # type: ignore[method-assign]
    make: Any = ATProtoOAuthError.__init__

    @functools.wraps(make)
    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        current().look("exception", str(self))
        if self.__cause__ is not None:
            current().look_at_exception(self.__cause__)

    ATProtoOAuthError.__init__ = made  # type: ignore[method-assign]


def _pages_and_addresses() -> None:
    answer: Any = ATProtoOAuthMiddleware.__call__

    @functools.wraps(answer)
    async def answering(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await answer(self, scope, receive, send)
            return

        async def looked_at(message: Message) -> None:
            for name, value in message.get("headers") or ():
                # The one place where the browser's own secret has to be.
                if name.lower() != b"set-cookie":
                    place = "address" if name.lower() == b"location" else "page"
                    current().look(place, bytes(value).decode("latin-1"))
            for part in (message.get("body"), message.get("bytes")):
                current().look("page", bytes(part or b"").decode("latin-1"))
            current().look("page", message.get("text") or message.get("reason") or "")
            await send(message)

        try:
            await answer(self, scope, receive, looked_at)
        except Exception as exc:
            current().look_at_exception(exc)
            raise

    ATProtoOAuthMiddleware.__call__ = answering  # type: ignore[method-assign]
    leave: Any = GuardedTransport.handle_async_request

    @functools.wraps(leave)
    async def leaving(self: Any, request: Any) -> Any:
        current().look("address", str(request.url))
        return await leave(self, request)

    GuardedTransport.handle_async_request = leaving  # type: ignore[method-assign]
    post: Any = GuardedTransport.send

    @functools.wraps(post)
    async def posting(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        current().look("address", str(request.url))
        return await post(self, request, *args, **kwargs)

    GuardedTransport.send = posting  # type: ignore[method-assign]


def _databases() -> None:
    @event.listens_for(Engine, "before_cursor_execute")
    def before(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        current().look("statement", statement)
        current().look_at("statement", parameters)

    for name in (
        "put",
        "record_outcome",
        "create_session",
        "commit_refresh",
        "reseal",
    ):
        keep: Any = getattr(MemoryStore, name)

        def keeping(keep: Any = keep) -> Any:
            @functools.wraps(keep)
            async def kept(self: Any, *args: Any, **kwargs: Any) -> Any:
                current().look_at("row", [args, kwargs])
                return await keep(self, *args, **kwargs)

            return kept

        setattr(MemoryStore, name, keeping())


def _reprs() -> None:
    seen: Counter[str] = Counter()
    for package in (atproto_oauth_asgi, atproto_oauth_asgi_stores):
        for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            if found.name.endswith((".testing", ".pytest_plugin")):
                continue
            module = importlib.import_module(found.name)
            for value in list(vars(module).values()):
                if inspect.isclass(value) and value.__module__ == found.name:
                    _repr_of(value, seen)


def _repr_of(kind: Any, seen: Counter[str]) -> None:
    make = kind.__dict__.get("__init__")
    if make is None or issubclass(kind, BaseException) or getattr(kind, "_is_protocol", False):
        return

    @functools.wraps(make)
    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        number = seen[kind.__qualname__] = seen[kind.__qualname__] + 1
        chosen = number <= FIRST or number % EVERY == 0 or current().thorough
        if type(self) is kind and chosen:
            current().look("repr", repr(self))

    kind.__init__ = made
