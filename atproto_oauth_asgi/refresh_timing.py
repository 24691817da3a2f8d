"""The times of a refresh, in one place, so that tests can shorten them together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshTiming:
    """Says how long each step of a refresh may take. All fields are seconds.

    The defaults were found with simulations of killed, paused and cut-off workers; they have no
    form in the environment on purpose. Between them holds: `lease` covers draining, the check of
    the account's servers and the connection; `marked_lease` covers `post` and `late_answer`.
    """

    #: Lease from acquire to the first mark.
    lease: float = 20.0
    #: Lease from each mark: longer than any token request lives.
    marked_lease: float = 75.0
    #: Most time between announcing a token request and its first byte.
    mark_to_send: float = 5.0
    #: For the fresh look at account, PDS and authorization server.
    verify: float = 8.0
    #: For each token request, from its own start. Giving up on a slow server is the replay that
    #: kills a session, so this is long.
    post: float = 60.0
    #: What a token request gets after `post`: an answer may lie in the socket after a pause.
    late_answer: float = 1.0
    #: For each try to store new tokens.
    commit_try: float = 3.0
    #: Between two such tries.
    commit_again: float = 1.0
    #: How long an expired lease with an announced request must be seen unchanged.
    watch: float = 10.0
    #: First pause of those who wait for another worker, and the longest.
    poll_first: float = 0.008
    poll_longest: float = 0.5
    #: What calls in flight get to come home before a refresh begins.
    drain: float = 2.0
    #: What one request waits for a refresh.
    wait: float = 5.0
    #: Refresh this long before expiry, or a fifth of the token's life if that is shorter.
    window: float = 60.0
    #: Longest pause after failures, before jitter of a fifth.
    backoff: float = 60.0
    #: Longest Retry-After that is obeyed.
    retry_after: float = 300.0

    @property
    def give_up(self) -> float:
        """Return how long a worker waits for others before it leaves the refresh to them."""
        return self.lease + self.marked_lease + self.watch + self.wait


def milliseconds(seconds: float) -> int:
    """Turn seconds into the whole milliseconds that stores take."""
    return round(seconds * 1000)
