"""Errors go where apps send them: into other processes, too."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest

from atproto_oauth_asgi.errors import ATProtoOAuthError, LoginRefused, RequestError, XRPCError


def kinds(kind: type[ATProtoOAuthError] = ATProtoOAuthError) -> Iterator[type[ATProtoOAuthError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == ATProtoOAuthError.__module__:
            yield from kinds(below)


def made(kind: type[ATProtoOAuthError]) -> ATProtoOAuthError:
    if kind is XRPCError:
        return XRPCError(http_status=400, error="InvalidRequest", server_message="no such thing")
    return kind("Do this next.")


@pytest.mark.parametrize("kind", list(dict.fromkeys(kinds())))
def test_an_error_survives_a_pool_of_processes_and_a_copy(kind: type[ATProtoOAuthError]) -> None:
    error = made(kind)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301  # ours
        assert type(twin) is kind
        assert str(twin) == str(error)
        assert repr(twin) == repr(error)
        assert vars(twin) == vars(error)
        assert (twin.code, twin.status, twin.sentence) == (error.code, error.status, error.sentence)


def test_what_an_app_tells_a_person_is_in_the_answer() -> None:
    refused = LoginRefused("Members only.")
    assert isinstance(refused, RequestError)
    assert refused.detail == {"error": "login_refused", "message": "Members only."}  # type: ignore[comparison-overlap]
