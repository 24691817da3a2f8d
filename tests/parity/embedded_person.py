"""A person at the embedded network's pages, which run no scripts."""

from __future__ import annotations

import httpx

from tests.network.visitor import Visitor
from tests.parity.person import Seen, sent_by
from tests.parity.world import Account

_TITLES = {
    "Authorize": "consent",
    "Choose an account": "choose",
    "Create an account": "sign-up",
    "Welcome back": "reactivate",
    "Sign-in cannot go on": "nothing",
}


class EmbeddedPerson:
    """Reads pages, fills forms, and presses what stands there."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._visitor = Visitor(http)

    async def open(self, url: str) -> Seen:
        await self._visitor.open(url)
        return self._seen()

    async def sign_in(
        self, account: Account, *, password: str | None = None, remember: bool = False
    ) -> Seen:
        typed = account.password if password is None else password
        await self._visitor.sign_in(account.handle, typed, remember=remember)
        return self._seen()

    async def choose(self, account: Account) -> Seen:
        await self._visitor.press(account.handle)
        return self._seen()

    async def forget(self, account: Account) -> None:
        await self._visitor.press(f"Forget {account.handle}")

    async def sign_up(self, handle: str, email: str, password: str) -> Seen:
        await self._visitor.press("Next", handle=handle)
        if "email" in self._visitor.page.forms[0].fields:
            await self._visitor.press("Create the account", email=email, password=password)
        return self._seen()

    async def consent(self, *, email: bool = True) -> Seen:
        untick: dict[str, str | None] = {} if email else {"email": None}
        await self._visitor.press("Authorize", **untick)
        return self._seen()

    async def cancel(self) -> Seen:
        names = {each.name for each in self._visitor.page.controls}
        await self._visitor.press("Cancel" if "Cancel" in names else "Deny access")
        return self._seen()

    def _seen(self) -> Seen:
        sent = sent_by(self._visitor.answer)
        if sent is not None:
            return Seen(sent=sent)
        page = self._visitor.page
        asks = _TITLES.get(page.title.partition(" · ")[0], "who")
        accounts: list[str] = []
        if asks == "who":
            field = page.forms[0].fields["username"]
            if "readonly" in field or page.forms[0].values["username"]:
                asks = "password"
                accounts.append(page.forms[0].values["username"])
        if asks == "choose":
            named = [each.name for each in page.controls]
            accounts += [each for each in named if f"Forget {each}" in named]
        if asks in {"consent", "reactivate"}:
            accounts += page.strong[-1:]
        return Seen(asks=asks, accounts=tuple(accounts), says=page.alert)
