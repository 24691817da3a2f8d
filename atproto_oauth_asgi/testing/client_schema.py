"""The shapes of client documents, before anything is made of what they say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from atproto_oauth_asgi.testing.permissions import is_scope

_TEXTS = (
    *("client_id", "client_name", "client_uri", "logo_uri", "tos_uri", "policy_uri"),
    *("scope", "jwks_uri", "application_type", "subject_type"),
    *("token_endpoint_auth_method", "token_endpoint_auth_signing_alg"),
)
_LISTS = ("redirect_uris", "response_types", "grant_types", "contacts")
_CHOICES = {"application_type": ("web", "native"), "subject_type": ("public", "pairwise")}


class FetchRefused(Exception):
    """Says why a client's document could not be had."""


def check_client_schema(document: Mapping[str, object]) -> None:
    """Refuse client metadata with members of the wrong kind.

    Raises:
        FetchRefused: Always with the reference server's words.
    """
    if "redirect_uris" not in document:
        raise _wrong("redirect_uris", "Required")
    for name in document:
        value = document[name]
        if name in _LISTS:
            _check_list(name, value)
        elif name in _TEXTS and not isinstance(value, str):
            raise _wrong(name, f"Expected string, received {kind_of(value)}")
        elif name == "dpop_bound_access_tokens" and not isinstance(value, bool):
            raise _wrong(name, f"Expected boolean, received {kind_of(value)}")
        elif name in _CHOICES and value not in _CHOICES[name]:
            choices = " | ".join(f"'{choice}'" for choice in _CHOICES[name])
            raise _wrong(name, f"Invalid enum value. Expected {choices}, received '{value}'")
        elif name == "scope" and not is_scope(str(value)):
            raise _wrong(name, "Invalid OAuth scope")
        elif name == "jwks":
            check_key_schema(value)


def check_key_schema(document: object) -> None:
    """Refuse a key set without its list of keys.

    Raises:
        FetchRefused: Always with the reference server's words.
    """
    if not isinstance(document, dict):
        raise _wrong("jwks", f"Expected object, received {kind_of(document)}")
    keys = cast("Mapping[str, object]", document).get("keys")
    if keys is None:
        raise _wrong("keys", "Required")
    if not isinstance(keys, list):
        raise _wrong("keys", f"Expected array, received {kind_of(keys)}")


def kind_of(value: object) -> str:
    """Return what JavaScript calls the kind of a JSON value."""
    if value is None:
        return "null"
    kinds = ((bool, "boolean"), (int | float, "number"), (str, "string"), (list, "array"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "object")


def _check_list(name: str, value: object) -> None:
    if not isinstance(value, list):
        raise _wrong(name, f"Expected array, received {kind_of(value)}")
    items = cast("list[object]", value)
    if not items:
        raise _wrong(name, "Array must contain at least 1 element(s)")
    for position, item in enumerate(items):
        if not isinstance(item, str):
            problem = f"Expected string, received {kind_of(item)}"
            raise _wrong(f"{name}[{position}]", problem)


def _wrong(name: str, problem: str) -> FetchRefused:
    return FetchRefused(f'Validation of "{name}" failed with error: {problem}')
