"""What the design says of refreshing, sentence by sentence, and which scenarios show it.

A scenario is an async function that raises AssertionError when its promise is broken. Each names
the planted faults under which it must fail: `test_scenarios.py` runs it as it is, and
`test_faults.py` once under each of its faults.

Scenarios run in virtual time, with the times that apps get: what they wait for costs nothing, and
what does not happen meanwhile is proven not to. Those that need threads or sockets say so, and run
in real time. Those of database servers are given a place on one; `test_server_scenarios.py` runs
them in both ways.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

import pytest

from tests.refresh.faults import Plant
from tests.refresh.fleet import PATIENT, timing
from tests.stores.places import Place
from tests.virtual_time import in_virtual_time

Run = Callable[[], Coroutine[object, object, None]]
RunOnServer = Callable[[Place], Coroutine[object, object, None]]

#: Section 6 (the refresh) and what section 5 says of requests, in the words of these tests.
SENTENCES: dict[str, str] = {
    "6.task": "One background task does the whole refresh; a request that goes takes nothing along",
    "6.timing": "All times are fields of one frozen object, given to the constructor only",
    "6.1.flight": "There is one refresh at a time per session and event loop",
    "6.1.loops": "Event loops take turns by the lease, as processes do",
    "6.1.forward": "What a process knows of a session only moves to a higher version",
    "6.2.rowcount": "Acquire and mark are one guarded UPDATE each, without RETURNING",
    "6.2.transaction": "Each try is a transaction of its own",
    "6.2.primary": "Leases are taken on the primary; anything else is refused at start",
    "6.2.owner": "Each task has its own 128 random bits as owner",
    "6.2.clock": "Leases live by the store's clock, not by the worker's",
    "6.2.statement": "It is read when a row is written, not when the wait for it began",
    "6.2.skew": "A store without such a clock states how far its clocks may be apart",
    "6.2.acquire.version": "Acquire: only the version that was seen",
    "6.2.acquire.active": "Acquire: only an active session",
    "6.2.acquire.interval": "Acquire: only when a refresh is allowed by now",
    "6.2.acquire.held": "Acquire: never a lease that runs",
    "6.2.acquire.unspent": "Acquire: at once when the lease ran out and nothing was announced",
    "6.2.acquire.watched": "Acquire: an announced one only when exactly it was watched",
    "6.2.lease": "Acquire leases for a short time, each mark for longer than a request lives",
    "6.2.mark": "The row announces every POST right before it",
    "6.2.mark.guard": "Mark: only with this owner, this version, and active",
    "6.2.mark.attempts": "A task counts as one attempt, however many POSTs it needs",
    "6.2.mark.first": "The journal remembers when the first attempt was announced",
    "6.2.mark.none": "A mark that hits no row sends nothing",
    "6.2.mark.silent": "A mark without an answer sends nothing",
    "6.2.mark.monotonic": "A mark that took too long by the monotonic clock is made again",
    "6.2.mark.wall": "A mark that took too long by the wall clock is made again",
    "6.2.journal": "Attempts and first_sent_at tell a lost rotation from a revocation",
    "6.2.connection": "No database connection is held while a server is asked",
    "6.2.poll": "Losers poll soon, then with growing pauses",
    "6.2.adopt": "Losers adopt what the winner brings",
    "6.3.verify": "The fresh check of the account's servers has a deadline",
    "6.3.fresh": "Account, PDS and authorization server are looked up afresh before each refresh",
    "6.3.unspent": "A passing failure before the mark gives the lease back, unspent",
    "6.3.post": "A POST has its whole deadline: a slow server is waited for",
    "6.3.own": "The deadline counts from the POST's own start, whatever came before",
    "6.3.late": "An answer that came while the process was paused is taken",
    "6.3.drop": "A POST that has no answer after that is dropped, and its lease given back",
    "6.3.idle": "A refresh never goes over a used connection, no POST over one idle for over 2 s",
    "6.3.blind": "A POST is never repeated blindly",
    "6.3.nonce": "use_dpop_nonce is answered once, after another mark",
    "6.4.columns": "The commit writes every column of a refresh",
    "6.4.owner": "The commit leaves the owner in place",
    "6.4.version": "The commit is guarded by version",
    "6.4.ended": "The commit never brings an ended session back",
    "6.4.holder": "Whoever holds a 200 commits, whoever has the lease by now",
    "6.4.sent": "Expiry and interval count from the moment the POST left",
    "6.4.life": "A token's life is clamped to 1 s ... 24 h, 300 s when not given",
    "6.4.interval": "The next refresh is allowed after half the life: at least 1 s, at most 10 s",
    "6.4.rekey": "Re-sealing compares the version, and never undoes a commit",
    "6.5.ended": "Commit of an ended session: what was received is revoked",
    "6.5.order": "Ended counts first, even if the commit had arrived",
    "6.5.mine": "A commit whose acknowledgement was lost is a success",
    "6.5.newer": "Newer tokens of another worker are adopted, mine are dropped",
    "6.5.never-revoke": "Nothing is revoked when another worker was faster",
    "6.5.again": "A commit that hit no row though nothing changed is made again",
    "6.5.memory": "While the database is away the new tokens are served from memory",
    "6.5.try": "Each try to commit has a deadline",
    "6.5.fresh": "Each try gets a fresh connection when the pool's do not serve it soon",
    "6.5.forever": "It is tried again, soon, as long as the process lives",
    "6.5.last": "There is one last try at shutdown",
    "6.5.loud": "If that fails too, the loss is said loudly",
    "6.5.cut-off": "A process cut off for longer than lease and watch loses what it holds, by name",
    "6.6.watch": "An announced lease is taken over only after it was watched for a while",
    "6.6.unchanged": "A change of the row begins the watch anew",
    "6.6.working": "Time in which the row could not be read does not count",
    "6.7.backoff": "A failure doubles the pause, up to a longest one, for every worker",
    "6.7.jitter": "The pause varies by a fifth",
    "6.7.retry-after": "Retry-After is obeyed, up to a longest one",
    "6.7.ended": "invalid_grant on an ended session changes nothing",
    "6.7.newer": "invalid_grant on an old version adopts the newer one, and counts an attempt",
    "6.7.lost": "invalid_grant after an earlier attempt ends as lost_rotation and names it",
    "6.7.revoked": "invalid_grant at the first attempt ends as revoked",
    "6.7.first-reason": "The first reason stays",
    "6.7.guarded": "Ending is guarded by version",
    "6.7.never": "Nothing but invalid_grant ever ends a session",
    "6.7.jti": "A re-used jti is no end, though the server calls it invalid_grant",
    "6.8.never": "A session of another client id is never refreshed",
    "6.8.back": "It works again when the setting is put back",
    "6.8.port": "A loopback app on a new port keeps its sessions",
    "6.9.first": "Logout ends the row first, then revokes",
    "6.9.unreachable": "With the server away a person is logged out all the same",
    "6.9.drain": "Shutdown waits for what is in the air",
    "6.9.grace": "The documented grace of 75 s suffices to store what is in the air, or to name it",
    "6.9.said": "Without lifespan there is no drain, which is said once",
    "J3": "A server that does not rotate: the old refresh token stays",
    "J5": "Tokens for somebody else, or not bound to the key, end the session and are revoked",
    "J6.issuer": "An account that moved to another server logs in anew; that server gets nothing",
    "J6.pds": "An account that moved to another PDS of the same server is served from there",
    "5.window": "The window is 60 s, or a fifth of a shorter life",
    "5.joined": "The refresh starts with the request; a page that asks nothing does not wait",
    "5.wait": "A request waits a bounded time; the refresh goes on without it",
    "5.vain": "After one wait in vain nobody waits until the row changes",
    "5.backoff": "While a backoff lies ahead a call fails at once, and the person stays signed in",
    "5.gone": "A gone grant raises SessionRevoked with its reason",
    "5.drain": "Calls in flight come home before the lease is taken",
    "5.drain.stream": "Bodies that cannot be sent twice get longer",
    "5.air": "A replayable call in the air time goes out with the token it has; others fail softly",
    "5.401.newer": "A refused token is compared by version: a newer one is used at once",
    "5.401.held": "A refused token whose refresh is under way elsewhere waits for it",
    "5.401.refresh": "A refused token that is old enough is refreshed",
    "5.401.interval": "A refused token that is too new is the caller's 401",
    "5.primed": "A body that cannot be sent twice is preceded by a cheap call",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    name: str
    run: Run
    shows: tuple[str, ...]
    without: tuple[str, ...]
    #: Why it cannot run in virtual time, if so.
    real_time: str | None

    def play(self, fault: Plant | None = None) -> None:
        """Run it, with a fault planted."""
        with pytest.MonkeyPatch.context() as patch:
            if self.real_time is None:
                if fault is not None:
                    fault(patch)
                in_virtual_time(self.run)
                return
            with timing(PATIENT):
                if fault is not None:
                    fault(patch)
                asyncio.run(self.run())


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerScenario:
    name: str
    run: RunOnServer
    shows: tuple[str, ...]
    without: tuple[str, ...]
    drivers: tuple[str, ...]


SCENARIOS: dict[str, Scenario] = {}
SERVER_SCENARIOS: dict[str, ServerScenario] = {}


def shows(
    *sentences: str, without: tuple[str, ...], real_time: str | None = None
) -> Callable[[Run], Run]:
    """Register a scenario: the sentences it shows, and the faults that must turn it red."""

    def register(run: Run) -> Run:
        name = run.__name__
        assert name not in SCENARIOS
        assert without, "a scenario that nothing turns red shows nothing"
        SCENARIOS[name] = Scenario(
            name=name, run=run, shows=sentences, without=without, real_time=real_time
        )
        return run

    return register


def shows_on_servers(
    *sentences: str,
    without: tuple[str, ...],
    drivers: tuple[str, ...] = ("psycopg", "asyncpg", "asyncmy"),
) -> Callable[[RunOnServer], RunOnServer]:
    """Register a scenario of a database server, with the drivers to run it with."""

    def register(run: RunOnServer) -> RunOnServer:
        name = run.__name__
        assert name not in SERVER_SCENARIOS
        assert without, "a scenario that nothing turns red shows nothing"
        SERVER_SCENARIOS[name] = ServerScenario(
            name=name, run=run, shows=sentences, without=without, drivers=drivers
        )
        return run

    return register
