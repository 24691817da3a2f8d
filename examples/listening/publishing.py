"""Writes plays into people's own repositories, outside of any request.

For cron: `python -m examples.listening.publishing`.
"""

from __future__ import annotations

import asyncio
import logging

from sqlalchemy import select

from atproto_oauth_asgi import ATProtoOAuth, ATProtoOAuthError, OAuthSession
from examples.listening.database import Play, sessions

COLLECTION = "dev.birdsong.listening.play"
PUBLISH = f"repo:{COLLECTION}?action=create&action=update"

log = logging.getLogger(__name__)


async def publish(session: OAuthSession, play: Play) -> None:
    """Write one play; a second worker, or another try after a crash, writes the same record."""
    written = await session.procedure(
        "com.atproto.repo.putRecord",
        {
            "repo": session.did,
            "collection": COLLECTION,
            "rkey": f"play-{play.id}",
            "record": {
                "$type": COLLECTION,
                "artist": play.artist,
                "track": play.track,
                "createdAt": f"{play.played.isoformat(timespec='milliseconds')}Z",
            },
        },
    )
    play.uri = str(written["uri"])


async def publish_waiting(oauth: ATProtoOAuth, did: str | None = None) -> int:
    """Publish what waits, of one person or of all who allow it; return how much that was."""
    done = 0
    wanted = select(Play).where(Play.uri.is_(None)).order_by(Play.id)
    async with sessions() as database:
        waiting = await database.scalars(wanted if did is None else wanted.where(Play.did == did))
        people: dict[str, list[Play]] = {}
        for play in waiting:
            people.setdefault(play.did, []).append(play)
        for person, plays in people.items():
            try:
                async with oauth.session_for(person, scopes=PUBLISH) as session:
                    for play in plays:
                        await publish(session, play)
                        await database.commit()
                        done += 1
            except ATProtoOAuthError as exc:
                # Nobody is signed in with this permission, or their server is away: next time.
                log.info("%s waits: %s", person, exc.code)
    return done


async def main() -> None:
    from examples.listening.app import oauth

    async with oauth:
        print(f"published {await publish_waiting(oauth)}")


if __name__ == "__main__":
    asyncio.run(main())
