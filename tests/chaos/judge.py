"""The authorization server's log decides whether a session was lost for nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from atproto_oauth_asgi.store import SessionRecord
from tests.chaos.app_worker import TIMING, Entry
from tests.chaos.people import Told
from tests.chaos.witness import Grant, Rotation, Witness
from tests.chaos.workers import Workers

#: After this long whoever sent a request is not waited for any more.
OVER = TIMING.marked_lease + TIMING.watch


@dataclass(slots=True)
class Verdict:
    endings: Counter[str] = field(default_factory=Counter[str])
    #: Why rotations were lost.
    excuses: Counter[str] = field(default_factory=Counter[str])
    #: Revocations that were called `lost_rotation`, which an unanswered request excuses.
    misnamed: int = 0
    violations: list[str] = field(default_factory=list[str])


class Judge:
    """Compares the rows with the log, and with what was done to the workers."""

    def __init__(self, witness: Witness, workers: Workers, told: Told, journal: Path) -> None:
        self._witness = witness
        self._workers = workers
        self._told = told
        self._verdict = Verdict()
        self._marks: dict[tuple[str, int], list[Entry]] = {}
        for line in journal.read_text().splitlines():
            entry: Entry = json.loads(line)
            if entry["what"] == "mark":
                self._marks.setdefault((entry["session"], entry["version"]), []).append(entry)

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
                self._object(row, "was not ended, yet its person was told that nobody is there")
        for grant in self._witness.grants.values():
            if grant.did not in seen and grant.rotations:
                verdict.violations.append(f"{grant.did} was refreshed and has no row")
        replayed = [
            one
            for one in self._witness.records
            if one.name == "authorization_code" and one.error == "invalid_grant"
        ]
        verdict.violations += [f"a code was used twice: {one}" for one in replayed]
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
            if grant.revoked and self._witness.unanswered(grant.token):
                self._verdict.misnamed += 1
            else:
                self._object(row, "ended as lost_rotation, and no rotation was lost")
        if reason == "revoked" and not grant.revoked:
            self._object(row, "ended as revoked, and nobody revoked it")
        if reason == "logout" and row.did not in self._told.left:
            self._object(row, "ended as logout, and nobody asked for it")
        if reason not in {None, "revoked", "logout", "lost_rotation"} or (
            row.status not in {"active", "ended"}
        ):
            self._object(row, "ended in a way that nothing explains")

    def _look_at_lost(self, row: SessionRecord, grant: Grant, rotation: Rotation) -> None:
        excuse = self._excuse(row, rotation)
        if excuse is None and row.ended_reason == "logout":
            # Whoever holds new tokens of a session that was left meanwhile revokes them.
            excuse = "left meanwhile"
        if excuse is None:
            self._object(row, "lost a rotation whose worker was left in peace")
        else:
            self._verdict.excuses[excuse] += 1
        first = row.ended_reason == "logout" or (row.ended_reason == "revoked" and grant.revoked)
        if row.ended_reason != "lost_rotation" and not first:
            self._object(row, "lost a rotation, and did not end as lost_rotation")

    def _excuse(self, row: SessionRecord, rotation: Rotation) -> str | None:
        if rotation.dropped:
            return "dropped"
        marks = [
            mark
            for mark in self._marks.get((row.id, row.version), [])
            if mark["at"] <= rotation.arrived
        ]
        for nth, mark in enumerate(reversed(marks)):
            pid, until = mark["pid"], rotation.processed + OVER
            if nth and not self._paused(pid, mark["at"], rotation.arrived):
                # Its lease was over before the last one marked: it sent nothing any more.
                continue
            if mark["at"] <= self._workers.killed.get(pid, 0.0) <= until:
                return "killed"
            if self._paused(pid, mark["at"], until):
                return "paused"
            if rotation.processed > mark["at"] + TIMING.post:
                return "processed late"
        return None

    def _paused(self, pid: int, since: float, until: float) -> bool:
        pauses = self._workers.pauses.get(pid, [])
        return any(began <= until and ended >= since for began, ended in pauses)

    def _object(self, row: SessionRecord, what: str) -> None:
        facts = f"version {row.version}, {row.status}, {row.ended_reason}"
        grants = self._witness.of(row.did)
        self._verdict.violations.append(f"session {row.id} ({facts}) {what}: {grants}")
