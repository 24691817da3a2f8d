"""What happened in a network, and what goes wrong there when a test wants it."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Generator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    contextmanager,
)

from atproto_oauth_asgi.testing.faults import Pause, When
from atproto_oauth_asgi.testing.host import Host
from atproto_oauth_asgi.testing.interceptors import (
    Aftermath,
    Drop,
    Failure,
    Hang,
    RandomTrouble,
    Slowness,
    Spoiling,
)
from atproto_oauth_asgi.testing.malformed import Malformation
from atproto_oauth_asgi.testing.request_log import RequestRecord
from atproto_oauth_asgi.testing.servers import Servers
from atproto_oauth_asgi.testing.site import Change

TOKEN = "/oauth/token"

_log = logging.getLogger(__name__)


class Trouble(Servers):
    """Is servers that things go wrong with.

    Each kind of trouble is a context manager and ends with its block. `path` is that of a request
    (`/oauth/par`, `/oauth/token`, `/xrpc/<nsid>`, `/<did>` at the directory, …), `times` how many
    requests meet it, all by default. What is drawn by chance is drawn from a seed, which is
    logged, so that the same run can be had again.
    """

    def token_requests(
        self, grant: str | None = None, *, challenged: bool = False
    ) -> list[RequestRecord]:
        """Return the records of token requests, oldest first.

        Args:
            grant: `refresh_token`, `authorization_code`, or both by default.
            challenged: Whether to count those that only met the DPoP nonce challenge too.
        """
        return [
            record
            for record in self.log.of("token", grant)
            if challenged or record.error != "use_dpop_nonce"
        ]

    def pause_token_endpoint(
        self, grant: str | None = None, *, when: When = "before"
    ) -> AbstractAsyncContextManager[Pause]:
        """Hold token requests until the pause is released or the block ends.

        Args:
            grant: `refresh_token`, `authorization_code`, or both by default.
            when: `before` holds requests before anything is done, `after` holds the answers.
        """
        return self.faults.pause(grant=grant, when=when)

    def alter(self, path: str, change: Change) -> AbstractContextManager[None]:
        """Change every answer of a path on its way out, to play a faulty or hostile server.

        For example `network.alter("/oauth/token", lambda answer: answer.with_json(sub=other))`.
        The path of a DID document is `/<did>`.
        """
        return self._alterations.during(path, change)

    def hold(self, path: str, *, when: When = "before") -> AbstractAsyncContextManager[Pause]:
        """Hold every request of a path until the pause is released or the block ends.

        For token requests `pause_token_endpoint` is better: it lets nonce challenges pass.
        """
        return self._alterations.hold(path, when)

    @contextmanager
    def outage(self, origin: str | None = None) -> Generator[None]:
        """Break every connection to an origin, by default to the first PDS.

        Raises:
            ValueError: There is no such server.
        """
        sites = {host.origin: host.app for host in self.hosts} | {self.plc.origin: self._plc_app}
        site = sites.get(origin or self.host.origin)
        if site is None:
            raise ValueError(f"{origin} is not a server of this network.")
        site.down = True
        try:
            yield
        finally:
            site.down = False

    def lost_answers(self, grant: str | None = "refresh_token") -> AbstractContextManager[None]:
        """Process token requests, and lose the answers of those that succeed: tokens are rotated.

        Args:
            grant: `refresh_token`, `authorization_code`, or `None` for both.
        """
        return self.faults.losing_answers(grant)

    def failing(
        self,
        path: str | None = TOKEN,
        status: int = 500,
        *,
        times: int | None = None,
        retry_after: int | None = None,
    ) -> AbstractContextManager[None]:
        """Answer an error before anything is processed; `retry_after` is in seconds."""
        trouble = Failure(path=path, left=times, status=status, retry_after=retry_after)
        return self._alterations.intercepted(trouble)

    def slow(
        self, seconds: float, path: str | None = TOKEN, *, times: int | None = None
    ) -> AbstractContextManager[None]:
        """Let requests wait before they are processed, by the event loop's clock."""
        return self._alterations.intercepted(Slowness(path=path, left=times, seconds=seconds))

    @contextmanager
    def hanging(self, path: str | None = TOKEN, *, times: int | None = None) -> Generator[Pause]:
        """Neither process nor answer requests; their connections drop at the end of the block."""
        trouble = Hang(path=path, left=times)
        with self._alterations.intercepted(trouble):
            try:
                yield trouble.pause
            finally:
                trouble.pause.release()

    def dropped(
        self, path: str | None = TOKEN, *, when: When = "before", times: int | None = None
    ) -> AbstractContextManager[None]:
        """Drop connections `before` the request is processed, or `after`: the answer is lost."""
        return self._alterations.intercepted(Drop(path=path, left=times, when=when))

    @contextmanager
    def clock_skew(self, seconds: float) -> Generator[None]:
        """Let the servers' clock be fast by so much, or slow where it is negative."""
        self._clock.skew += seconds
        try:
            yield
        finally:
            self._clock.skew -= seconds

    @contextmanager
    def nonce_storm(self) -> Generator[None]:
        """Let every server demand a new DPoP nonce at each request."""
        with ExitStack() as stack:
            for host in self.hosts:
                stack.enter_context(host.nonces.storm())
            yield

    @contextmanager
    def changed_document(self, identifier: str, **members: object) -> Generator[None]:
        """Change members of an account's DID document; `None` removes one."""
        account = self.account(identifier)
        before = account.document_changes
        account.document_changes = {**before, **members}
        try:
            yield
        finally:
            account.document_changes = before

    @contextmanager
    def moved(self, identifier: str, host: Host) -> Generator[None]:
        """Let an account live on another PDS, and come back; see `move_account`."""
        account = self.account(identifier)
        home = next(each for each in self.hosts if each.origin == account.pds)
        self.move_account(identifier, host)
        try:
            yield
        finally:
            self.move_account(account.did, home)

    def after_next(self, path: str, action: Callable[[], object]) -> AbstractContextManager[None]:
        """Do something between two steps: once the next request of a path is answered.

        For example `network.after_next("/oauth/par", lambda: network.take_down("alice.test"))`.
        """
        return self._alterations.intercepted(Aftermath(path=path, left=1, action=action))

    @contextmanager
    def removed_key(self, *kids: str) -> Generator[None]:
        """Let the authorization servers find these keys in no client's JWKS, at once."""
        servers = self.authorization_servers
        for server in servers:
            server.registry.removed_kids.update(kids)
        try:
            yield
        finally:
            for server in servers:
                server.registry.removed_kids.difference_update(kids)

    def malformed(
        self,
        path: str | None = TOKEN,
        kind: Malformation | None = None,
        *,
        times: int | None = None,
        seed: int | None = None,
    ) -> AbstractContextManager[None]:
        """Malform answers in one way, by default in another one each time."""
        chance = _chance(seed)
        return self._alterations.intercepted(
            Spoiling(path=path, left=times, kind=kind, chance=chance)
        )

    def random_trouble(
        self, share: float = 0.2, *, path: str | None = None, seed: int | None = None
    ) -> AbstractContextManager[None]:
        """Let a share of all requests be dropped, fail, or be answered malformed.

        Where requests come at once, their order has a part in what each of them meets.
        """
        chance = _chance(seed)
        return self._alterations.intercepted(RandomTrouble(path=path, share=share, chance=chance))


def _chance(seed: int | None) -> random.Random:
    if seed is None:
        seed = random.SystemRandom().randrange(2**32)
    _log.warning("Network trouble is drawn from seed=%d.", seed)
    return random.Random(seed)  # noqa: S311  # to be had again, not to be secret
