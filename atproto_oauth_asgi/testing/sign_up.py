"""Judges what a person wants their new account to be, in the reference server's words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from atproto_oauth_asgi.testing.accounts import Account, Accounts
from atproto_oauth_asgi.testing.sign_in_pages import HANDLE_DOMAIN

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_EMAIL = re.compile(r"[^@\s<>\"]+@[^@\s.<>\"]+(?:\.[^@\s.<>\"]+)+")
_SHORTEST, _LONGEST = 3, 18
_PASSWORD = range(8, 257)


#: Makes an account of handle, password and e-mail address, and publishes it in the directory;
#: raises `ValueError` if there is one with this handle.
CreateAccount: TypeAlias = Callable[[str, str, str], Account]


class SignUpRefused(Exception):
    """Says in a sentence what has to be chosen differently."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


class SignUp:
    """Makes the accounts that people ask for on one server's pages."""

    def __init__(self, accounts: Accounts, create: CreateAccount) -> None:
        self._accounts = accounts
        self._create = create

    def check_handle(self, typed: str) -> str:
        """Return the handle that was meant.

        Raises:
            SignUpRefused: It cannot be had.
        """
        handle = full_handle(typed)
        name = handle.removesuffix(HANDLE_DOMAIN)
        if name == handle:
            raise SignUpRefused("Custom domains are not supported")
        if _LABEL.fullmatch(name) is None or not _SHORTEST <= len(name) <= _LONGEST:
            raise SignUpRefused("The username is invalid")
        if self._accounts.find(handle) is not None:
            raise SignUpRefused("The username is already in use")
        return handle

    def create(self, typed: str, *, email: str, password: str) -> Account:
        """Make the account.

        Raises:
            SignUpRefused: Something about it is not possible.
        """
        handle = self.check_handle(typed)
        email = email.strip().lower()
        if _EMAIL.fullmatch(email) is None:
            raise SignUpRefused("Enter your email address")
        if self._accounts.find(email) is not None:
            raise SignUpRefused("This email is already used")
        if len(password) not in _PASSWORD:
            raise SignUpRefused("Use a password of 8 to 256 characters")
        try:
            return self._create(handle, password, email)
        except ValueError as exc:
            # Another server of the network has it, or an account that was deleted had it.
            raise SignUpRefused("The username is already in use") from exc


def full_handle(typed: str) -> str:
    """Return what somebody means who types a handle, or only its first part."""
    name = typed.strip().removeprefix("@").lower()
    plain = name and "." not in name and "@" not in name and not name.startswith("did:")
    return name + HANDLE_DOMAIN if plain else name
