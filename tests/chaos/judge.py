"""The authorization server's log decides whether a session was lost for nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from atproto_oauth_asgi.store import SessionRecord
from tests.chaos.app_worker import TIMING, Entry
from tests.chaos.people import Told
from tests.chaos.witness import Grant, TokenRequest, Witness
from tests.chaos.workers import Workers

#: After this long whoever sent a request is not waited for any more.
OVER = TIMING.marked_lease + TIMING.watch
#: How exactly two processes of one machine read its clock.
CLOCK = 0.05


@dataclass(slots=True)
class Verdict:
    endings: Counter[str] = field(default_factory=Counter[str])
    #: Why rotations were lost.
    excuses: Counter[str] = field(default_factory=Counter[str])
    #: Answers that came late, and what became of them.
    slow: Counter[str] = field(default_factory=Counter[str])
    #: Revocations that were called `lost_rotation`; a request whose end nobody heard excuses that.
    misnamed: int = 0
    violations: list[str] = field(default_factory=list[str])


class Judge:
    """Compares the rows with the log, and with what was done to the workers.

    Args:
        witness: What the authorization server saw.
        workers: What was done to them.
        told: What people asked for.
        journal: What workers announced and stored.
        ended_at: When rows ended, in seconds by the wall clock.
    """

    def __init__(
        self,
        witness: Witness,
        workers: Workers,
        told: Told,
        journal: Path,
        ended_at: Mapping[str, float],
    ) -> None:
        self._witness = witness
        self._workers = workers
        self._told = told
        self._ended_at = ended_at
        self._verdict = Verdict()
        #: By the proof of the request that each announced, and by what it was announced for.
        self._marks: dict[str, Entry] = {}
        self._announced: dict[tuple[str, int], list[Entry]] = {}
        self._arrived = {one.proof for one in witness.refreshing}
        self._commits: dict[tuple[str, int, int], float] = {}
        for line in journal.read_text().splitlines():
            entry: Entry = json.loads(line)
            if entry["what"] == "mark":
                self._marks[entry["proof"]] = entry
                self._announced.setdefault((entry["session"], entry["version"]), []).append(entry)
            else:
                self._commits[entry["session"], entry["version"], entry["pid"]] = entry["at"]

    def judge(self, rows: Iterable[SessionRecord]) -> Verdict:
        verdict = self._verdict
        seen: set[str] = set()
        for row in rows:
            grants = self._witness.of(row.did)
            if row.did in seen or len(grants) != 1:
                self._object(row, f"has {len(grants)} grants, or an attempt was used twice")
                continue
            seen.add(row.did)
            verdict.endings[row.ended_reason or row.status] += 1
            self._look_at(row, grants[0])
            if row.did in self._told.signed_out and row.status == "active":
                trace = self._told.signed_out[row.did]
                self._object(row, f"was not ended, yet its person was signed out: {trace}")
        for grant in self._witness.grants.values():
            if grant.did not in seen and grant.rotations:
                verdict.violations.append(f"{grant.did} was refreshed and has no row")
        replayed = [
            one
            for one in self._witness.records
            if one.name == "authorization_code" and one.error == "invalid_grant"
        ]
        verdict.violations += [f"a code was used twice: {one}" for one in replayed]
        verdict.violations += [
            f"nobody announced a request: {one}"
            for one in self._witness.refreshing
            if one.proof not in self._marks or self._marks[one.proof]["at"] > one.arrived + CLOCK
        ]
        verdict.violations += self._told.wrong
        return verdict

    def _look_at(self, row: SessionRecord, grant: Grant) -> None:
        reason = row.ended_reason
        lost = len(grant.rotations) - (row.version - 1)
        if lost not in {0, 1}:
            self._object(row, f"has {len(grant.rotations)} rotations")
        elif lost:
            self._look_at_lost(row, grant, grant.rotations[-1])
        elif reason == "lost_rotation":
            self._look_at_replayed(row, grant)
        kept = grant.rotations[: row.version - 1]
        self._verdict.slow["stored"] += sum(one.slow for one in kept)
        if reason == "revoked" and not grant.revoked:
            self._object(row, "ended as revoked, and nobody revoked it")
        if reason == "logout" and not self._left(row):
            self._object(row, "ended as logout before anybody asked for it")
        if reason not in {None, "revoked", "logout", "lost_rotation"} or (
            row.status not in {"active", "ended"}
        ):
            self._object(row, "ended in a way that nothing explains")

    def _left(self, row: SessionRecord) -> bool:
        """Tell whether people had asked to be signed out when the row says that they were."""
        asked = self._told.left.get(row.did)
        return asked is not None and asked <= self._ended_at[row.id] + CLOCK

    def _look_at_lost(self, row: SessionRecord, grant: Grant, rotation: TokenRequest) -> None:
        excuse = self._excuse(rotation)
        if excuse is None and row.ended_reason == "logout" and grant.revoked:
            # Its worker came with tokens of a session that had been left, and let go of them.
            excuse = "left meanwhile, and revoked"
        if excuse is None:
            self._object(row, "lost a rotation whose worker was left in peace")
        else:
            self._verdict.excuses[excuse] += 1
            self._verdict.slow[f"lost: {excuse}"] += rotation.slow
        first = row.ended_reason == "logout" or (row.ended_reason == "revoked" and grant.revoked)
        if row.ended_reason != "lost_rotation" and not first:
            self._object(row, "lost a rotation, and did not end as lost_rotation")

    def _look_at_replayed(self, row: SessionRecord, grant: Grant) -> None:
        """Every rotation was stored: then either it was revoked, or a late request came after."""
        if grant.revoked and (self._witness.unanswered(grant.token) or self._unheard(row)):
            self._verdict.misnamed += 1
            return
        late = {self._excuse(one) for one in grant.requests if one.processed is None}
        if late & {"paused", "killed"}:
            self._verdict.excuses["replayed by one that was paused or killed"] += 1
        else:
            self._object(row, "ended as lost_rotation, and no rotation was lost")

    def _unheard(self, row: SessionRecord) -> bool:
        """Tell whether a worker was killed or paused after it announced a request.

        Then either nothing left, or the refusal came to nobody. That the token was not spent is
        known by the server's log alone.
        """
        return any(
            self._killed(mark["pid"], mark["at"], mark["at"] + OVER)
            or any(
                # A shorter pause hides no answer: others have to wait until the lease is over.
                (ended >= mark["at"] + TIMING.marked_lease and began <= mark["at"] + OVER)
                if mark["proof"] in self._arrived
                else (began <= mark["at"] + TIMING.mark_to_send and ended >= mark["at"])
                for began, ended in self._workers.pauses.get(mark["pid"], [])
            )
            for mark in self._announced.get((row.id, row.version), [])
        )

    def _killed(self, pid: int, since: float, until: float) -> bool:
        """Tell whether a worker may have been killed between two times."""
        began, gone = self._workers.killed.get(pid, (0.0, 0.0))
        return since <= gone and began <= until

    def _excuse(self, request: TokenRequest) -> str | None:
        """Tell what the harness did to a request, or to the worker that sent it."""
        mark = self._marks.get(request.proof)
        if mark is None:
            return None
        if request.dropped:
            return "dropped"
        pid, at = mark["pid"], mark["at"]
        answered = request.processed or request.arrived
        stored = self._commits.get((mark["session"], mark["version"], pid), float("inf"))
        if self._killed(pid, at, min(answered + OVER, stored)):
            return "killed"
        # A shorter pause is no excuse: others have to wait until the lease is over.
        if any(
            began <= min(answered + OVER, stored) and ended >= at + TIMING.marked_lease
            for began, ended in self._workers.pauses.get(pid, [])
        ):
            return "paused"
        if answered > at + TIMING.post:
            return "processed late"
        return None

    def _object(self, row: SessionRecord, what: str) -> None:
        facts = f"version {row.version}, {row.status}, {row.ended_reason}"
        grants = self._witness.of(row.did)
        marks = self._announced.get((row.id, row.version), [])
        disturbed = {
            mark["pid"]: (
                self._workers.killed.get(mark["pid"]),
                self._workers.pauses.get(mark["pid"]),
            )
            for mark in marks
        }
        self._verdict.violations.append(
            f"session {row.id} ({facts}) {what}: {grants}, announced {marks}, "
            f"killed and paused {disturbed}"
        )
