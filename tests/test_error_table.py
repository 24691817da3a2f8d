"""docs/errors.md says what errors.py says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from atproto_oauth_asgi.errors import ATProtoOAuthError, RequestError
from tests.markdown_tables import rows

TABLE = Path(__file__).parent.parent / "docs" / "errors.md"


def kinds(kind: type[ATProtoOAuthError] = ATProtoOAuthError) -> Iterator[type[ATProtoOAuthError]]:
    yield kind
    for each in kind.__subclasses__():
        if each.__module__ == ATProtoOAuthError.__module__:
            yield from kinds(each)


def test_every_error_is_in_the_table_as_it_is() -> None:
    # `RequestError` only says how an error is answered; it has no code of its own.
    errors = {kind.code: kind for kind in kinds() if kind is not RequestError}
    written = {row[0].strip("`"): row[1:5] for row in rows(TABLE, header="code")}

    assert written == {
        code: [
            f"`{kind.__name__}`",
            str(kind.status),
            "yes" if kind.retryable else "no",
            kind.sentence,
        ]
        for code, kind in errors.items()
    }


def test_each_says_what_to_do() -> None:
    for row in rows(TABLE, header="code"):
        assert len(row[5]) > 15, row
