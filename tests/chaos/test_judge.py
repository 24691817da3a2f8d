"""What excuses a session that the log says was revoked, and its row calls a lost rotation."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from atproto_oauth_asgi.store import SessionRecord
from tests.chaos.app_worker import TIMING
from tests.chaos.judge import Judge, Verdict
from tests.chaos.people import Told
from tests.chaos.witness import Grant, TokenRequest, Witness
from tests.chaos.workers import Workers

DID = "did:plc:ikceffx2byshjz7hhvkxjnai"
FIRST, SECOND = 1, 2
AT = 1000.0


def judged(
    folder: Path,
    *,
    arrived: bool = True,
    revoked: bool = True,
    killed: tuple[float, float] | None = None,
    paused: tuple[float, float] | None = None,
) -> Verdict:
    """Judge a row that ended after two announced requests, whose first was a worker's at `AT`."""
    grant = Grant(did=DID, token="token", revoked=revoked)
    second = AT + TIMING.marked_lease + 1
    requests = [TokenRequest(proof="second", arrived=second)]
    if arrived:
        requests.append(TokenRequest(proof="first", arrived=AT))

    def of(_did: str) -> list[Grant]:
        return [grant]

    def unanswered(_token: str) -> int:
        return 0

    witness = SimpleNamespace(
        grants={"grant": grant},
        records=[],
        refreshing=requests,
        of=of,
        unanswered=unanswered,
    )
    workers = SimpleNamespace(
        killed={} if killed is None else {FIRST: killed},
        pauses={} if paused is None else {FIRST: [paused]},
    )
    journal = folder / "journal"
    marks = [
        {"at": at, "pid": pid, "what": "mark", "session": "row", "version": 1, "proof": proof}
        for at, pid, proof in ((AT, FIRST, "first"), (second, SECOND, "second"))
    ]
    journal.write_text("".join(json.dumps(mark) + "\n" for mark in marks))
    row = SimpleNamespace(
        id="row", did=DID, version=1, status="ended", ended_reason="lost_rotation"
    )
    judge = Judge(
        cast("Witness", witness), cast("Workers", workers), Told(), journal, {"row": second}
    )
    return judge.judge([cast("SessionRecord", row)])


@pytest.mark.parametrize("arrived", [True, False], ids=["refused", "never sent"])
@pytest.mark.parametrize(
    "killed", [(AT + 0.1, AT + 60), (AT - 0.1, AT + 0.1)], ids=["after it", "meanwhile"]
)
def test_a_worker_that_was_killed_told_nobody_of_the_revocation(
    tmp_path: Path, arrived: bool, killed: tuple[float, float]
) -> None:
    verdict = judged(tmp_path, arrived=arrived, killed=killed)
    assert (verdict.misnamed, verdict.violations) == (1, [])


def test_a_worker_that_was_paused_until_its_lease_was_over_told_nobody(tmp_path: Path) -> None:
    verdict = judged(tmp_path, paused=(AT + 0.1, AT + TIMING.marked_lease + 2))
    assert (verdict.misnamed, verdict.violations) == (1, [])


@pytest.mark.parametrize(
    ("killed", "paused"),
    [
        (None, None),
        ((AT - 2, AT - 1), None),
        ((AT + 60, AT + 61), None),
        (None, (AT + 0.1, AT + 1)),
        (None, (AT - 5, AT - 1)),
    ],
    ids=["in peace", "killed before", "killed long after", "paused shortly", "paused before"],
)
def test_a_refusal_that_somebody_heard_has_its_own_name(
    tmp_path: Path, killed: tuple[float, float] | None, paused: tuple[float, float] | None
) -> None:
    verdict = judged(tmp_path, killed=killed, paused=paused)
    assert verdict.misnamed == 0
    assert ["no rotation was lost" in one for one in verdict.violations] == [True]


def test_what_nobody_revoked_is_not_misnamed(tmp_path: Path) -> None:
    verdict = judged(tmp_path, revoked=False, killed=(AT + 0.1, AT + 0.2))
    assert ["no rotation was lost" in one for one in verdict.violations] == [True]
