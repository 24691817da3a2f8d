"""What is told of a refresh is what docs/events.md says, and of the right session."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from atproto_oauth_asgi.instrumentation import Event
from tests.markdown_tables import rows

_TABLE = Path(__file__).parents[2] / "docs" / "events.md"
#: Fields of each event.
FIELDS: Mapping[str, frozenset[str]] = {
    name.strip("`"): frozenset(re.findall(r"[a-z_]+", fields)) - {"none"}
    for name, _, fields, *_ in rows(_TABLE, header="event")
}
#: Events that have a field only in some cases.
_SOMETIMES = frozenset({"session.ended", "session.seal_broken", "revocation.failed"})
#: Why a refresh is postponed.
WHY = re.compile(
    r"The account's servers could not be checked: .+"
    r"|The store was too slow to announce the refresh\."
    r"|The token endpoint did not answer: .+"
    r"|The token endpoint did not answer in time\."
    r"|The token endpoint answered \d{3}( [a-z_]+)?\."
    r"|The token endpoint's answer cannot be read: .+"
    r"|The refresh failed unexpectedly; the log says why\."
    r"|The session is bound to the client key .+"
)


def check(told: Iterable[Event], *, session: str, did: str, defects: bool) -> None:
    """Hold events of one session's refreshes against the documentation."""
    for event in told:
        fields = event.fields
        assert event.name in FIELDS
        assert defects or event.name not in {"refresh.failed", "task.failed"}, event
        assert fields.keys() <= FIELDS[event.name], event
        assert fields.keys() == FIELDS[event.name] or event.name in _SOMETIMES, event
        assert fields.get("session", session) == session, event
        assert fields.get("did", did) == did, event
        for name in ("version", "attempts", "status"):
            assert isinstance(fields.get(name, 0), int), event
        assert isinstance(fields.get("first_sent_ago_ms", 0), int | None), event
        assert isinstance(fields.get("error", ""), str | None), event
        if event.name == "refresh.postponed":
            pause, why = fields["pause"], fields["why"]
            assert isinstance(pause, float)
            assert 0 < pause <= 360
            assert pause == round(pause, 3)
            assert WHY.fullmatch(str(why)), event
