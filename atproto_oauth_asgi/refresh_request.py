"""The token request of a refresh: announced, sent once, and waited for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from math import inf

from atproto_oauth_asgi.authorization_server import ASAnswer, ClientIdentity, Learnt, attempt
from atproto_oauth_asgi.errors import ClientKeyMissing, FetchError
from atproto_oauth_asgi.lease import Hold, LeaseLost, Leases, TooSlow
from atproto_oauth_asgi.net import Net
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from atproto_oauth_asgi.server_metadata import ServerMetadata
from atproto_oauth_asgi.store import Store
from atproto_oauth_asgi.tasks import Kept


@dataclass(frozen=True, slots=True)
class Granted:
    """Is an answer with new tokens, and where they came from."""

    result: ASAnswer
    pds: str
    metadata: ServerMetadata
    kid: str | None


class RefreshRequests:
    """Makes the token requests of one event loop's refreshes."""

    def __init__(
        self,
        *,
        store: Store,
        net: Net,
        client: ClientIdentity,
        leases: Leases,
        timing: RefreshTiming,
    ) -> None:
        self._store = store
        self._net = net
        self._client = client
        self._leases = leases
        self._timing = timing

    async def post(
        self, hold: Hold, server: tuple[str, ServerMetadata]
    ) -> Granted | ASAnswer | None:
        """Ask for new tokens; None when there was no answer, and the lease was given back."""
        live, flight = hold.live, hold.flight
        pds, metadata = server
        kid = self._client.kid_for(live.client_kid)
        form = {
            "grant_type": "refresh_token",
            "refresh_token": live.tokens.refresh_token or "",
        }
        result: ASAnswer | None = None
        try:
            # Once, and once more with the nonce that the server then asks for, or the time that
            # it names: it looks at the proof before it looks at the token.
            told: set[Learnt] = set()
            while True:
                left = asyncio.Event()
                task = Kept(
                    attempt(
                        self._net,
                        self._client,
                        metadata.token_endpoint,
                        form,
                        issuer=live.issuer,
                        kid=kid,
                        key=live.key,
                        nonces=live.nonces,
                        # Timed by `_await_post`: after a pause of the process every timer has
                        # run out, but the answer may already lie in the socket.
                        deadline=inf,
                        before_send=partial(self._leave, hold, left),
                    )
                )
                task.kept = True
                result = await self._await_post(task, left)
                if result is None or result.learnt is None or result.learnt in told:
                    break
                told.add(result.learnt)
                hold.departed = False
        except LeaseLost:
            self._leases.adopt(live, await self._store.load_session(live.id))
            await self._leases.give_back(hold, "The refresh could not be announced.")
            return None
        except TooSlow:
            await self._leases.postpone(hold, "The store was too slow to announce the refresh.")
            return None
        except ClientKeyMissing as exc:
            await self._leases.postpone(hold, str(exc))
            return None
        except FetchError as exc:
            await self._leases.postpone(hold, f"The token endpoint did not answer: {exc}")
            return None
        finally:
            flight.posting = False
        if result is None:
            await self._leases.postpone(hold, "The token endpoint did not answer in time.")
            return None
        if result.answer.status == HTTPStatus.OK:
            return Granted(result, pds, metadata, kid)
        return result

    async def _leave(self, hold: Hold, left: asyncio.Event) -> None:
        await self._leases.mark(hold)
        left.set()

    async def _await_post(
        self, task: asyncio.Task[ASAnswer], left: asyncio.Event
    ) -> ASAnswer | None:
        post = self._timing.post
        leaving = asyncio.create_task(left.wait())
        try:
            await asyncio.wait({task, leaving}, timeout=post, return_when=asyncio.FIRST_COMPLETED)
            # The server's time begins now, however long the request waited for a connection.
            if left.is_set():
                done, _ = await asyncio.wait({task}, timeout=post)
                if not done:
                    await asyncio.wait({task}, timeout=self._timing.late_answer)
            return task.result() if task.done() else None
        finally:
            leaving.cancel()
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
