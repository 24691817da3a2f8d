"""What the server decides without asking, from the browser's remembered accounts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atproto_oauth_asgi.testing.accounts import Account
from atproto_oauth_asgi.testing.authorization_requests import AuthorizationRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """Is an account that is remembered on the browser that came."""

    account: Account
    #: Whether it has to type its password again.
    login_required: bool
    #: Whether it has not yet agreed to what is asked for.
    consent_required: bool


class Unmet(Exception):
    """Says that a prompt asks for what this browser cannot give (OpenID Connect Core §3.1.2.6)."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error
        self.description = description


def signed_on(request: AuthorizationRequest, accounts: Sequence[Remembered]) -> Account | None:
    """Return the account that is sent back to the app without a page; `None`: ask the person.

    Raises:
        Unmet: `login_required`, `consent_required` or `account_selection_required`.
    """
    if request.prompt == "select_account" and not accounts:
        raise Unmet("account_selection_required", "Account selection required")
    usable = [each for each in hinted(request, accounts) if each.account.status == "active"]
    if request.prompt == "none":
        if not usable or usable[0].login_required:
            raise Unmet("login_required", "Login is required")
        if usable[0].consent_required:
            raise Unmet("consent_required", "User consent required")
        return usable[0].account
    if request.prompt is None and usable:
        found = usable[0]
        if not found.login_required and not found.consent_required:
            return found.account
    return None


def hinted(request: AuthorizationRequest, accounts: Sequence[Remembered]) -> list[Remembered]:
    """Return the one account that `login_hint` names; without a hint there is none."""
    names = (request.hint,)
    return [each for each in accounts if {each.account.did, each.account.handle} & {*names}]
