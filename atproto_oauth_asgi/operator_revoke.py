"""Ending a session for whoever runs the app: here first, then at its authorization server."""

from __future__ import annotations

from dataclasses import dataclass

from atproto_oauth_asgi.errors import SealBroken
from atproto_oauth_asgi.live import LiveSession
from atproto_oauth_asgi.oauth import ATProtoOAuth
from atproto_oauth_asgi.runtime import END_TRIES
from atproto_oauth_asgi.store import EndedReason

_REASON: EndedReason = "by_operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """How the end of one session went."""

    #: Whether nothing of it is left: here, and at the server.
    confirmed: bool
    sentence: str


async def revoke(oauth: ATProtoOAuth, session_id: str) -> Revoked:
    """End a session with the reason `by_operator`, then revoke its tokens.

    The session is over here whatever the server does; a refresh under way in another process
    finds it ended and revokes what it got.

    Args:
        oauth: An app that is open.
        session_id: The session.

    Raises:
        StoreUnavailable: it may not have ended; do it again.
    """
    runtime = await oauth.open()
    store = oauth.core.store
    for number in range(END_TRIES):
        record = await store.load_session(session_id)
        if record is None:
            return Revoked(confirmed=False, sentence=f"There is no session {session_id}.")
        if record.status == "ended":
            sentence = f"Session {session_id} had ended already ({record.ended_reason})."
            return Revoked(confirmed=True, sentence=sentence)
        why = runtime.sessions.unusable_reason(record)
        live: LiveSession | None = None
        try:
            live = runtime.sessions.live(record)
        except SealBroken as exc:
            why = str(exc)
        # Newer tokens are the ones to revoke; the last try takes whatever there is.
        version = record.version if number < END_TRIES - 1 else None
        if await store.end_session(session_id, _REASON, version=version):
            oauth.core.events.info(
                "session.ended", session=session_id, did=record.did, reason=_REASON
            )
            break
    else:
        return Revoked(confirmed=False, sentence=f"Session {session_id} was ended by others.")
    ended = f"Session {session_id} of {record.did} has ended here"
    if live is None or why in {"client_changed", "key_removed"}:
        # The server would answer 200 to a client that the tokens were not given to.
        return Revoked(confirmed=False, sentence=f"{ended}, but cannot be revoked there: {why}")
    tokens = live.tokens
    live.end(_REASON)
    if await runtime.revoker.start(live, tokens):
        return Revoked(confirmed=True, sentence=f"{ended} and at {record.issuer}.")
    return Revoked(
        confirmed=False,
        sentence=f"{ended}, but {record.issuer} did not confirm that its tokens are revoked.",
    )
