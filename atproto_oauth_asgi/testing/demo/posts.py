"""What the demo does at the person's PDS, and the permissions it takes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from atproto_oauth_asgi import OAuthSession

COLLECTION = "app.bsky.feed.post"
POST_SCOPE = f"repo:{COLLECTION}?action=create"
DELETE_SCOPE = f"repo:{COLLECTION}?action=delete"
EMAIL_SCOPE = "account:email"

LONGEST_POST = 300


class BadInput(ValueError):
    """Says in a sentence what is wrong with what was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """One post, as its PDS gave it."""

    #: Record key; empty if the PDS gave none.
    key: str
    text: str
    created: str


async def write_post(session: OAuthSession, text: str) -> str:
    """Write a post and return its URI.

    Raises:
        BadInput: the text is empty, too long, or no text.
        ATProtoOAuthError: the PDS did not take it.
    """
    text = text.replace("\r\n", "\n").strip()
    if not text:
        raise BadInput("Write something first: the post is empty.")
    if len(text) > LONGEST_POST:
        raise BadInput(f"That is {len(text)} characters; a post has at most {LONGEST_POST}.")
    if not text.isascii() and any("\ud800" <= each <= "\udfff" for each in text):
        raise BadInput("The post contains half of a character, which cannot be sent.")
    written = await session.procedure(
        "com.atproto.repo.createRecord",
        {
            "repo": session.did,
            "collection": COLLECTION,
            "record": {
                "$type": COLLECTION,
                "text": text,
                "createdAt": datetime.now(UTC).isoformat(timespec="milliseconds"),
            },
        },
    )
    return str(written.get("uri", ""))


async def delete_post(session: OAuthSession, key: str) -> None:
    """Delete a post; nothing happens if it is gone already.

    Raises:
        ATProtoOAuthError: the PDS did not do it.
    """
    await session.procedure(
        "com.atproto.repo.deleteRecord",
        {"repo": session.did, "collection": COLLECTION, "rkey": key},
    )


async def newest_posts(session: OAuthSession) -> list[Post]:
    """Return the newest posts of the account, whatever odd things its PDS may say."""
    answer = await session.query(
        "com.atproto.repo.listRecords",
        {"repo": session.did, "collection": COLLECTION, "limit": 10},
    )
    records = answer.get("records")
    listed = cast("list[object]", records) if isinstance(records, list) else []
    return [_post(as_object(record)) for record in listed]


def _post(record: dict[str, object]) -> Post:
    value = as_object(record.get("value"))
    return Post(
        key=str(record.get("uri", "")).rpartition("/")[2],
        text=str(value.get("text", "")),
        created=str(value.get("createdAt", ""))[:40],
    )


def as_object(value: object) -> dict[str, object]:
    """Return a JSON object; an empty one for anything else."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}
