"""Judges the parameters of PAR and token requests, with the reference server's words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import urlsplit

from atproto_oauth_asgi.testing.client_authentication import ASSERTION_TYPE
from atproto_oauth_asgi.testing.client_metadata import ClientMetadata, unknown_scopes
from atproto_oauth_asgi.testing.permissions import is_scope, parse_permission
from atproto_oauth_asgi.testing.web import OAuthRefusal, Request

_PROMPTS = ("none", "login", "consent", "select_account", "create")
_MODES = ("query", "fragment", "form_post")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HANDLE = re.compile(rf"(?:{_LABEL}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?", re.IGNORECASE)
_DID = re.compile(r"did:(?:plc:[a-z2-7]{24}|web:[a-z0-9.-]+(?:%3A\d+)?)")


def read_form(request: Request) -> dict[str, str]:
    """Return the members of a form or of a JSON body.

    Raises:
        OAuthRefusal: `invalid_request`.
    """
    if request.content_type == "application/x-www-form-urlencoded":
        return request.form()
    if request.content_type != "application/json":
        raise OAuthRefusal(
            "invalid_request", f"Unsupported content-type: {request.content_type}", status=415
        )
    try:
        value: object = json.loads(request.body)
    except ValueError as exc:
        raise OAuthRefusal("invalid_request", "Invalid JSON") from exc
    if not isinstance(value, dict):
        raise OAuthRefusal("invalid_request", "Invalid JSON")
    members = cast("dict[str, object]", value)
    return {name: item for name, item in members.items() if isinstance(item, str)}


def check_credentials(form: Mapping[str, str]) -> None:
    """Refuse a form without the client's name.

    Raises:
        OAuthRefusal: `invalid_request`.
    """
    if "client_id" in form:
        # An ill-formed assertion beside it counts as none.
        return
    problems = ["Required at body.client_id"]
    if form.get("client_assertion_type") != ASSERTION_TYPE:
        problems.append(
            f'Invalid literal value, expected "{ASSERTION_TYPE}" at body.client_assertion_type'
        )
    if "client_assertion" not in form:
        problems.append("Required at body.client_assertion")
    problems[-1] += ", or Required at body.client_id"
    problems.append("Required at body.client_secret, or Required at body.client_id")
    raise OAuthRefusal("invalid_request", "Client credentials missing: " + "; ".join(problems))


def check_token_request(form: Mapping[str, str]) -> None:
    """Refuse a token request that lacks what its grant type needs.

    Raises:
        OAuthRefusal: `invalid_grant`.
    """
    problems: list[str] = []
    match form.get("grant_type"):
        case "authorization_code":
            problems += _missing(form, "code", "redirect_uri")
            verifier = form.get("code_verifier")
            if verifier is not None and len(verifier) < 43:
                problems.append(
                    "String must contain at least 43 character(s) at body.code_verifier"
                )
        case "refresh_token":
            problems += _missing(form, "refresh_token")
        case "password":
            problems += _missing(form, "username", "password")
        case "client_credentials":
            pass
        case _:
            problems.append(
                "Invalid discriminator value. Expected 'authorization_code' | 'refresh_token' | "
                "'password' | 'client_credentials' at body.grant_type"
            )
    if problems:
        raise OAuthRefusal("invalid_grant", "Invalid request payload: " + "; ".join(problems))


def check_authorization_syntax(form: Mapping[str, str]) -> None:
    """Refuse an authorization request that is ill-formed whoever the client is.

    Raises:
        OAuthRefusal: `invalid_request`.
    """
    _check_choice(form, "prompt", _PROMPTS)
    _check_choice(form, "response_mode", _MODES)
    redirect_uri = form.get("redirect_uri")
    if redirect_uri is not None and urlsplit(redirect_uri).hostname == "localhost":
        raise _invalid(
            'Invalid authorization request: Use of "localhost" hostname is not allowed '
            '(RFC 8252), use a loopback IP such as "127.0.0.1" instead at body.redirect_uri'
        )
    if redirect_uri is not None:
        parts = urlsplit(redirect_uri)
        if parts.scheme == "http" and parts.hostname not in {"127.0.0.1", "::1"}:
            raise _invalid(
                'Invalid authorization request: URL must use "localhost", "127.0.0.1" or "[::1]" '
                "as hostname at body.redirect_uri"
            )
    if "response_type" not in form:
        raise _invalid(
            "Invalid authorization request: Required at body.response_type, "
            "or Required at body.request, or Required at body.request"
        )
    if "scope" in form and not is_scope(form["scope"]):
        raise _invalid("Invalid authorization request: Invalid OAuth scope at body.scope")


def check_authorization_request(
    form: Mapping[str, str], client: ClientMetadata, *, resolves: Callable[[str], bool]
) -> str:
    """Refuse what this client may not ask for; return the redirect URI to use.

    Args:
        form: What the client pushed.
        client: What it says of itself.
        resolves: Whether the permission set of an NSID is known.

    Raises:
        OAuthRefusal: As the reference server answers.
    """
    for name in ("claims", "id_token_hint", "nonce"):
        if name in form:
            raise _invalid(f'Unsupported "{name}" parameter')
    if form["response_type"] != "code":
        raise OAuthRefusal(
            "unsupported_response_type", f'Unsupported response_type "{form["response_type"]}"'
        )
    _check_scope(form.get("scope", ""), client, resolves)
    if not form.get("code_challenge"):
        raise _invalid("Use of PKCE is required")
    if form.get("code_challenge_method", "plain") != "S256":
        raise _invalid('atproto requires use of "S256" code_challenge_method')
    hint = form.get("login_hint", "").lower()
    if hint and _HANDLE.fullmatch(hint) is None and _DID.fullmatch(hint) is None:
        raise _invalid(f'Invalid login_hint "{hint}"')
    if form.get("prompt") == "none" and client.auth_method == "none":
        raise _invalid("Public clients are not allowed to use silent-sign-on")
    wanted = form.get("redirect_uri")
    if wanted is None:
        if len(client.redirect_uris) == 1:
            return client.redirect_uris[0]
        raise _invalid("redirect_uri is required")
    found = client.redirect_uri_for(wanted)
    if found is None:
        raise _invalid(f"Invalid redirect_uri {wanted}")
    return found


def _check_scope(scope: str, client: ClientMetadata, resolves: Callable[[str], bool]) -> None:
    scopes = scope.split(" ") if scope else []
    for unknown in unknown_scopes(scopes, client.scopes):
        raise OAuthRefusal(
            "invalid_scope", f'Scope "{unknown}" is not declared in the client metadata'
        )
    if "atproto" not in scopes:
        raise OAuthRefusal("invalid_scope", 'The "atproto" scope is required')
    for value in scopes:
        permission = parse_permission(value)
        if permission is not None and permission.resource == "include":
            nsid = permission.values[0]
            if not resolves(nsid):
                raise OAuthRefusal("invalid_scope", f"Could not resolve Lexicon for NSID ({nsid})")


def _check_choice(form: Mapping[str, str], name: str, choices: tuple[str, ...]) -> None:
    value = form.get(name)
    if value is None or value in choices:
        return
    expected = " | ".join(f"'{choice}'" for choice in choices)
    raise _invalid(
        f"Invalid authorization request: Invalid enum value. Expected {expected}, "
        f"received '{value}' at body.{name}, or Required at body.request, "
        "or Required at body.request"
    )


def _missing(form: Mapping[str, str], *names: str) -> list[str]:
    return [f"Required at body.{name}" for name in names if not form.get(name)]


def _invalid(description: str) -> OAuthRefusal:
    return OAuthRefusal("invalid_request", description)
