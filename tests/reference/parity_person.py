"""A person at the reference server: what its page's script shows of what the server hands it."""

from __future__ import annotations

import json
import re
from typing import TypedDict, cast

import httpx

from tests.parity.person import Seen, sent_by
from tests.parity.world import Account
from tests.reference.user import ApprovalRefused, HttpUser, SignedIn

_DATA = re.compile(r'window\["(__\w+)"\]=JSON\.parse\(("(?:[^"\\]|\\.)*")\)')
#: What the page says instead of the server's words (oauth-provider-ui, `lib/api.ts`).
_SAYS = {
    "Invalid identifier or password": "Wrong identifier or password",
    "Email already taken": "This email is already used",
    "syntax": "The username is invalid",
    "taken": "The username is already in use",
    "unsupported": "Custom domains are not supported",
}


class _Account(TypedDict):
    did: str
    handle: str
    deactivated: bool


class _Session(TypedDict):
    account: _Account
    loginRequired: bool


class ReferencePerson:
    """Makes the calls of the page's script, and follows its choice of what to show.

    (oauth-provider-ui, `contexts/authentication.tsx`.)
    """

    def __init__(self) -> None:
        self.user = HttpUser()
        self._person: SignedIn | None = None
        self._page: dict[str, object] = {}
        self._sessions: list[_Session] = []
        self._asks = Seen()

    async def open(self, url: str) -> Seen:
        self._person = None
        try:
            answer = await self.user.open(url)
        except ApprovalRefused:
            return Seen(asks="nothing", says="This sign-in session has expired")
        sent = sent_by(answer)
        if sent is not None:
            return Seen(sent=sent)
        return self._show(answer)

    async def sign_in(
        self, account: Account, *, password: str | None = None, remember: bool = False
    ) -> Seen:
        try:
            self._person = await self.user.sign_in(
                account.handle, account.password if password is None else password, remember
            )
        except ApprovalRefused as exc:
            # The form that is open shows what was typed, and the sentence.
            return Seen(asks="password", accounts=(account.handle,), says=_says(exc))
        # The script is told as much with the answer, and goes on as the page would.
        return Seen(asks="consent", accounts=(account.handle,))

    async def choose(self, account: Account) -> Seen:
        (session,) = [each for each in self._sessions if each["account"]["did"] == account.did]
        if session["loginRequired"]:
            return Seen(asks="password", accounts=(account.handle,))
        self._person = SignedIn(did=account.did)
        return Seen(asks="consent", accounts=(account.handle,))

    async def forget(self, account: Account) -> None:
        await self.user.sign_out(account.did)

    async def sign_up(self, handle: str, email: str, password: str) -> Seen:
        full = handle if "." in handle else f"{handle}.test"
        try:
            self._person = await self.user.sign_up(full, email, password)
        except ApprovalRefused as exc:
            return Seen(asks="sign-up", says=_says(exc))
        return Seen(asks="consent", accounts=(full,))

    async def consent(self, *, email: bool = True) -> Seen:
        assert self._person is not None
        asked = str(self._page.get("scope", ""))
        kept = [each for each in asked.split(" ") if email or not each.startswith("account:email")]
        return self._left(await self.user.decide(self._person, scope=" ".join(kept)))

    async def cancel(self) -> Seen:
        return self._left(await self.user.decide(None))

    def _left(self, answer: httpx.Response) -> Seen:
        sent = sent_by(answer)
        assert sent is not None, answer.text
        return Seen(sent=sent)

    def _show(self, answer: httpx.Response) -> Seen:
        found = dict(_DATA.findall(answer.text))
        data = {name: json.loads(json.loads(text)) for name, text in found.items()}
        self._page = data["__authorizeData"]
        hint, selected = self._page.get("loginHint"), self._page.get("selectedDid")
        self._sessions = [
            each
            for each in cast("list[_Session]", data["__sessions"])
            if hint is None or hint in {each["account"]["did"], each["account"]["handle"]}
        ]
        session = next((s for s in self._sessions if s["account"]["did"] == selected), None)
        if session is not None and not session["loginRequired"]:
            self._person = SignedIn(did=session["account"]["did"])
            asks = "reactivate" if session["account"]["deactivated"] else "consent"
            return Seen(asks=asks, accounts=(session["account"]["handle"],))
        if self._page.get("promptMode") == "create":
            return Seen(asks="sign-up")
        if session is not None:
            return Seen(asks="password", accounts=(session["account"]["handle"],))
        if self._sessions and hint is None:
            handles = tuple(each["account"]["handle"] for each in self._sessions)
            return Seen(asks="choose", accounts=handles)
        if hint is not None:
            return Seen(asks="password", accounts=(str(hint),))
        return Seen(asks="who")


def _says(refused: ApprovalRefused) -> str:
    return _SAYS.get(refused.reason) or _SAYS.get(refused.description) or refused.description
