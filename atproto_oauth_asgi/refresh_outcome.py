"""What becomes of a session whose token request was answered."""

from __future__ import annotations

import re
import time

import httpx

from atproto_oauth_asgi.authorization_server import ASAnswer
from atproto_oauth_asgi.clock_skew import http_date
from atproto_oauth_asgi.commit import Committer
from atproto_oauth_asgi.errors import BadAnswer, LoginError, ResolutionError
from atproto_oauth_asgi.instrumentation import Events
from atproto_oauth_asgi.lease import Hold, Leases
from atproto_oauth_asgi.refresh_request import Granted
from atproto_oauth_asgi.revocation import Revoker
from atproto_oauth_asgi.store import EndedReason, Store
from atproto_oauth_asgi.tokens import TokenResponse, Tokens

_SECONDS = re.compile(r"[0-9]{1,9}")


class RefreshOutcomes:
    """Draws the conclusions: new tokens are stored, a dead grant ends, all else is tried again."""

    def __init__(
        self,
        *,
        store: Store,
        leases: Leases,
        committer: Committer,
        revoker: Revoker,
        events: Events,
    ) -> None:
        self._store = store
        self._leases = leases
        self._committer = committer
        self._revoker = revoker
        self._events = events

    async def conclude(self, hold: Hold, outcome: Granted | ASAnswer) -> None:
        """Store the tokens, end the session or put the refresh off."""
        live = hold.live
        if isinstance(outcome, Granted):
            await self._granted(hold, outcome)
            return
        status, error = outcome.answer.status, outcome.error
        fields = {"session": live.id, "did": live.did, "status": status, "error": error}
        self._events.warning("refresh.refused", **fields)
        if status in {400, 401} and error == "invalid_grant" and not _jti_reused(outcome):
            await self._grant_gone(hold)
            return
        # Every other refusal in OAuth's own words comes before the token is looked at.
        unspent = httpx.codes.is_client_error(status) and error is not None
        await self._leases.postpone(
            hold,
            f"The token endpoint answered {status} {error or ''}".rstrip() + ".",
            retry_after=_retry_after(outcome),
            unspent=unspent,
        )

    async def _granted(self, hold: Hold, granted: Granted) -> None:
        live = hold.live
        try:
            document = granted.result.document()
        except BadAnswer as exc:
            await self._leases.postpone(hold, f"The token endpoint's answer cannot be read: {exc}")
            return
        try:
            response = TokenResponse.parse(document, sub=live.did)
        except BadAnswer as exc:
            await self._leases.postpone(hold, f"The token endpoint's answer cannot be read: {exc}")
            return
        except (LoginError, ResolutionError) as exc:
            # Tokens for somebody else, or not bound to our key: the old ones are spent, and
            # nobody may use these.
            self._events.exception(
                "refresh.wrong_tokens", session=live.id, did=live.did, error=exc.code
            )
            self._revoker.start_raw(live, document, granted.metadata)
            await self._end(hold, "revoked")
            return
        tokens = Tokens(
            access_token=response.access_token,
            # A server that does not rotate gives none: the old one stays good.
            refresh_token=response.refresh_token or live.tokens.refresh_token,
            pds=granted.pds,
        )
        if not granted.result.nonce_given:
            # Refusing these tokens, as other answers without a nonce are, would lose the session.
            self._events.warning("refresh.no_nonce", session=live.id, issuer=live.issuer)
        await self._committer.commit(
            live,
            hold.flight,
            tokens,
            response,
            version=hold.version,
            owner=hold.owner,
            kid=granted.kid,
            sent=hold.sent,
        )

    async def _grant_gone(self, hold: Hold) -> None:
        """Find out why the grant is gone before anybody is signed out."""
        live = hold.live

        async def judge() -> None:
            record = await self._store.load_session(live.id)
            if record is None or record.status == "ended" or record.version > hold.version:
                if record is not None and record.status != "ended":
                    # Ours was the replay; the newer grant is probably dead, and the next
                    # refusal of it will be told from a revocation by this.
                    await self._store.count_attempt(live.id, version=record.version)
                    record = await self._store.load_session(live.id)
                self._leases.adopt(live, record)
                return
            reason: EndedReason = "lost_rotation" if record.attempts > 1 else "revoked"
            if await self._store.end_session(live.id, reason, version=hold.version):
                live.end(reason)
                self._events.warning(
                    "session.ended",
                    session=live.id,
                    did=live.did,
                    reason=reason,
                    attempts=record.attempts,
                    first_sent_ago_ms=record.first_sent_ago_ms,
                )
            else:
                self._leases.adopt(live, await self._store.load_session(live.id))

        await self._leases.insist(judge)

    async def _end(self, hold: Hold, reason: EndedReason) -> None:
        async def end() -> None:
            await self._store.end_session(hold.live.id, reason, version=hold.version)

        await self._leases.insist(end)
        live = hold.live
        live.end(reason)
        self._events.info("session.ended", session=live.id, did=live.did, reason=reason)


def _jti_reused(answer: ASAnswer) -> bool:
    """Tell a re-used assertion `jti`, which the reference server calls `invalid_grant` too."""
    words = answer.description.lower()
    return "jti" in words and "reuse" in words


def _retry_after(answer: ASAnswer) -> float | None:
    headers = answer.answer.headers
    value = headers.get("retry-after", "")
    if _SECONDS.fullmatch(value):
        return float(value)
    # Or a date (RFC 9110 §10.2.3), by the server's own clock where it shows that.
    until, now = http_date(headers, "retry-after"), http_date(headers, "date")
    return None if until is None else until - (time.time() if now is None else now)
