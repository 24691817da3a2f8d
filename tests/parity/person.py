"""Somebody with a browser, as scenarios drive them at either network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

import httpx

from tests.network.visitor import PageShown
from tests.parity.outcome import Outcome
from tests.parity.world import Account


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """Is how a person is sent back to the app, and with what."""

    mode: str
    to: str
    parameters: dict[str, str] = field(repr=False)

    def outcome(self, state: str | None) -> Outcome:
        """Return what is compared."""
        brought = dict(self.parameters)
        if "state" in brought:
            brought["state"] = "<same>" if brought["state"] == state else "<other>"
        return {"sent by": self.mode, "to": self.to, "with": brought}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Is what a person sees: a page that asks for something, or that they are sent back."""

    #: `who`, `password`, `choose`, `consent`, `sign-up`, `reactivate`, or `nothing` on an error.
    asks: str = ""
    #: Whom it is about.
    accounts: tuple[str, ...] = ()
    #: What a form says that was refused.
    says: str = ""
    sent: Sent | None = None

    def outcome(self, state: str | None) -> Outcome:
        """Return what is compared."""
        if self.sent is not None:
            return self.sent.outcome(state)
        told: Outcome = {"asks": self.asks, "about": sorted(self.accounts)}
        return {**told, "says": self.says} if self.says else told


class Person(Protocol):
    """Is one browser: what is remembered stays with it. Every step acts on the page that is open.

    Methods may raise what the test's HTTP client raises, and nothing else.
    """

    async def open(self, url: str) -> Seen:
        """Open an authorization URL."""
        ...

    async def sign_in(
        self, account: Account, *, password: str | None = None, remember: bool = False
    ) -> Seen:
        """Type an account's handle, where it is asked for, and a password."""
        ...

    async def choose(self, account: Account) -> Seen:
        """Take one of the accounts that are offered."""
        ...

    async def forget(self, account: Account) -> None:
        """Let the browser forget an account; the page is of no use afterwards."""
        ...

    async def sign_up(self, handle: str, email: str, password: str) -> Seen:
        """Make an account."""
        ...

    async def consent(self, *, email: bool = True) -> Seen:
        """Authorize, with or without showing the e-mail address."""
        ...

    async def cancel(self) -> Seen:
        """Cancel, or deny."""
        ...


def sent_by(answer: httpx.Response) -> Sent | None:
    """Return how an answer sends a person back, if it does."""
    if answer.status_code == 303:
        parts = urlsplit(answer.headers["location"])
        mode, text = ("fragment", parts.fragment) if parts.fragment else ("query", parts.query)
        to = parts._replace(query="", fragment="").geturl()
        return Sent(mode=mode, to=to, parameters=dict(parse_qsl(text)))
    if answer.headers.get("content-type", "").startswith("text/html"):
        for form in PageShown(answer.text).forms:
            if urlsplit(form.action).scheme and form.method == "post":
                fields = {name: value for name, value in form.values.items() if name}
                return Sent(mode="form_post", to=form.action, parameters=fields)
    return None
