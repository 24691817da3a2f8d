"""What each account has allowed each app before."""

from __future__ import annotations

from collections.abc import Iterable

from atproto_oauth_asgi.testing.authorization_requests import AuthorizationRequest


class Consents:
    """Remembers consents, so that confidential clients need not ask again."""

    def __init__(self) -> None:
        self._scopes: dict[tuple[str, str], set[str]] = {}

    def add(self, request: AuthorizationRequest, did: str) -> None:
        """Remember that an account agreed to a request.

        All that was asked for counts, unticked permissions too: so does the reference server.
        """
        # Apps in development have the same client id, whoever wrote them.
        if not request.client.loopback:
            known = self._scopes.setdefault((did, request.client.client_id), set())
            known.update(request.scopes)

    def covers(self, did: str, client_id: str, scopes: Iterable[str]) -> bool:
        """Say whether an account agreed to all of these scopes before."""
        known = self._scopes.get((did, client_id))
        return known is not None and known.issuperset(scopes)
